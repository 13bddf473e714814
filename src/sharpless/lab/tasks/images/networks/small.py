"""Small networks for small images: they train in minutes on a laptop."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

__all__ = ["SMALL", "SmallViT", "small_convnet", "strided_convnet"]


def small_convnet(width: int, classes: int, channels: int = 1, norm: type[nn.Module] = nn.BatchNorm2d) -> nn.Sequential:
    """Return a network of three convolutions, (N, channels, H, W) → (N, classes).

    >>> sum(p.numel() for p in small_convnet(16, 10).parameters())
    14458
    """

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        normalization = nn.GroupNorm(1, outputs) if norm is nn.GroupNorm else norm(outputs)
        return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), normalization, nn.ReLU()]

    return nn.Sequential(
        *block(channels, width),
        *block(width, 2 * width),
        nn.MaxPool2d(2),
        *block(2 * width, 2 * width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, classes),
    )


def strided_convnet(width: int, classes: int, channels: int = 3) -> nn.Sequential:
    """Return a network of four convolutions with BatchNorm, two with strides, (N, channels, H, W) → (N, classes).

    >>> sum(p.numel() for p in strided_convnet(32, 10).parameters())
    242474
    """
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((channels, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    layers += [nn.Conv2d(4 * width, 4 * width, 3, 1, 1, bias=False), nn.BatchNorm2d(4 * width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes))


class SmallViT(nn.Module):
    """A vision transformer of three layers with patches of 2 by 2, (N, channels, 8, 8) → (N, classes).

    >>> SmallViT(16, 10)(torch.zeros(3, 1, 8, 8)).shape
    torch.Size([3, 10])
    """

    def __init__(self, width: int, classes: int, channels: int = 1) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, 2, stride=2)
        self.positions = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, width // 16, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(3)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        for layer in self.layers:
            tokens = layer(tokens)
        logits: Tensor = self.head(self.norm(tokens).mean(1))
        return logits


SMALL: dict[str, Callable[..., nn.Module]] = {
    "convnet": small_convnet,
    "convnet-groupnorm": partial(small_convnet, norm=nn.GroupNorm),
    "convnet-strided": strided_convnet,
    "vit": SmallViT,
}
"""The small networks by name, each a function of width, classes and channels."""
