"""What each share of SAM's extra cost buys: accuracy against cost over p and q, ρ chosen for every method.

    python benchmarks/frontier.py STUDY [--jobs 2] [--data-dir CIFAR-10] [--out benchmarks/results]

Every method gets its ρ from one grid, by accuracy on a fifth of the training examples that is held out, labels as noisy
as the others (seeds 100 and up); it is then trained on all of them and tested on the test set (seeds 0 and up).
Stopped and started again, it continues.
"""

import argparse
import json
import multiprocessing
import platform
import statistics
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from sharpless.lab.recipes import Recipe
from sharpless.lab.train import train

from sharpless.lab import files
from sharpless.report.summary import estimate, paired, pareto_optimal

MARGIN = 0.3


@dataclass(frozen=True)
class Entry:
    """A method of the library, with the p and q that it is studied at."""

    method: str
    p: str = "1"
    q: float = 1.0
    note: str = ""
    changes: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        if self.method != "g-rst":
            return self.method + self.note
        return f"g-rst p={self.p} q={self.q:.3g}{self.note}"

    def recipe(self, task: Recipe, rho: float) -> Recipe:
        return replace(task, p=self.p, batch_fraction=self.q, rho=rho, **dict(self.changes))


@dataclass(frozen=True)
class Study:
    """Tasks, entries, and what ρ is chosen from."""

    tasks: dict[str, Recipe]
    entries: tuple[Entry, ...]
    rho: tuple[float, ...]
    seeds: int = 10
    choosing_seeds: int = 3
    images: bool = False


def grid(*cells: tuple[float, float]) -> tuple[Entry, ...]:
    return tuple(Entry("g-rst", f"{p:g}", q) for p, q in cells)


BASICS = (Entry("sgd"), Entry("sgd-long"), Entry("sam"), Entry("thrifty"))
GROUPNORM = Recipe(network="convnet-groupnorm", lr=0.1, epochs=80)
VIT = Recipe(network="vit", optimizer="adamw", width=32, lr=2e-3, weight_decay=0.05, lr_warmup=0.1)
IMAGES = Recipe(noise=0.4, network="convnet-strided", width=24, epochs=20, lr_warmup=0.05)
STUDIES = {
    "digits": Study(
        {"30% noise": Recipe()},
        (
            *BASICS,
            *grid((1, 1 / 4), (1, 1 / 16), (1 / 4, 1), (1 / 4, 1 / 4), (0.05, 1), (0.05, 1 / 4)),
            Entry("peer-looksam"),
        ),
        (0.1, 0.2, 0.4, 0.8),
    ),
    "digits-noise": Study(
        {f"{noise:.0%} noise": Recipe(noise=noise) for noise in (0.5, 0.0, 0.1)},
        (Entry("sgd"), Entry("sam"), Entry("thrifty"), *grid((1, 1 / 8), (1 / 4, 1 / 4))),
        (0.1, 0.2, 0.4, 0.8),
        choosing_seeds=2,
    ),
    "when": Study(
        {"30% noise": Recipe()},
        (
            Entry("sam"),
            Entry("g-rst", "0.25", 1 / 4, note=", coin"),
            Entry("g-rst", "0.25", 1 / 4, note=", systematic", changes=(("systematic", True),)),
            Entry("g-rst", "periodic:4", 1 / 4),
            Entry("g-rst", "piecewise:0,1@0.75", 1 / 4, note=", late", changes=(("gamma", 1.0),)),
            Entry("g-rst", "adaptive:1.3,0.05", 1 / 4),
        ),
        (0.2, 0.4),
        choosing_seeds=2,
    ),
    "where": Study(
        {"30% noise": Recipe()},
        (
            Entry("sam"),
            *(
                Entry("g-rst", "1", 1 / 8, note=f", {ascent}", changes=(("ascent", ascent),))
                for ascent in ("sam", "asam", "friendly", "norms")
            ),
        ),
        (0.2, 0.4, 0.8, 1.6),
        choosing_seeds=2,
    ),
    "images": Study(
        {"CIFAR-10, 4000 images of 16 × 16, 40% noise": IMAGES},
        (*BASICS, *grid((1 / 4, 1), (1 / 4, 1 / 4))),
        (0.05, 0.1, 0.2),
        seeds=5,
        choosing_seeds=1,
        images=True,
    ),
    "groupnorm": Study(
        {"GroupNorm, 30% noise": GROUPNORM},
        (
            *(entry for entry in BASICS if entry.method != "sgd-long"),
            *grid((1, 1 / 2), (1, 1 / 4), (1 / 2, 1), (1 / 4, 1), (0.05, 1)),
            Entry("g-rst", "0.05", 1.0, note=", clipped at 1", changes=(("clip", 1.0),)),
        ),
        (0.05, 0.1, 0.2, 0.4),
        choosing_seeds=2,
    ),
    "vit": Study(
        {"ViT with AdamW, 30% noise": VIT},
        (
            *(entry for entry in BASICS if entry.method != "sgd-long"),
            Entry("g-rst", "warmup:0.1/1", changes=(("gamma", 1.0),)),
            *grid((1 / 4, 1)),
        ),
        (0.0125, 0.025, 0.05),
        seeds=6,
        choosing_seeds=2,
    ),
    "batchnorm": Study(
        {"30% noise, next to no perturbation": Recipe()},
        (Entry("sgd"), *grid((1, 1 / 16), (1, 1 / 8), (1, 1 / 4), (1, 1 / 2))),
        (1e-6,),
    ),
}


