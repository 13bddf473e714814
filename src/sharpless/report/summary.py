"""The statistics of a comparison: the results and costs of all methods."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, mean, median
from typing import Any

from sharpless.report.budgets import at_equal
from sharpless.report.cautions import as_shares, at_the_edge, beyond_budget, diverged, incomplete, stuck, too_few_seeds
from sharpless.report.choice import described as described_choice
from sharpless.report.margin import Margin, default_margin, read_margin
from sharpless.report.minima import flatness
from sharpless.report.runs import Run, by_method
from sharpless.report.statistics import against, differences, estimate, paired

__all__ = ["BASE", "REFERENCE", "estimate", "paired", "pareto_optimal", "summarize"]

BASE = "sgd"
"""The base optimizer, of any kind. SAM is compared with it."""

REFERENCE = "sam"
"""The reference of the other methods."""


def summarize(runs: Sequence[Run], margin: str | float | None = None) -> dict[str, Any]:
    """Return the statistics of a comparison, ready for JSON.

    Differences are method - SAM, paired by seed, in the unit of the metric; intervals are 95 % t-intervals of a single
    comparison. A method is non-inferior to SAM if a one-sided paired t-test rejects, at 2.5 % and corrected for all
    compared methods, a loss of `margin` or more. It is behind if the opposite test rejects a smaller loss. It beats SAM
    if the test rejects that there is no gain. Both are corrected in the same way. The test of SAM against the base
    optimizer is separate and not corrected. Nothing good is claimed for a method that ended without a result with some
    seed, SAM included. Values that need more than one seed are None for one seed.

    Args:
        runs: the runs of one comparison, as `read_runs` returns them.
        margin: the largest loss against SAM that counts as non-inferior, in the unit of the metric, or as a share of
            SAM's gain over the base, as in "25%". By default one percentage point, and 25 % of SAM's gain for any other
            metric. If SAM does not beat the base, there is no gain, and no share of it.

    Returns:
        The task, its options and metric, the margin, warnings, whether SAM beats the base, one entry per method, the
        results at equal gradients and seconds, and machines and versions. A method is Pareto-optimal unless another one
        is, by the means, at least as good in the metric, gradients and seconds, and better in one of them. Methods
        without a result for some seed are left out of this.

    Raises:
        ValueError: `margin` is invalid, or there are no runs.
    """
    asked = read_margin(margin)
    if not runs:
        raise ValueError("runs is empty: give the runs of a comparison, as read_runs returns them")
    methods, first = by_method(runs), runs[0]
    metric, sign = first.metric, first.metric.sign
    results = {
        method: {run.seed: run.value for run in group if run.value is not None} for method, group in methods.items()
    }
    broken = frozenset(method for method, group in methods.items() if len(results[method]) < len(group))
    advantage = paired(results.get(REFERENCE, {}), results.get(BASE, {}))
    gains = [sign * end for end in advantage["ci95"] or ()]
    advantage["verdict"] = min(gains) > 0.0 and REFERENCE not in broken if gains else None
    allowed = _margin(asked or default_margin(metric.unit), advantage, sign)
    pairs = {
        method: differences(found, results[REFERENCE])
        for method, found in results.items()
        if REFERENCE in results and method != REFERENCE
    }
    versus_sam = against(pairs, allowed.value, sign=sign, broken=broken, reference_broken=REFERENCE in broken)
    whole = {method: found for method, found in pairs.items() if not broken & {method, REFERENCE}}
    entries = [_describe(group, methods.get(BASE, ()), versus_sam.get(method)) for method, group in methods.items()]
    chosen = {entry["method"]: entry["choice"] for entry in entries if entry["choice"]}
    labels = {entry["method"]: entry["label"] for entry in entries}
    frontier = _frontier(entries, sign)
    return {
        "task": first.task,
        "options": first.options,
        "data": first.data,
        "metric": metric.model_dump(),
        "split": first.split,
        "margin": {"value": allowed.value, "share": allowed.share},
        "warnings": diverged(methods)
        + incomplete(methods)
        + stuck(methods)
        + at_the_edge(methods, {method: choice["edge"] for method, choice in chosen.items()})
        + beyond_budget(methods)
        + as_shares(runs)
        + too_few_seeds(whole, versus_sam, labels, allowed.value, " points" if metric.unit == "%" else ""),
        "sam_beats_base": advantage,
        "comparisons": sum(len(found) > 1 for found in pairs.values()),
        "methods": [entry | {"pareto_optimal": entry["method"] in frontier} for entry in entries],
        "equal_gradients": at_equal(methods, lambda run: run.curve.passes),
        "equal_seconds": at_equal(methods, lambda run: run.curve.seconds),
        "waiting_for_data": _waiting(runs),
        "setups": distinct(run.setup for run in runs if run.setup),
        "versions": distinct(run.versions for run in runs),
        "machines": distinct(run.machine for run in runs),
    }


def pareto_optimal(points: Sequence[Sequence[float]]) -> list[bool]:
    """Return for each point (cost, …, gain) whether it is Pareto-optimal.

    >>> pareto_optimal([(1.0, 84.0), (1.5, 97.0), (1.5, 91.0), (2.0, 97.0)])
    [True, True, False, False]
    """
    return [
        not any(
            all(left <= right for left, right in zip(other[:-1], point[:-1], strict=True))
            and other[-1] >= point[-1]
            and tuple(other) != tuple(point)
            for other in points
        )
        for point in points
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


def _margin(margin: Margin, advantage: Mapping[str, Any], sign: int) -> Margin:
    """Return the margin with its amount in the unit of the metric, if there is one."""
    if margin.share is None:
        return margin
    gain = sign * advantage["difference"] if advantage["verdict"] else None
    return Margin(None if gain is None else margin.share * gain, margin.share)


def _frontier(entries: Sequence[Mapping[str, Any]], sign: int) -> set[str]:
    """Return the methods that are Pareto-optimal in gradients, seconds and the metric together."""
    known = [entry for entry in entries if not entry["diverged"]]
    timed = all(entry["cost_seconds"] is not None for entry in known)
    points = [
        (entry["cost"], entry["cost_seconds"] if timed else 0.0, sign * entry["value"]["mean"]) for entry in known
    ]
    return {entry["method"] for entry, stands in zip(known, pareto_optimal(points), strict=True) if stands}


def _describe(runs: Sequence[Run], base: Sequence[Run], versus_sam: Mapping[str, Any] | None) -> dict[str, Any]:
    first = runs[0]
    seconds = estimate([run.seconds for run in runs])
    plain = {run.seed: run.seconds for run in base if run.seconds > 0}
    ratios = [run.seconds / plain[run.seed] for run in runs if run.seed in plain]
    return {
        "method": first.method,
        "label": first.label,
        "look": first.look.model_dump(),
        "seeds": len(runs),
        "diverged": [run.seed for run in runs if run.value is None],
        "value": estimate([run.value for run in runs if run.value is not None]),
        "cost": fmean(run.passes for run in runs) / fmean(run.plain_passes for run in runs),
        # The page shows medians: on a busy machine one run may take a hundred times as long as the others.
        "cost_seconds": median(ratios) if ratios else None,
        "seconds": {"mean": seconds["mean"], "std": seconds["std"], "median": median(run.seconds for run in runs)},
        "rho": first.hyperparameters.get("rho"),
        "hyperparameters": first.hyperparameters,
        "choice": described_choice(first, base),
        "plan": None if first.plan is None else first.plan.model_dump(),
        "flatness": flatness(runs),
        "points": mean(len(run.values) for run in runs),
        "steps": mean(run.steps for run in runs),
        "sharp_steps": mean(len(run.sharp_steps) for run in runs),
        "passes": fmean(run.passes for run in runs),
        "versus_sam": versus_sam,
    }


def _waiting(runs: Sequence[Run]) -> float | None:
    """Return the share of the training time that was spent waiting for data, over the runs that measured it."""
    known = [(run.data_seconds, run.seconds) for run in runs if run.data_seconds and run.seconds > 0]  # 0: not measured
    if not known:
        return None
    return sum(waited for waited, _ in known) / sum(trained for _, trained in known)
