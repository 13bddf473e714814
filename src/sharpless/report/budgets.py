"""The metric at equal gradients and at equal seconds, from the curve of each run."""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from sharpless.report.runs import Run

__all__ = ["at_equal"]


def at_equal(methods: Mapping[str, Sequence[Run]], spent: Callable[[Run], Sequence[float]]) -> dict[str, Any]:
    """Return the metric of each method at the total cost of the cheapest one.

    The budget of a seed is the cost of the run of the cheapest method, by its mean, with this seed. The value of a run
    is its last point within the budget, without interpolation.

    Args:
        methods: the runs of each method.
        spent: returns the cost of a run at each point of its curve, in gradients or in seconds.

    Returns:
        The cheapest method, the mean `budget`, and for each method `mean` and `std` of the metric and the mean number
        of `points`; None for a method if a run has no point within the budget or no value there.
    """
    cheapest = min(methods, key=lambda method: fmean(spent(run)[-1] for run in methods[method]))
    budgets = {run.seed: spent(run)[-1] for run in methods[cheapest]}
    reached = {method: _reached(runs, budgets, spent) for method, runs in methods.items()}
    return {"cheapest": cheapest, "budget": fmean(budgets.values()), "reached": reached}


def _reached(
    runs: Sequence[Run], budgets: Mapping[int, float], spent: Callable[[Run], Sequence[float]]
) -> dict[str, Any] | None:
    paired = [run for run in runs if run.seed in budgets]
    points = [bisect_right(spent(run), budgets[run.seed]) for run in paired]
    if not points or 0 in points:
        return None
    values = [run.values[point - 1] for run, point in zip(paired, points, strict=True)]
    found = [value for value in values if value is not None]
    if len(found) < len(values):
        return None
    return {"mean": fmean(found), "std": stdev(found) if len(found) > 1 else None, "points": fmean(points)}
