"""The results as a table for terminals, in the words of the page."""

from collections.abc import Mapping
from typing import Any

from sharpless.report.verdict import outcome, word

__all__ = ["HEADINGS", "legend", "rows"]

HEADINGS = ("method", "accuracy %", "cost", "seconds", "minus SAM [95 %]", "non-inferior")


def rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the cells under `HEADINGS`, one row per method; empty where there is nothing to compare.

    Args:
        summary: what `summarize` returns, or its JSON.

    Returns:
        The label (with • where no other method dominates), the accuracy ± its standard deviation over seeds, the
        cost, the median of the seconds, the difference to SAM with its 95 % interval, and what the corrected tests
        say of it.
    """
    return [_row(entry, summary) for entry in summary["methods"]]


def legend(summary: Mapping[str, Any]) -> list[str]:
    """Return what has to be said below the table, a sentence or two a line."""
    margin, count = summary["margin"], summary["comparisons"]
    lines = ["• Pareto-optimal: none is as accurate for as little, and better in one"]
    if summary["split"] != "test":
        lines.append(f"accuracy on the {summary['split']} split, not on the test set")
    if count > 1:
        every = "both" if count == 2 else f"all {count}"
        lines.append(f"intervals stand for one comparison by itself, the last column for {every} (Holm)")
    if any(outcome(entry["versus_sam"], margin) == "alone" for entry in summary["methods"]):
        lines.append(f"alone only: enough if it were the only comparison, not as one of {count} (Holm)")
    return lines


def _row(entry: Mapping[str, Any], summary: Mapping[str, Any]) -> tuple[str, ...]:
    accuracy, versus = entry["accuracy"], entry["versus_sam"]
    spread = "" if accuracy["std"] is None else f" ± {accuracy['std']:.1f}"
    difference = ""
    if versus is not None and versus["difference"] is not None:
        interval = "" if versus["ci95"] is None else " [{:+.1f}, {:+.1f}]".format(*versus["ci95"])
        difference = f"{versus['difference']:+.1f}{interval}"
    return (
        entry["label"] + (" •" if entry["pareto_optimal"] else ""),
        f"{accuracy['mean']:.1f}{spread}",
        f"{entry['cost']:.2f}",
        f"{entry['seconds']['median']:.1f}",
        difference,
        word(versus, summary),
    )
