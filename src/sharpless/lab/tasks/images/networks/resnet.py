"""Residual networks, "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), for images of CIFAR's size."""

from torch import Tensor, nn

from sharpless.lab.tasks.images.networks.layers import classifier, convolution

__all__ = ["ResNet"]

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_BOTTLENECK_FROM = 50


class ResNet(nn.Module):
    """The networks of the paper's Table 1, with the usual stem for CIFAR: (N, channels, H, W) → (N, classes).

    Two things differ from the paper's networks for ImageNet. The first convolution is 3×3 with stride 1 and without
    pooling, so that 32 pixels become 32, 16, 8 and 4 in the four stages. A bottleneck has its stride in the 3×3
    convolution. Shortcuts that change the shape are projections (option B).

    >>> sum(p.numel() for p in ResNet(18, classes=10, channels=3).parameters())
    11173962

    Args:
        depth: 18 or 34 (basic blocks), 50, 101 or 152 (bottlenecks).
        classes: the number of classes.
        channels: the channels of an image.

    Raises:
        ValueError: the paper has no network of this depth.
    """

    def __init__(self, depth: int, *, classes: int, channels: int) -> None:
        super().__init__()
        self.check(depth)
        self.stem = nn.Sequential(convolution(channels, 64, 3), nn.BatchNorm2d(64), nn.ReLU())
        self.stages, inputs, bottleneck = nn.Sequential(), 64, depth >= _BOTTLENECK_FROM
        for width, blocks, first in zip((64, 128, 256, 512), _BLOCKS[depth], (1, 2, 2, 2), strict=True):
            stage = nn.Sequential()
            for stride in (first, *[1] * (blocks - 1)):
                block = _Block(inputs, width, stride, bottleneck)
                stage.append(block)
                inputs = block.outputs
            self.stages.append(stage)
        self.head = classifier(inputs, classes)

    @staticmethod
    def check(depth: int) -> None:
        """Check the arguments.

        Raises:
            ValueError: the paper has no network of this depth.
        """
        if depth not in _BLOCKS:
            raise ValueError(f"depth = {depth} is no ResNet's: give {', '.join(map(str, _BLOCKS))}, as in resnet18")

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.head(self.stages(self.stem(images)))
        return logits


class _Block(nn.Module):
    """Add two or three convolutions to the shortcut, (N, inputs, H, W) → (N, outputs, H/stride, W/stride)."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        self.outputs = 4 * width if bottleneck else width
        shapes = [(inputs, width, 3, stride), (width, width, 3, 1)]
        if bottleneck:
            shapes = [(inputs, width, 1, 1), (width, width, 3, stride), (width, self.outputs, 1, 1)]
        self.branch = nn.Sequential()
        for shape in shapes:
            self.branch.extend([convolution(*shape), nn.BatchNorm2d(shape[1]), nn.ReLU()])
        del self.branch[-1]  # the last ReLU follows the sum
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != self.outputs:
            self.shortcut.extend([convolution(inputs, self.outputs, 1, stride), nn.BatchNorm2d(self.outputs)])

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.branch(x) + self.shortcut(x)
        return total.relu()