@dataclass(frozen=True)
class Cell:
    """One run of a study."""

    task: str
    entry: str
    rho: float
    validation: bool
    seed: int


def run(cell: Cell, recipe: Recipe, method: str, pictures: Path | None) -> tuple[Cell, dict[str, Any]]:
    if cell.validation:
        recipe = replace(recipe, validation=0.2)
    data = None
    if pictures is not None:
        from images import images

        data = images(pictures, recipe.noise, cell.seed, recipe.validation)
    record = train(recipe, method, cell.seed, data)
    cost = record["passes"] / record["plain_passes"]
    return cell, {"accuracy": record["test_accuracy"][-1], "cost": cost, "seconds": round(record["seconds"], 2)}


class Runs:
    """The runs of a study that there are, in a file that is whole at any time."""

    def __init__(self, name: str, study: Study, folder: Path, jobs: int, pictures: Path | None) -> None:
        self.study, self.jobs, self.pictures = study, jobs, pictures
        self.path = folder / f"frontier-{name}.json"
        self.facts = {
            "command": f"python benchmarks/frontier.py {name} --jobs {jobs}"
            + (" --data-dir CIFAR-10" if pictures else ""),
            "machine": {"cores": multiprocessing.cpu_count(), "processor": platform.processor() or platform.machine()},
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
            "tasks": {task: asdict(recipe) for task, recipe in study.tasks.items()},
            "rho grid": study.rho,
        }
        there = json.loads(self.path.read_text(encoding="utf-8"))["runs"] if self.path.exists() else []
        self.done = {Cell(**item["cell"]): item["result"] for item in there}

    def save(self) -> None:
        runs = [{"cell": asdict(cell), "result": result} for cell, result in self.done.items()]
        lines = ",\n".join(json.dumps(item, ensure_ascii=False) for item in runs)
        facts = json.dumps(self.facts, ensure_ascii=False, indent=1).removesuffix("\n}")
        files.write(self.path, f'{facts},\n "runs": [\n{lines}\n]}}\n')

    def execute(self, cells: list[Cell]) -> None:
        """Run what is missing of `cells`."""
        missing = [cell for cell in cells if cell not in self.done]
        entries = {entry.name: entry for entry in self.study.entries}
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.jobs, mp_context=context) as pool:
            futures = []
            for cell in missing:
                entry = entries[cell.entry]
                recipe = entry.recipe(self.study.tasks[cell.task], cell.rho)
                futures.append(pool.submit(run, cell, recipe, entry.method, self.pictures))
            for count, future in enumerate(as_completed(futures), 1):
                cell, result = future.result()
                self.done[cell] = result
                if count % 4 == 0:
                    self.save()
                    print(f"{count} of {len(missing)}", flush=True)
        self.save()

    def results(self, task: str, entry: str, rho: float, *, validation: bool) -> dict[int, dict[str, Any]]:
        return {
            cell.seed: result
            for cell, result in self.done.items()
            if (cell.task, cell.entry, cell.rho, cell.validation) == (task, entry, rho, validation)
        }

    def choose(self, task: str, entry: Entry) -> float:
        """Return the ρ of the best mean accuracy on the examples held out; the smaller one of equals."""
        if entry.method.startswith("sgd"):
            return 0.1  # which is not used, but says how long sgd-long trains
        if len(self.study.rho) == 1:
            return self.study.rho[0]
        means = {
            rho: statistics.fmean(r["accuracy"] for r in self.results(task, entry.name, rho, validation=True).values())
            for rho in self.study.rho
        }
        return max(means, key=lambda rho: (means[rho], -rho))


