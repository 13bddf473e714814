"""Few time series: a small convolutional network, trained with AdamW on some dozens of labelled series.

    pip install aeon
    sharpless compare examples/few_series.py:train --name ArrowHead --rho 0.05 0.1 0.3 1.0

The data sets have their names in the UCR and UEA archives. aeon contains a few of them, such as ArrowHead, GunPoint,
ItalyPowerDemand, BasicMotions, JapaneseVowels, ACSF1 and OSULeaf, and downloads the others.
"""

import warnings

import numpy as np
import torch
from aeon.datasets import load_classification
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sharpless.lab import task


@task(metric="accuracy", unit="%", goal="max")
def train(trial, name: str = "ArrowHead", width: int = 64, epochs: int = 100, batch_size: int = 16) -> None:
    """Train on the training set. The choice of hyperparameters validates on a third of it.

    Args:
        trial: one run of a comparison.
        name: the data set.
        width: channels of the network.
        epochs: epochs of plain training.
        batch_size: series in a batch.
    """
    x, y, test_x, test_y = series(name)
    if trial.choosing:
        x, test_x, y, test_y = train_test_split(x, y, test_size=1 / 3, stratify=y, random_state=trial.seed)
    mean, std = x.mean((0, 2), keepdim=True), x.std((0, 2), keepdim=True)
    x, test_x = (x - mean) / std, (test_x - mean) / std

    torch.manual_seed(trial.seed)
    model = nn.Sequential(
        *block(x.shape[1], width, 7), *block(width, width, 5), *block(width, width, 3),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, int(y.max()) + 1),
    )  # fmt: skip
    base = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    epochs, steps = trial.epochs(epochs), len(y) // batch_size
    opt = trial.optimizer(base, model=model, total_steps=epochs * steps, batch_size=batch_size, rho=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(base, epochs * steps)
    for epoch in range(1, epochs + 1):
        for rows in torch.randperm(len(y))[: steps * batch_size].split(batch_size):
            for part_x, part_y in opt.passes((x[rows], y[rows])):
                cross_entropy(model(part_x), part_y).backward()
            opt.step()
            opt.zero_grad()
            scheduler.step()
        if epoch % 10 == 0 or epoch == epochs:
            with trial.evaluating(model):
                guessed = torch.cat([model(part).argmax(1) for part in test_x.split(64)])
                trial.report(**{"validation" if trial.choosing else "test": 100 * (guessed == test_y).float().mean()})


def block(inputs: int, outputs: int, taps: int) -> list[nn.Module]:
    """Return a convolution with BatchNorm."""
    return [nn.Conv1d(inputs, outputs, taps, padding=taps // 2, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]


def series(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return series (N, channels, length), padded with zeros, and labels (N,), for training and for testing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # a warning of aeon about the future location of its data
        sets = [load_classification(name, split=split) for split in ("train", "test")]
    longest = max(one.shape[1] for x, _ in sets for one in x)
    names = np.unique(sets[0][1])
    tensors = []
    for x, y in sets:
        padded = [np.pad(one, ((0, 0), (0, longest - one.shape[1]))) for one in x]
        tensors += [torch.tensor(np.stack(padded), dtype=torch.float32), torch.tensor(np.searchsorted(names, y))]
    return tuple(tensors)
