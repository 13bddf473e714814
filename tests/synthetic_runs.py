"""Runs of a comparison that nobody trained: run files with numbers made up by formula."""

import json
import math
import random
from pathlib import Path
from typing import Any

from sharpless.report.runs import Run, read_runs
from sharpless.schedules import parse

METHODS: dict[str, dict[str, Any]] = {
    "sgd": {"label": "SGD", "schedule": "0", "gamma": 1.0, "epochs": 30, "accuracy": 84.0, "spread": 1.6},
    "sgd-long": {
        "label": "SGD, 45 epochs",
        "schedule": "0",
        "gamma": 1.0,
        "epochs": 45,
        "accuracy": 85.0,
        "spread": 1.6,
    },
    "sam": {"label": "SAM", "schedule": "1", "gamma": 1.0, "epochs": 30, "accuracy": 97.4, "spread": 0.2},
    "rst": {
        "label": "RST, p = 0.5",
        "schedule": "0.5",
        "gamma": 1.0,
        "epochs": 30,
        "accuracy": 91.8,
        "spread": 1.2,
    },
    "g-rst": {
        "label": "G-RST, p = 0.5, γ = 2",
        "schedule": "0.5",
        "gamma": 2.0,
        "epochs": 30,
        "accuracy": 97.4,
        "spread": 0.4,
    },
    "thrifty": {
        "label": "thrifty, p=0.91, q=0.109, γ=1.09",
        "schedule": "0.91",
        "batch_fraction": 7 / 64,
        "gamma": 1.09,
        "epochs": 30,
        "accuracy": 96.9,
        "spread": 0.5,
    },
    "peer-sam": {"label": "peer SAM", "schedule": "1", "gamma": 1.0, "epochs": 30, "accuracy": 97.3, "spread": 0.3},
    "peer-looksam": {
        "label": "peer LookSAM, k = 10",
        "schedule": "periodic:10",
        "gamma": 1.0,
        "epochs": 30,
        "accuracy": 95.1,
        "spread": 0.9,
    },
}
STEPS_PER_EPOCH = 20
RECIPE = {
    "data": "digits", "noise": 0.3, "epochs": 30, "batch_size": 64, "lr": 0.05, "momentum": 0.9,
    "weight_decay": 0.0005, "rho": 0.3, "p": "0.5", "degree": 1.0, "gamma": None,
}  # fmt: skip


def make_record(method: str, seed: int, /, **changes: Any) -> dict[str, Any]:
    """Return the record of one run; `changes` replace fields of it."""
    told = METHODS[method]
    chance = parse(told["schedule"]).at
    share = told.get("batch_fraction", 1.0)
    steps = told["epochs"] * STEPS_PER_EPOCH
    coin = random.Random(seed)  # the same for all methods, like the library's
    sharp_steps = [step for step in range(steps) if coin.random() < chance(step, steps)]
    passes = steps + share * len(sharp_steps)
    generator = random.Random(f"{method} {seed}")
    final = told["accuracy"] + told["spread"] * generator.uniform(-1, 1)
    progress = [(epoch + 1) / told["epochs"] for epoch in range(told["epochs"])]
    record = {
        "method": method,
        "seed": seed,
        "label": told["label"],
        "recipe": RECIPE,
        "epochs": told["epochs"],
        "steps": steps,
        "schedule": told["schedule"],
        "gamma": told["gamma"],
        "sharp_steps": sharp_steps,
        "batch_fraction": share,
        "passes": passes,
        "plain_passes": float(RECIPE["epochs"] * STEPS_PER_EPOCH),
        "train_loss": [2.3 - final / 65 + 1.3 * math.exp(-4 * u) + 0.02 * generator.random() for u in progress],
        "test_accuracy": [final - 60 * math.exp(-9 * u) * (1 - u) for u in progress],
        "seconds": 0.005 * passes * generator.uniform(0.95, 1.1),
        "split": "test",
        "data": {"fingerprint": "6f1d0c1a94bd3c5e0e6a7f28b1c9d2f4", "training_examples": 1297, "test_examples": 500},
        "setup": {"devices": 1, "strategy": "one process", "precision": "float32"},
        "versions": {"sharpless": "0.1.0", "torch": "2.14.1", "python": "3.11.7"},
        "machine": {"system": "Linux", "processor": "x86_64", "cores": 2, "threads": 1},
    } | changes
    epochs = len(record["test_accuracy"])
    return {
        "epoch_passes": [record["passes"] * (epoch + 1) / epochs for epoch in range(epochs)],
        "epoch_seconds": [record["seconds"] * (epoch + 1) / epochs for epoch in range(epochs)],
        "data_seconds": 0.04 * record["seconds"],
    } | record


def write_records(folder: Path, records: list[dict[str, Any]]) -> Path:
    """Write one file a run into `folder`/runs, as `sharpless compare` does, and return `folder`."""
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    for record in records:
        path = folder / "runs" / f"{record['method']}-seed{record['seed']}.json"
        path.write_text(json.dumps(record), encoding="utf-8")
    return folder


def make_folder(folder: Path, methods: tuple[str, ...] = tuple(METHODS), seeds: int = 5) -> Path:
    """Write a whole comparison into `folder` and return it."""
    return write_records(folder, [make_record(method, seed) for method in methods for seed in range(seeds)])


def runs_with(folder: Path, **accuracies: list[float]) -> list[Run]:
    """Return runs with these results for the seeds 0, 1, …; an underscore stands for the hyphen of a method."""
    records = [
        make_record(name.replace("_", "-"), seed, test_accuracy=[50.0, accuracy])
        for name, results in accuracies.items()
        for seed, accuracy in enumerate(results)
    ]
    return read_runs(write_records(folder, records))


def entry(summary: dict[str, Any], method: str) -> dict[str, Any]:
    """Return what a summary says of a method."""
    return next(found for found in summary["methods"] if found["method"] == method)
