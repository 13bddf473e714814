"""The results as a table for terminals, with the words of the page."""

from collections.abc import Mapping
from typing import Any

from sharpless.report.numbers import Digits
from sharpless.report.verdict import metric_words, outcome, word

__all__ = ["headings", "legend", "rows"]


def headings(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the headings of the columns of `rows`."""
    rho = ("ρ",) if _chosen(summary) else ()
    return ("method", metric_words(summary), "cost", "× seconds", *rho, "minus SAM [95 %]", "non-inferior")


def rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the cells under `headings`, one row per method. A cell without a value is empty.

    Args:
        summary: the result of `summarize`, or its JSON.

    Returns:
        The label (with • if it is Pareto-optimal), the metric ± its standard deviation over seeds, the costs in
        gradients and in seconds, ρ if it was chosen for some method, the difference to SAM with its 95 % interval, and
        the result of the corrected tests.
    """
    return [_row(entry, summary, Digits.of(summary)) for entry in summary["methods"]]


def legend(summary: Mapping[str, Any]) -> list[str]:
    """Return the explanations below the table, one or two sentences per line."""
    count, metric = summary["comparisons"], summary["metric"]
    lines = ["• Pareto-optimal: no other method is as good for as few gradients and seconds"]
    lines.append("cost: in gradients per step; × seconds: training time; plain training is 1")
    if metric["goal"] == "min":
        lines.append(f"{metric['name']}: lower is better")
    if summary["split"] != "test":
        lines.append(f"{metric['name']} on the {summary['split']} split, not on the test set")
    if chosen := _chosen(summary):
        costs = sorted({f"{entry['choice']['cost']:.3g}" for entry in chosen}, key=float)
        span = costs[0] if len(costs) == 1 else f"{costs[0]} to {costs[-1]}"
        lines.append(f"ρ: chosen on validation, which cost each method {span} plain trainings")
    if count > 1:
        every = "both" if count == 2 else f"all {count}"
        lines.append(f"intervals are for one comparison alone, the last column is for {every} (Holm)")
    outcomes = {outcome(entry, summary) for entry in summary["methods"]}
    if "alone" in outcomes:
        lines.append(f"alone only: non-inferior as the only comparison, but not as one of {count} (Holm)")
    if "no gain" in outcomes:
        lines.append("no gain: SAM does not beat the base, so there is no share of a gain to keep")
    if "no margin" in outcomes:
        lines.append("no margin: SAM's gain over the base is not known, so give --margin as an amount")
    return lines


def _chosen(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [entry for entry in summary["methods"] if entry["choice"] and entry["rho"] is not None]


def _row(entry: Mapping[str, Any], summary: Mapping[str, Any], digits: Digits) -> tuple[str, ...]:
    versus, rho = entry["versus_sam"], entry["rho"]
    difference = ""
    if versus is not None and versus["difference"] is not None:
        ends = "" if versus["ci95"] is None else f" [{digits.interval(versus['ci95'], ', ')}]"
        difference = f"{digits.signed(versus['difference'])}{ends}".replace("−", "-")
    return (
        entry["label"] + (" •" if entry["pareto_optimal"] else ""),
        digits.spread(entry["value"]).replace("−", "-"),
        f"{entry['cost']:.2f}",
        "" if entry["cost_seconds"] is None else f"{entry['cost_seconds']:.2f}",
        *((("" if rho is None else f"{rho:.3g}"),) if _chosen(summary) else ()),
        difference,
        word(entry, summary),
    )
