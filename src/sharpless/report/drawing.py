"""How every figure of the report looks: colors, type, and the way from a figure to an SVG element."""

import io
import itertools
import re
from collections.abc import Iterable
from html import escape
from typing import Any

import matplotlib
from matplotlib.figure import Figure

__all__ = ["FAINT", "PAPER", "STYLE", "WIDTH", "styles", "to_svg"]

# Readable on white and on black, distinct to the color-blind; marker and dashes say the same a second time.
KNOWN = {
    "sgd": ("#767676", "o", (0, ())),
    "sgd-long": ("#997700", "s", (0, (5, 1.5))),
    "sam": ("#0077bb", "D", (0, ())),
    "rst": ("#009988", "^", (0, (5, 1.5))),
    "g-rst": ("#cc3311", "v", (0, (2, 2))),
    "thrifty": ("#aa4499", "P", (0, (3, 1, 1, 1))),
    "peer-sam": ("#6677cc", "X", (0, (1, 1))),
    "peer-looksam": ("#a0622d", "h", (0, (8, 2))),
}
OTHERS = [("#2288aa", "p", (0, (6, 1, 1, 1))), ("#4d8b31", "*", (0, (4, 4))), ("#d1618f", "d", (0, (1, 3)))]
FAINT = "#888888"
INK = "#010203"  # replaced by the color of the surrounding text, in light and in dark
PAPER = "#fdfcfb"  # by that of the page
WIDTH = 3.8  # inches: narrow, so that the letters are large enough on a phone
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a label is what the user wrote, dollars included
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


def styles(methods: Iterable[str]) -> dict[str, tuple[str, str, Any]]:
    """Return color, marker and dashes of each method: the same in every figure of a report."""
    others = itertools.cycle(OTHERS)
    return {method: KNOWN[method] if method in KNOWN else next(others) for method in methods}


def to_svg(figure: Figure, description: str) -> str:
    """Return the figure as an SVG element that can stand in a page beside others."""
    # The salt makes ids equal in every rendering; each figure has its own, as they share a page.
    with matplotlib.rc_context({"svg.hashsalt": description}):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    element = re.sub(r'<g id="[^"]*"', "<g", text[text.index("<svg ") :])
    element = element.replace(INK, "currentColor").replace(PAPER, "var(--paper, white)")
    return element.replace("<svg ", f'<svg role="img" aria-label="{escape(description)}" ', 1)
