"""The study of schedules, as small as it can be."""

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy
import pytest
import torch
from scipy.stats import ttest_rel

from sharpless.lab.methods.method import Method

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.chdir(BENCHMARKS.parent)


def test_study(tmp_path, monkeypatch):
    """Sees runs that are paired with another seed or case, a side of a test that is lost, or no correction."""
    import schedules
    from schedule_parts import Case, Part

    part = Part(
        "benchmarks/schedule_tasks.py:digits",
        {"one": Case(), "two": Case({"epochs": 3}, ("sam",))},
        ("sgd", "sam", "rst:p=piecewise:0,1@0.75"),
        (0.1, 0.3),
        (("first", "sam", "sgd"), ("second", "sam", "sam @ two"), ("third", "rst:p=piecewise:0,1@0.75", "sgd")),
        {"network": "mlp", "examples": 256, "epochs": 2, "lr": 0.1},
        choice_seeds=1,
    )
    monkeypatch.setitem(schedules.PARTS, "digits", part)
    schedules.main(["digits", "--seeds", "3", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path)])
    found = json.loads((tmp_path / "schedules-digits.json").read_text(encoding="utf-8"))
    rows = {row["method"]: row for row in found["cases"]["one"]}
    assert {name: row["expected"] for name, row in rows.items()} == {"sgd": 1, "sam": 2, part.methods[2]: 1.25}
    assert rows[part.methods[2]]["cost"] == 1.125  # of 8 steps, the one after u = 0.75
    assert rows["sam"]["rho"] in part.rho
    values = {
        (place, record["method"]): [
            json.loads(path.read_text(encoding="utf-8"))["curve"]["test"][-1]
            for path in sorted(
                (tmp_path / "runs" / "digits" / place / "runs").glob(f"{path.name.split('-seed')[0]}-seed*")
            )
        ]
        for place in ("0", "1")
        for path in (tmp_path / "runs" / "digits" / place / "runs").glob("*seed0.json")
        for record in [json.loads(path.read_text(encoding="utf-8"))]
    }
    wanted = [
        (values["0", "sam"], values["0", "sgd"]),
        (values["0", "sam"], values["1", "sam"]),
        (values["0", part.methods[2]], values["0", "sgd"]),
    ]
    assert [test["question"] for test in found["tests"]] == ["first", "second", "third"]
    p_values = [ttest_rel(*pair).pvalue for pair in wanted]
    assert [test["p"] for test in found["tests"]] == pytest.approx(p_values, rel=1e-6)
    assert found["tests"][1]["difference"] == pytest.approx(numpy.subtract(*wanted[1]).mean())
    assert min(test["p_holm"] for test in found["tests"]) == pytest.approx(min(1, 3 * min(p_values)))
    assert (tmp_path / "schedules-digits.md").read_text(encoding="utf-8").count("| SAM |") == 2


def test_parts_compare_what_they_train():
    """Sees a method or a case that there is not, or a question whose methods are never trained together."""
    from schedule_parts import PARTS

    for part in PARTS.values():
        trained = {(method, name) for name, case in part.cases.items() for method in case.methods or part.methods}
        assert all(Method(method) for method, _ in trained)
        for _, *pair in part.pairs:
            there = [{case for method, case in trained if method == name.partition(" @ ")[0]} for name in pair]
            assert " @ " in pair[1] or there[0] & there[1]
            assert all(there)


def test_learning_rates():
    """Sees a tail that does not own the fall of the learning rate, a warm-up that begins at 0, or no fall."""
    from schedule_tasks import annealing

    def rates(**options):
        base = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
        scheduler, found = annealing(base, 1000, **options), []
        for _ in range(1000):
            found.append(base.param_groups[0]["lr"])
            base.step()
            scheduler.step()
        return numpy.array(found)

    whole, tail, warm = rates(anneal=1.0), rates(anneal=0.3), rates(anneal=1.0, warmup=0.1)
    assert whole[700:].sum() / whole.sum() == pytest.approx(0.3 - numpy.sin(0.3 * numpy.pi) / numpy.pi, abs=2e-3)
    assert tail[700:].sum() / tail.sum() == pytest.approx(0.15 / 0.85, abs=2e-3)
    assert set(tail[:700]) == {2.0}
    assert set(rates(anneal=0.0)) == {2.0}
    assert warm[[0, 99]] == pytest.approx([0.02, whole[99]])
    assert warm[100:] == pytest.approx(whole[100:])


def test_correlation():
    """Sees a correlation of values in place of ranks, or seeds that are drawn apart from one another."""
    from schedule_flatness import correlation

    def runs(errors):
        return [{"trace": numpy.exp(error), "error": error} for error in errors]

    found = correlation({"a": runs([1.0, 2.0, 3.0]), "b": runs([7.0, 9.0, 30.0])}, "trace")
    assert found["over methods and seeds"] == {"correlation": pytest.approx(1.0), "ci95": pytest.approx([1.0, 1.0])}
    turned = [{"trace": -run["trace"], "error": run["error"]} for run in runs([1.0, 2.0, 3.0])]
    found = correlation({"a": runs([1.0, 2.0, 3.0]), "b": turned}, "trace")
    assert found["within methods"]["correlation"] == pytest.approx(0.0)


def test_figures(tmp_path):
    """Sees a figure that cannot be drawn from the results that are there, or one that nobody drew anew."""
    from schedule_figures import main

    results = BENCHMARKS / "results"
    for path in results.glob("schedules-*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    main(["--results", str(tmp_path)])
    drawn = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.svg")}
    assert drawn.keys() == {path.name for path in results.glob("schedules-*.svg")}
    for text in drawn.values():
        assert ElementTree.fromstring(text).tag.endswith("svg")
