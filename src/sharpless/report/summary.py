"""What each method buys and what it costs: the statistics of a comparison."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, mean, stdev
from typing import Any

from scipy import stats

from sharpless.report.runs import Run, by_method

__all__ = ["estimate", "non_dominated", "paired", "summarize"]


def summarize(runs: Sequence[Run], margin: float = 1.0) -> dict[str, Any]:
    """Return the statistics of a comparison, ready for JSON.

    Differences are paired by seed and intervals are 95 % t-intervals. A method is non-inferior to SAM when
    the lower end of the interval of its difference lies above -`margin`. What one seed cannot say is None.

    Args:
        runs: the runs of one experiment, as `read_runs` returns them.
        margin: the accuracy, in percentage points, whose loss would still count as keeping up with SAM.

    Returns:
        The task, the recipe, the margin, whether SAM beats SGD, one entry per method, and what ran where. A
        method is non-dominated unless another one is, by the means, as accurate for as little, and better in one.

    Raises:
        ValueError: `margin` is not a positive number, or there are no runs.
    """
    if not 0.0 < margin < math.inf:
        raise ValueError(f"margin = {margin} is no margin: give a positive number of percentage points")
    if not runs:
        raise ValueError("runs is empty: give the runs of a comparison, as read_runs returns them")
    methods = by_method(runs)
    sam = _accuracy_by_seed(methods.get("sam", []))
    advantage = paired(sam, _accuracy_by_seed(methods.get("sgd", [])))
    described = [_describe(group, sam, margin) for group in methods.values()]
    on_frontier = non_dominated([(entry["cost"], entry["accuracy"]["mean"]) for entry in described])
    return {
        "task": runs[0].recipe.get("task"),
        "recipe": runs[0].recipe,
        "margin": margin,
        "sam_beats_sgd": {**advantage, "verdict": _exceeds(advantage, 0.0)},
        "methods": [{**entry, "non_dominated": stands} for entry, stands in zip(described, on_frontier, strict=True)],
        "versions": distinct(run.versions for run in runs),
        "machines": distinct(run.machine for run in runs),
    }


def non_dominated(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return for each point (cost, accuracy) whether no other one is as good in both and better in one of them.

    >>> non_dominated([(1.0, 84.0), (1.5, 97.0), (1.5, 91.0), (2.0, 97.0)])
    [True, True, False, False]
    """
    return [
        not any(cost <= x and accuracy >= y and (cost, accuracy) != (x, y) for cost, accuracy in points)
        for x, y in points
    ]


def distinct(descriptions: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return each different description once.

    >>> distinct([{"torch": "2.6"}, {"torch": "2.6"}, {"torch": "2.7"}])
    [{'torch': '2.6'}, {'torch': '2.7'}]
    """
    found: list[Mapping[str, Any]] = []
    for description in descriptions:
        if description not in found:
            found.append(description)
    return found


def _describe(runs: Sequence[Run], sam: Mapping[int, float], margin: float) -> dict[str, Any]:
    method = runs[0].method
    seconds = estimate([run.seconds for run in runs])
    versus_sam = None
    if sam and method != "sam":
        difference = paired(_accuracy_by_seed(runs), sam)
        versus_sam = {**difference, "non_inferior": _exceeds(difference, -margin)}
    return {
        "method": method,
        "label": runs[0].label,
        "seeds": len(runs),
        "accuracy": estimate([run.accuracy for run in runs]),
        "cost": fmean(run.passes for run in runs) / fmean(run.plain_passes for run in runs),
        "seconds": {"mean": seconds["mean"], "std": seconds["std"]},
        "steps": mean(run.steps for run in runs),
        "sharp_steps": mean(len(run.sharp_steps) for run in runs),
        "passes": fmean(run.passes for run in runs),
        "versus_sam": versus_sam,
    }


def _accuracy_by_seed(runs: Sequence[Run]) -> dict[int, float]:
    return {run.seed: run.accuracy for run in runs}


def estimate(values: Sequence[float]) -> dict[str, Any]:
    """Return mean, standard deviation and 95 % t-interval of the mean."""
    center = fmean(values)
    if len(values) == 1:
        return {"mean": center, "std": None, "ci95": None}
    spread = stdev(values)
    # Not stats.t.interval: it answers nan where all values are equal.
    half = float(stats.t.ppf(0.975, len(values) - 1)) * spread / math.sqrt(len(values))
    return {"mean": center, "std": spread, "ci95": [center - half, center + half]}


def paired(left: Mapping[int, float], right: Mapping[int, float]) -> dict[str, Any]:
    """Return left - right over the seeds that both have."""
    differences = [left[seed] - right[seed] for seed in sorted(left.keys() & right.keys())]
    if not differences:
        return {"difference": None, "ci95": None}
    found = estimate(differences)
    return {"difference": found["mean"], "ci95": found["ci95"]}


def _exceeds(difference: Mapping[str, Any], bound: float) -> bool | None:
    """Return whether the whole interval lies above `bound`, None where there is no interval."""
    interval = difference["ci95"]
    return None if interval is None else interval[0] > bound
