"""Warnings of the report: diverged runs, hyperparameters at the end of their grid, shares as %, and too few seeds."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from sharpless.report.numbers import enough
from sharpless.report.record import Run

__all__ = ["as_shares", "at_the_edge", "beyond_budget", "diverged", "incomplete", "names", "stuck", "too_few_seeds"]


def names(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels without parameters. If several have the same name, keep the parameters in brackets.

    >>> names({"sgd": "SGD", "sgd-long": "SGD, 45 epochs", "rst": "RST, p = 0.5"})
    {'sgd': 'SGD', 'sgd-long': 'SGD (45 epochs)', 'rst': 'RST'}
    """
    parts = {method: label.partition(", ") for method, label in labels.items()}
    heads = [head for head, _, _ in parts.values()]
    return {
        method: f"{head} ({rest})" if rest and heads.count(head) > 1 else head
        for method, (head, _, rest) in parts.items()
    }


def diverged(methods: Mapping[str, Sequence[Run]]) -> list[str]:
    """Return a sentence for each method whose training diverged with some seed."""
    found = []
    for runs in methods.values():
        seeds: dict[tuple[int, int], list[int]] = {}
        for run in runs:
            if run.diverged is not None:
                seeds.setdefault((run.diverged, run.curve.step[run.diverged - 1]), []).append(run.seed)
        if not seeds:
            continue
        when = ", ".join(
            f"from point {point} of the curve (step {step:,}) on with {_seeds(group)}"
            for (point, step), group in sorted(seeds.items())
        )
        lost = [run.seed for run in runs if run.value is None]
        rest = (
            f"{_seeds(lost).capitalize()} ended without a result: the means leave {'them' if len(lost) > 1 else 'it'} "
            "out, and a method with such a seed is not called non-inferior."
            if lost
            else "Its result with this seed is that of a diverged network."
        )
        found.append(
            f"{runs[0].label} diverged: its loss or {runs[0].metric.name} was not finite {when}. {rest} "
            "A smaller lr or rho may help."
        )
    return found


def incomplete(methods: Mapping[str, Sequence[Run]]) -> list[str]:
    """Return a sentence for the methods without runs for seeds that others have, one for each group of seeds."""
    known = names({method: runs[0].label for method, runs in methods.items()})
    every = {run.seed for runs in methods.values() for run in runs}
    without: dict[tuple[int, ...], list[str]] = {}
    for method, runs in methods.items():
        if missing := every - {run.seed for run in runs}:
            without.setdefault(tuple(sorted(missing)), []).append(known[method])
    return [
        f"{_listed(found)}: no run with {_seeds(missing)}, of {len(every)} seeds. Means and differences leave "
        f"{'them' if len(missing) > 1 else 'it'} out. A run that failed may be the worst one."
        for missing, found in without.items()
    ]


def stuck(methods: Mapping[str, Sequence[Run]]) -> list[str]:
    """Return a sentence for each method whose training loss stayed near the initial loss of the base.

    A run is stuck if its loss has fallen by less than a tenth of the fall of the base's mean loss, ends as high as
    that, and its result is not better than that of the base with the same seed. A method that does not memorize wrong
    labels keeps a high loss too, but has a better result.
    """
    base = [loss for run in methods.get("sgd", ()) if (loss := _loss(run))]
    if not base:
        return []
    first, last = (fmean(loss[end] for loss in base) for end in (0, -1))
    if last >= first:
        return []
    fall, results = 0.1 * (first - last), {run.seed: run.value for run in methods["sgd"]}
    found = []
    for runs in methods.values():
        still = [
            (run.seed, loss[-1])
            for run in runs
            if len(loss := _loss(run)) > 1
            and loss[0] - loss[-1] < fall
            and loss[-1] > first - fall
            and not _is_better(run, results.get(run.seed))
        ]
        if still:
            found.append(
                f"{runs[0].label} stayed on its initial plateau with {_seeds([seed for seed, _ in still])}: its "
                f"training loss ended at {fmean(loss for _, loss in still):.3g}, and that of "
                f"{methods['sgd'][0].label} fell from {first:.3g} to {last:.3g}. A smaller rho, or plain steps at "
                "the beginning (rst:p=warmup:0.2/1), may help."
            )
    return found


def _is_better(run: Run, other: float | None) -> bool:
    """Return whether the result of a run is better than another one."""
    if run.value is None or other is None:
        return False
    return run.value > other if run.metric.goal == "max" else run.value < other


def _loss(run: Run) -> Sequence[float]:
    """Return the curve of the training loss; empty if it is unknown or not always finite."""
    loss = run.curve.loss or []
    return [] if None in loss else [value for value in loss if value is not None]


