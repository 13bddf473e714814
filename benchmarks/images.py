"""CIFAR-10 of two Parquet files: at 16 by 16 pixels for `frontier.py` and `schedules.py`, and for `finetune.py`."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, load_dataset
from torch import Tensor
from torch.nn.functional import avg_pool2d

from sharpless.lab import Trial, task
from sharpless.lab.tasks.images import training
from sharpless.lab.tasks.images.data import Data
from sharpless.lab.tasks.images.examples import Resident
from sharpless.lab.tasks.images.recipe import Recipe

EXAMPLES, TEST = 4000, 4000


@cache
def files(folder: Path) -> dict[str, Dataset]:
    found = {name: [str(path) for path in sorted(folder.glob(f"{name}-*.parquet"))] for name in ("train", "test")}
    if not all(found.values()):
        raise SystemExit(
            f"{folder} holds no train-*.parquet and test-*.parquet: give the folder of CIFAR-10 with --data-dir"
        )
    return dict(load_dataset("parquet", data_files=found))


def read(examples: Dataset, indices: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return images (N, 3, 32, 32), uint8, and labels (N,)."""
    chosen = examples.select(indices)
    image, label = sorted(chosen.column_names, key=lambda name: "label" in name)[:2]
    pixels = np.stack([np.asarray(picture.convert("RGB")) for picture in chosen[image]])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.tensor(chosen[label])


def averaged(x: Tensor) -> Tensor:
    return avg_pool2d(x.float(), 2).round().to(torch.uint8)


@cache
def tested(folder: Path) -> tuple[Tensor, Tensor]:
    x, y = read(files(folder)["test"], np.arange(TEST))
    return averaged(x), y


def resident(x: Tensor, y: Tensor) -> Resident:
    return Resident(x, y, mean=torch.full((3, 1, 1), 0.47 * 255), std=torch.full((3, 1, 1), 0.25 * 255), host=x)


def images(folder: Path, noise: float, seed: int, validation: float) -> Data:
    """Return EXAMPLES images, with some random labels, and TEST test images, or held-out images in their place."""
    generator = np.random.default_rng(seed)
    there = files(folder)
    x, y = read(there["train"], generator.choice(len(there["train"]), EXAMPLES, replace=False))
    replaced = round(noise * EXAMPLES)
    y[:replaced] = torch.from_numpy(generator.integers(0, 10, replaced))
    order = torch.from_numpy(generator.permutation(EXAMPLES))
    x, y = averaged(x)[order], y[order]
    held = round(validation * EXAMPLES)
    test = resident(x[:held], y[:held]) if held else resident(*tested(folder))
    split = "validation" if held else "test"
    return Data(resident(x[held:], y[held:]), test, classes=10, channels=3, fingerprint="", split=split)


@task(metric="accuracy", unit="%", goal="max")
def train(trial: Trial, data: str, noise: float = 0.4, epochs: int = 20) -> None:
    """Train on CIFAR-10 at 16 by 16 pixels.

    Args:
        trial: one run of a comparison.
        data: the folder of the Parquet files.
        noise: share of the training labels that are replaced at random.
        epochs: epochs of plain training.
    """
    recipe = Recipe(noise=noise, network="convnet-strided", width=24, epochs=epochs, lr_warmup=0.05)
    training.train(trial, recipe, data=images(Path(data), noise, trial.seed, 0.2 if trial.choosing else 0.0))
