"""The outcome of a comparison in plain words."""

from collections.abc import Mapping
from typing import Any

from sharpless.report.numbers import Digits

__all__ = ["amount", "margin_words", "metric_words", "outcome", "verdict", "word"]

ANSWERS = {
    None: "",
    "better": "yes, better",
    "kept": "yes",
    "behind": "no",
    "alone": "alone only",
    "open": "not shown",
    "few": "too few seeds",
    "no reference": "SAM diverged",
    "diverged": "diverged",
    "no gain": "no gain",
    "no margin": "no margin",
}


def metric_words(summary: Mapping[str, Any]) -> str:
    """Return the metric with its unit.

    >>> [metric_words({"metric": {"name": "error", "unit": unit}}) for unit in ("", "%", "kWh")]
    ['error', 'error %', 'error (kWh)']
    """
    name, unit = summary["metric"]["name"], summary["metric"]["unit"]
    return name if not unit else f"{name} %" if unit == "%" else f"{name} ({unit})"


def amount(text: str, summary: Mapping[str, Any]) -> str:
    """Return an amount, given as a text, with its unit.

    >>> amount("1", {"metric": {"unit": "%"}}), amount("+0.1", {"metric": {"unit": "%"}})
    ('1 point', '+0.1 points')
    """
    unit = summary["metric"]["unit"]
    if unit == "%":
        return f"{text} point" + ("" if text == "1" else "s")
    return f"{text} {unit}".strip()


def margin_words(summary: Mapping[str, Any]) -> str:
    """Return the margin in words, as `0.0012 (25 % of SAM's gain)`."""
    value, share = summary["margin"]["value"], summary["margin"]["share"]
    part = "" if share is None else f"{100 * share:g} % of SAM's gain"
    if value is None:
        return part
    return amount(f"{value:.3g}", summary) + (f" ({part})" if part else "")


def outcome(entry: Mapping[str, Any], summary: Mapping[str, Any]) -> str | None:
    """Return the result of a method's comparison with SAM; None if there is none.

    Args:
        entry: the entry of the method in the summary.
        summary: the summary.

    Returns:
        "better", "kept" or "behind", corrected for all comparisons; "alone" if the interval lies within the margin,
        but the corrected test does not reject; "open"; "few" for too few seeds; "diverged" if a seed ended without a
        result, and "no reference" if too few seeds of SAM have one; "no gain" if the margin is a share of SAM's gain
        and SAM has none; "no margin" if this gain is unknown.
    """
    versus, margin = entry["versus_sam"], summary["margin"]["value"]
    if versus is None:
        return None
    if versus["ci95"] is None:
        return "diverged" if entry["diverged"] else "no reference" if _sam_diverged(summary) else "few"
    sign = 1 if summary["metric"]["goal"] == "max" else -1
    found = {
        "better": versus["beats"] and (versus["non_inferior"] or margin is None),
        "kept": versus["non_inferior"],
        "behind": versus["behind"],
        "diverged": bool(entry["diverged"]),
        "no gain": margin is None and summary["sam_beats_base"]["verdict"] is False and not _sam_diverged(summary),
        "no margin": margin is None,
        "alone": margin is not None and min(sign * end for end in versus["ci95"]) > -margin,
    }
    return next((name for name, holds in found.items() if holds), "open")


