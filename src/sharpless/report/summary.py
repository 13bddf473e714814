"""What each method buys and what it costs: the statistics of a comparison."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, mean, median
from typing import Any

from sharpless.report.budgets import at_equal
from sharpless.report.runs import Run, by_method
from sharpless.report.seeds import warnings
from sharpless.report.statistics import against, differences, estimate, paired

__all__ = ["estimate", "paired", "pareto_optimal", "summarize"]


def summarize(runs: Sequence[Run], margin: float = 1.0) -> dict[str, Any]:
    """Return the statistics of a comparison, ready for JSON.

    Differences are paired by seed and intervals are 95 % t-intervals of a single comparison. A method is
    non-inferior to SAM when a one-sided paired t-test rejects, at 2.5 % and corrected for all methods compared,
    that it loses `margin` or more; it is behind when the test of the opposite rejects, and beats SAM when that of
    a difference of 0 or less does, corrected in the same manner. Whether SAM beats SGD is the question that comes
    first; it is one, and not corrected. What one seed cannot say is None.

    Args:
        runs: the runs of one experiment, as `read_runs` returns them.
        margin: the accuracy, in percentage points, whose loss would still count as keeping up with SAM.

    Returns:
        The task, the recipe, the margin, whether SAM beats SGD, one entry per method, what they had reached at equal
        gradients and seconds, where there are too few seeds, and what ran where. A method is Pareto-optimal unless
        another one is, by the means, as accurate for as little, and better in one.

    Raises:
        ValueError: `margin` is not a positive number, or there are no runs.
    """
    if not 0.0 < margin < math.inf:
        raise ValueError(f"margin = {margin} is no margin: give a positive number of percentage points")
    if not runs:
        raise ValueError("runs is empty: give the runs of a comparison, as read_runs returns them")
    methods, first = by_method(runs), runs[0]
    accuracies = {method: {run.seed: run.accuracy for run in group} for method, group in methods.items()}
    advantage = paired(accuracies.get("sam", {}), accuracies.get("sgd", {}))
    pairs = {
        method: differences(found, accuracies["sam"])
        for method, found in accuracies.items()
        if "sam" in accuracies and method != "sam"
    }
    versus_sam = against(pairs, margin)
    described = [{**_describe(group), "versus_sam": versus_sam.get(method)} for method, group in methods.items()]
    on_frontier = pareto_optimal([(entry["cost"], entry["accuracy"]["mean"]) for entry in described])
    labels = {method: group[0].label for method, group in methods.items()}
    return {
        "task": first.recipe.get("data", first.recipe.get("task")),
        "recipe": first.recipe,
        "data": first.data,
        "split": first.split,
        "margin": margin,
        "warnings": _diverged(methods) + warnings(pairs, versus_sam, labels, margin),
        "sam_beats_sgd": {**advantage, "verdict": None if advantage["ci95"] is None else advantage["ci95"][0] > 0.0},
        "comparisons": sum(len(found) > 1 for found in pairs.values()),
        "methods": [{**entry, "pareto_optimal": stands} for entry, stands in zip(described, on_frontier, strict=True)],
        "equal_gradients": at_equal(methods, lambda run: run.epoch_passes),
        "equal_seconds": at_equal(methods, lambda run: run.epoch_seconds),
        "waiting_for_data": _waiting(runs),
        "setups": distinct(run.setup for run in runs if run.setup),
        "versions": distinct(run.versions for run in runs),
        "machines": distinct(run.machine for run in runs),
    }


def pareto_optimal(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return for each point (cost, accuracy) whether no other one is as good in both and better in one of them.

    >>> pareto_optimal([(1.0, 84.0), (1.5, 97.0), (1.5, 91.0), (2.0, 97.0)])
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


def _diverged(methods: Mapping[str, Sequence[Run]]) -> list[str]:
    """Return a sentence for each method whose training diverged with some seed."""
    found = []
    for runs in methods.values():
        seeds: dict[int, list[int]] = {}
        for run in runs:
            if run.diverged is not None:
                seeds.setdefault(run.diverged, []).append(run.seed)
        if seeds:
            when = ", ".join(
                f"from epoch {epoch} on with seed{'s' * (len(group) > 1)} {', '.join(map(str, group))}"
                for epoch, group in sorted(seeds.items())
            )
            found.append(
                f"{runs[0].label} diverged: its loss was not finite {when}. Its accuracy is that of a broken network; "
                "a smaller lr or rho may help."
            )
    return found


def _describe(runs: Sequence[Run]) -> dict[str, Any]:
    seconds = estimate([run.seconds for run in runs])
    return {
        "method": runs[0].method,
        "label": runs[0].label,
        "seeds": len(runs),
        "accuracy": estimate([run.accuracy for run in runs]),
        "cost": fmean(run.passes for run in runs) / fmean(run.plain_passes for run in runs),
        # The median is what is shown: on a busy machine one run may take a hundred times as long as the others.
        "seconds": {"mean": seconds["mean"], "std": seconds["std"], "median": median(run.seconds for run in runs)},
        "epochs": mean(len(run.test_accuracy) for run in runs),
        "steps": mean(run.steps for run in runs),
        "sharp_steps": mean(len(run.sharp_steps) for run in runs),
        "passes": fmean(run.passes for run in runs),
    }


def _waiting(runs: Sequence[Run]) -> float | None:
    """Return the share of the training time that was spent waiting for data, of the runs that tell it."""
    known = [(run.data_seconds, run.seconds) for run in runs if run.data_seconds is not None and run.seconds > 0]
    if not known:
        return None
    return sum(waited for waited, _ in known) / sum(trained for _, trained in known)
