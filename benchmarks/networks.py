"""The networks for measurements of time, each with a batch and a loss."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

sys.path.append(str(Path(__file__).parents[1] / "examples"))

from forecasting import Forecaster


@dataclass(frozen=True)
class Task:
    """A network, one batch of inputs (N, …) and labels (N,), and the number of steps of one measurement."""

    model: nn.Module
    x: Tensor
    y: Tensor
    steps: int
    criterion: Callable[[Tensor, Tensor], Tensor] = cross_entropy

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return self.criterion(self.model(x), y)


class Residual(nn.Module):
    """Two 3×3 convolutions with BatchNorm around a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        same = inputs == outputs and stride == 1
        self.shortcut: nn.Module = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def tiny(device: str) -> Task:
    """60 tensors of 8 to 64 numbers: the time is overhead only."""
    layers = [nn.Linear(8, 8) for _ in range(30)]
    return Task(nn.Sequential(*layers).to(device), torch.randn(16, 8, device=device), _labels(16, 8, device), 40)


def tables(device: str) -> Task:
    """The tiny network with 32 MiB of constant buffers, such as masks and rotary tables."""
    task = tiny(device)
    for number in range(8):
        task.model.register_buffer(f"mask{number}", torch.ones(1024, 1024, device=device))
    return task


def resnet18(device: str) -> Task:
    """ResNet-18 with a 3×3 stem, for 32×32 images (11.2 million parameters)."""
    blocks: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    for inputs, outputs, stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)):
        blocks += [Residual(inputs, outputs, stride), Residual(outputs, outputs, 1)]
    model = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)).to(device)
    batch = 128 if device == "cuda" else 64
    steps = 10 if device == "cuda" else 1
    return Task(model, torch.randn(batch, 3, 32, 32, device=device), _labels(batch, 10, device), steps)


def transformer(device: str) -> Task:
    """Four encoder layers of width 256 on sequences of 64 (3.2 million parameters)."""
    layer = nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.1, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
    model = nn.Sequential(encoder, nn.Flatten(), nn.Linear(64 * 256, 10)).to(device)
    batch = 64 if device == "cuda" else 32
    steps = 10 if device == "cuda" else 1
    return Task(model, torch.randn(batch, 64, 256, device=device), _labels(batch, 10, device), steps)


def digits(device: str) -> Task:
    """The network of the default comparison, on batches of 64 digits of 8×8."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    body = [*block(1, 16), *block(16, 32), nn.MaxPool2d(2), *block(32, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = nn.Sequential(*body, nn.Linear(32, 10)).to(device, memory_format=torch.channels_last)
    return Task(model, torch.randn(64, 1, 8, 8, device=device), _labels(64, 10, device), 20)


def forecaster(device: str) -> Task:
    """The network of `examples/forecasting.py` for ETTh1 and a horizon of 96, on batches of 256 windows."""
    model = Forecaster(variables=7, past=512, horizon=96).to(device)
    x, y = torch.randn(256, 7, 512, device=device), torch.randn(256, 7, 96, device=device)
    return Task(model, x, y, 2, mse_loss)


def resnet18_with(batch: int) -> Callable[[str], Task]:
    """Return a function that makes ResNet-18 with batches of this size."""

    def make(device: str) -> Task:
        task = resnet18(device)
        return replace(task, x=torch.randn(batch, 3, 32, 32, device=device), y=_labels(batch, 10, device))

    return make


TASKS: dict[str, Callable[[str], Task]] = {
    "tiny": tiny,
    "tables": tables,
    "resnet18": resnet18,
    "transformer": transformer,
}

BY_THE_CLOCK: dict[str, Callable[[str], Task]] = {
    "digits, 64": digits,
    "forecaster, 256": forecaster,
    "transformer, 32": transformer,
    **{f"resnet18, {batch}": resnet18_with(batch) for batch in (16, 64, 128)},
    "tiny, 16": tiny,
}


def _labels(count: int, classes: int, device: str) -> Tensor:
    return torch.randint(classes, (count,), device=device)
