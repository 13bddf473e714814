"""The page that `real_tasks.py` makes of its summaries."""

from statistics import fmean, median
from typing import Any

ABOUT = (
    "`python benchmarks/real_tasks.py NAME`, then `--table`. *Better* and *worse* than the base optimizer: the 95 % "
    "interval of the difference, paired by seed and each by itself, excludes 0. The share is that of SAM's gain over "
    "the base, where SAM has one by the same measure. Cost is in gradients per step of plain training, seconds are "
    "medians. *Stopped early* is the result at the point of the curve that is best on validation data, where a task "
    "reports both in the runs that are compared."
)


def rows(name: str, summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what a study says of each of its methods."""
    sign = 1 if summary["metric"]["goal"] == "max" else -1
    gain = sign * summary["sam_beats_base"]["difference"] if summary["sam_beats_base"]["verdict"] else None
    found = []
    for entry in summary["methods"]:
        versus = entry["versus_base"]
        ends = sorted(sign * end for end in versus["ci95"] or (0.0, 0.0))
        verdict = "diverged" if entry["diverged"] else "better" if ends[0] > 0 else "worse" if ends[1] < 0 else ""
        share = None if gain is None or versus["difference"] is None else sign * versus["difference"] / gain
        found.append({"data": name, "share": share, "verdict": verdict, **entry})
    return found


def page(summaries: dict[str, dict[str, Any]]) -> str:
    """Return what each method does over all data sets, and each of its results."""
    found = [row for name, summary in summaries.items() for row in rows(name, summary)]
    lines = ["# Real tasks", "", ABOUT, ""]
    head = ["method", "data sets", "better", "worse", "share of SAM's gain (lowest)", "cost", "in seconds", "worse on"]
    lines += [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for method in dict.fromkeys(row["method"] for row in found):
        mine = [row for row in found if row["method"] == method]
        shares = [row["share"] for row in mine if row["share"] is not None]
        of_gain = f"{fmean(shares):.0%} ({min(shares):.0%})" if shares else ""
        worse = [row["data"] for row in mine if row["verdict"] in {"worse", "diverged"}]
        seconds = median(row["cost_seconds"] for row in mine)
        better = sum(row["verdict"] == "better" for row in mine)
        numbers = f"{median(row['cost'] for row in mine):.2f} | {seconds:.2f}"
        lines.append(
            f"| {method} | {len(mine)} | {better} | {len(worse)} | {of_gain} | {numbers} | {', '.join(worse)} |"
        )
    lines += [
        "",
        "| data | method | result | stopped early | ρ | minus base [95 %] | | share | cost | seconds |",
        "|" + "---|" * 10,
    ]
    for row in found:
        value, versus = row["value"], row["versus_base"]
        if versus["difference"] is None:
            lines.append(f"| {row['data']} | {row['label']} | diverged |" + " |" * 7)
            continue
        low, high = versus["ci95"] or (float("nan"), float("nan"))
        share = "" if row["share"] is None else f"{row['share']:.0%}"
        early = row.get("stopped_early")
        stopped = "" if early is None else f"{early['mean']:.4g} ± {early['std'] or 0:.2g}"
        difference = f"{versus['difference']:+.3g} [{low:+.3g}, {high:+.3g}]"
        lines.append(
            f"| {row['data']} | {row['label']} | {value['mean']:.4g} ± {value['std'] or 0:.2g} | {stopped} | "
            f"{row['rho'] or ''} | {difference} | {row['verdict']} | {share} | {row['cost']:.2f} | "
            f"{row['seconds']['median']:.1f} |"
        )
    return "\n".join([*lines, ""])
