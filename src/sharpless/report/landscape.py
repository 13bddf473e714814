"""Slices of the loss around several networks, on a common scale, as SVG files."""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import matplotlib
import numpy
from matplotlib.figure import Figure

from sharpless.report.drawing import COLORS, DASHES, STYLE, WIDTH, titled, to_svg

__all__ = ["slices", "surfaces"]

LEVELS = 12
ABREAST = 3
DISTANCE = "distance, in lengths of each filter"


@matplotlib.rc_context(STYLE)
def slices(checkpoints: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the losses along a random direction, a line for each network; None if none was measured.

    Args:
        checkpoints: the results of `sharpless.flatness.measure`, each with its `name`.
    """
    measured = [one for one in checkpoints if one["slice"]]
    if not measured:
        return None
    figure = Figure(figsize=(WIDTH, 2.6), dpi=72, layout="constrained")
    axes = figure.add_subplot()
    for place, one in enumerate(measured):
        color, dashes = COLORS[place % len(COLORS)], [(), *DASHES][place // len(COLORS) % (1 + len(DASHES))]
        losses = numpy.array(one["slice"]["losses"], dtype=float)
        drawn: dict[str, Any] = {"color": color, "label": one["name"], "gid": titled(one["name"])}
        axes.plot(one["slice"]["at"], losses, linestyle=(0, dashes), **drawn)
    if all(loss is None or loss > 0 for one in measured for loss in one["slice"]["losses"]):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    axes.set(xlabel=DISTANCE)
    axes.set_title("training loss", loc="left")
    axes.legend(frameon=False, fontsize=7.5, loc="best")
    return _file(figure, "Training loss along a random filter-normalized direction.")


@matplotlib.rc_context(STYLE)
def surfaces(checkpoints: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the losses in a plane of two random directions, a map for each network, all with the same levels.

    Args:
        checkpoints: the results of `sharpless.flatness.measure`, each with its `name`.
    """
    measured = [one for one in checkpoints if one["surface"]]
    planes = [numpy.array(one["surface"]["losses"], dtype=float) for one in measured]
    known = [plane[numpy.isfinite(plane)] for plane in planes]
    if not measured or not all(map(len, known)):
        return None
    low, high = min(plane.min() for plane in known), max(plane.max() for plane in known)
    if low < 0:  # as the losses of a density
        levels = numpy.linspace(low, max(high, low + 1e-6 * abs(low)), LEVELS + 1)
        norm = matplotlib.colors.Normalize(levels[0], levels[-1])
    else:
        low, high = max(low, 1e-3 * high, 1e-12), max(high, 2e-12)
        levels = numpy.geomspace(low, high * (1 + 1e-6) if high > low else 2 * low, LEVELS + 1)
        norm = matplotlib.colors.LogNorm(levels[0], levels[-1])
    across = min(ABREAST, len(measured))
    rows = ceil(len(measured) / across)
    figure = Figure(figsize=(2.1 * across + 0.8, 2.3 * rows + 0.2), dpi=72, layout="constrained")
    every = figure.subplots(rows, across, squeeze=False, sharex=True, sharey=True)
    for axes, one, plane in zip(every.flat, measured, planes, strict=False):
        at = one["surface"]["at"]
        filled = axes.contourf(
            at, at, numpy.clip(plane, levels[0], levels[-1]), levels=levels, norm=norm, cmap="viridis_r"
        )
        axes.plot(0, 0, "+", color="white", ms=6)
        axes.set_title(one["name"], loc="left", fontsize=7.5)
        axes.set_aspect("equal")
        axes.grid(visible=False)
    for axes in every.flat[len(measured) :]:
        axes.set_visible(False)
    bar = figure.colorbar(filled, ax=every, label="training loss", format="%.3g", ticks=levels[::3])
    bar.minorticks_off()
    figure.supxlabel(DISTANCE, fontsize=8.5)
    return _file(figure, "Training loss in a plane of two random filter-normalized directions.")


def _file(figure: Figure, description: str) -> str:
    """Return a figure as a separate file: dark on white."""
    element = to_svg(figure, description).replace("<svg ", '<svg style="color: #1a1a1a; background: white" ', 1)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{element}'