def at_the_edge(methods: Mapping[str, Sequence[Run]], edges: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return a sentence for each hyperparameter whose chosen value is an end of its grid, with all its methods.

    Args:
        methods: the runs of each method.
        edges: for each method and hyperparameter, the end of the grid, "lower" or "upper".
    """
    known = names({method: runs[0].label for method, runs in methods.items()})
    ends: dict[tuple[str, str, float], list[str]] = {}
    for method, edge in edges.items():
        for name, end in edge.items():
            ends.setdefault((name, end, methods[method][0].hyperparameters[name]), []).append(known[method])
    return [
        f"{name} = {value:g}, chosen for {_listed(found)}, is the {'largest' if end == 'upper' else 'smallest'} value "
        f"of the grid: a {'larger' if end == 'upper' else 'smaller'} one may be better. Give a wider grid, with values "
        f"{'above' if end == 'upper' else 'below'} {value:g} in --{name.replace('_', '-')}."
        for (name, end, value), found in ends.items()
    ]


def beyond_budget(methods: Mapping[str, Sequence[Run]]) -> list[str]:
    """Return a sentence for each method without a plan within its budget."""
    found = []
    for run in (runs[0] for runs in methods.values()):
        if run.plan is not None and not run.plan.is_kept:
            clock = "times the seconds" if run.plan.unit == "seconds" else "times the gradients"
            found.append(
                f"{run.label}: a budget of {run.plan.budget:g} {clock} of plain training is not possible here with γ "
                f"of at most 4. The cheapest plan was used, with an expected cost of {run.plan.cost:.3g}."
            )
    return found


def as_shares(runs: Sequence[Run]) -> list[str]:
    """Return a sentence if results with the unit % look like shares, for which a margin of one point is all."""
    metric, values = runs[0].metric, [run.value for run in runs if run.value is not None]
    if metric.unit != "%" or not values or max(map(abs, values)) > 1.0:
        return []
    return [
        f"Every {metric.name} is at most 1, and its unit is %: if these are shares, report 100 times as much, or leave "
        "the unit out. Otherwise the margin calls every method non-inferior."
    ]


def too_few_seeds(
    pairs: Mapping[str, Sequence[float]],
    versus_sam: Mapping[str, Mapping[str, Any]],
    labels: Mapping[str, str],
    margin: float | None,
    unit: str,
) -> list[str]:
    """Return a sentence for comparisons with SAM that have too few seeds, one for each number of seeds.

    A decided comparison needs no warning, even if its interval is wider than the margin.

    Args:
        pairs: the differences of each method to SAM, one per seed.
        versus_sam: the results of the tests.
        labels: the names of the methods, for people.
        margin: in the unit of the metric.
        unit: the unit of a difference in words, after a space, or an empty text.

    Returns:
        The sentences, in the order of the methods.
    """
    found = []
    if single := [labels[method] for method, values in pairs.items() if len(values) < 2]:
        who = "any method" if len(single) == len(pairs) else "; ".join(single)
        found.append(
            f"There is no comparison of {who} with SAM, with fewer than two common seeds: "
            "train at least two, better five."
        )
    known, undecided = names(labels), dict[int, list[str]]()
    for method, values in pairs.items():
        versus = versus_sam[method]
        half = _half(versus)  # NaN for fewer than two seeds
        if half <= 1e-9 * abs(versus["difference"] or 0.0):  # not 0, by rounding
            found.append(
                f"{labels[method]} minus SAM is the same with all {len(values)} seeds: the interval has no width, and "
                "no spread supports the verdict."
            )
        elif margin is not None and half > margin and not versus["non_inferior"] and not versus["behind"]:
            undecided.setdefault(len(values), []).append(method)
    return found + [
        _too_few(seeds, {known[method]: versus_sam[method] for method in methods}, f"{margin:.3g}", unit)
        for seeds, methods in undecided.items()
    ]


def _too_few(seeds: int, wide: Mapping[str, Mapping[str, Any]], margin: str, unit: str) -> str:
    """Return the sentence about methods with too wide intervals, from the narrowest to the widest."""
    ordered = sorted(wide, key=lambda name: _half(wide[name]))
    reach = _range([f"± {_half(wide[name]):.3g}" for name in ordered])
    needed = [enough(wide[name]["seeds_needed"]) for name in ordered]
    take = needed[0] if len(set(needed)) == 1 else f"{needed[0]} ({ordered[0]}) to {needed[-1]} ({ordered[-1]})"
    reaches = "their intervals reach" if len(wide) > 1 else "its interval reaches"
    return (
        f"{seeds} seeds are too few to decide on {_listed(list(wide))}: {reaches} {reach}{unit}, "
        f"the margin is {margin}; seeds needed: {take}."
    )


def _listed(words: Sequence[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def _range(ordered: Sequence[str]) -> str:
    return ordered[0] if ordered[0] == ordered[-1] else f"{ordered[0]} to {ordered[-1]}"


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _half(versus: Mapping[str, Any]) -> float:
    return math.nan if versus["ci95"] is None else float(versus["ci95"][1] - versus["ci95"][0]) / 2
