"""The kinds of figures of the study of schedules, in one column, readable on a phone."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from schedule_parts import EARLY, FALLING, LATE, RISING, UNEVEN
from sharpless.lab.methods.kinds import KINDS
from sharpless.report.drawing import COLORS, PAPER, WIDTH

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


def curve(
    axes: Axes, x: Sequence[float], rows: Sequence[Any], color: str, marker: str, label: str, dashes: Any = ()
) -> None:
    """Draw means with their intervals against `x`."""
    low, high = zip(*(row["value"]["ci95"] for row in rows), strict=True)
    axes.vlines(x, low, high, color=color, linewidth=1.2)
    means = [row["value"]["mean"] for row in rows]
    axes.plot(x, means, color=color, marker=marker, ms=4.5, label=label, linestyle=(0, dashes))


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


def strength(results: Mapping[str, Any]) -> Figure:
    """Return accuracy against mean p at three degrees."""
    rows = rows_of(results)
    figure, (axes,) = frames(2.9)
    ps = ("0.1", "0.25", "0.5")
    lines = {
        "γ = 1, the degree is p": (("sgd", *(f"rst:p={p}" for p in ps), "sam"), RST, "^"),
        "γ = 1/p, the degree is 1": ((*(f"g-rst:p={p}" for p in ps), "sam"), GRST, "v"),
        "γ = 2/p, the degree is 2": ((*(f"g-rst:p={p},degree=2" for p in ps[1:]), "g-rst:p=1,gamma=2"), COLORS[4], "s"),
    }
    for label, (methods, color, marker) in lines.items():
        x = [rows[method]["expected"] - 1 for method in methods]
        curve(axes, x, [rows[method] for method in methods], color, marker, label)
    axes.set(xlabel="mean p", ylabel="accuracy %")
    axes.legend(frameon=False, loc="lower right")
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


def warmup(of: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Return panels of accuracy against ρ, with p = 0 in warm-up (dashed) and without."""
    figure, found = frames(1.3 + 2.4 * len(of), len(of))
    known = {}
    for axes, (title, results) in zip(found, of.items(), strict=True):
        cases = {float(case.removeprefix("ρ = ")): rows_of(results, case) for case in results["cases"]}
        base = rows_of(results)["sgd"]
        axes.axhline(base["value"]["mean"], color=BASE, linewidth=1.0, zorder=0, label="base")
        for name, form in {
            "SAM": "rst:p={}1",
            "RST, p = 0.5": "rst:p={}0.5",
            "G-RST, p = 0.5": "g-rst:p={}0.5",
        }.items():
            color, marker = (SAM, "D") if name == "SAM" else (RST, "^") if name.startswith("RST") else (GRST, "v")
            for before, dashes in ("", ()), ("warmup:0.1/", (3, 2)):
                method = form.format(before).replace("rst:p=1", "sam") if not before else form.format(before)
                rows = [rows[method] for rows in cases.values() if method in rows]
                if rows:
                    label = name + ", p = 0 in warm-up" * bool(before)
                    curve(axes, list(cases), rows, color, marker, label, dashes)
        axes.set(xlabel="ρ", ylabel="accuracy %", title=title)
        handles, labels = axes.get_legend_handles_labels()
        known |= dict(zip(labels, handles, strict=True))
    figure.legend(known.values(), known, frameon=False, loc="outside lower center")
    return figure


def flatness(results: Mapping[str, Any]) -> Figure:
    """Return test errors against the sharpness of the minimum, a point for each run."""
    figure, (axes,) = frames(4.0)
    named = set[str]()
    for method, runs in results["runs"].items():
        kind, _, schedule = method.partition(":")
        look, name = (
            KINDS[kind].look,
            results["labels"][method].partition(",")[0] + (", late or early" * ("@" in schedule)),
        )
        x, y = ([run[key] for run in runs] for key in ("trace", "error"))
        axes.plot(
            x, y, color=look.color, marker=look.marker, ms=3.5, linestyle="", label=None if name in named else name,
            mfc=PAPER if "@" in schedule else look.color,
        )  # fmt: skip
        named.add(name)
    axes.set(xscale="log", yscale="log", xlabel="trace of the Hessian", ylabel="test error %")
    for axis in axes.xaxis, axes.yaxis:
        axis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}", minor_locator=NullLocator())
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    return figure
