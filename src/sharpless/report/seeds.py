"""Where there are too few seeds to say anything, and how many it would take."""

from collections.abc import Mapping, Sequence
from statistics import stdev
from typing import Any

from sharpless.report.statistics import MOST_SEEDS, seeds_needed

__all__ = ["warnings"]


def warnings(
    pairs: Mapping[str, Sequence[float]],
    versus_sam: Mapping[str, Mapping[str, Any]],
    labels: Mapping[str, str],
    margin: float,
) -> list[str]:
    """Return one sentence for each comparison with SAM that its seeds cannot decide; those of one seed share one.

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
    for method, values in pairs.items():
        versus, seeds = versus_sam[method], len(values)
        if versus["ci95"] is None:
            continue
        half = (versus["ci95"][1] - versus["ci95"][0]) / 2
        if half == 0:
            found.append(
                f"{labels[method]} minus SAM is the same with all {seeds} seeds: an interval without width, and a "
                "verdict that no spread supports."
            )
        elif half > margin and not versus["non_inferior"] and not versus["behind"]:
            needed = seeds_needed(stdev(values), margin)
            enough = f"more than {MOST_SEEDS}" if needed is None else f"about {needed}"
            found.append(
                f"Too few seeds to decide on {labels[method]}: {seeds} of them tell its difference to SAM to "
                f"± {half:.2f} points; ± {margin:g}, the margin, would take {enough}."
            )
    return found
