"""What the methods buy on real tasks, those of `examples/`: forecasts, few images, few series, tables, text.

    python benchmarks/real_tasks.py etth1-96 --data ETTh1.csv --dry-run
    python benchmarks/real_tasks.py series-ArrowHead series-GunPoint table-diabetes
    python benchmarks/real_tasks.py --table

From the root of the repository. First the base optimizer chooses its learning rate, then every method its ρ, from three
or four values each, on validation data and with seeds of their own. Stopped and started again, it continues. A study
leaves its runs in runs/real/NAME and its summary in benchmarks/results/real-NAME.json, of which `--table` makes a page.
"""

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import real_page
from sharpless.lab import Trial, compare, store
from sharpless.lab.definition import Task
from sharpless.lab.methods import Method
from sharpless.report.runs import Run, read_runs
from sharpless.report.statistics import against, differences, estimate

METHODS = (
    "sgd", "sgd-long", "ema", "sam", "late", "rst", "g-rst", "thrifty", "thrifty:budget=1.05,unit=gradients",
    "thrifty:budget=1.05,unit=gradients,average=0.99", "peer-sam", "temperon:tail=0.3",
)  # fmt: skip
RESULTS = Path("benchmarks/results")


@dataclass(frozen=True)
class Case:
    """A data set with the values of ρ and the learning rate to choose from."""

    example: str
    rho: tuple[float, ...]
    lr: tuple[float, ...]
    options: dict[str, Any] = field(default_factory=dict)

    def task(self, data: str | None) -> Task:
        wanted = {} if data is None or "name" in self.options else {"data": data}
        return Task.of(f"examples/{self.example}.py:train", self.options | wanted)


def named(example: str, rho: tuple[float, ...], *names: str) -> dict[str, Case]:
    """Return cases whose data come with a package."""
    short = example.removeprefix("few_")
    return {f"{short}-{name}": Case(example, rho, (1e-3, 3e-3, 1e-2), {"name": name}) for name in names}


SERIES = ("ACSF1", "ArrowHead", "BasicMotions", "GunPoint", "ItalyPowerDemand", "JapaneseVowels", "OSULeaf")
CASES = {
    **{
        f"etth1-{horizon}": Case("forecasting", (0.2, 0.5, 1.0), (3e-4, 1e-3, 3e-3), {"horizon": horizon})
        for horizon in (96, 192, 336, 720)
    },
    **named("few_series", (0.03, 0.1, 0.3, 1.0), *SERIES),
    **named("table", (0.03, 0.1, 0.3, 1.0), "breast_cancer", "diabetes"),
    "images": Case("few_images", (0.02, 0.05, 0.1, 0.2), (0.01, 0.02, 0.05)),
    "text": Case("text", (0.005, 0.01, 0.02, 0.05), (3e-4, 1e-3, 3e-3)),
}  # fmt: skip


def expected(method: Method, batch_size: int | None) -> float:
    """Return what a method will cost, in trainings of the base."""
    settings = method.settings(batch_size)
    return (1 + settings.schedule.mean() * settings.batch_fraction) * float(method.own.get("cost", 1.0))


def estimated(case: Case, data: str | None, methods: list[str], seeds: int, choice_seeds: int) -> str:
    """Return how long a study will take, by one run of the base that is measured."""
    task, trial = case.task(data), Trial(Method("sgd"))
    start = perf_counter()
    task(trial)
    elsewhere = perf_counter() - start - trial.seconds
    counts = [(Method("sgd"), len(case.lr) * choice_seeds + 1)]
    for method in map(Method, methods):
        counts.append((method, seeds + len(case.rho) * choice_seeds * method.is_sharp))
    runs = sum(count for _, count in counts)
    hours = sum(count * (elsewhere + trial.seconds * expected(one, trial.batch_size)) for one, count in counts) / 3600
    plain = f"plain training takes {trial.seconds:.1f} s, all the rest of a run {elsewhere:.1f} s"
    return f"{runs} runs, {hours:.2f} hours of one core; {plain}"


