"""Handwritten digits with label noise: a task of minutes in which SAM beats SGD."""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy

from sharpless.lab.trials.definition import task
from sharpless.lab.trials.trial import Trial

__all__ = ["train"]


@task(metric="accuracy", unit="%", goal="max")
def train(trial: Trial, noise: float = 0.3, epochs: int = 30, batch_size: int = 64) -> None:
    """Train a small convolutional network on the digits of scikit-learn, and test it on 500 clean ones.

    Args:
        trial: one run of a comparison.
        noise: share of the training labels that are replaced at random.
        epochs: epochs of plain training.
        batch_size: examples in a batch.
    """
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels)
    seen, unseen = train_test_split(range(len(y)), test_size=500, stratify=y, random_state=0)
    test_x, test_y, x, y = x[unseen], y[unseen], x[seen], y[seen]

    generator = torch.Generator().manual_seed(trial.seed)
    replaced = torch.rand(len(y), generator=generator) < noise
    y = torch.where(replaced, torch.randint(10, y.shape, generator=generator), y)
    if trial.choosing:  # validate on a fifth of the training images, with noisy labels; the test images are not used
        order = torch.randperm(len(y), generator=generator)
        (test_x, test_y), (x, y) = ((x[rows], y[rows]) for rows in (order[: len(y) // 5], order[len(y) // 5 :]))

    torch.manual_seed(trial.seed)
    model = network()
    base = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    epochs, per_epoch = trial.epochs(epochs), len(y) // batch_size
    opt = trial.optimizer(base, model=model, total_steps=epochs * per_epoch, batch_size=batch_size, rho=0.3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(base, epochs * per_epoch)
    for epoch in range(1, epochs + 1):
        total = torch.zeros(())
        for rows in torch.randperm(len(y), generator=generator)[: per_epoch * batch_size].split(batch_size):
            for part_x, part_y in opt.passes((x[rows], y[rows])):
                loss = cross_entropy(model(part_x), part_y)
                loss.backward()
                if not opt.perturbed:
                    total += loss.detach() * len(part_y) / batch_size
            opt.step()
            opt.zero_grad()
            scheduler.step()
        if epoch % 5 == 0 or epoch == epochs:
            with trial.evaluating(model):
                accuracy = 100 * (model(test_x).argmax(1) == test_y).float().mean()
                trial.report(**{"validation" if trial.choosing else "test": accuracy}, loss=total / per_epoch)
    trial.flatness(model, cross_entropy, list(zip(x.split(100), y.split(100), strict=True)))


def network() -> nn.Module:
    """Return three convolutions with BatchNorm and a linear layer."""
    layers = [*block(1, 16), *block(16, 32), nn.MaxPool2d(2), *block(32, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(32, 10)).to(memory_format=torch.channels_last)


def block(inputs: int, outputs: int) -> list[nn.Module]:
    """Return a convolution with BatchNorm."""
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
