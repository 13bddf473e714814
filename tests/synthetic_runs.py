"""Runs of a comparison that nobody trained: run files with numbers made up by formula."""

import json
import math
import random
from pathlib import Path
from typing import Any

from sharpless.report.runs import Run, read_runs
from sharpless.schedules import parse


def _method(
    label: str, value: float, spread: float, look: tuple[str, str, list[float]], schedule: str = "0", **more: Any
) -> dict[str, Any]:
    color, marker, dashes = look
    drawn = {"color": color, "marker": marker, "dashes": dashes}
    common = {"gamma": 1.0, "points": 30, "batch_fraction": 1.0}
    return common | {"label": label, "value": value, "spread": spread, "look": drawn, "schedule": schedule} | more


METHODS: dict[str, dict[str, Any]] = {
    "sgd": _method("SGD", 84.0, 1.6, ("#767676", "o", [])),
    "sgd-long": _method("SGD, cost 1.5", 85.0, 1.6, ("#997700", "s", [5, 1.5]), points=45),
    "sam": _method("SAM", 97.4, 0.2, ("#0077bb", "D", []), "1"),
    "rst": _method("RST, p = 0.5", 91.8, 1.2, ("#009988", "^", [5, 1.5]), "0.5"),
    "g-rst": _method("G-RST, p = 0.5, γ = 2", 97.4, 0.4, ("#cc3311", "v", [2, 2]), "0.5", gamma=2.0),
    "thrifty": _method(
        "thrifty, p=0.91, q=0.109, γ=1.09", 96.9, 0.5, ("#aa4499", "P", [3, 1, 1, 1]), "0.91", gamma=1.09,
        batch_fraction=7 / 64,
    ),
    "peer-sam": _method("peer SAM", 97.3, 0.3, ("#6677cc", "X", [1, 1]), "1"),
    "peer-looksam": _method("peer LookSAM, k = 10", 95.1, 0.9, ("#a0622d", "h", [8, 2]), "periodic:10"),
}  # fmt: skip
STEPS_PER_POINT = 20
PLAIN_POINTS = 30
RHO = (0.1, 0.3, 1.0)
OPTIONS = {"data": "digits", "noise": 0.3, "epochs": 30, "batch_size": 64, "lr": 0.05, "clip": 0.0, "augment": "none"}
ACCURACY = {"name": "accuracy", "unit": "%", "goal": "max"}
MSE = {"name": "MSE", "unit": "", "goal": "min"}


def make_record(
    method: str, seed: int, /, *, values: list[float | None] | None = None, chosen: bool = False, **changes: Any
) -> dict[str, Any]:
    """Return the record of one run.

    Args:
        method: one of METHODS.
        seed: of the run.
        values: the metric at each point of the curve, in place of those of METHODS.
        chosen: whether ρ was chosen, 0.3 among RHO.
        **changes: replace fields of the record; those of the curve have the names of its lists.
    """
    given = METHODS[method]
    goal = changes.get("metric", ACCURACY)["goal"]
    chance, share = parse(given["schedule"]).at, given["batch_fraction"]
    steps = given["points"] * STEPS_PER_POINT
    coin = random.Random(seed)  # the same for all methods, like the library's
    sharp_steps = [step for step in range(steps) if coin.random() < chance(step, steps)]
    generator = random.Random(f"{method} {seed}")
    final = given["value"] + given["spread"] * generator.uniform(-1, 1)
    progress = [(point + 1) / given["points"] for point in range(given["points"])]
    curve = [final - 60 * math.exp(-9 * u) * (1 - u) for u in progress] if values is None else values
    if goal == "min" and values is None:  # an error of 0.38, say
        curve = [(138 - value) / 107 for value in curve if value is not None]
    passes = changes.get("passes", steps + share * len(sharp_steps))
    seconds = changes.get("seconds", 0.005 * passes * generator.uniform(0.95, 1.1))
    part = [(point + 1) / len(curve) for point in range(len(curve))]
    loss = [2.3 - final / 65 + 1.3 * math.exp(-4 * u) + 0.02 * generator.random() for u in part]
    record = {
        "format": 2,
        "task": "digits",
        "options": OPTIONS,
        "metric": ACCURACY,
        "method": method,
        "label": given["label"],
        "rank": list(METHODS).index(method),
        "look": given["look"],
        "seed": seed,
        "hyperparameters": {} if method in {"sgd", "sgd-long"} else {"rho": 0.3},
        "choice": make_choice(given["value"], goal) if chosen and method not in {"sgd", "sgd-long"} else None,
        "steps": steps,
        "sharp_steps": sharp_steps,
        "schedule": given["schedule"],
        "gamma": given["gamma"],
        "batch_fraction": share,
        "passes": passes,
        "plain_passes": float(PLAIN_POINTS * STEPS_PER_POINT),
        "seconds": seconds,
        "data_seconds": 0.04 * seconds,
        "curve": {
            "step": [round(steps * u) for u in part],
            "passes": [passes * u for u in part],
            "seconds": [seconds * u for u in part],
            "loss": loss,
            changes.pop("split", "test"): curve,
        },
        "data": {"fingerprint": "6f1d0c1a94bd3c5e0e6a7f28b1c9d2f4", "training_examples": 1297, "test_examples": 500},
        "setup": {"devices": 1, "strategy": "one process", "precision": "float32"},
        "versions": {"sharpless": "0.1.0", "torch": "2.14.1", "python": "3.11.7"},
        "machine": {"system": "Linux", "processor": "x86_64", "cores": 2, "threads": 1},
    }
    for name in ("step", "loss", "validation", "test"):
        if name in changes:
            record["curve"][name] = changes.pop(name)
    for name in ("passes", "seconds"):
        if f"curve_{name}" in changes:
            record["curve"][name] = changes.pop(f"curve_{name}")
    return record | changes


def make_choice(value: float, goal: str = "max", rho: tuple[float, ...] = RHO) -> dict[str, Any]:
    """Return a choice among RHO with three seeds that the middle one wins."""
    center = value if goal == "max" else (138 - value) / 107
    step = -1.5 if goal == "max" else 0.02
    tried = [
        {"rho": radius, "values": [center + step * abs(place - 1) + 0.05 * step * seed for seed in range(3)]}
        for place, radius in enumerate(rho)
    ]
    return {"seeds": [1000000, 1000001, 1000002], "cost": 9.0, "tried": tried}


def write_records(folder: Path, records: list[dict[str, Any]]) -> Path:
    """Write one file a run into `folder`/runs, as `sharpless compare` does, and return `folder`."""
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    for record in records:
        path = folder / "runs" / f"{record['method']}-seed{record['seed']}.json"
        path.write_text(json.dumps(record), encoding="utf-8")
    return folder


def make_folder(folder: Path, methods: tuple[str, ...] = tuple(METHODS), seeds: int = 5, **changes: Any) -> Path:
    """Write a whole comparison into `folder` and return it."""
    records = [make_record(method, seed, **changes) for method in methods for seed in range(seeds)]
    return write_records(folder, records)


def runs_with(folder: Path, /, metric: dict[str, str] = ACCURACY, **results: list[float]) -> list[Run]:
    """Return runs with these results for the seeds 0, 1, …; an underscore stands for the hyphen of a method."""
    records = [
        make_record(name.replace("_", "-"), seed, values=[50.0, value], metric=metric)
        for name, found in results.items()
        for seed, value in enumerate(found)
    ]
    return read_runs(write_records(folder, records))


def entry(summary: dict[str, Any], method: str) -> dict[str, Any]:
    """Return what a summary says of a method."""
    return next(found for found in summary["methods"] if found["method"] == method)