def study(
    name: str, data: str | None, methods: list[str], seeds: int, choice_seeds: int, *, runs: Path, jobs: int | None
) -> None:
    """Execute a study, and keep its summary together with the differences to the base."""
    case, folder = CASES[name], runs / name
    task = case.task(data)
    common = {"options": task.options, "choice_seeds": choice_seeds, "jobs": jobs, "threads": 1}
    first = compare(task.name, methods=("sgd",), lr=case.lr, seeds=1, folder=folder / "lr", **common)
    lr = first["methods"][0]["hyperparameters"]["lr"]
    summary = compare(
        task.name, methods=methods, rho=case.rho, lr=lr, seeds=seeds, folder=folder, watch=watch, **common
    )
    values: dict[str, dict[int, float]] = {}
    early: dict[str, list[float]] = {}
    for run in read_runs(folder / "runs"):
        if run.value is not None:
            values.setdefault(run.method, {})[run.seed] = run.value
        if (stopped := stopped_early(run)) is not None:
            early.setdefault(run.method, []).append(stopped)
    sign = 1 if summary["metric"]["goal"] == "max" else -1
    versus = against(
        {name: differences(found, values["sgd"]) for name, found in values.items() if name != "sgd"},
        0.0,
        sign=sign,
        broken=frozenset(entry["method"] for entry in summary["methods"] if entry["diverged"]),
    )
    for entry in summary["methods"]:
        entry["versus_base"] = versus.get(entry["method"])
        entry["stopped_early"] = estimate(early[entry["method"]]) if entry["method"] in early else None
    options = {key: Path(value).name if key == "data" else value for key, value in task.options.items()}
    kept = {**summary, "options": options, "grid": {"rho": case.rho, "lr": case.lr}, "choice_seeds": choice_seeds}
    store.write(RESULTS / f"real-{name}.json", json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


def stopped_early(run: Run) -> float | None:
    """Return the result at the point of the curve that is best on validation data, where both were reported."""
    points = [
        (validation, test)
        for validation, test in zip(run.curve.validation or (), run.curve.test or (), strict=False)
        if validation is not None and test is not None
    ]
    return max(points, key=lambda point: run.metric.sign * point[0])[1] if points else None


def watch(done: float, runs: int) -> None:
    print(f"\r{done:.1f} of {runs} runs", end="", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*CASES, []], metavar="NAME", help=", ".join(CASES))
    parser.add_argument("--data", help="the user's data: a CSV file, or the folder of the images")
    parser.add_argument("--runs", type=Path, default=Path("runs/real"), help="folder of finished runs")
    parser.add_argument(
        "--methods", nargs="+", default=METHODS, metavar="METHOD", help=f"by default {' '.join(METHODS)}"
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--choice-seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, help="runs at a time; by default as many as there are cores")
    parser.add_argument("--dry-run", action="store_true", help="say how long it will take, and end")
    parser.add_argument("--table", action="store_true", help="make real-tasks.md of the results that are there")
    options = parser.parse_args()
    for name in options.names:
        methods = list(dict.fromkeys(["sgd", "sam", *options.methods]))  # what the others are held against
        asked = options.data, methods, options.seeds, options.choice_seeds
        print(f"{name}: {estimated(CASES[name], *asked)}", flush=True)
        if not options.dry_run:
            study(name, *asked, runs=options.runs, jobs=options.jobs)
            print(f"\r{RESULTS / f'real-{name}.json'}", flush=True)
    if options.table:
        there = {name: path for name in CASES if (path := RESULTS / f"real-{name}.json").exists()}
        summaries = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in there.items()}
        store.write(RESULTS / "real-tasks.md", real_page.page(summaries))
        store.write(RESULTS / "real-tasks.svg", real_page.forest(summaries) + "\n")


if __name__ == "__main__":
    main()
