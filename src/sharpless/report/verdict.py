"""The outcome of a comparison in plain words."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["interval", "outcome", "signed", "verdict", "word"]

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


def outcome(versus: Mapping[str, Any] | None, margin: float) -> str | None:
    """Return what a method's comparison with SAM came to, None where there is none.

    Args:
        versus: the `versus_sam` of a method in the summary.
        margin: that of the summary, in percentage points.

    Returns:
        "better", "kept" or "behind", corrected for all comparisons; "alone" where the interval lies above minus the
        margin, but the corrected test does not reject; "open", or "few" where there are too few seeds.
    """
    if versus is None:
        return None
    if versus["ci95"] is None:
        return "few"
    if versus["non_inferior"]:
        return "better" if versus["beats"] else "kept"
    if versus["behind"]:
        return "behind"
    return "alone" if versus["ci95"][0] > -margin else "open"


def word(versus: Mapping[str, Any] | None, summary: Mapping[str, Any]) -> str:
    """Return the outcome as an answer to "non-inferior?", empty where nothing was asked."""
    answers = {
        None: "",
        "better": "yes, better",
        "kept": "yes",
        "behind": "no",
        "alone": "alone only",
        "open": "not shown",
        "few": "too few seeds",
    }
    return answers[outcome(versus, summary["margin"])]


def verdict(summary: Mapping[str, Any]) -> str:
    """Return the outcome of a comparison in one paragraph: SAM against SGD, then the rest against SAM."""
    methods = {entry["method"]: entry for entry in summary["methods"]}
    sentences = [_sam_against_sgd(summary, methods)]
    if "sam" in methods:
        sentences += _against_sam(summary, methods["sam"]["cost"])
    return " ".join(sentences)


def _sam_against_sgd(summary: Mapping[str, Any], methods: Mapping[str, Any]) -> str:
    absent = [name.upper() for name in ("sgd", "sam") if name not in methods]
    if absent:
        rest = ", nor whether another method keeps up with SAM" if "SAM" in absent else ""
        return (
            f"There are no runs of {' and '.join(absent)} here, so it cannot be said whether "
            f"sharpness-awareness buys anything on this task{rest}."
        )
    advantage, base = summary["sam_beats_sgd"], methods["sgd"]["label"]
    difference, ends = advantage["difference"], advantage["ci95"]
    if ends is None:
        seen = "" if difference is None else f" SAM minus {base} is {signed(difference)} points on the one they share."
        return (
            f"There are too few seeds to say anything: SAM and {base} need at least two in common, better five.{seen}"
        )
    evidence = f"{signed(difference)} points, 95 % interval {interval(ends)}"
    if advantage["verdict"]:
        return (
            f"On this task SAM beats {base} ({evidence}), for {methods['sam']['cost']:.2f} times the gradients "
            "of plain training."
        )
    finding = f"SAM is worse than {base}" if ends[1] < 0 else f"SAM does not beat {base}"
    return (
        f"On this task {finding} ({evidence}): there is no gain for a cheaper method to keep, and being "
        "non-inferior to SAM recommends nothing here."
    )


def _against_sam(summary: Mapping[str, Any], sam_cost: float) -> list[str]:
    """Return one sentence per outcome."""
    margin, count = summary["margin"], summary["comparisons"]
    within = f"{margin:g} point" + ("" if margin == 1 else "s")
    lead = {
        "better": f"Better than SAM, whose cost is {sam_cost:.2f}",
        "kept": f"Non-inferior to SAM, whose cost is {sam_cost:.2f}, within {within}",
        "behind": f"Behind SAM by more than {within}",
        "alone": f"Within {within} of SAM by the interval alone, but not shown as one of {count} comparisons",
        "open": f"Neither shown to keep up with SAM within {within} nor to fall behind",
    }
    sentences = []
    for told, opening in lead.items():
        found = [
            f"{entry['label']} ({signed(entry['versus_sam']['difference'])} points, "
            f"{interval(entry['versus_sam']['ci95'])}) at cost {entry['cost']:.2f}"
            for entry in summary["methods"]
            if entry["method"] != "sgd" and outcome(entry["versus_sam"], margin) == told
        ]
        if found:
            sentences.append(f"{opening}: {'; '.join(found)}.")
    return sentences
