"""The kinds of figures of the study of schedules, in one column, readable on a phone."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from schedule_questions import EARLY, FALLING, LATE, RISING, UNEVEN
from sharpless.lab.methods.kinds import KINDS
from sharpless.report.drawing import COLORS, WIDTH

Rows = Mapping[str, Mapping[str, Any]]
"""The rows of a case by their methods."""

RST, GRST, BASE, SAM = (KINDS[kind].look.color for kind in ("rst", "g-rst", "sgd", "sam"))
WEIGHTS = {
    "rst:p={}": ("γ = 1", RST, "^"),
    "g-rst:p={}": ("γ = 1/mean p", GRST, "v"),
    "g-rst:p={},gamma_cap=4": ("γ = 1/p(t)", COLORS[0], "s"),
}
SCHEDULES = {
    "0.1": "p = 0.1", "0.25": "p = 0.25", "0.5": "p = 0.5", "periodic:2": "every 2nd step", "adaptive:1,-1": "adaptive",
    f"{LATE}0.75": "last quarter", f"{LATE}0.5": "last half", f"{EARLY}0.25": "first quarter",
    f"{EARLY}0.5": "first half", RISING: "0.25, then 0.75", FALLING: "0.75, then 0.25", UNEVEN: "0.1, then 0.9",
    "linear:0,1": "linear, 0 to 1", "linear:1,0": "linear, 1 to 0", "cosine:1,0": "cosine, 1 to 0",
}  # fmt: skip


def rows_of(results: Mapping[str, Any], case: str = "") -> Rows:
    """Return the rows of a case, by default of the first one."""
    return {row["method"]: row for row in results["cases"][case or next(iter(results["cases"]))]}


def frames(height: float, panels: int = 1) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure of one column, with letters that are readable on a phone."""
    figure = Figure(figsize=(1.25 * WIDTH, height), dpi=72, layout="constrained")
    return figure, list(figure.subplots(panels, 1, squeeze=False)[:, 0])


def mark(axes: Axes, row: Mapping[str, Any], y: float, color: str, marker: str, label: str = "") -> None:
    """Draw a mean with its interval."""
    axes.plot(row["value"]["ci95"], [y, y], color=color, linewidth=1.2)
    axes.plot(row["value"]["mean"], y, color=color, marker=marker, ms=4.5, linestyle="", label=label)


def frame(axes: Axes, rows: Rows, labels: Sequence[str], unit: str) -> None:
    """Draw the base and SAM as lines, and label the axes."""
    lines = {"sgd": (rows["sgd"]["label"], BASE), "sam": ("SAM", SAM)}
    at = {method: rows[method]["value"]["mean"] for method in lines}
    close = abs(at["sgd"] - at["sam"]) < 0.1 * (axes.get_xlim()[1] - axes.get_xlim()[0])
    for method, (name, color) in lines.items():
        side = "center" if not close else "right" if at[method] == min(at.values()) else "left"
        axes.axvline(at[method], color=color, linewidth=1.0, zorder=0)
        axes.text(at[method], -0.62, name, color=color, ha=side, va="bottom", fontsize=7.5)
    axes.set_yticks(range(len(labels)), labels)
    axes.set(ylim=(len(labels) - 0.4, -0.6), xlabel=unit)


def schedules(of: Mapping[str, tuple[Rows, Sequence[str], str]]) -> Figure:
    """Return panels with a row for each schedule, with each of its weights γ."""
    figure, found = frames(0.4 + sum(0.8 + 0.26 * len(shown) for _, shown, _ in of.values()), len(of))
    known = {}
    for axes, (title, (rows, shown, unit)) in zip(found, of.items(), strict=True):
        for number, schedule in enumerate(shown):
            for place, (form, look) in enumerate(WEIGHTS.items()):
                if (method := form.format(schedule)) in rows:
                    label, color, marker = look
                    mark(axes, rows[method], number + (place - 1) * 0.22, color, marker, label)
        frame(axes, rows, [SCHEDULES[schedule] for schedule in shown], unit)
        axes.set_title(title, pad=14)
        handles, labels = axes.get_legend_handles_labels()
        known |= dict(zip(labels, handles, strict=True))
    figure.legend(known.values(), known, frameon=False, loc="outside lower center", ncols=3, handletextpad=0)
    return figure


def panels(of: Mapping[str, tuple[Rows, Mapping[str, str], str]]) -> Figure:
    """Return panels of methods by their names, a row each."""
    figure, found = frames(sum(1.0 + 0.2 * len(names) for _, names, _ in of.values()), len(of))
    for axes, (title, (rows, names, unit)) in zip(found, of.items(), strict=True):
        there = {method: name for method, name in names.items() if method in rows}
        for number, method in enumerate(there):
            look = KINDS[method.partition(":")[0]].look
            mark(axes, rows[method], number, look.color, look.marker)
        frame(axes, rows, list(there.values()), unit)
        axes.set_title(title, pad=14)
    return figure
