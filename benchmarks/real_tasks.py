"""What the methods buy on real tasks, those of `examples/`: forecasts, few images, few series, tables, text.

    python benchmarks/real_tasks.py etth1-96 --data ETTh1.csv --dry-run
    python benchmarks/real_tasks.py series-ArrowHead series-GunPoint table-diabetes
    python benchmarks/real_tasks.py table-diabetes-auto
    python benchmarks/real_tasks.py --table

From the root of the repository. Every method, the base optimizer too, chooses its learning rate and its ρ together,
from three or four values each, on validation data and with seeds of its own. Stopped and started again, it continues.
A study leaves its runs in runs/real/NAME and its summary in benchmarks/results/real-NAME.json, of which `--table` makes
a page. In the studies NAME-auto a few methods find ρ by themselves.
"""

import argparse
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import real_page
from sharpless.lab import Trial, compare, store
from sharpless.lab.methods.method import Method
from sharpless.lab.studies.choice import AUTO, points
from sharpless.lab.trials.definition import Task
from sharpless.report.runs import Run, read_runs
from sharpless.report.statistics import against, differences, estimate

METHODS = (
    "sgd", "sgd-long", "ema:average={}", "sam", "late", "g-rst", "thrifty:budget=1.05,unit=gradients",
    "thrifty:budget=1.05,unit=gradients,average={}", "temperon:tail=0.3",
)  # fmt: skip
"""What is compared. An average of the weights has the decay of the data set."""

AUTOMATIC = ("sgd", "sam", "thrifty:budget=1.05,unit=gradients")
"""What is compared where ρ is found by itself."""

RESULTS = Path("benchmarks/results")


@dataclass(frozen=True)
class Case:
    """A data set with the values of ρ and the learning rate to choose from."""

    example: str
    rho: tuple[float, ...] | str
    lr: tuple[float, ...]
    options: dict[str, Any] = field(default_factory=dict)
    average: float = 0.99
    """The decay of averages of the weights: smaller where a training has few steps."""

    @property
    def methods(self) -> list[str]:
        return [method.format(self.average) for method in (AUTOMATIC if self.rho == AUTO else METHODS)]

    def task(self, data: str | None) -> Task:
        wanted = {} if data is None or "name" in self.options else {"data": data}
        return Task.of(f"examples/{self.example}.py:train", self.options | wanted)


SERIES = ("ACSF1", "ArrowHead", "BasicMotions", "GunPoint", "ItalyPowerDemand", "JapaneseVowels", "OSULeaf")
SMALL = (3e-4, 1e-3, 3e-3)
CASES = {
    "etth1-96": Case("forecasting", (0.5, 1.0, 2.0), (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2), {"horizon": 96}),
    **{  # the values that methods chose at 96
        f"etth1-{horizon}": Case("forecasting", (0.5, 1.0), (3e-3, 1e-2), {"horizon": horizon})
        for horizon in (192, 336, 720)
    },
    **{f"series-{name}": Case("few_series", (0.01, 0.05, 0.25), SMALL, {"name": name}, 0.95) for name in SERIES},
    **{
        f"table-{name}": Case("table", (0.03, 0.1, 0.3, 1.0), (1e-4, *SMALL), {"name": name})
        for name in ("breast_cancer", "diabetes")
    },
    "images": Case("few_images", (0.02, 0.05, 0.1), (0.01, 0.02, 0.05, 0.1), {"images": 500}, 0.95),
    "images-lr": Case("few_images", (0.02, 0.05, 0.1), (0.02,), {"images": 500}, 0.95),
    "text": Case("text", (0.005, 0.01, 0.02, 0.05), SMALL),
}
CASES |= {f"{name}-auto": replace(case, rho=AUTO) for name, case in CASES.items()}


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
    counts = [
        (method, seeds + choice_seeds * len(points(method, {"rho": case.rho, "lr": case.lr})))
        for method in map(Method, methods)
    ]
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
    summary = compare(
        task.name, methods=methods, rho=case.rho, lr=case.lr, seeds=seeds, choice_seeds=choice_seeds, folder=folder,
        jobs=jobs, threads=1, options=task.options, watch=watch,
    )  # fmt: skip
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
    grid = {"rho": case.rho, "lr": case.lr}
    kept = {**summary, "options": options, "grid": grid, "choice_seeds": choice_seeds}
    kept["lr_chosen_by"] = "each method" if len(case.lr) > 1 else "nobody"
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
        "--methods", nargs="+", metavar="METHOD", help=f"by default {' '.join(METHODS)}, {{}} by data set"
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--choice-seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, help="runs at a time; by default as many as there are cores")
    parser.add_argument("--dry-run", action="store_true", help="say how long it will take, and end")
    parser.add_argument("--table", action="store_true", help="make real-tasks.md of the results that are there")
    options = parser.parse_args()
    for name in options.names:
        wanted = options.methods or CASES[name].methods
        methods = list(dict.fromkeys(["sgd", "sam", *wanted]))  # what the others are held against
        asked = options.data, methods, options.seeds, options.choice_seeds
        print(f"{name}: {estimated(CASES[name], *asked)}", flush=True)
        if not options.dry_run:
            study(name, *asked, runs=options.runs, jobs=options.jobs)
            print(f"\r{RESULTS / f'real-{name}.json'}", flush=True)
    if options.table:
        names = [name + kind for kind in ("", "-base-lr") for name in CASES]  # of an earlier study
        there = {name: path for name in names if (path := RESULTS / f"real-{name}.json").exists()}
        summaries = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in there.items()}
        store.write(RESULTS / "real-tasks.md", real_page.page(summaries))
        store.write(RESULTS / "real-tasks.svg", real_page.forest(summaries) + "\n")


if __name__ == "__main__":
    main()
