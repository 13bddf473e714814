"""The style of all figures of the report: colors and type, and the conversion to an SVG element."""

import io
import math
import re
from collections.abc import Mapping
from html import escape
from itertools import count
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from sharpless.report.record import Metric

__all__ = ["FAINT", "INK", "PAPER", "STYLE", "WIDTH", "bounds", "looks", "standalone", "titled", "to_svg"]

# For further variants of one method. Readable on white and on black; marker and dashes differ as well.
COLORS = ("#2288aa", "#4d8b31", "#d1618f", "#b5651d", "#7b68c8", "#5f8a8b", "#c24d6e", "#8a7a1f")
MARKERS = "p*dH<>8"
DASHES = ((6.0, 1.0, 1.0, 1.0), (4.0, 4.0), (1.0, 3.0), (7.0, 2.0, 2.0, 2.0), (2.0, 1.0))
FAINT = "#888888"
INK = "#010203"  # replaced by the color of the surrounding text, in light and in dark
PAPER = "#fdfcfb"  # replaced by the color of the page
WIDTH = 3.8  # inches: narrow, for readable letters on a phone
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # labels are shown as the user wrote them, with dollar signs
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.titlesize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.4,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": FAINT,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
}


def looks(summary: Mapping[str, Any]) -> dict[str, tuple[str, str, Any]]:
    """Return color, marker and dashes of each method, the same in every figure of a report.

    Variants of one method have the same color at first. The first keeps it, and each further one gets another.
    """
    found: dict[str, tuple[str, str, Any]] = {}
    taken = {entry["look"]["color"] for entry in summary["methods"]}
    others = count()
    used = set[str]()
    for entry in summary["methods"]:
        look = entry["look"]
        color, marker, dashes = look["color"], look["marker"], tuple(look["dashes"])
        if color in used:
            free = [other for other in COLORS if other not in taken] or COLORS
            place = next(others)
            color, marker = free[place % len(free)], MARKERS[place % len(MARKERS)]
            dashes = DASHES[place % len(DASHES)]
        used.add(color)
        found[entry["method"]] = color, marker, (0, dashes)
    return found


def bounds(summary: Mapping[str, Any]) -> tuple[float, float]:
    """Return the possible range of the metric: 0 to 100 % for accuracies."""
    return (0.0, 100.0) if Metric(**summary["metric"]).is_accuracy else (-math.inf, math.inf)


def titled(text: str) -> str:
    """Return the id of an artist for which `to_svg` adds a title, which a browser shows under the pointer."""
    return f"title:{text}"


def to_svg(figure: Figure, description: str) -> str:
    """Return the figure as an SVG element for a page with several figures."""
    # The salt makes ids reproducible. Each figure has a different one, as they share a page.
    with matplotlib.rc_context({"svg.hashsalt": description}):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    element = re.sub(r'<g id="title:([^"]*)"([^>]*)>', r"<g\2><title>\1</title>", text[text.index("<svg ") :])
    element = re.sub(r'<g id="[^"]*"', "<g", element)
    element = element.replace(INK, "currentColor").replace(PAPER, "var(--paper, white)")
    return element.replace("<svg ", f'<svg role="img" aria-label="{escape(description)}" ', 1)


def standalone(element: str) -> str:
    """Return the SVG element as a separate file, with dark ink in light themes and light ink in dark ones."""
    style = "<style>svg{color:#222;--paper:#fff}@media(prefers-color-scheme:dark){svg{color:#ddd;--paper:#111}}</style>"
    return element.replace(">", f">{style}", 1)
