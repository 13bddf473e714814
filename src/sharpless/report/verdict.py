"""The outcome of a comparison in plain words."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["interval", "signed", "verdict"]

MISSING = "—"


def signed(value: float | None) -> str:
    """Return a difference with its sign.

    >>> signed(-0.304), signed(-0.001), signed(None)
    ('−0.30', '+0.00', '—')
    """
    return MISSING if value is None else f"{value:+z.2f}".replace("-", "−")


def interval(ends: Sequence[float] | None) -> str:
    """Return an interval as words that no line break divides.

    >>> interval([-0.5, 12.25]).split(), interval(None)
    (['−0.50', 'to', '12.25'], '—')
    """
    return MISSING if ends is None else "\u00a0to\u00a0".join(f"{end:z.2f}".replace("-", "−") for end in ends)


def verdict(summary: Mapping[str, Any]) -> str:
    """Return the outcome of a comparison in one paragraph: SAM against SGD, then the rest against SAM."""
    methods = {entry["method"]: entry for entry in summary["methods"]}
    sentences = [_sam_against_sgd(summary, methods)]
    if "sam" in methods:
        rivals = [entry for name, entry in methods.items() if name not in {"sgd", "sam"}]
        sentences += _against_sam(rivals, summary["margin"], methods["sam"]["cost"])
    return " ".join(sentences)


def _sam_against_sgd(summary: Mapping[str, Any], methods: Mapping[str, Any]) -> str:
    absent = [name.upper() for name in ("sgd", "sam") if name not in methods]
    if absent:
        rest = ", nor whether another method keeps up with SAM" if "SAM" in absent else ""
        return (
            f"There are no runs of {' and '.join(absent)} here, so it cannot be said whether "
            f"sharpness-awareness buys anything on this task{rest}."
        )
    advantage = summary["sam_beats_sgd"]
    difference, ends = advantage["difference"], advantage["ci95"]
    if ends is None:
        seen = "" if difference is None else f" SAM minus SGD is {signed(difference)} points on the one they share."
        return "There are too few seeds to say anything: SAM and SGD need at least two in common, better five." + seen
    evidence = f"{signed(difference)} points, 95 % interval {interval(ends)}"
    if advantage["verdict"]:
        return (
            f"On this task SAM beats SGD ({evidence}), for {methods['sam']['cost']:.2f} times the gradients "
            "of plain training."
        )
    finding = "SAM is worse than SGD" if ends[1] < 0 else "SAM does not beat SGD"
    return (
        f"On this task {finding} ({evidence}): there is no gain for a cheaper method to keep, and being "
        "non-inferior to SAM recommends nothing here."
    )


def _against_sam(rivals: Sequence[Mapping[str, Any]], margin: float, sam_cost: float) -> list[str]:
    """Return one sentence per outcome: kept up, fell behind, undecided."""
    outcomes: dict[str, list[str]] = {"kept": [], "behind": [], "open": []}
    for rival in rivals:
        versus = rival["versus_sam"]
        if versus["ci95"] is None:
            continue
        outcome = "kept" if versus["non_inferior"] else "behind" if versus["ci95"][1] < -margin else "open"
        outcomes[outcome].append(
            f"{rival['label']} ({signed(versus['difference'])} points, {interval(versus['ci95'])}) "
            f"at cost {rival['cost']:.2f}"
        )
    within = f"{margin:g} point" + ("" if margin == 1 else "s")
    lead = {
        "kept": f"Non-inferior to SAM, whose cost is {sam_cost:.2f}, within {within}",
        "behind": f"Behind SAM by more than {within}",
        "open": f"Neither shown to keep up with SAM within {within} nor to fall behind",
    }
    return [f"{lead[outcome]}: {'; '.join(found)}." for outcome, found in outcomes.items() if found]
