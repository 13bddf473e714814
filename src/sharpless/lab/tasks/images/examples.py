"""Examples, in the memory of the device or read when needed, and their batches."""

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from sharpless.lab.tasks.images import augment as augmentation
from sharpless.lab.tasks.images.pictures import Pictures, all_faults
from sharpless.lab.tasks.images.recipe import check_augmentations

__all__ = ["LOOKED_AT", "Examples", "Resident", "Streamed"]

LOOKED_AT = 20_000
"""The largest number of images to check after a broken one was found. More would take minutes."""

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of ImageNet's red, green and blue, where white is 1."""


@dataclass(frozen=True, eq=False)
class Resident:
    """Small images, decoded, in the memory of the device."""

    images: Tensor  # (N, C, H, W), uint8
    labels: Tensor  # (N,), int64
    mean: Tensor  # (C, 1, 1), of the training images
    std: Tensor  # (C, 1, 1)
    host: Tensor  # the images in CPU memory, for AutoAugment

    def __len__(self) -> int:
        """Return N, the number of examples."""
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Resident":
        """Return the examples on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("images", "labels", "mean", "std")}
        return replace(self, **moved)

    def take(self, rows: NDArray[np.int64], labels: NDArray[np.int64]) -> "Resident":
        """Return some of the examples, with other labels."""
        images = self.images if len(rows) == len(self) else self.images[torch.from_numpy(rows)]
        return replace(self, images=images, labels=torch.from_numpy(labels), host=images)

    def batches(
        self, rows: Sequence[Tensor], seed: int = 0, epoch: int = 0, augment: Sequence[str] = ()
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield a batch for each tensor of rows.

        Args:
            rows: for each batch, the indices of its examples, (B,), int64.
            seed: seed of the augmentation, with epoch and row.
            epoch: the number of the epoch.
            augment: the augmentations, see `sharpless.lab.tasks.images.recipe.check_augmentations`.

        Yields:
            The normalized images, (B, C, H, W), float32, and the labels, (B,), int64.
        """
        check_augmentations(augment)
        device = self.labels.device
        automatic = augmentation.policy() if "autoaugment" in augment else None
        images = self.images if automatic is None else self.host
        drawn = augmentation.draws(len(self), seed, epoch).to(images.device) if augment else None
        for batch in rows:
            chosen = batch.to(images.device, non_blocking=True)
            if drawn is None:
                pixels = images.index_select(0, chosen)
            else:
                pixels = augmentation.shifted(images, chosen, drawn[chosen], augment)
            if automatic is not None:
                pixels = augmentation.each(automatic, pixels, chosen.tolist(), seed, epoch)
            x = _normalized(pixels.to(device, non_blocking=True), self.mean, self.std)
            if drawn is not None and "cutout" in augment:
                augmentation.cutout(x, drawn[chosen].to(device, non_blocking=True))
            yield x, self.labels[batch.to(device, non_blocking=True)]


@dataclass(frozen=True, eq=False)
class Streamed:
    """Large images, decoded and transformed by worker processes when needed."""

    pictures: Pictures
    labels: Tensor  # (N,), int64
    size: int  # height and width in pixels
    workers: int  # number of processes; 0 reads the images in this one

    def __len__(self) -> int:
        """Return N, the number of examples."""
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Streamed":
        """Return the examples with batches on a device."""
        return replace(self, labels=self.labels.to(device))

    def take(self, rows: NDArray[np.int64], labels: NDArray[np.int64]) -> "Streamed":
        """Return some of the examples, with other labels."""
        return replace(self, pictures=self.pictures.take(rows), labels=torch.from_numpy(labels))

    def batches(
        self, rows: Sequence[Tensor], seed: int = 0, epoch: int = 0, augment: Sequence[str] = ()
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield a batch for each tensor of rows.

        Args:
            rows: for each batch, the indices of its examples, (B,), int64.
            seed: seed of the augmentation, with epoch and row.
            epoch: the number of the epoch.
            augment: the augmentations, see `sharpless.lab.tasks.images.recipe.check_augmentations`.

        Yields:
            The normalized images, (B, 3, size, size), float32, and the labels, (B,), int64.

        Raises:
            ValueError: an image cannot be decoded.
        """
        check_augmentations(augment)
        augmentation.transform(self.size, augment)  # a missing package raises here, before the workers start
        device = self.labels.device
        mean, std = (255 * torch.tensor(values, device=device)[:, None, None] for values in IMAGENET)
        drawn = augmentation.draws(len(self), seed, epoch) if "cutout" in augment else None
        reader: DataLoader[Tensor | ValueError] = DataLoader(
            _Reader(self.pictures, self.size, tuple(augment), seed, epoch),  # type: ignore[arg-type]
            batch_size=None,
            sampler=[batch.tolist() for batch in rows],
            num_workers=min(self.workers, len(rows)),
            worker_init_fn=_leave_signals,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # by default the global generator would draw the seed of the workers
        )
        for batch, pixels in zip(rows, reader, strict=True):
            if isinstance(pixels, ValueError):
                raise all_faults(self.pictures, looked_at=LOOKED_AT) or pixels
            x = _normalized(pixels.to(device, non_blocking=True), mean, std)
            if drawn is not None:
                augmentation.cutout(x, drawn[batch.to("cpu")].to(device, non_blocking=True))
            yield x, self.labels[batch.to(device, non_blocking=True)]


Examples: TypeAlias = Resident | Streamed


def _leave_signals(_: int) -> None:
    """Leave the signals of the process group to the training process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _normalized(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return torch.sub(pixels, mean).div_(std)


@dataclass(frozen=True)
class _Reader:
    """The work of a worker for a batch."""

    pictures: Pictures
    size: int
    augment: tuple[str, ...]
    seed: int
    epoch: int

    def __getitem__(self, rows: list[int]) -> Tensor | ValueError:
        change = augmentation.transform(self.size, self.augment)
        images = (self.pictures.picture(row).convert("RGB") for row in rows)
        try:
            return augmentation.each(change, images, rows, self.seed, self.epoch)
        except ValueError as error:  # returned, since a worker would add a traceback to the message
            return error
