"""Networks of stacked 3×3 convolutions, "Very Deep Convolutional Networks" (arXiv 1409.1556), with BatchNorm."""

from torch import nn

from sharpless.lab.tasks.images.networks.layers import classifier, convolution

__all__ = ["VGG"]

# Convolutions in each of the five stages: columns A, B, D and E of the paper's Table 1.
_CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class VGG(nn.Sequential):
    """The convolutions of the paper's networks, and one linear layer: (N, channels, H, W) → (N, classes).

    As usual on CIFAR, BatchNorm follows each convolution, which has no bias. Global average pooling and one linear
    layer replace the paper's three linear layers, which depth still counts. Each stage ends in a max-pooling of 2×2:
    32 pixels become 16, 8, 4, 2 and 1, and an odd size is rounded up.

    >>> sum(p.numel() for p in VGG(16, classes=10, channels=3).parameters())
    14724042

    Args:
        depth: 11, 13, 16 or 19.
        classes: the number of classes.
        channels: the channels of an image.

    Raises:
        ValueError: the paper has no network of this depth.
    """

    def __init__(self, depth: int, *, classes: int, channels: int) -> None:
        super().__init__()
        self.check(depth)
        inputs = channels
        for width, convolutions in zip((64, 128, 256, 512, 512), _CONVOLUTIONS[depth], strict=True):
            for _ in range(convolutions):
                self.extend([convolution(inputs, width, 3), nn.BatchNorm2d(width), nn.ReLU()])
                inputs = width
            self.append(nn.MaxPool2d(2, ceil_mode=True))
        self.extend(classifier(inputs, classes))

    @staticmethod
    def check(depth: int) -> None:
        """Check the arguments.

        Raises:
            ValueError: the paper has no network of this depth.
        """
        if depth not in _CONVOLUTIONS:
            raise ValueError(f"depth = {depth} is no VGG's: give {', '.join(map(str, _CONVOLUTIONS))}, as in vgg16-bn")
