"""Augmentation of training images: every draw depends on seed, epoch and example only.

It does not depend on batch, rank or process, nor on an interruption of the run. The global generators of torch, NumPy
and Python are not used.
"""

from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["cutout", "draws", "each", "policy", "shifted", "transform"]


def draws(examples: int, seed: int, epoch: int) -> Tensor:
    """Return the draws of an epoch, (examples, 5), int64: one for the flip, two for the crop, two for the cutout.

    A draw modulo n gives a number below n. With 2**53 values the bias is negligible.
    """
    generator = torch.Generator().manual_seed(_seed(seed, epoch))
    return torch.randint(1 << 53, (examples, 5), generator=generator)


def shifted(images: Tensor, rows: Tensor, drawn: Tensor, names: Sequence[str]) -> Tensor:
    """Return images[rows], cropped and flipped if `names` contain it. A crop shifts by up to an eighth and reflects.

    Args:
        images: all examples, (N, C, H, W).
        rows: the indices, (B,).
        drawn: their draws, (B, 5).
        names: some of crop and flip.
    """
    _, channels, height, width = images.shape
    y = _shifts(height, drawn[:, 1], "crop" in names)
    x = _shifts(width, drawn[:, 2], "crop" in names)
    if "flip" in names:
        x = torch.where(drawn[:, :1] % 2 == 1, x.flip(1), x)
    # Contiguous lines of pixels first, then pixels: far fewer indices than with pixels at once.
    planes = rows[:, None] * channels + torch.arange(channels, device=rows.device)
    lines = planes[:, :, None] * height + y[:, None]
    taken = images.view(-1, width).index_select(0, lines.flatten()).view(-1, channels, height, width)
    return taken.gather(3, x[:, None, None].expand_as(taken))


def cutout(images: Tensor, drawn: Tensor) -> Tensor:
    """Return the images, (B, C, H, W), with a square of half the height around a random pixel set to 0 in place."""
    height, width = images.shape[-2:]
    side = height // 2

    def covered(extent: int, center: Tensor) -> Tensor:
        from_start = torch.arange(extent, device=images.device) - (center[:, None] - side // 2)
        return (from_start >= 0) & (from_start < side)

    y, x = covered(height, drawn[:, 3] % height), covered(width, drawn[:, 4] % width)
    return images.masked_fill_((y[:, :, None] & x[:, None])[:, None], 0.0)


def each(change: Callable[[Any], Tensor], images: Iterable[Any], rows: Sequence[int], seed: int, epoch: int) -> Tensor:
    """Return the changed images as a batch. `change` draws from torch's generator, which is seeded for each example."""
    changed = []
    with torch.random.fork_rng(devices=[]):
        for image, row in zip(images, rows, strict=True):
            # torch.manual_seed would seed the generators of all devices.
            torch.default_generator.manual_seed(_seed(seed, epoch, row))
            changed.append(change(image))
    return torch.stack(changed)


def policy() -> Callable[[Tensor], Tensor]:
    """Return AutoAugment's policy for CIFAR-10, for uint8 images (C, H, W)."""
    v2 = _transforms("autoaugment")
    change: Callable[[Tensor], Tensor] = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)
    return change


def transform(size: int, names: Sequence[str]) -> Callable[[Any], Tensor]:
    """Return the usual transform of ImageNet, from a large PIL image to a uint8 image (3, size, size).

    Without crop among the names it takes the center, as for testing. Cutout is not part of it.
    """
    v2 = _transforms("large images")
    middle = [v2.Resize(round(size * 256 / 224)), v2.CenterCrop(size)]
    crop = [v2.RandomResizedCrop(size)] if "crop" in names else middle
    flip = [v2.RandomHorizontalFlip()] if "flip" in names else []
    automatic = [v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET)] if "autoaugment" in names else []
    change: Callable[[Any], Tensor] = v2.Compose([*crop, *flip, *automatic, v2.PILToTensor()])
    return change


def _shifts(extent: int, drawn: Tensor, moves: bool) -> Tensor:
    """Return the index of the pixel for each position, (B, extent)."""
    positions = torch.arange(extent, device=drawn.device).expand(len(drawn), extent)
    if not moves:
        return positions
    pad, last = extent // 8, extent - 1
    positions = positions + drawn[:, None] % (2 * pad + 1) - pad
    return last - (last - positions.abs()).abs()


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])


def _transforms(what: str) -> Any:
    try:
        return import_module("torchvision.transforms.v2")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{what} needs torchvision: pip install 'sharpless[data]'") from error
