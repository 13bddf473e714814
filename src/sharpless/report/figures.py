"""Figures of the results as SVG elements: differences to SAM, and the metric against cost."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib
import numpy
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from sharpless.report.cautions import names
from sharpless.report.drawing import FAINT, INK, PAPER, STYLE, WIDTH, bounds, looks, titled, to_svg
from sharpless.report.labels import place_labels, place_name
from sharpless.report.numbers import Digits
from sharpless.report.summary import pareto_optimal
from sharpless.report.verdict import amount, margin_words, metric_words, outcome, word

__all__ = ["COST", "SECONDS", "against_cost", "against_seconds", "forest"]

COST = "cost, in gradients per step"
SECONDS = "cost, in seconds"
MARGINS = 8
"""A difference of more margins is drawn as an arrow. Otherwise the margin would be invisible."""


@matplotlib.rc_context(STYLE)
def forest(summary: Mapping[str, Any]) -> str | None:
    """Return the differences to SAM with their 95 % intervals, and the margin; None if there is no difference."""
    entries = [e for e in summary["methods"] if e["versus_sam"] and e["versus_sam"]["difference"] is not None]
    if not entries:
        return None
    figure = Figure(figsize=(WIDTH, 0.75 + 0.29 * len(entries)), dpi=72, layout="constrained")
    axes = figure.add_subplot()
    digits, margin, look = Digits.of(summary), summary["margin"]["value"], looks(summary)
    sign = 1 if summary["metric"]["goal"] == "max" else -1
    low, high = _range(entries, margin)
    axes.axvline(0.0, color=FAINT, linewidth=0.8, zorder=1)
    if margin is not None:
        axes.axvline(-sign * margin, color=INK, linestyle=(0, (4, 3)), linewidth=1.0, zorder=1)
        lost = f"SAM {'−' if sign > 0 else '+'} {amount(f'{margin:.3g}', summary)}"
        axes.annotate(
            lost, (-sign * margin, 1), (-3 * sign, 2), axes.get_xaxis_transform(), "offset points",
            ha="right" if sign > 0 else "left", va="bottom", size=7.5, annotation_clip=False,
        )  # fmt: skip
    axes.annotate(
        "SAM", (0, 1), (0, 2), axes.get_xaxis_transform(), "offset points", ha="center", va="bottom", size=7.5
    )
    for row, entry in enumerate(entries):
        color, marker, _ = look[entry["method"]]
        versus, filled = entry["versus_sam"], outcome(entry, summary) in {"better", "kept"}
        middle = versus["difference"]
        left, right = versus["ci95"] or (middle, middle)
        said = f"{entry['label']} minus SAM: {digits.signed(middle)}, 95 % interval {digits.interval(versus['ci95'])}"
        if margin is None or abs(middle) <= MARGINS * margin:
            drawn: dict[str, Any] = {"color": color, "gid": titled(said), "zorder": 3}
            axes.plot(numpy.clip([left, right], low, high), [row, row], linewidth=1.6, **drawn)
            axes.plot(middle, row, marker, ms=6, mfc=color if filled else PAPER, **drawn)
        else:
            at, pointer, side = (low, "<", 1) if middle < 0 else (high, ">", -1)
            axes.plot(at, row, pointer, ms=6, color=color, clip_on=False, gid=titled(said), zorder=3)
            axes.annotate(
                digits.signed(middle), (at, row), (7 * side, 0), textcoords="offset points", va="center", size=7.5,
                ha="left" if side > 0 else "right",
            )  # fmt: skip
    short = names({entry["method"]: entry["label"] for entry in entries})
    axes.set_yticks(range(len(entries)), [short[entry["method"]].replace(" (", "\n(") for entry in entries])
    axes.set(ylim=(len(entries) - 0.5, -0.5), xlim=(low, high))
    axes.tick_params(axis="y", length=0, pad=8)
    axes.grid(visible=False)
    better = "→ better" if sign > 0 else "better ←"
    axes.set_xlabel(f"{metric_words(summary)}, minus SAM's ({better})")
    return to_svg(figure, _found(summary, entries))


@matplotlib.rc_context(STYLE)
def against_cost(summary: Mapping[str, Any]) -> str | None:
    """Return the metric with its 95 % interval against the cost in gradients. Plain training costs 1."""
    return _against(summary, {entry["method"]: entry["cost"] for entry in summary["methods"]}, COST)


@matplotlib.rc_context(STYLE)
def against_seconds(summary: Mapping[str, Any]) -> str | None:
    """Return the metric with its 95 % interval against training time, relative to the base, or else in seconds."""
    relative = {entry["method"]: entry["cost_seconds"] for entry in summary["methods"]}
    if None not in relative.values():
        return _against(summary, relative, f"{SECONDS} (plain training = 1)")
    medians = {entry["method"]: entry["seconds"]["median"] for entry in summary["methods"]}
    return _against(summary, medians, "median training time, in seconds")


def _range(entries: Sequence[Mapping[str, Any]], margin: float | None) -> tuple[float, float]:
    """Return the drawn range of differences, without those that are far larger than the margin."""
    reach = numpy.inf if margin is None else MARGINS * margin
    ends = [0.0] + ([] if margin is None else [-1.3 * margin, 1.3 * margin])
    for entry in entries:
        versus = entry["versus_sam"]
        if abs(versus["difference"]) <= reach:
            ends += [versus["difference"], *numpy.clip(versus["ci95"] or [], -reach, reach)]
    low, high = min(ends), max(ends)
    space = 0.06 * (high - low) or 1.0
    # An arrow needs space for its number.
    found = [entry["versus_sam"]["difference"] for entry in entries]
    left, right = (0.3 * (high - low) if any(side * value > reach for value in found) else 0.0 for side in (-1, 1))
    return float(low - space - left), float(high + space + right)


def _found(summary: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> str:
    """Return the description of the figure of differences, in a sentence."""
    answers: dict[str, list[str]] = {}
    for entry in entries:
        answers.setdefault(word(entry, summary), []).append(entry["label"])
    found = "; ".join(f"{answer}: {', '.join(labels)}" for answer, labels in answers.items())
    return f"Is a method non-inferior to SAM, within {margin_words(summary)}? {found[0].upper()}{found[1:]}."


def _against(summary: Mapping[str, Any], costs: Mapping[str, float], axis: str) -> str | None:
    entries = [entry for entry in summary["methods"] if entry["value"]["mean"] is not None]
    if not entries:
        return None
    figure = Figure(figsize=(WIDTH, 3.0), dpi=72, layout="constrained")
    axes = figure.add_subplot()
    digits, look, sign = Digits.of(summary), looks(summary), 1 if summary["metric"]["goal"] == "max" else -1
    results = [(costs[entry["method"]], entry["value"]["mean"]) for entry in entries]
    sound = [not entry["diverged"] for entry in entries]
    optimal = iter(pareto_optimal([(x, sign * value) for (x, value), each in zip(results, sound, strict=True) if each]))
    on_frontier = [each and next(optimal) for each in sound]
    top = bounds(summary)[1]
    bottom = 0.0 if all(value >= 0 for _, value in results) else -numpy.inf
    known = names({entry["method"]: entry["label"] for entry in entries})
    points, spans = [], []
    for entry, (x, mean), stands in zip(entries, results, on_frontier, strict=True):
        low, high = numpy.clip(entry["value"]["ci95"] or (mean, mean), bottom, top)  # two seeds can give −20 to 160 %
        color, marker, _ = look[entry["method"]]
        said = f"{entry['label']}: {digits.spread(entry['value'])} at {x:.2f}"
        drawn: dict[str, Any] = {"color": color, "clip_on": False, "zorder": 3 if stands else 2, "gid": titled(said)}
        axes.plot([x, x], [low, high], marker="_", ms=5, **drawn)
        axes.plot(x, mean, marker, ms=5.5, mfc=color if stands else PAPER, **drawn)
        points.append((x, mean, known[entry["method"]].replace(" (", "\n("), color))
        spans.append(((x, low), (x, high)))
    sam = [entry["value"]["mean"] for entry in entries if entry["method"] == "sam"]
    margin = summary["margin"]["value"]
    levels = [] if margin is None else [at for value in sam if bottom < (at := value - sign * margin) < top]
    lines = [axes.axhline(level, color=FAINT, linestyle=(0, (4, 3)), linewidth=0.8, zorder=1) for level in levels]
    axes.margins(0.2, 0.22)
    axes.set(xlim=numpy.clip(axes.get_xlim(), 0, None), ylim=numpy.clip(axes.get_ylim(), bottom, top))
    standing = [result for result, stands in zip(results, on_frontier, strict=True) if stands]
    frontier = _steps(standing, axes.get_xlim()[1])
    axes.plot([x for x, _ in frontier], [y for _, y in frontier], color=FAINT, linewidth=1.1, zorder=1, scalex=False)
    axes.set_xlabel(axis)
    axes.set_title(f"{summary['split']} {metric_words(summary)}", loc="left")
    figure.draw_without_rendering()  # the labels need the final limits and layout
    taken = [Bbox(axes.transData.transform(span)).padded(3.5) for span in spans]
    taken += [Bbox(axes.transData.transform(span)).padded(1.5) for span in pairwise(frontier)]
    name = f"SAM {'−' if sign > 0 else '+'} {amount(f'{margin:.3g}', summary)}" if levels else ""
    written = [place_name(axes, name, level, taken) for level in levels]
    taken += [artist.get_window_extent().padded(1.5) for artist in (*lines, *written)]
    for label in (*written, *place_labels(axes, points, taken)):
        label.set_in_layout(False)
    best = ", ".join(entry["label"] for entry, stands in zip(entries, on_frontier, strict=True) if stands)
    found = f": no method is as good for less than {best}" if best else ""
    return to_svg(figure, f"{metric_words(summary)} against {axis}{found}.")


def _steps(points: Sequence[tuple[float, float]], end: float) -> list[tuple[float, float]]:
    """Return the corners of the Pareto frontier of the metric against cost, up to the cost `end`.

    >>> _steps([(2.0, 97.0), (1.0, 84.0)], 2.5)
    [(1.0, 84.0), (2.0, 84.0), (2.0, 97.0), (2.5, 97.0)]
    """
    points = sorted(points)
    corners = [corner for (x, y), (right, _) in pairwise(points) for corner in ((x, y), (right, y))]
    return [*corners, points[-1], (end, points[-1][1])] if points else []
