"""One run: train a recipe with one method and one seed, and return the record of it."""

import math
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sharpless.lab.data import Data, digits
from sharpless.lab.models import NETWORKS
from sharpless.lab.peers import PEERS, Peer
from sharpless.lab.recipes import Recipe
from sharpless.optimizer import RST

__all__ = ["train"]


def train(recipe: Recipe, method: str, seed: int, data: Data | None = None) -> dict[str, Any]:
    """Return the record of a run: configuration, curves, passes, seconds, versions and machine.

    The seed decides the label noise, the initial weights, the order of the batches and the coins, and all
    of them are the same for every method: runs are paired by seed. Without `data`, the task's are taken.
    """
    data = data or digits(recipe.noise, seed, recipe.validation)
    steps_per_epoch = len(data.train_x) // recipe.batch_size
    epochs = recipe.epochs_of(method)
    steps = epochs * steps_per_epoch

    torch.manual_seed(seed)
    model = NETWORKS[recipe.network](recipe.width, data.classes, data.train_x.shape[1])
    base = recipe.base(model)
    opt = recipe.wrap(method, base, model, steps, seed)
    scheduler = torch.optim.lr_scheduler.LambdaLR(base, partial(_rate, steps=steps, warmup=recipe.lr_warmup))

    order = torch.Generator().manual_seed(seed)
    train_loss, test_accuracy, sharp_steps, seconds = [], [], [], 0.0
    for epoch in range(epochs):
        start = perf_counter()
        losses = []
        for i, batch in enumerate(_batches(data, recipe.batch_size, order)):
            before = opt.cost.sharp_steps
            losses.append(_step(model, opt, batch, recipe.clip))
            scheduler.step()
            if opt.cost.sharp_steps > before:
                sharp_steps.append(epoch * steps_per_epoch + i)
        train_loss.append(float(torch.stack(losses).mean()))
        seconds += perf_counter() - start
        test_accuracy.append(_accuracy(model, data.test_x, data.test_y))

    return {
        "method": method,
        "label": recipe.describe(method),
        "seed": seed,
        "recipe": asdict(recipe),
        "epochs": epochs,
        "steps": opt.cost.steps,
        "schedule": str(opt.schedule),
        "gamma": opt.gamma,
        "batch_fraction": opt.batch_fraction,
        "sharp_steps": sharp_steps,
        "passes": opt.cost.passes,
        "plain_passes": float(recipe.epochs * steps_per_epoch),
        "train_loss": train_loss,
        "test_accuracy": test_accuracy,
        "seconds": seconds,
        "versions": {
            "sharpless": version("sharpless"),
            "torch": torch.__version__,
            "python": platform.python_version(),
            **({"pytorch_optimizer": version("pytorch_optimizer")} if method in PEERS else {}),
        },
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": os.cpu_count(),
        },
        "threads": torch.get_num_threads(),
    }


def _batches(data: Data, size: int, order: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one epoch of shuffled batches, without the incomplete last one."""
    shuffled = torch.randperm(len(data.train_x), generator=order)
    for indices in shuffled[: len(shuffled) // size * size].view(-1, size):
        yield data.train_x[indices], data.train_y[indices]


def _rate(step: int, steps: int, warmup: float) -> float:
    """Return the learning rate in units of the recipe's: a straight rise from 0, then a cosine to 0."""
    rise = warmup * steps
    if step < rise:
        return (step + 1) / math.ceil(rise)
    return (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2


def _step(model: nn.Module, opt: RST | Peer, batch: tuple[Tensor, Tensor], clip: float) -> Tensor:
    """Return the mean clean loss of one step."""
    clean = torch.zeros(())
    for x, y in opt.passes(batch):
        loss = cross_entropy(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        if not opt.perturbed:
            clean += loss.detach() * len(y)
    if clip:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    opt.step()
    opt.zero_grad()
    return clean / len(batch[1])


@torch.no_grad()
def _accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the share of right answers in percent."""
    model.eval()
    right = int((model(x).argmax(1) == y).sum())
    model.train()
    return 100.0 * right / len(y)


def _processor() -> str:
    """Return the model of the processor, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        if cpuinfo.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()
