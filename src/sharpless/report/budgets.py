"""Accuracy at equal gradients and at equal seconds, read off each run's own curve."""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from sharpless.report.runs import Run

__all__ = ["at_equal"]


def at_equal(methods: Mapping[str, Sequence[Run]], spent: Callable[[Run], Sequence[float]]) -> dict[str, Any]:
    """Return what each method had reached when the cheapest one was through.

    The budget of a seed is what the cheapest method, by its mean, spent on its whole run with that seed. A run's
    accuracy is that of the last epoch that ended within it: no later one, no better one, and nothing in between.

    Args:
        methods: the runs of each method.
        spent: what a run had spent at the end of each epoch, in gradients or in seconds; empty where not known.

    Returns:
        The cheapest method, the mean `budget`, and for each method `mean` and `std` of the accuracy in percent and
        the mean number of `epochs`; None for a method with a run that is not known or in which not one epoch fits.
        All None where no method is known.
    """
    known = {method: runs for method, runs in methods.items() if all(spent(run) for run in runs)}
    if not known:
        return {"cheapest": None, "budget": None, "reached": dict.fromkeys(methods)}
    cheapest = min(known, key=lambda method: fmean(spent(run)[-1] for run in known[method]))
    budgets = {run.seed: spent(run)[-1] for run in known[cheapest]}
    reached = {method: _reached(known.get(method, ()), budgets, spent) for method in methods}
    return {"cheapest": cheapest, "budget": fmean(budgets.values()), "reached": reached}


def _reached(
    runs: Sequence[Run], budgets: Mapping[int, float], spent: Callable[[Run], Sequence[float]]
) -> dict[str, Any] | None:
    paired = [run for run in runs if run.seed in budgets]
    epochs = [bisect_right(spent(run), budgets[run.seed]) for run in paired]
    if not epochs or 0 in epochs:
        return None
    found = [run.test_accuracy[epoch - 1] for run, epoch in zip(paired, epochs, strict=True)]
    return {"mean": fmean(found), "std": stdev(found) if len(found) > 1 else None, "epochs": fmean(epochs)}
