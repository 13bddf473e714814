"""The page of the studies of real tasks."""

from pathlib import Path
from types import SimpleNamespace

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def entry(method, mean, difference, ci95, diverged=()):
    return {
        "method": method, "label": method, "value": {"mean": mean, "std": 0.1}, "rho": None, "cost": 1.0,
        "cost_seconds": 1.0, "seconds": {"median": 2.0}, "diverged": list(diverged),
        "versus_base": {"difference": difference, "ci95": ci95},
    }  # fmt: skip


@pytest.mark.parametrize("goal", ["min", "max"])
def test_verdicts(monkeypatch, goal):
    """Sees a goal of min read as max, a share of a gain that is none, or a method that diverged counted as sound."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import real_page

    sign = 1 if goal == "max" else -1
    summary = {
        "metric": {"goal": goal},
        "sam_beats_base": {"difference": sign * 2.0, "verdict": True},
        "methods": [
            entry("sgd", 0.0, 0.0, [0.0, 0.0]),
            entry("sam", 0.0, sign * 2.0, sorted((sign * 1.5, sign * 2.5))),
            entry("ema", 0.0, sign * -1.0, sorted((sign * -1.5, sign * -0.5))),
            entry("rst", 0.0, sign * 1.0, [-1.0, 3.0]),
            entry("late", 0.0, sign * 2.0, sorted((sign * 1.5, sign * 2.5)), [3]),
        ],
    }
    found = {row["method"]: (row["verdict"], row["share"]) for row in real_page.rows("a", summary)}
    assert found["sam"] == ("better", 1.0)
    assert found["ema"] == ("worse", -0.5)
    assert found["sgd"][0] == ""
    assert found["late"][0] == "diverged"
    summary["methods"].append(entry("g-rst", None, None, None, [0, 1]))
    assert "| a | g-rst | diverged |" in real_page.page({"a": summary})
    assert "| ema | 1 | 0 | 1 | -50% (-50%) | 1.00 | 1.00 | a |" in real_page.page({"a": summary})
    summary["sam_beats_base"]["verdict"] = False
    assert all(row["share"] is None for row in real_page.rows("a", summary))


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
