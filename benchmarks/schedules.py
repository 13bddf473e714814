"""When to be sharpness-aware: every scheduling function, as RST and as G-RST, at equal cost and with tests.

    python benchmarks/schedules.py digits [--jobs 1] [--seeds 10] [--runs runs/schedules] [--out benchmarks/results]
    python benchmarks/schedules.py forecast --data ETTh1.csv
    python benchmarks/schedules.py images --data CIFAR-10

Run it in the root of the repository. Every method chooses its ρ from the same grid, on validation data and with other
seeds. `schedule_questions.py` sets the comparisons before the runs: pairs of methods. Differences are paired by seed,
and tests corrected by Holm for all pairs of the part. The same command continues an interrupted study.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from schedule_parts import PARTS, Part
from sharpless.lab import compare, store
from sharpless.lab.methods.method import Method
from sharpless.report.runs import read_runs
from sharpless.report.statistics import above, differences, holm, paired

Values = dict[str, dict[int, float]]
"""The results of each METHOD @ CASE, by seed."""


def study(
    part: Part, folder: Path, seeds: int, jobs: int, data: str | None, only: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return all rows of a part, by case, and its tests, after the missing runs of all or some methods."""
    cases, values, facts = {}, dict[str, dict[int, float]](), dict[str, Any]()
    for number, (name, case) in enumerate(part.cases.items()):
        place = folder / str(number)
        summary = compare(
            part.task,
            methods=[method for method in case.methods or part.methods if only is None or method in only],
            rho=case.rho or part.rho,
            seeds=seeds,
            choice_seeds=part.choice_seeds,
            folder=place,
            jobs=jobs,
            threads=1,
            options={**part.options, **case.options, **({} if data is None else {"data": data})},
        )
        for run in read_runs(place / "runs"):
            if run.seed < seeds and run.value is not None:
                values.setdefault(f"{run.method} @ {name}", {})[run.seed] = run.value
        cases[name] = [row(entry) for entry in summary["methods"]]
        facts = {name: summary[name] for name in ("metric", "versions", "machines")}
    return facts | {"cases": cases, "tests": tests(part, values), "values": values}


def row(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the stored values of a row of a comparison, with the expected cost."""
    method = Method(entry["method"])
    settings = method.settings(64)
    expected = (1 + settings.schedule.mean() * settings.batch_fraction) * float(method.own.get("cost", 1.0))
    kept = {name: entry[name] for name in ("method", "label", "rho", "value", "cost", "seconds", "seeds", "diverged")}
    return {**kept, "expected": expected, "edge": ((entry["choice"] or {}).get("edge") or {}).get("rho")}


def tests(part: Part, values: Values) -> list[dict[str, Any]]:
    """Return the difference of each pair with its interval and two-sided p-value, corrected for all pairs."""
    found = []
    for question, *names in dict.fromkeys(part.pairs):
        for case in part.cases:
            left, right = (name if " @ " in name else f"{name} @ {case}" for name in names)
            if left == right or left not in values or right not in values:
                continue
            gaps = differences(values[left], values[right])
            sides = [above(gaps, 0.0), above([-gap for gap in gaps], 0.0)]
            p = None if None in sides else min(1.0, 2 * min(side for side in sides if side is not None))
            found.append({"question": question, "case": case, "left": names[0], "right": names[1], "p": p})
            found[-1] |= paired(values[left], values[right]) | {"seeds": len(gaps)}
    corrected = holm({str(number): each["p"] for number, each in enumerate(found)})
    return [each | {"p_holm": corrected[str(number)]} for number, each in enumerate(found)]


def page(name: str, command: str, found: dict[str, Any], grid: Sequence[float]) -> list[str]:
    """Return the tables of a part."""
    (versions, *_), (machine, *_), metric = found["versions"], found["machines"], found["metric"]
    unit, places = (" %", 2) if metric["unit"] == "%" else ("", 4)
    chosen = f"ρ from {', '.join(map(str, grid))}, chosen on validation data, * where the grid ends. " if grid else ""
    lines = [
        f"# Schedules: {name}",
        "",
        f"`{command}`, torch {versions['torch']}, {machine['cores']} cores, one for each run. {chosen}Cost is in "
        "gradients per step of plain training, expected and spent. ± is the standard deviation over seeds; "
        "† without those that diverged.",
        "",
    ]
    for case, rows in found["cases"].items():
        lines += [
            f"## {case}",
            "",
            f"| method | ρ | {metric['name']}{unit} | [95 %] | expected cost | spent | seconds | seeds |",
        ]
        lines.append("|---" * 8 + "|")
        for each in sorted(rows, key=lambda each: each["cost"]):
            value, (low, high) = each["value"], each["value"]["ci95"] or (None, None)
            rho = "" if each["rho"] is None else format(each["rho"], "g") + "*" * (each["edge"] is not None)
            line = f"| {each['label']}{' †' * bool(each['diverged'])} | {rho} "
            line += f"| {value['mean']:.{places}f} ± {value['std'] or 0:.{places}f} "
            line += "| " if low is None else f"| [{low:.{places}f}, {high:.{places}f}] "
            line += f"| {each['expected']:.3f} | {each['cost']:.3f} | {each['seconds']['median']:.1f} "
            lines.append(f"{line}| {each['seeds']} |")
        lines.append("")
    lines += [
        "## Tests",
        "",
        "Left minus right, paired by seed; p is two-sided, and corrected by Holm for all rows.",
        "",
    ]
    lines += ["| question | case | left | right | difference [95 %] | p | p corrected | seeds |", "|---" * 8 + "|"]
    for each in found["tests"]:
        low, high = each["ci95"] or (float("nan"), float("nan"))
        names = " | ".join(each[key] for key in ("question", "case", "left", "right"))
        lines.append(
            f"| {names} | {each['difference']:+.{places}f} [{low:+.{places}f}, {high:+.{places}f}] "
            f"| {each['p']:.2g} | {each['p_holm']:.2g} | {each['seeds']} |"
        )
    return [*lines, ""]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="the methods to execute; by default all")
    parser.add_argument("--data", help="the CSV file of ETTh1, for forecast, or the folder of CIFAR-10, for images")
    parser.add_argument("--runs", type=Path, default=Path("runs/schedules"), help="folder of the runs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(arguments)
    name, part = options.part, PARTS[options.part]
    command = f"python benchmarks/schedules.py {name} --jobs {options.jobs} --seeds {options.seeds}"
    command += f" --data {Path(options.data).name}" if options.data else ""
    command += f" --methods {' '.join(options.methods)}" if options.methods else ""
    found = study(part, options.runs / name, options.seeds, options.jobs, options.data, options.methods)
    results = {"command": command, "rho grid": part.rho, "choice seeds": part.choice_seeds, **found}
    store.write(options.out / f"schedules-{name}.json", json.dumps(results, ensure_ascii=False, indent=1) + "\n")
    store.write(options.out / f"schedules-{name}.md", "\n".join(page(name, command, results, part.rho)))


if __name__ == "__main__":
    main()
