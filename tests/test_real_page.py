"""The page of the studies of real tasks."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def entry(method, mean, difference, ci95=None, diverged=(), **verdicts):
    versus = None if difference is None else {"difference": difference, "ci95": ci95, "beats": False, "behind": False}
    return {
        "method": method, "label": method, "value": {"mean": mean, "std": 0.1}, "rho": None, "cost": 1.0, "seeds": 2,
        "cost_seconds": 1.0, "seconds": {"median": 2.0}, "hyperparameters": {"lr": 0.1}, "diverged": list(diverged),
        "stopped_early": None, "look": {"color": "#123456", "marker": "o"},
        "versus_base": versus and versus | verdicts,
    }  # fmt: skip


def summarized(goal, *methods):
    return {
        "metric": {"goal": goal, "name": "score"}, "versions": [{"sharpless": "1", "torch": "2"}], "options": {"a": 1},
        "machines": [{"processor": "x", "cores": 2}], "grid": {"rho": [0.1]}, "choice_seeds": 2, "methods": methods,
        "lr_chosen_by": "each method",
    }  # fmt: skip


@pytest.mark.parametrize("goal", ["min", "max"])
def test_verdicts(monkeypatch, goal):
    """Sees a goal of min read as max, a share of a gain that is none, or a method that diverged counted as sound."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import real_page

    sign = 1 if goal == "max" else -1
    methods = [
        entry("sgd", 50.0, None),
        entry("sam", 50.0, sign * 2.0, sorted((sign * 1.5, sign * 2.5)), beats=True),
        entry("ema:average=0.9", 50.0, sign * -1.0, sorted((sign * -1.5, sign * -0.5)), behind=True),
        entry("rst", 50.0, sign * 1.0, [-1.0, 3.0]),
        entry("late", 50.0, sign * 2.0, sorted((sign * 1.5, sign * 2.5)), [3], beats=True),
        entry("g-rst", None, None, None, [0, 1]),
    ]
    summary = summarized(goal, *methods)
    found = {row["method"]: (row["verdict"], row["share"]) for row in real_page.rows("a", summary)}
    assert found["sam"] == ("better", 1.0)
    assert found["ema:average=0.9"] == ("worse", -0.5)
    assert found["sgd"][0] == found["rst"][0] == ""
    assert found["late"][0] == found["g-rst"][0] == "diverged"
    shared = {"shared": summary | {"lr_chosen_by": "the base"}}  # counts nowhere, and is shown last
    page = real_page.page(shared | {"a": summary})
    assert page.index("## a") < page.index("## shared")
    assert "| g-rst | diverged |" in page
    assert "| ema:average | 1 | 0 | 1 | -50% (-50%) | 1.00 | 1.00 | a |" in page
    figure = real_page.forest(shared | {"a": summary})
    assert "shared" not in figure
    assert "a, SAM: error -4.0 %, from -3.0 to -5.0 %" in figure
    assert "a, EMA: error +2.0 %" in figure
    assert "1 tasks: trained longer on 0, EMA on 0, late SAM on 0, thrifty, 1.05 on 0, SAM on 1" in figure
    methods.append(entry("sgd-long", 0.0, sign * -4000.0, sorted((sign * -4100.0, sign * -3900.0)), behind=True))
    figure = real_page.forest({"a": summarized(goal, *methods)})
    assert "a, trained longer: error +8000.0 %" in figure
    assert not re.search(r"<text [^>]*>−?\d{3,}<", figure)  # the axis is for the others
    methods[1]["versus_base"]["beats"] = False
    assert all(row["share"] is None for row in real_page.rows("a", summarized(goal, *methods)))


def test_early_stopping(monkeypatch):
    """Sees the best test result taken for the one at the best validation, or a goal read the other way."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import real_tasks

    def stopped(goal, validation, test):
        curve = SimpleNamespace(validation=validation, test=test)
        return real_tasks.stopped_early(SimpleNamespace(curve=curve, metric=SimpleNamespace(sign=goal)))

    assert stopped(-1, [3.0, 1.0, None, 2.0], [9.0, 7.0, 1.0, 6.0]) == 7.0
    assert stopped(1, [3.0, 1.0, None, 2.0], [9.0, 7.0, 1.0, 6.0]) == 9.0
    assert stopped(1, None, [9.0]) is None
