"""The networks."""

from torch import nn

__all__ = ["small_convnet"]


def small_convnet(width: int, classes: int) -> nn.Sequential:
    """Return a network of three convolutions with BatchNorm for small grey images, (N, 1, H, W) → (N, classes).

    >>> sum(p.numel() for p in small_convnet(16, 10).parameters())
    14458
    """

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        *block(1, width),
        *block(width, 2 * width),
        nn.MaxPool2d(2),
        *block(2 * width, 2 * width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, classes),
    )
