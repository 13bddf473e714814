"""The figures of the report, each as one SVG element: text stays text, and black is the page's text color."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib
import numpy
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from sharpless import schedules
from sharpless.report.drawing import FAINT, PAPER, STYLE, WIDTH, styles, to_svg
from sharpless.report.labels import place_labels, place_name
from sharpless.report.runs import Run, by_method
from sharpless.report.summary import pareto_optimal

__all__ = ["accuracy", "accuracy_against_cost", "accuracy_against_seconds", "coin", "training_loss"]

MOST_POINTS = 2000


@matplotlib.rc_context(STYLE)
def accuracy_against_cost(summary: Mapping[str, Any]) -> str:
    """Return mean accuracy with its 95 % interval against gradients spent, plain training being 1."""
    costs = [entry["cost"] for entry in summary["methods"]]
    return _accuracy_against(summary, costs, "cost (gradients; plain training = 1)")


@matplotlib.rc_context(STYLE)
def accuracy_against_seconds(summary: Mapping[str, Any]) -> str:
    """Return mean accuracy with its 95 % interval against the median training time."""
    seconds = [entry["seconds"]["median"] for entry in summary["methods"]]
    return _accuracy_against(summary, seconds, "median training time (seconds)")


@matplotlib.rc_context(STYLE)
def training_loss(runs: Sequence[Run]) -> str:
    """Return the clean training loss per epoch: the mean over seeds, and the range of the seeds."""
    return _curves(runs, lambda run: run.train_loss, "training loss (clean pass)", (-math.inf, math.inf))


@matplotlib.rc_context(STYLE)
def accuracy(runs: Sequence[Run]) -> str:
    """Return the accuracy per epoch: the mean over seeds, and the range of the seeds."""
    return _curves(runs, lambda run: run.test_accuracy, f"{runs[0].split} accuracy (%)", (0.0, 100.0))


@matplotlib.rc_context(STYLE)
def coin(runs: Sequence[Run]) -> str:
    """Return p(t) and the steps at which the coin fell, one panel per method that tosses one, first seed.

    Where no method tosses a coin (p is always 0, always 1 or periodic), every method has its panel.
    """
    first = {method: group[0] for method, group in by_method(runs).items()}
    tossing = {method: run for method, run in first.items() if _tosses(run)}
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
    entries, margin = summary["methods"], summary["margin"]
    looks = styles(entry["method"] for entry in entries)
    results = list(zip(positions, (entry["accuracy"]["mean"] for entry in entries), strict=True))
    on_frontier = pareto_optimal(results)
    points, spans = [], []
    for entry, name, (x, mean), stands in zip(entries, _names(entries), results, on_frontier, strict=True):
        low, high = numpy.clip(entry["accuracy"]["ci95"] or (mean, mean), 0.0, 100.0)  # two seeds may say −20 to 160
        color, marker, _ = looks[entry["method"]]
        look: dict[str, Any] = {
            "color": color,
            "marker": marker,
            "mfc": color if stands else PAPER,
            "zorder": 3 if stands else 2,
        }
        drawn = axes.errorbar(x, mean, [[mean - low], [high - mean]], ms=5.5, capsize=2.5, **look)
        for artist in drawn.get_children():
            artist.set_clip_on(False)  # whole also where the axes end at 0 or 100 %
        points.append((x, mean, name, color))
        spans.append(((x, low), (x, high)))
    bound = [entry["accuracy"]["mean"] - margin for entry in entries if entry["method"] == "sam"]
    sam = [level for level in bound if level > 0]
    bounds = [axes.axhline(level, color=FAINT, linestyle=(0, (4, 3)), linewidth=0.8, zorder=1) for level in sam]
    axes.margins(0.2, 0.22)
    axes.set(xlim=numpy.clip(axes.get_xlim(), 0, None), ylim=numpy.clip(axes.get_ylim(), 0, 100))
    standing = [result for result, stands in zip(results, on_frontier, strict=True) if stands]
    frontier = _steps(standing, axes.get_xlim()[1])
    axes.plot(*zip(*frontier, strict=True), color=FAINT, linewidth=1.1, zorder=1, scalex=False)
    axes.set_xlabel(position_label)
    axes.set_title(f"{summary['split']} accuracy (%)", loc="left")
    figure.draw_without_rendering()  # fixes the limits and the layout that the labels are placed in
    taken = [Bbox(axes.transData.transform(span)).padded(3.5) for span in spans]
    taken += [Bbox(axes.transData.transform(span)).padded(1.5) for span in pairwise(frontier)]
    names = [place_name(axes, f"SAM − {margin:g} point{'' if margin == 1 else 's'}", level, taken) for level in sam]
    taken += [artist.get_window_extent().padded(1.5) for artist in (*bounds, *names)]
    for label in (*names, *place_labels(axes, points, taken)):
        label.set_in_layout(False)
    return to_svg(figure, f"{summary['split'].capitalize()} accuracy against {position_label}, one point per method")


def _steps(points: Sequence[tuple[float, float]], end: float) -> list[tuple[float, float]]:
    """Return the corners of the accuracy that is to be had at each price, up to the price `end`.

    >>> _steps([(2.0, 97.0), (1.0, 84.0)], 2.5)
    [(1.0, 84.0), (2.0, 84.0), (2.0, 97.0), (2.5, 97.0)]
    """
    points = sorted(points)
    corners = [corner for (x, y), (right, _) in pairwise(points) for corner in ((x, y), (right, y))]
    return [*corners, points[-1], (end, points[-1][1])]


def _names(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    r"""Return the labels without parameters, where that leaves them different.

    >>> _names([{"label": "SGD"}, {"label": "SGD, 45 epochs"}, {"label": "RST, p=0.5, q=0.25"}])
    ['SGD', 'SGD\n45 epochs', 'RST']
    """
    labels = [entry["label"] for entry in entries]
    heads = [label.split(", ")[0] for label in labels]
    return [
        head if heads.count(head) == 1 else label.replace(", ", "\n", 1)
        for head, label in zip(heads, labels, strict=True)
    ]


def _curves(
    runs: Sequence[Run], curve: Callable[[Run], Sequence[float | None]], title: str, limits: tuple[float, float]
) -> str:
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
            clip_on=False,
        )
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, limits[0]), min(top, limits[1]))
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.set_xlabel("epoch")
    axes.set_title(title, loc="left")
    figure.legend(loc="outside lower left", ncols=columns, frameon=False, handlelength=3.2)
    return to_svg(figure, f"{title[0].upper()}{title[1:]} per epoch, one curve per method")


def _toss(axes: Axes, run: Run, color: str) -> None:
    """Draw p(t) as a curve and, in a strip below it, the steps at which the coin fell."""
    steps = _steps_shown(run)
    axes.plot(steps, _chances(run), color=color)
    # A column of the strip may stand for several steps; its opacity is the share of them that were sharp.
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
    """Return all steps, or of a long run some that are evenly spread: a curve has no more points than the figure."""
    count = min(run.steps, MOST_POINTS)
    return [run.steps * i // count for i in range(count)]
