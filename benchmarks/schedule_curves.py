"""The figures of the study of schedules that draw a result against a number: mean p, ρ or the trace of the Hessian."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from schedule_plots import BASE, GRST, RST, SAM, frames, rows_of
from sharpless.lab.methods.kinds import KINDS
from sharpless.report.drawing import COLORS, PAPER


def curve(
    axes: Axes, x: Sequence[float], rows: Sequence[Any], color: str, marker: str, label: str, dashes: Any = ()
) -> None:
    """Draw means with their intervals against `x`."""
    low, high = zip(*(row["value"]["ci95"] for row in rows), strict=True)
    axes.vlines(x, low, high, color=color, linewidth=1.2)
    means = [row["value"]["mean"] for row in rows]
    axes.plot(x, means, color=color, marker=marker, ms=4.5, label=label, linestyle=(0, dashes))


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
