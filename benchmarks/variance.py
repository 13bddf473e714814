"""The noise of the correction g⁺ − g and the gradient norm for a part of the batch: the basis of `plan` and ρ√q.

    python benchmarks/variance.py [--draws 150] [--out benchmarks/results]

At several points of a training on the digits, parts of m examples are drawn repeatedly. Each perturbs the weights by
ρ√(m/64), as in the optimizer.
"""

import argparse
import json
import math
import os
import platform
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sharpless import RST
from sharpless.lab import store
from sharpless.lab.tasks.images.data import load
from sharpless.lab.tasks.images.networks import build
from sharpless.lab.tasks.images.recipe import Recipe
from sharpless.lab.tasks.images.step import base_optimizer

BATCH, SIZES, EPOCHS = 64, (64, 32, 16, 8, 4), (2, 10, 20, 28)
RECIPES = {
    "convnet (BatchNorm), SGD": (Recipe(rho=0.4), 0.0),
    "convnet (BatchNorm), SAM": (Recipe(rho=0.4), 1.0),
    "convnet (GroupNorm), SAM": (Recipe(network="convnet-groupnorm", lr=0.1, rho=0.1), 1.0),
}


def moments(model: nn.Module, images: Tensor, labels: Tensor, rho: float, size: int, draws: int) -> dict[str, float]:
    """Return the mean norm of g, the squared norm of the mean of D = g⁺ − g, and the mean squared norm of D."""
    generator = torch.Generator().manual_seed(size)
    parameters = list(model.parameters())
    lengths, corrections = [], []
    for _ in range(draws):
        part = torch.randperm(len(images), generator=generator)[:size]
        x, y = images[part], labels[part]
        clean = torch.autograd.grad(cross_entropy(model(x), y), parameters)
        length = torch.stack([g.norm() for g in clean]).norm()
        step = float(rho * math.sqrt(size / BATCH) / length)
        before = [w.detach().clone() for w in parameters]
        with torch.no_grad():
            for w, g in zip(parameters, clean, strict=True):
                w.add_(g, alpha=step)
        sharp = torch.autograd.grad(cross_entropy(model(x), y), parameters)
        with torch.no_grad():
            for w, b in zip(parameters, before, strict=True):
                w.copy_(b)
        lengths.append(float(length))
        corrections.append(torch.cat([(h - g).flatten() for h, g in zip(sharp, clean, strict=True)]))
    drawn = torch.stack(corrections)
    total, squares = drawn.sum(0), float((drawn**2).sum())
    # Products of a draw with itself are left out, which makes the squared norm of the mean unbiased.
    mean = (float(total @ total) - squares) / (draws * (draws - 1))
    return {"length": sum(lengths) / draws, "mean": mean, "second": squares / draws}


def measure(recipe: Recipe, p: float, draws: int) -> list[dict[str, float]]:
    """Return the moments at EPOCHS of one training."""
    data = load("digits", noise=recipe.noise).train
    images, labels = next(data.batches([torch.arange(len(data))]))
    torch.manual_seed(0)
    model = build(recipe.network, classes=10, channels=1, width=recipe.width)
    steps = len(images) // BATCH
    opt = RST(base_optimizer(recipe, model), p, recipe.rho, model=model)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, recipe.epochs * steps)
    order = torch.Generator().manual_seed(0)
    rows = []
    for epoch in range(1, recipe.epochs + 1):
        shuffled = torch.randperm(len(images), generator=order)
        for where in shuffled[: steps * BATCH].view(-1, BATCH):
            for x, y in opt.passes((images[where], labels[where])):
                cross_entropy(model(x), y).backward()
            opt.step()
            opt.zero_grad()
            scheduler.step()
        if epoch in EPOCHS:
            buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
            for size in SIZES:
                rows.append({"epoch": epoch, "m": size, **moments(model, images, labels, recipe.rho, size, draws)})
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
    return rows


def table(rows: list[dict[str, float]]) -> list[str]:
    """Return, for each epoch, the moments of each m relative to those of the whole batch."""
    lines = [
        "| epoch | m | ‖g‖ ÷ whole batch's | × √(m/64) | ‖E D‖ ÷ whole batch's | r(m) | at a cost of 1 + 1/16 |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        whole = next(other for other in rows if other["epoch"] == row["epoch"] and other["m"] == BATCH)
        longer = row["length"] / whole["length"]
        signal = math.sqrt(max(row["mean"], 0.0) / whole["mean"]) if whole["mean"] > 0 else math.nan
        noise = row["second"] / row["mean"] if row["mean"] > 0 else math.nan
        p = min(1.0, BATCH / 16 / row["m"])
        lines.append(
            f"| {row['epoch']} | {row['m']} | {longer:.2f} | {longer * math.sqrt(row['m'] / BATCH):.2f} | {signal:.2f} "
            f"| {noise:.1f} | {noise / p:.0f} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=150)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    results = {
        "command": f"python benchmarks/variance.py --draws {options.draws}",
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "rows": {name: measure(recipe, p, options.draws) for name, (recipe, p) in RECIPES.items()},
    }
    store.write(options.out / "variance.json", json.dumps(results, ensure_ascii=False, indent=1) + "\n")
    page = [
        "# The noise of the correction",
        "",
        f"`{results['command']}`, torch {torch.__version__}. Parts of m of 64 examples, climbed with by ρ√(m/64); D = "
        "g⁺ − g, and r(m) = E‖D‖² ÷ ‖E D‖². The last column is what a budget of 1 + 1/16 buys: the second moment of "
        "the correction D/p, relative to the square of its mean, r(m)/p with p = 4/m.",
        "",
    ]
    for name, rows in results["rows"].items():
        page += [f"## {name}", "", *table(rows), ""]
    store.write(options.out / "variance.md", "\n".join(page))
    print("\n".join(page))


if __name__ == "__main__":
    main()