def word(entry: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """Return the outcome as an answer to "non-inferior?"; empty if there is no comparison."""
    return ANSWERS[outcome(entry, summary)]


def verdict(summary: Mapping[str, Any]) -> list[str]:
    """Return the outcome of a comparison as a few sentences: SAM against the base, then the rest against SAM."""
    methods = {entry["method"]: entry for entry in summary["methods"]}
    sentences = [*_choice(methods), _sam_against_base(summary, methods)]
    if "sam" in methods:
        sentences += _against_sam(summary, methods["sam"])
    return sentences


def _choice(methods: Mapping[str, Any]) -> list[str]:
    """Return a sentence if radii were chosen, and none beat the base on validation data."""
    chosen = [entry["choice"] for entry in methods.values() if entry["choice"] and entry["rho"] is not None]
    if "sgd" not in methods or not chosen or any(choice["beats_base"] is not False for choice in chosen):
        return []
    return [f"No radius ρ that was tried beats {methods['sgd']['label']} on validation, with any method."]


def _sam_against_base(summary: Mapping[str, Any], methods: Mapping[str, Any]) -> str:
    absent = [name for name in ("sgd", "sam") if name not in methods]
    if absent:
        words = {"sgd": "the base optimizer (sgd)", "sam": "SAM (sam)"}
        rest = ", or whether another method is non-inferior to SAM" if "sam" in absent else ""
        return (
            f"There are no runs of {' and '.join(words[name] for name in absent)} here, so it is unknown whether "
            f"SAM beats the base on this task{rest}."
        )
    advantage, base, digits = summary["sam_beats_base"], methods["sgd"]["label"], Digits.of(summary)
    difference, ends = advantage["difference"], advantage["ci95"]
    name = summary["metric"]["name"]
    diverged = _sam_diverged(summary)
    if ends is None and diverged:
        return f"SAM diverged, and has too few seeds with a result for a comparison with {base} or with other methods."
    if ends is None:
        seen = amount(digits.signed(difference), summary)
        return f"There are too few seeds: SAM and {base} need at least two common seeds, better five." + (
            "" if difference is None else f" SAM minus {base} is {seen} with the only common one."
        )
    better = "" if summary["metric"]["goal"] == "max" else "; lower is better"
    evidence = f"{name} {amount(digits.signed(difference), summary)}, 95 % interval {digits.interval(ends)}{better}"
    if advantage["verdict"]:
        small = (
            f" But the margin, {margin_words(summary)}, is more than this gain: {base} is non-inferior to SAM too."
            if outcome(methods["sgd"], summary) == "kept"
            else ""
        )
        return f"SAM beats {base} ({evidence}), at cost {methods['sam']['cost']:.2f}.{small}"
    worse = max(ends) < 0 if summary["metric"]["goal"] == "max" else min(ends) > 0
    finding = f"SAM is worse than {base}" if worse else f"SAM does not beat {base}"
    if diverged and not worse:
        return f"SAM diverged with some seed, so it is not said to beat {base} ({evidence}, over the other seeds)."
    rest = (
        "no method is called non-inferior"
        if summary["margin"]["value"] is None
        else "non-inferior to SAM does not mean good here"
    )
    return f"{finding} ({evidence}): there is no gain for a cheaper method to keep, and {rest}."


def _sam_diverged(summary: Mapping[str, Any]) -> bool:
    return any(entry["diverged"] for entry in summary["methods"] if entry["method"] == "sam")


def _against_sam(summary: Mapping[str, Any], sam: Mapping[str, Any]) -> list[str]:
    """Return one sentence per outcome, the cheapest methods first."""
    within, count = margin_words(summary), summary["comparisons"]
    openings = {
        "better": f"Better than SAM, whose cost is {sam['cost']:.2f}",
        "kept": f"Non-inferior to SAM, whose cost is {sam['cost']:.2f}, within {within}",
        "behind": f"Behind SAM by more than {within}",
        "alone": f"Non-inferior to SAM within {within} as the only comparison, but not as one of {count}",
        "open": f"Neither shown to be non-inferior to SAM within {within} nor to be behind",
        "diverged": "Not reliable, because training diverged with some seed",
    }
    sentences = []
    for name, opening in openings.items():
        found = [
            f"{entry['label']} at cost {entry['cost']:.2f}"
            for entry in sorted(summary["methods"], key=lambda entry: entry["cost"])
            if entry["method"] != "sgd" and outcome(entry, summary) == name
        ]
        if found:
            sentences.append(f"{opening}: {'; '.join(found)}.")
    return sentences
