"""Where there are too few seeds to say anything, and how many it would take."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sharpless.report.statistics import MOST_SEEDS

__all__ = ["enough", "warnings"]


def warnings(
    pairs: Mapping[str, Sequence[float]],
    versus_sam: Mapping[str, Mapping[str, Any]],
    labels: Mapping[str, str],
    margin: float,
) -> list[str]:
    """Return what the seeds cannot decide against SAM, one sentence for all methods with the same number of seeds.

    A comparison whose interval is wider than the margin, but which is decided all the same, needs no warning.

    Args:
        pairs: the differences of each method to SAM, in percentage points, one per seed.
        versus_sam: what the tests say of them.
        labels: the methods' names, for people.
        margin: in percentage points.

    Returns:
        The sentences, in the order of the methods.
    """
    found = []
    if single := [labels[method] for method, values in pairs.items() if len(values) < 2]:
        who = "any method" if len(single) == len(pairs) else "; ".join(single)
        found.append(
            f"Nothing can be said about {who} against SAM, with fewer than two seeds in common: "
            "train two at least, better five."
        )
    names, undecided = _names(labels), dict[int, list[str]]()
    for method, values in pairs.items():
        versus = versus_sam[method]
        half = _half(versus)  # of fewer than two seeds, not a number
        if half == 0:
            found.append(
                f"{labels[method]} minus SAM is the same with all {len(values)} seeds: an interval without width, and "
                "a verdict that no spread supports."
            )
        elif half > margin and not versus["non_inferior"] and not versus["behind"]:
            undecided.setdefault(len(values), []).append(method)
    return found + [
        _too_few(seeds, {names[method]: versus_sam[method] for method in methods}, margin)
        for seeds, methods in undecided.items()
    ]


def enough(needed: int | None) -> str:
    """Return a number of seeds in words.

    >>> enough(40), enough(None)
    ('40', 'more than 100')
    """
    return f"more than {MOST_SEEDS}" if needed is None else str(needed)


def _too_few(seeds: int, wide: Mapping[str, Mapping[str, Any]], margin: float) -> str:
    """Return the sentence about methods, by name, whose intervals are too wide, from the narrowest to the widest."""
    *others, last = wide
    who = f"{', '.join(others)} and {last}" if others else last
    ordered = sorted(wide, key=lambda name: _half(wide[name]))
    reach = _range([f"± {_half(wide[name]):.3g}" for name in ordered])
    needed = [enough(wide[name]["seeds_needed"]) for name in ordered]
    take = needed[0] if len(set(needed)) == 1 else f"{needed[0]} ({ordered[0]}) to {needed[-1]} ({ordered[-1]})"
    reaches = "their intervals reach" if others else "its interval reaches"
    return (
        f"{seeds} seeds are too few to decide on {who}: {reaches} {reach} points, the margin is {margin:g}; "
        f"it would take {take}."
    )


def _range(ordered: Sequence[str]) -> str:
    return ordered[0] if ordered[0] == ordered[-1] else f"{ordered[0]} to {ordered[-1]}"


def _names(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels without parameters, and with them in brackets where others have the same name.

    >>> _names({"sgd": "SGD", "sgd-long": "SGD, 45 epochs", "rst": "RST, p = 0.5"})
    {'sgd': 'SGD', 'sgd-long': 'SGD (45 epochs)', 'rst': 'RST'}
    """
    parts = {method: label.partition(", ") for method, label in labels.items()}
    heads = [head for head, _, _ in parts.values()]
    return {
        method: f"{head} ({rest})" if rest and heads.count(head) > 1 else head
        for method, (head, _, rest) in parts.items()
    }


def _half(versus: Mapping[str, Any]) -> float:
    return math.nan if versus["ci95"] is None else float(versus["ci95"][1] - versus["ci95"][0]) / 2
