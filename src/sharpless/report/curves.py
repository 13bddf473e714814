"""Figures of the training as SVG elements: the curves, the coin, and the choice of the radius."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator

from sharpless import schedules
from sharpless.report.choice import base_validation, curve_of_rho
from sharpless.report.drawing import FAINT, PAPER, STYLE, WIDTH, bounds, looks, titled, to_svg
from sharpless.report.numbers import Digits
from sharpless.report.runs import Run, by_method
from sharpless.report.verdict import metric_words

__all__ = ["choice", "coin", "loss", "values"]

MOST_POINTS = 2000
TRANSIENT = 0.25
"""The first share of training, which does not set the limits of the axis."""


@matplotlib.rc_context(STYLE)
def values(runs: Sequence[Run], summary: Mapping[str, Any]) -> str:
    """Return the metric against the step: the mean over seeds, and the range of the seeds."""
    digits, sign = Digits.of(summary), runs[0].metric.sign
    known = [entry for entry in summary["methods"] if entry["value"]["mean"] is not None]
    ordered = sorted(known, key=lambda entry: -sign * entry["value"]["mean"])
    found = "; ".join(f"{entry['label']} {digits.value(entry['value']['mean'])}" for entry in ordered)
    title = f"{summary['split']} {metric_words(summary)}"
    said = f"{title} during training. At the end, from the best to the worst: {found}." if found else title
    return _curves(runs, summary, lambda run: run.values, title, bounds(summary), said)


@matplotlib.rc_context(STYLE)
def loss(runs: Sequence[Run], summary: Mapping[str, Any]) -> str | None:
    """Return the training loss against the step; None if no run reported one."""
    known = [run for run in runs if run.curve.loss is not None]
    if not known:
        return None
    ends = {
        group[0].label: sum(last) / len(last)
        for group in by_method(known).values()
        if (last := [run.curve.loss[-1] for run in group if run.curve.loss and run.curve.loss[-1] is not None])
    }
    found = "; ".join(f"{label} {end:.3g}" for label, end in sorted(ends.items(), key=lambda item: item[1]))
    said = f"Training loss. At the end, from the lowest to the highest: {found}."
    return _curves(known, summary, lambda run: run.curve.loss or [], "training loss", (-math.inf, math.inf), said)


@matplotlib.rc_context(STYLE)
def coin(runs: Sequence[Run], summary: Mapping[str, Any]) -> str:
    """Return p(t) and the sharpness-aware steps of the first seed, one panel per method with a random p.

    If no method is random (p is always 0, always 1 or periodic), every method has a panel.
    """
    first = {method: group[0] for method, group in by_method(runs).items()}
    shown = {method: run for method, run in first.items() if _tosses(run)} or first
    figure = Figure(figsize=(WIDTH, 0.3 + 0.95 * len(shown)), dpi=72, layout="constrained")
    panels = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
    look = looks(summary)
    for axes, (method, run) in zip(panels, shown.items(), strict=True):
        _toss(axes, run, look[method][0])
    panels[-1].set_xlabel("step")
    shares = "; ".join(f"{run.label} {100 * len(run.sharp_steps) / run.steps:.3g} %" for run in shown.values())
    return to_svg(figure, f"Which steps were sharpness-aware, and with what probability. The share of them: {shares}.")


@matplotlib.rc_context(STYLE)
def choice(runs: Sequence[Run], summary: Mapping[str, Any]) -> str | None:
    """Return the metric on validation data against ρ, per method; None if no ρ was chosen."""
    groups = by_method(runs)
    tried = {method: found for method, group in groups.items() if len(found := curve_of_rho(group[0])) > 1}
    if not tried:
        return None
    labels = {method: groups[method][0].label for method in tried}
    figure, axes = _figure(list(labels.values()))
    look = looks(summary)
    for method, found in tried.items():
        color, marker, dashes = look[method]
        axes.plot(
            list(found), list(found.values()), color=color, linestyle=dashes, marker=marker, ms=5, mfc=PAPER,
            label=labels[method], gid=titled(labels[method]),
        )  # fmt: skip
        rho = groups[method][0].hyperparameters.get("rho")
        if rho is not None and rho in found:
            axes.plot(rho, found[rho], marker, ms=6, color=color, zorder=3)
    plain = base_validation(groups.get("sgd", ()))
    if plain is not None:
        axes.axhline(plain, color=FAINT, linewidth=1.0, zorder=1, label=groups["sgd"][0].label)
    grid = sorted({rho for found in tried.values() for rho in found})
    axes.set_xscale("log")
    axes.set_xticks(grid, [f"{rho:g}" for rho in grid])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("radius ρ")
    axes.set_title(f"validation {metric_words(summary)}", loc="left")
    _legend(figure, list(labels.values()))
    found_best = "; ".join(f"{labels[method]} {groups[method][0].hyperparameters.get('rho', 0):g}" for method in tried)
    return to_svg(figure, f"Validation {metric_words(summary)} against ρ. Chosen: {found_best}.")


def _figure(labels: Sequence[str]) -> tuple[Figure, Axes]:
    """Return a figure with space for a legend of `labels` below it."""
    columns = 2 if max(map(len, labels)) <= 26 else 1
    figure = Figure(figsize=(WIDTH, 2.5 + 0.17 * math.ceil(len(labels) / columns)), dpi=72, layout="constrained")
    axes = figure.add_subplot()
    return figure, axes


def _legend(figure: Figure, labels: Sequence[str]) -> None:
    columns = 2 if max(map(len, labels)) <= 26 else 1
    figure.legend(loc="outside lower left", ncols=columns, frameon=False, handlelength=3.2)


def _curves(
    runs: Sequence[Run],
    summary: Mapping[str, Any],
    curve: Callable[[Run], Sequence[float | None]],
    title: str,
    limits: tuple[float, float],
    description: str,
) -> str:
    groups, look = by_method(runs), looks(summary)
    labels = [group[0].label for group in groups.values()]
    figure, axes = _figure(labels)
    settled = []
    for method, group in groups.items():
        color, _, dashes = look[method]
        steps, found = _together(group, curve)
        axes.fill_between(steps, found.min(axis=0), found.max(axis=0), color=color, alpha=0.15, linewidth=0)
        axes.plot(
            steps,
            found.mean(axis=0),
            color=color,
            linestyle=dashes,
            marker="o" if len(steps) == 1 else None,  # a single point has no line
            label=group[0].label,
            gid=titled(group[0].label),
        )
        settled.append(found[:, steps >= TRANSIENT * steps[-1]])
    axes.set_ylim(*_view(numpy.concatenate([found.ravel() for found in settled]), limits))
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.set_xlabel("step")
    axes.set_title(title, loc="left")
    _legend(figure, labels)
    return to_svg(figure, description)


def _together(runs: Sequence[Run], curve: Callable[[Run], Sequence[float | None]]) -> tuple[Any, Any]:
    """Return the steps of the longest run and the values of each run there. A shorter run keeps its last value."""
    longest = max((run.curve.step for run in runs), key=lambda found: found[-1])
    steps = longest[:: -max(1, len(longest) // MOST_POINTS)][::-1]  # with the last one
    rows = [numpy.interp(steps, run.curve.step, numpy.array(curve(run), dtype=float)) for run in runs]
    return numpy.array(steps), numpy.array(rows)


def _view(found: Any, limits: tuple[float, float]) -> tuple[float | None, float | None]:
    """Return the limits of an axis that shows all finite numbers of `found`."""
    finite = found[numpy.isfinite(found)]
    if not finite.size:
        return None, None
    space = 0.06 * (finite.max() - finite.min()) or 0.5 * abs(finite.max()) or 1.0
    return max(finite.min() - space, limits[0]), min(finite.max() + space, limits[1])


def _toss(axes: Axes, run: Run, color: str) -> None:
    """Draw p(t) as a curve, and the sharpness-aware steps in a strip below it."""
    steps = _steps_shown(run)
    axes.plot(steps, _chances(run), color=color)
    # A column of the strip may hold several steps. Its opacity is the share of sharpness-aware ones.
    columns = min(run.steps, 300)
    fell, _ = numpy.histogram(run.sharp_steps, columns, (0, run.steps))
    tossed = numpy.diff(numpy.ceil(numpy.linspace(0, run.steps, columns + 1)))
    strip = numpy.empty((1, columns, 4))
    strip[..., :3] = to_rgb(color)
    strip[..., 3] = fell / tossed
    axes.imshow(strip, extent=(0, run.steps, -0.36, -0.14), aspect="auto", interpolation="none")
    axes.set(xlim=(0, run.steps), ylim=(-0.42, 1.08), yticks=(0, 0.5, 1))
    axes.set_title(f"{run.label} (seed {run.seed})", loc="left")


def _tosses(run: Run) -> bool:
    periodic = isinstance(schedules.parse(run.schedule), schedules.Periodic)
    return not periodic and set(_chances(run)) not in ({0.0}, {1.0})


def _chances(run: Run) -> list[float]:
    schedule = schedules.parse(run.schedule)
    return [schedule.at(step, run.steps) for step in _steps_shown(run)]


def _steps_shown(run: Run) -> list[int]:
    """Return all steps, or evenly spaced ones of a long run: the curve needs no more points than the figure."""
    count = min(run.steps, MOST_POINTS)
    return [run.steps * i // count for i in range(count)]
