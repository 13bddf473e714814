"""The tasks of the study of schedules, with options for learning rate, labels and network: digits and forecasts."""

import math
import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from timm.models import VisionTransformer
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim.lr_scheduler import LambdaLR
from torchvision.ops import MLP

from sharpless.lab import task
from sharpless.lab.tasks.digits import network as convnet

sys.path.append(str(Path(__file__).parents[1] / "examples"))

from forecasting import MONTH, Forecaster, error, windows


def annealing(base: torch.optim.Optimizer, steps: int, anneal: float, warmup: float = 0.0) -> LambdaLR:
    """Return a scheduler with a linear warm-up and a cosine decay at the end of the run.

    >>> base = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    >>> scheduler = annealing(base, 8, anneal=0.5)
    >>> [round(scheduler.lr_lambdas[0](step), 2) for step in (0, 4, 6)]
    [1.0, 1.0, 0.5]

    Args:
        base: the base optimizer.
        steps: the number of steps.
        anneal: the last share of the steps, with cosine decay to 0; 0 for none.
        warmup: the first share of the steps, with a linear rise from 0.
    """

    def factor(step: int) -> float:
        falling = max(0.0, (step / steps - 1 + anneal) / anneal) if anneal else 0.0
        rising = min(1.0, (step + 1) / (warmup * steps)) if warmup else 1.0
        return rising * (1 + math.cos(math.pi * falling)) / 2

    return LambdaLR(base, factor)


def mlp() -> nn.Module:
    """Return two hidden layers without normalization."""
    return nn.Sequential(nn.Flatten(), MLP(64, [128, 128, 10]))


def vit() -> nn.Module:
    """Return a vision transformer of three blocks, which sees the digits as 16 patches."""
    return VisionTransformer(
        img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=32, depth=3, num_heads=4, mlp_ratio=2
    )


NETWORKS = {"convnet": convnet, "mlp": mlp, "vit": vit}


@task(metric="accuracy", unit="%", goal="max")
def digits(
    trial,
    noise: float = 0.3,
    examples: int = 1037,
    epochs: int = 20,
    lr: float = 0.05,
    network: str = "convnet",
    anneal: float = 1.0,
    warmup: float = 0.0,
) -> None:
    """Train the network of the lab's digits. Hyperparameters are chosen on 260 other examples with noisy labels.

    Args:
        trial: one run of a comparison.
        noise: share of the training labels that are replaced at random.
        examples: number of training examples, up to 1037.
        epochs: epochs of plain training.
        lr: the learning rate of SGD with momentum, or of AdamW for `vit`.
        network: `convnet`, the lab's, with BatchNorm, `mlp`, two hidden layers without normalization, or `vit`.
        anneal: the last share of the run, with decay of the learning rate.
        warmup: the first share of the run, with a linear rise of the learning rate.
    """
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels)
    seen, unseen = train_test_split(range(len(y)), test_size=500, stratify=y, random_state=0)
    test_x, test_y, x, y = x[unseen], y[unseen], x[seen], y[seen]
    generator = torch.Generator().manual_seed(trial.seed)
    replaced = torch.rand(len(y), generator=generator) < noise
    y = torch.where(replaced, torch.randint(10, y.shape, generator=generator), y)
    order = torch.randperm(len(y), generator=generator)
    if trial.choosing:
        test_x, test_y = x[order[-260:]], y[order[-260:]]
    x, y = x[order[:examples]], y[order[:examples]]

    torch.manual_seed(trial.seed)
    model = NETWORKS[network]()
    base: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    if network == "vit":
        base = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    epochs, per_epoch = trial.epochs(epochs), len(y) // 64
    opt = trial.optimizer(base, model=model, total_steps=epochs * per_epoch, batch_size=64, rho=0.3)
    scheduler = annealing(base, epochs * per_epoch, anneal, warmup)
    for epoch in range(1, epochs + 1):
        for rows in torch.randperm(len(y), generator=generator)[: per_epoch * 64].split(64):
            for part_x, part_y in opt.passes((x[rows], y[rows])):
                cross_entropy(model(part_x), part_y).backward()
            opt.step()
            opt.zero_grad()
            scheduler.step()
        if epoch % 5 == 0 or epoch == epochs:
            with trial.evaluating(model):
                accuracy = 100 * (model(test_x).argmax(1) == test_y).float().mean()
                trial.report(**{"validation" if trial.choosing else "test": accuracy})


@task(metric="MSE", goal="min")
def forecast(trial, data: str, months: int = 4, epochs: int = 12, lr: float = 1e-3, anneal: float = 1.0) -> None:
    """Train the network of examples/forecasting.py to predict 96 hours from 256, and report once, at the end.

    Args:
        trial: one run of a comparison.
        data: the path of the CSV file.
        months: number of training months, directly before the validation data.
        epochs: epochs of plain training.
        lr: the learning rate of Adam.
        anneal: the last share of the run, with decay of the learning rate.
    """
    past = 256
    seen, validation, test = windows(data, past, 96)
    seen = seen[-months * MONTH :]
    torch.manual_seed(trial.seed)
    model = Forecaster(seen.shape[1], past, 96)
    base = torch.optim.Adam(model.parameters(), lr=lr)
    epochs, per_epoch = trial.epochs(epochs), len(seen) // 64
    opt = trial.optimizer(base, model=model, total_steps=epochs * per_epoch, batch_size=64, rho=0.5)
    scheduler = annealing(base, epochs * per_epoch, anneal)
    for _ in range(epochs):
        for rows in torch.randperm(len(seen))[: per_epoch * 64].split(64):
            for x, y in opt.passes(seen[rows].split((past, 96), 2)):
                mse_loss(model(x), y).backward()
            opt.step()
            opt.zero_grad()
            scheduler.step()
    kind, held_out = ("validation", validation) if trial.choosing else ("test", test)
    with trial.evaluating(model):
        trial.report(**{kind: error(model, held_out, past)})
