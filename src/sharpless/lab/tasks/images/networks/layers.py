"""Common parts of the networks for CIFAR: a convolution before BatchNorm, and the classifier."""

from torch import nn

__all__ = ["classifier", "convolution"]


def convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    """Return a padded convolution with He initialization, without a bias, which BatchNorm would remove.

    Its weights are normal with variance 2 / (size² · outputs), which keeps the norm of the gradient (arXiv 1502.01852).

    >>> convolution(3, 16, 3, stride=2)
    Conv2d(3, 16, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), bias=False)
    """
    layer = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def classifier(inputs: int, classes: int) -> nn.Sequential:
    """Return global average pooling and one linear layer, (N, inputs, H, W) → (N, classes)."""
    linear = nn.Linear(inputs, classes)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
