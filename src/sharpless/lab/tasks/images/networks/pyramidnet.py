"""Additive PyramidNet, "Deep Pyramidal Residual Networks" (arXiv 1610.02915), with ShakeDrop (arXiv 1802.02375)."""

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pad

from sharpless.lab.tasks.images.networks.layers import classifier, convolution

__all__ = ["PyramidNet", "ShakeDrop"]

_ALPHA = {110: 270, 164: 270, 200: 240, 236: 220, 272: 200}
_BASIC_UP_TO = 110


class PyramidNet(nn.Module):
    """A residual network whose every block adds channels, (N, channels, H, W) → (N, classes).

    Block k of K has 16 + kα/K channels, rounded. The output of a bottleneck has four times as many. There are three
    stages, of 32, 16 and 8 pixels for images of 32. A block is BatchNorm, convolution, BatchNorm, ReLU and so on to a
    last BatchNorm. A shortcut is the input, averaged over 2×2 at the beginning of a stage, with zeros for the new
    channels. Blocks are basic up to a depth of 110, and bottlenecks beyond, as in the paper.

    >>> sum(p.numel() for p in PyramidNet(110, 48, classes=10, channels=3).parameters())
    1772706

    Args:
        depth: 6n + 2 up to 110, 9n + 2 beyond, with n blocks in a stage.
        alpha: the widening factor α, the number of channels that all blocks add. None is the largest of the paper, for
            depths of 110, 164, 200, 236 and 272.
        shakedrop: the probability of ShakeDrop in the last block, 0.5 in the paper. It falls linearly to the first
            block. 0 means no ShakeDrop.
        classes: the number of classes.
        channels: the channels of an image.

    Raises:
        ValueError: there is no network of this depth, α is not positive or not known, or the probability is invalid.
    """

    def __init__(
        self, depth: int, alpha: float | None = None, shakedrop: float = 0.0, *, classes: int, channels: int
    ) -> None:
        super().__init__()
        self.check(depth, alpha, shakedrop)
        alpha, bottleneck = alpha or _ALPHA[depth], depth > _BASIC_UP_TO
        blocks = (depth - 2) // (9 if bottleneck else 6)
        total, k = 3 * blocks, 0
        self.stem = nn.Sequential(convolution(channels, 16, 3), nn.BatchNorm2d(16))
        self.stages, inputs = nn.Sequential(), 16
        for first in (1, 2, 2):
            stage = nn.Sequential()
            for stride in (first, *[1] * (blocks - 1)):
                k += 1
                width = math.floor(16 + k * alpha / total + 0.5)
                block = _Block(inputs, width, stride, bottleneck, survival=1 - shakedrop * k / total)
                stage.append(block)
                inputs = block.outputs
            self.stages.append(stage)
        self.head = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), *classifier(inputs, classes))

    @staticmethod
    def check(depth: int, alpha: float | None = None, shakedrop: float = 0.0) -> None:
        """Check the arguments.

        Raises:
            ValueError: there is no network of this depth, α is not positive or unknown, or the probability is invalid.
        """
        if depth < 8 or depth % (6 if depth <= _BASIC_UP_TO else 9) != 2:
            raise ValueError(
                f"depth = {depth} is no PyramidNet's: give 6n + 2 up to 110 or 9n + 2 beyond, as in pyramidnet-110"
            )
        if alpha is None and depth not in _ALPHA:
            raise ValueError(f"alpha is missing: the paper has no PyramidNet of depth {depth}, give the added channels")
        if alpha is not None and not (isinstance(alpha, Real) and 0 < alpha < math.inf):
            raise ValueError(f"alpha = {alpha} is out of range: give a positive number of channels, such as 84")
        if not (isinstance(shakedrop, Real) and 0 <= shakedrop <= 1):
            raise ValueError(f"shakedrop = {shakedrop} is not a probability: give a number in [0, 1]")

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.head(self.stages(self.stem(images)))
        return logits


class _Block(nn.Module):
    """Add a branch of convolutions to the padded input, (N, inputs, H, W) → (N, outputs, H/stride, W/stride)."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool, survival: float) -> None:
        super().__init__()
        self.outputs, self.stride = 4 * width if bottleneck else width, stride
        self.more = self.outputs - inputs
        shapes = [(inputs, width, 3, stride), (width, width, 3, 1)]
        if bottleneck:
            shapes = [(inputs, width, 1, 1), (width, width, 3, stride), (width, self.outputs, 1, 1)]
        self.branch = nn.Sequential(nn.BatchNorm2d(inputs))
        for shape in shapes:
            self.branch.extend([convolution(*shape), nn.BatchNorm2d(shape[1]), nn.ReLU()])
        del self.branch[-1]  # the last BatchNorm has no ReLU after it
        if survival < 1:
            self.branch.append(ShakeDrop(survival))

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.branch(x)
        if self.stride > 1:
            x = avg_pool2d(x, 2, ceil_mode=True)
        return branch + pad(x, (0, 0, 0, 0, 0, self.more))


class ShakeDrop(nn.Module):
    """Multiply each example by random coefficients, different in forward and backward: (N, ...) → (N, ...).

    In training the coefficient is b + α − bα forward and b + β − bβ backward, drawn for each example: b is 1 with the
    probability of survival and else 0, α ~ U(−1, 1), β ~ U(0, 1). In evaluation it is the mean of the first, the
    probability of survival. The forward pass draws all of them from torch's generator for the device. The same state
    of the generator repeats both passes.

    >>> ShakeDrop(0.75).eval()(torch.ones(2, 1))
    tensor([[0.7500],
            [0.7500]])

    Args:
        survival: the probability that an example passes unchanged.
    """

    def __init__(self, survival: float) -> None:
        super().__init__()
        self.survival = survival

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` times the coefficients."""
        if not self.training:
            return self.survival * x
        uniform = torch.rand(3, len(x), *[1] * (x.dim() - 1), dtype=x.dtype, device=x.device)
        passes, alpha, beta = uniform[0] < self.survival, 2 * uniform[1] - 1, uniform[2]
        shaken: Tensor = _Scale.apply(x, alpha.where(~passes, 1), beta.where(~passes, 1))
        return shaken

    def extra_repr(self) -> str:
        """Return the arguments for `repr`."""
        return f"survival={self.survival:g}"


class _Scale(torch.autograd.Function):
    """Multiply by one factor forward, and the gradient by another."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
        ctx.save_for_backward(backward)
        return x * forward

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (factor,) = ctx.saved_tensors
        return grad * factor, None, None
