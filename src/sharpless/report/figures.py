"""The figures of the report, each as one SVG element: text stays text, and black is the page's text color."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from sharpless import schedules
from sharpless.report.drawing import FAINT, STYLE, WIDTH, styles, to_svg
from sharpless.report.labels import place_labels
from sharpless.report.runs import Run, by_method

__all__ = ["accuracy_against_cost", "accuracy_against_seconds", "coin", "test_accuracy", "training_loss"]


@matplotlib.rc_context(STYLE)
def accuracy_against_cost(summary: Mapping[str, Any]) -> str:
    """Return mean accuracy with its 95 % interval against gradients spent, plain training being 1."""
    costs = [entry["cost"] for entry in summary["methods"]]
    return _accuracy_against(summary, costs, "cost (gradients; plain training = 1)")


@matplotlib.rc_context(STYLE)
def accuracy_against_seconds(summary: Mapping[str, Any]) -> str:
    """Return mean accuracy with its 95 % interval against mean training time."""
    seconds = [entry["seconds"]["mean"] for entry in summary["methods"]]
    return _accuracy_against(summary, seconds, "training time (seconds)")


@matplotlib.rc_context(STYLE)
def training_loss(runs: Sequence[Run]) -> str:
    """Return the clean training loss per epoch: the mean over seeds, and the range of the seeds."""
    return _curves(runs, lambda run: run.train_loss, "training loss (clean pass)")


@matplotlib.rc_context(STYLE)
def test_accuracy(runs: Sequence[Run]) -> str:
    """Return the test accuracy per epoch: the mean over seeds, and the range of the seeds."""
    return _curves(runs, lambda run: run.test_accuracy, "test accuracy (%)")


@matplotlib.rc_context(STYLE)
def coin(runs: Sequence[Run]) -> str:
    """Return p(t) and the steps at which the coin fell, one panel per method that tosses one, first seed.

    Where no method tosses a coin (p is always 0 or always 1), every method has its panel.
    """
    first = {method: group[0] for method, group in by_method(runs).items()}
    tossing = {method: run for method, run in first.items() if set(_chances(run)) not in ({0.0}, {1.0})}
    shown = tossing or first
    looks = styles(first)
    figure = Figure(figsize=(WIDTH, 0.3 + 0.95 * len(shown)), dpi=72, layout="constrained")
    panels = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
    for axes, (method, run) in zip(panels, shown.items(), strict=True):
        _toss(axes, run, looks[method][0])
    panels[-1].set_xlabel("step")
    return to_svg(figure, "Probability of a sharpness-aware step, and the steps that were, per method")


def _accuracy_against(summary: Mapping[str, Any], positions: Sequence[float], position_label: str) -> str:
    figure = Figure(figsize=(WIDTH, 3.0), dpi=72, layout="constrained")
    axes = figure.add_subplot()
    looks = styles(entry["method"] for entry in summary["methods"])
    points, spans = [], []
    obstacles: list[Artist] = []
    for entry, x in zip(summary["methods"], positions, strict=True):
        mean = entry["accuracy"]["mean"]
        low, high = entry["accuracy"]["ci95"] or (mean, mean)
        color, marker, _ = looks[entry["method"]]
        axes.errorbar(x, mean, [[mean - low], [high - mean]], color=color, marker=marker, ms=5.5, capsize=2.5)
        points.append((x, mean, entry["label"].replace(", ", "\n", 1), color))
        spans.append(((x, low), (x, high)))
        if entry["method"] == "sam":
            obstacles += _bound(axes, mean, summary["margin"])
    axes.margins(0.2, 0.16)
    axes.set_xlabel(position_label)
    axes.set_title("test accuracy (%)", loc="left")
    figure.draw_without_rendering()  # fixes the limits and the layout that the labels are placed in
    marks = [Bbox(axes.transData.transform(span)).padded(3.5) for span in spans]
    taken = marks + [obstacle.get_window_extent().padded(1.5) for obstacle in obstacles]
    for label in place_labels(axes, points, taken):
        label.set_in_layout(False)
    return to_svg(figure, f"Test accuracy against {position_label}, one point per method")


def _bound(axes: Axes, accuracy: float, margin: float) -> list[Artist]:
    """Return the line that is `margin` below SAM's accuracy, and its name."""
    level = accuracy - margin
    line = axes.axhline(level, color=FAINT, linestyle=(0, (4, 3)), linewidth=0.8, zorder=1)
    name = axes.annotate(
        f"SAM − {margin:g} point{'' if margin == 1 else 's'}",
        (0, level),
        (2, -2),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        va="top",
        size=7.5,
        alpha=0.75,
    )
    return [line, name]


def _curves(runs: Sequence[Run], curve: Callable[[Run], Sequence[float | None]], title: str) -> str:
    groups = by_method(runs)
    columns = 2 if max(len(group[0].label) for group in groups.values()) <= 26 else 1
    height = 2.5 + 0.17 * math.ceil(len(groups) / columns)
    figure = Figure(figsize=(WIDTH, height), dpi=72, layout="constrained")
    axes = figure.add_subplot()
    for method, (color, _, dashes) in styles(groups).items():
        values = numpy.array([curve(run) for run in groups[method]], dtype=float)
        epochs = numpy.arange(1, values.shape[1] + 1)
        axes.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=color, alpha=0.15, linewidth=0)
        axes.plot(
            epochs,
            values.mean(axis=0),
            color=color,
            linestyle=dashes,
            marker="o" if len(epochs) == 1 else None,  # one epoch makes no line
            label=groups[method][0].label,
        )
    axes.set_xlabel("epoch")
    axes.set_title(title, loc="left")
    figure.legend(loc="outside lower left", ncols=columns, frameon=False, handlelength=3.2)
    return to_svg(figure, f"{title[0].upper()}{title[1:]} per epoch, one curve per method")


def _toss(axes: Axes, run: Run, color: str) -> None:
    """Draw p(t) as a curve and, in a strip below it, the steps at which the coin fell."""
    steps = numpy.arange(run.steps)
    axes.plot(steps, _chances(run), color=color)
    # A column of the strip may stand for several steps; its opacity is the share of them that were sharp.
    columns = min(run.steps, 300)
    fell, _ = numpy.histogram(run.sharp_steps, columns, (0, run.steps))
    tossed, _ = numpy.histogram(steps, columns, (0, run.steps))
    strip = numpy.empty((1, columns, 4))
    strip[..., :3] = to_rgb(color)
    strip[..., 3] = fell / tossed
    axes.imshow(strip, extent=(0, run.steps, -0.36, -0.14), aspect="auto", interpolation="none")
    axes.set(xlim=(0, run.steps), ylim=(-0.42, 1.08), yticks=(0, 0.5, 1))
    axes.set_title(f"{run.label} (seed {run.seed})", loc="left")


def _chances(run: Run) -> list[float]:
    schedule = schedules.parse(run.schedule)
    return [schedule.at(step, run.steps) for step in range(run.steps)]
