"""The page and the figure that `real_tasks.py` makes of its summaries."""

import re
from collections.abc import Mapping
from statistics import fmean, median
from typing import Any

import matplotlib
import numpy
from matplotlib.figure import Figure

from sharpless.report.drawing import FAINT, INK, PAPER, STYLE, WIDTH, standalone, titled, to_svg

ABOUT = (
    "`python benchmarks/real_tasks.py NAME`, then `--table`. *Better* and *worse* than the base optimizer: a paired "
    "t-test, corrected by Holm for all methods of a task; intervals are each by itself. The share is that of SAM's "
    "gain over the base, where SAM is better. Cost is in gradients per step of plain training, seconds are medians. "
    "*Stopped early* is the result at the point of the curve that is best on validation data, where a task reports "
    "both in the runs that are compared. Every method, the base too, chose its learning rate and its ρ on validation "
    "data, the two together. Names with *auto* are of studies with `--rho auto`. Names with *base-lr* are of an "
    "earlier study, in which the base alone chose its learning rate and all methods kept it. In *images-lr* no "
    "method chose its learning rate, 0.02. None of these are in the figure or the first table."
)
Summaries = Mapping[str, Mapping[str, Any]]


def rows(name: str, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what a study says of each of its methods."""
    methods = {entry["method"]: entry for entry in summary["methods"]}
    sam = methods["sam"]["versus_base"]
    found = []
    for entry in summary["methods"]:
        versus, share = entry["versus_base"], None
        verdict = "diverged" if entry["diverged"] else ""
        if versus is not None and not verdict:
            verdict = "better" if versus["beats"] else "worse" if versus["behind"] else ""
        if sam["beats"] and versus is not None and versus["difference"] is not None:
            share = versus["difference"] / sam["difference"]
        group = re.sub(r"(average)=[\d.]+", r"\1", entry["method"])  # its decay depends on the data set
        found.append({**entry, "data": name, "group": group, "share": share, "verdict": verdict})
    return found


def fair(summaries: Summaries) -> dict[str, Mapping[str, Any]]:
    """Return the studies in which each method chose its own learning rate, and its ρ from a grid."""
    return {
        name: one
        for name, one in summaries.items()
        if one["lr_chosen_by"] == "each method" and one["grid"]["rho"] != "auto"
    }


def automatic(summaries: Summaries) -> list[str]:
    """Return the table of what `--rho auto` finds, beside what the grid of the data set finds."""
    lines = []
    for name, summary in summaries.items():
        grid = summaries.get(name.removesuffix("-auto"))
        if grid is None or grid is summary:
            continue
        by_hand = {entry["method"]: entry for entry in grid["methods"]}
        for entry in (entry for entry in summary["methods"] if entry["rho"]):
            other = by_hand[entry["method"]]
            cells = [
                f"{each['hyperparameters']['lr']:g} | {each['rho']:g} | "
                + (f"{each['value']['mean']:.4g} ± {each['value']['std'] or 0:.2g}")
                for each in (other, entry)
            ]
            lines.append(f"| {name.removesuffix('-auto')} | {entry['label']} | {' | '.join(cells)} |")
    if not lines:
        return []
    head = ["task", "method", "lr", "ρ of a grid", "result", "lr", "ρ of auto", "result"]
    title = "`--rho auto` beside a grid that knew the task"
    return ["", f"## {title}", "", f"| {' | '.join(head)} |", "|" + "---|" * len(head), *lines]


def page(summaries: Summaries) -> str:
    """Return what each method does over all tasks, and each of its results."""
    found = [row for name, summary in fair(summaries).items() for row in rows(name, summary)]
    lines = ["# Real tasks", "", ABOUT, "", f"![{alt(summaries)}](real-tasks.svg)", ""]
    head = ["method", "tasks", "better", "worse", "share of SAM's gain (lowest)", "cost", "in seconds", "worse on"]
    lines += [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for method in dict.fromkeys(row["group"] for row in found if row["versus_base"] is not None):
        mine = [row for row in found if row["group"] == method]
        shares = [row["share"] for row in mine if row["share"] is not None]
        of_gain = f"{fmean(shares):.0%} ({min(shares):.0%})" if shares else ""
        worse = [row["data"] for row in mine if row["verdict"] in {"worse", "diverged"}]
        numbers = f"{median(row['cost'] for row in mine):.2f} | {median(row['cost_seconds'] for row in mine):.2f}"
        better = sum(row["verdict"] == "better" for row in mine)
        lines.append(
            f"| {method} | {len(mine)} | {better} | {len(worse)} | {of_gain} | {numbers} | {', '.join(worse)} |"
        )
    lines += automatic(summaries)
    for name, summary in (fair(summaries) | summaries).items():
        lines += ["", f"## {name}", "", described(summary), ""]
        lines += ["| method | result | stopped early | lr | ρ | minus base [95 %] | | share | cost | × seconds |"]
        lines += ["|" + "---|" * 10, *(result(row) for row in rows(name, summary))]
    return "\n".join([*lines, ""])


def described(summary: Mapping[str, Any]) -> str:
    """Return of what task and how often."""
    (versions, *_), (machine, *_) = summary["versions"], summary["machines"]
    settings = ", ".join(f"{name} {value}" for name, value in summary["options"].items())
    grids = [
        f"{name} {grid}" if isinstance(grid, str) else f"{name} from {', '.join(f'{value:g}' for value in grid)}"
        for name, grid in summary["grid"].items()
    ]
    metric, seeds = summary["metric"], summary["methods"][0]["seeds"]
    return (
        f"{metric['name']}, {metric['goal']}; {settings}; {seeds} seeds, "
        f"{'; '.join(grids)}, {summary['choice_seeds']} seeds each, learning rate chosen by {summary['lr_chosen_by']}. "
        f"sharpless {versions['sharpless']}, torch "
        f"{versions['torch']}, {machine['processor']}, {machine['cores']} cores."
    )


def result(row: Mapping[str, Any]) -> str:
    """Return a row of a table."""
    value, versus, early = row["value"], row["versus_base"], row["stopped_early"]
    if value["mean"] is None:
        return f"| {row['label']} | diverged |" + " |" * 8
    difference = ""
    if versus is not None and versus["ci95"] is not None:
        difference = "{:+.3g} [{:+.3g}, {:+.3g}]".format(versus["difference"], *versus["ci95"])
    share = "" if row["share"] is None else f"{row['share']:.0%}"
    stopped = "" if early is None else f"{early['mean']:.4g} ± {early['std'] or 0:.2g}"
    return (
        f"| {row['label']} | {value['mean']:.4g} ± {value['std'] or 0:.2g} | {stopped} | "
        f"{row['hyperparameters'].get('lr', '')} | {row['rho'] or ''} | {difference} | {row['verdict']} | {share} | "
        f"{row['cost']:.2f} | {row['cost_seconds']:.2f} |"
    )


SHOWN = {
    "sgd-long": "trained longer",
    "ema:average": "EMA",
    "late": "late SAM",
    "thrifty:budget=1.05,unit=gradients": "thrifty, 1.05",
    "sam": "SAM",
}
"""The methods in the figure."""

WIDEST = 30.0
"""What lies further off, in % of the base's error, is drawn as an arrow, or nothing else could be told apart."""


def of_error(summary: Mapping[str, Any], value: float) -> float:
    """Return a difference of results as a share of the base's error, in %; positive where the error is smaller."""
    base = summary["methods"][0]["value"]["mean"]
    return 100 * value / (100.0 - base) if summary["metric"]["goal"] == "max" else -100 * value / base


@matplotlib.rc_context({**STYLE, "axes.grid.axis": "x"})
def forest(summaries: Summaries) -> str:
    """Return how much smaller than the base's the error of some methods is, with 95 % intervals.

    Data sets that the base solves have no error to remove, and are left out.
    """
    summaries = {name: one for name, one in fair(summaries).items() if one["methods"][0]["value"]["mean"] != 100.0}
    figure = Figure(figsize=(WIDTH, 0.6 + 0.14 * (len(SHOWN) + 1) * len(summaries)), dpi=72, layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0.0, color=FAINT, linewidth=0.8, zorder=1)
    named = set[str]()
    for place, (name, summary) in enumerate(summaries.items()):
        entries = {row["group"]: row for row in rows(name, summary)}
        for number, method in enumerate(method for method in SHOWN if method in entries):
            entry, height = entries[method], place + (number + 0.5) / (len(SHOWN) + 1)
            versus, look = entry["versus_base"], entry["look"]
            if versus is None or versus["ci95"] is None:
                continue
            ends = sorted(of_error(summary, end) for end in versus["ci95"])
            middle = of_error(summary, versus["difference"])
            gid = titled(f"{name}, {SHOWN[method]}: error {-middle:+.1f} %, from {-ends[0]:.1f} to {-ends[1]:.1f} %")
            label = None if method in named else SHOWN[method]
            named.add(method)
            shown = numpy.clip([*ends, middle], -WIDEST, WIDEST)
            marker = look["marker"] if abs(middle) < WIDEST else "<" if middle < 0 else ">"
            axes.plot(shown[:2], [height] * 2, color=look["color"], linewidth=1.4, gid=gid, zorder=3)
            certain = versus["beats"] or versus["behind"]
            axes.plot(
                shown[2], height, marker, color=look["color"], mfc=look["color"] if certain else PAPER, ms=4.5,
                label=label, gid=gid, zorder=3,
            )  # fmt: skip
    axes.set_yticks([place + 0.4 for place in range(len(summaries))], list(summaries))
    axes.set_ylim(len(summaries), -0.1)
    axes.set_xlabel("error removed, in % of the base's", color=INK)
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=7.5, handletextpad=0.3)
    return standalone(to_svg(figure, alt(summaries)))


def alt(summaries: Summaries) -> str:
    """Return what the figure shows, in a sentence."""
    found = [row for name, summary in fair(summaries).items() for row in rows(name, summary)]
    better = {
        SHOWN[method]: sum(row["verdict"] == "better" for row in found if row["group"] == method) for method in SHOWN
    }
    counts = ", ".join(f"{label} on {count}" for label, count in better.items())
    return f"Better than the base optimizer on {len(fair(summaries))} tasks: {counts}"
