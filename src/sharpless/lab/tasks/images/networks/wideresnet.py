"""Wide residual networks (arXiv 1605.07146)."""

from torch import Tensor, nn

from sharpless.lab.tasks.images.networks.layers import classifier, convolution

__all__ = ["WideResNet"]


class WideResNet(nn.Module):
    """WRN-depth-widening: three stages of pre-activation blocks, (N, channels, H, W) → (N, classes).

    A stage has (depth − 4)/6 blocks of two 3×3 convolutions. The stages have 16, 32 and 64 times `widening` channels,
    and 32 pixels become 32, 16 and 8. As in the authors' code, a shortcut that changes the shape is a 1×1 convolution
    of the input after BatchNorm and ReLU. The paper's optional dropout within blocks is left out.

    >>> sum(p.numel() for p in WideResNet(16, 4, classes=10, channels=3).parameters())
    2748890

    Args:
        depth: 6n + 4, with n blocks in a stage. It counts the 1×1 convolutions of shortcuts.
        widening: the factor k of the number of channels.
        classes: the number of classes.
        channels: the channels of an image.

    Raises:
        ValueError: there is no network of this depth or widening.
    """

    def __init__(self, depth: int, widening: int, *, classes: int, channels: int) -> None:
        super().__init__()
        self.check(depth, widening)
        self.stem = convolution(channels, 16, 3)
        self.stages, inputs, blocks = nn.Sequential(), 16, (depth - 4) // 6
        for width, first in ((16 * widening, 1), (32 * widening, 2), (64 * widening, 2)):
            stage = nn.Sequential()
            for stride in (first, *[1] * (blocks - 1)):
                stage.append(_Block(inputs, width, stride))
                inputs = width
            self.stages.append(stage)
        self.head = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), *classifier(inputs, classes))

    @staticmethod
    def check(depth: int, widening: int) -> None:
        """Check the arguments.

        Raises:
            ValueError: there is no network of this depth or widening.
        """
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"depth = {depth} is no wide ResNet's: give 6n + 4, as in wrn-16-4 or wrn-28-10")
        if widening < 1:
            raise ValueError(f"widening = {widening} is out of range: give 1 or more, as in wrn-16-4")

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.head(self.stages(self.stem(images)))
        return logits


class _Block(nn.Module):
    """Two convolutions, each after BatchNorm and ReLU, (N, inputs, H, W) → (N, outputs, H/stride, W/stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.activation = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        self.branch = nn.Sequential(
            convolution(inputs, outputs, 3, stride),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            convolution(outputs, outputs, 3),
        )
        self.shortcut = None if inputs == outputs else convolution(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        active = self.activation(x)
        total: Tensor = self.branch(active) + (x if self.shortcut is None else self.shortcut(active))
        return total