def table(runs: Runs, task: str) -> list[str]:
    """Return the table of a task: Pareto-optimal methods in bold."""
    rows = []
    chosen = {entry.name: runs.choose(task, entry) for entry in runs.study.entries}
    sam = {s: r["accuracy"] for s, r in runs.results(task, "sam", chosen.get("sam", 0.0), validation=False).items()}
    for entry in runs.study.entries:
        rho = chosen[entry.name]
        found = runs.results(task, entry.name, rho, validation=False)
        if not found:
            continue
        accuracy = estimate([r["accuracy"] for r in found.values()])
        versus = paired({seed: r["accuracy"] for seed, r in found.items()}, sam)
        spent = [
            r["cost"]
            for value in runs.study.rho
            for r in runs.results(task, entry.name, value, validation=True).values()
        ]
        rows.append(
            {
                "name": entry.name,
                "rho": "" if entry.method.startswith("sgd") else f"{rho:g}",
                "accuracy": accuracy["mean"],
                "std": accuracy["std"] or 0.0,
                "cost": statistics.fmean(r["cost"] for r in found.values()),
                "seconds": statistics.median(r["seconds"] for r in found.values()),
                "versus": versus,
                "chosen for": 0.8 * sum(spent),
            }
        )
    lines = [
        "| method | ρ | accuracy % | cost | seconds | minus SAM [95 %] | non-inferior | cost of choosing ρ |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows.sort(key=lambda row: row["cost"])
    on_frontier = pareto_optimal([(row["cost"], row["accuracy"]) for row in rows])
    for row, stands in zip(rows, on_frontier, strict=True):
        name = f"**{row['name']}**" if stands else row["name"]
        difference, verdict = "", ""
        if row["name"] != "sam" and row["versus"]["ci95"]:
            low, high = row["versus"]["ci95"]
            difference = f"{row['versus']['difference']:+.2f} [{low:+.2f}, {high:+.2f}]"
            verdict = "yes" if low > -MARGIN else "no" if high < -MARGIN else "not shown"
        lines.append(
            f"| {name} | {row['rho']} | {row['accuracy']:.2f} ± {row['std']:.2f} | {row['cost']:.3f} "
            f"| {row['seconds']:.1f} | {difference} | {verdict} | {row['chosen for']:.1f} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--data-dir", type=Path, help="folder of train-*.parquet and test-*.parquet, for images")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    study = STUDIES[options.study]
    if study.images and options.data_dir is None:
        parser.error("the images are CIFAR-10's: give the folder of its Parquet files with --data-dir")
    runs = Runs(options.study, study, options.out, options.jobs, options.data_dir if study.images else None)
    for task in study.tasks:
        print(task, flush=True)
        with_rho = [entry for entry in study.entries if not entry.method.startswith("sgd")]
        choosing = range(100, 100 + (study.choosing_seeds if len(study.rho) > 1 else 0))
        runs.execute([Cell(task, e.name, rho, True, seed) for seed in choosing for e in with_rho for rho in study.rho])
        seeds = range(study.seeds)
        runs.execute([Cell(task, e.name, runs.choose(task, e), False, seed) for seed in seeds for e in study.entries])
        print("\n".join(table(runs, task)), flush=True)
    sections = [line for task in study.tasks for line in (f"## {task}", "", *table(runs, task), "")]
    facts = runs.facts
    head = [
        f"# Accuracy against cost: {options.study}",
        "",
        f"`{facts['command']}`, {study.seeds} seeds, torch {facts['versions']['torch']}, {facts['machine']['cores']} "
        f"cores. ρ from {', '.join(f'{rho:g}' for rho in study.rho)}, chosen on held-out training examples (seeds: "
        f"{study.choosing_seeds}); the last column is what that cost, in plain trainings. Non-inferior: the 95 % "
        f"interval of the difference to SAM, paired by seed, lies above −{MARGIN:g} points. In bold: none is as "
        "accurate for as little, and better in one.",
        "",
    ]
    files.write(options.out / f"frontier-{options.study}.md", "\n".join([*head, *sections]))


if __name__ == "__main__":
    main()
