"""Accuracy against cost over p and q, with ρ chosen for every method.

    python benchmarks/frontier.py STUDY [--jobs 2] [--data-dir CIFAR-10] [--runs runs/frontier] [--out …]

Every method chooses its ρ from the same grid, by accuracy on a fifth of the training examples, with noisy labels. Then
it is trained on all of them and tested on the test set. The same command continues an interrupted study.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharpless.lab import compare, store

MARGIN = 0.3
BASICS = ("sgd", "sgd-long", "sam", "thrifty:unit=gradients")
GROUPNORM = {"network": "convnet-groupnorm", "lr": 0.1, "epochs": 80}
VIT = {"network": "vit", "optimizer": "adamw", "width": 32, "lr": 2e-3, "weight_decay": 0.05, "lr_warmup": 0.1}


def grid(*cells: tuple[float, float]) -> tuple[str, ...]:
    """Return G-RST with each p and q."""
    return tuple(f"g-rst:p={p:g},batch_fraction={q:g}" if q < 1 else f"g-rst:p={p:g}" for p, q in cells)


def g_rst(q: float, *parameters: str) -> tuple[str, ...]:
    return tuple(f"g-rst:batch_fraction={q:g},{text}" for text in parameters)


@dataclass(frozen=True)
class Study:
    """Tasks by their names, as options of the images task, with the compared methods and the grid of ρ."""

    tasks: dict[str, dict[str, Any]]
    methods: tuple[str, ...]
    rho: tuple[float, ...]
    seeds: int = 10
    choice_seeds: int = 2


WHEN = ("p=0.25", "p=0.25,systematic=yes", "p=periodic:4", "p=piecewise:0,1@0.75,gamma=1", "p=adaptive:1.3,0.05")
CELLS = (1, 1 / 4), (1, 1 / 16), (1 / 4, 1), (1 / 4, 1 / 4), (0.05, 1), (0.05, 1 / 4)
ASCENTS = ("p=1,ascent=sam", "p=1,ascent=asam", "p=1,ascent=friendly", "p=1,ascent=norms")
STUDIES = {
    "digits": Study({"30% noise": {}}, (*BASICS, *grid(*CELLS), "peer-looksam"), (0.1, 0.2, 0.4, 0.8), choice_seeds=3),
    "digits-noise": Study(
        {f"{noise:.0%} noise": {"noise": noise} for noise in (0.5, 0.0, 0.1)},
        ("sgd", "sam", "thrifty:unit=gradients", *grid((1, 1 / 8), (1 / 4, 1 / 4))),
        (0.1, 0.2, 0.4, 0.8),
    ),
    "when": Study({"30% noise": {}}, ("sgd", "sam", *g_rst(1 / 4, *WHEN)), (0.2, 0.4)),
    "where": Study({"30% noise": {}}, ("sgd", "sam", *g_rst(1 / 8, *ASCENTS)), (0.2, 0.4, 0.8, 1.6)),
    "images": Study(
        {"CIFAR-10, 4000 images of 16 × 16, 40% noise": {}},
        (*BASICS, *grid((1 / 4, 1), (1 / 4, 1 / 4))),
        (0.05, 0.1, 0.2),
        seeds=5,
        choice_seeds=1,
    ),
    "groupnorm": Study(
        {"GroupNorm, 30% noise": GROUPNORM},
        ("sgd", "sam", "thrifty:unit=gradients", *grid((1, 1 / 2), (1, 1 / 4), (1 / 2, 1), (1 / 4, 1), (0.05, 1))),
        (0.05, 0.1, 0.2, 0.4),
    ),
    "vit": Study(
        {"ViT with AdamW, 30% noise": VIT},
        ("sgd", "sam", "thrifty:unit=gradients", "g-rst:p=warmup:0.1/1,gamma=1", *grid((1 / 4, 1))),
        (0.0125, 0.025, 0.05),
        seeds=6,
    ),
    "batchnorm": Study(
        {"30% noise, next to no perturbation": {}},
        ("sgd", *grid((1, 1 / 16), (1, 1 / 8), (1, 1 / 4), (1, 1 / 2))),
        (1e-6,),
    ),
}


def table(summary: dict[str, Any]) -> list[str]:
    """Return the rows of a task, ordered by cost. Pareto-optimal ones are in bold."""
    head = ["method", "ρ", "accuracy %", "cost", "seconds", "minus SAM [95 %]", "non-inferior", "cost of choosing ρ"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in sorted(summary["methods"], key=lambda row: row["cost"]):
        value, versus, bold = row["value"], row["versus_sam"], "**" * row["pareto_optimal"]
        line = f"| {bold}{row['label']}{bold} | {'' if row['rho'] is None else format(row['rho'], 'g')} "
        line += f"| {value['mean']:.2f} ± {value['std'] or 0.0:.2f} | {row['cost']:.3f} "
        line += f"| {row['seconds']['median']:.1f} "
        difference = verdict = ""
        if versus is not None and versus["ci95"] is not None:
            difference = "{:+.2f} [{:+.2f}, {:+.2f}]".format(versus["difference"], *versus["ci95"])
            verdict = "yes" if versus["non_inferior"] else "no" if versus["behind"] else "not shown"
        spent = "" if row["choice"] is None else f"{row['choice']['cost']:.1f}"
        lines.append(f"{line}| {difference} | {verdict} | {spent} |")
    return lines


def page(name: str, command: str, study: Study, found: dict[str, dict[str, Any]]) -> list[str]:
    (versions, *_), (machine, *_) = (next(iter(found.values()))[of] for of in ("versions", "machines"))
    head = [
        f"# Accuracy against cost: {name}",
        "",
        f"`{command}`, {study.seeds} seeds, torch {versions['torch']}, {machine['cores']} cores. ρ from "
        f"{', '.join(f'{rho:g}' for rho in study.rho)}, chosen on held-out training examples (seeds: "
        f"{study.choice_seeds}); the last column is what that cost, in plain trainings. Non-inferior: no {MARGIN:g} "
        "points behind SAM, paired by seed. In bold: none is as accurate for as little, and better in one.",
        "",
    ]
    return head + [line for task, summary in found.items() for line in (f"## {task}", "", *table(summary), "")]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--data-dir", type=Path, help="folder of train-*.parquet and test-*.parquet, for images")
    parser.add_argument("--runs", type=Path, default=Path("runs/frontier"), help="folder of the runs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(arguments)
    name, study, source, own = options.study, STUDIES[options.study], "images", {}
    command = f"python benchmarks/frontier.py {name} --jobs {options.jobs}"
    if name == "images":
        if options.data_dir is None:
            parser.error("the images are CIFAR-10's: give the folder of its Parquet files with --data-dir")
        source, own = f"{Path(__file__).with_name('images.py')}:train", {"data": str(options.data_dir)}
        command += " --data-dir CIFAR-10"
    found = {}
    for number, (task, changes) in enumerate(study.tasks.items()):
        found[task] = compare(
            source,
            methods=study.methods,
            rho=study.rho,
            seeds=study.seeds,
            choice_seeds=study.choice_seeds,
            margin=MARGIN,
            folder=options.runs / f"{name}-{number}",
            jobs=options.jobs,
            options=own or changes,
        )
        print(task, *table(found[task]), sep="\n", flush=True)
    results = {"command": command, "rho grid": study.rho, "tasks": found}
    store.write(options.out / f"frontier-{name}.json", json.dumps(results, ensure_ascii=False, indent=1) + "\n")
    store.write(options.out / f"frontier-{name}.md", "\n".join(page(name, command, study, found)))


if __name__ == "__main__":
    main()
