"""The data of a task: training examples, whose labels may be noisy, and test examples, whose labels are clean."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import DataLoader

from sharpless.lab import augment as augmentation
from sharpless.lab.sources import Pictures, places, read

__all__ = ["Data", "Examples", "Resident", "Streamed", "load"]

SMALL = 64  # pixels: larger images are not kept in memory
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of ImageNet's red, green and blue, as shares of white."""


@dataclass(frozen=True, eq=False)
class Resident:
    """Small images, decoded, in the memory of the device."""

    images: Tensor  # (N, C, H, W), uint8
    labels: Tensor  # (N,), int64
    mean: Tensor  # (C, 1, 1), of the training images
    std: Tensor  # (C, 1, 1)
    host: Tensor  # the images in the processor's memory, where AutoAugment works

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
            rows: for each batch, which examples it has, (B,), int64.
            seed: with epoch and row it decides what augmentation draws.
            epoch: the number of the epoch.
            augment: the augmentations, see `sharpless.lab.augment.check`.

        Yields:
            The normalized images, (B, C, H, W), float32, and the labels, (B,), int64.
        """
        augmentation.check(augment)
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
    """Large images, decoded and transformed by processes of their own as they are needed."""

    pictures: Pictures
    labels: Tensor  # (N,), int64
    size: int  # height and width in pixels
    workers: int  # processes; with 0 the images are read by this one

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
            rows: for each batch, which examples it has, (B,), int64.
            seed: with epoch and row it decides what augmentation draws.
            epoch: the number of the epoch.
            augment: the augmentations, see `sharpless.lab.augment.check`.

        Yields:
            The normalized images, (B, 3, size, size), float32, and the labels, (B,), int64.

        Raises:
            ValueError: an image cannot be decoded.
        """
        augmentation.check(augment)
        device = self.labels.device
        mean, std = (255 * torch.tensor(values, device=device)[:, None, None] for values in IMAGENET)
        drawn = augmentation.draws(len(self), seed, epoch) if "cutout" in augment else None
        reader: DataLoader[Tensor | ValueError] = DataLoader(
            _Reader(self.pictures, self.size, tuple(augment), seed, epoch),  # type: ignore[arg-type]
            batch_size=None,
            sampler=[batch.tolist() for batch in rows],
            num_workers=min(self.workers, len(rows)),
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # its seed for the workers would come from the global one
        )
        for batch, pixels in zip(rows, reader, strict=True):
            if isinstance(pixels, ValueError):
                raise pixels
            x = _normalized(pixels.to(device, non_blocking=True), mean, std)
            if drawn is not None:
                augmentation.cutout(x, drawn[batch.to("cpu")].to(device, non_blocking=True))
            yield x, self.labels[batch.to(device, non_blocking=True)]


Examples: TypeAlias = Resident | Streamed


@dataclass(frozen=True)
class Data:
    """What a run trains on and is tested on."""

    train: Examples
    test: Examples  # the test set, or what of the training examples stands in for it
    classes: int
    channels: int
    fingerprint: str  # 16 hexadecimal digits that say which data were read, before subset, noise and validation
    split: str  # what `test` is: test or validation


def load(
    name: str = "digits",
    noise: float = 0.0,
    seed: int = 0,
    held_out: float = 0.0,
    examples: int = 0,
    image_size: int = 0,
    data_dir: str | Path | None = None,
    workers: int = 0,
) -> Data:
    """Return the data of a task, with a share of the training labels replaced at random.

    A replaced label is drawn from all classes, so that one in as many stays right. Images of up to 64 pixels are
    decoded once per process and kept; larger ones are decoded whenever they are needed, and have three channels.

    >>> clean, noisy = load("digits"), load("digits", noise=0.5)
    >>> round(float((clean.train.labels != noisy.train.labels).float().mean()), 2)
    0.45

    Args:
        name: the source, see `sharpless.lab.sources.read`.
        noise: the share of the training labels that is replaced.
        seed: decides which examples are taken, which labels are replaced and by what, and which are held out.
        held_out: the share of the training examples, noisy labels included, that stands in for the test set, which is
            then left alone: for choosing hyperparameters.
        examples: how many training examples to take, as many of each class, or one more; 0 takes all.
        image_size: height and width in pixels that all images are resized to; 0 leaves images as they are where
            all have one size of at most 64, and is 224 otherwise.
        data_dir: a local folder in place of the hub.
        workers: processes that decode large images.

    Returns:
        The data, on the CPU.

    Raises:
        ValueError: an argument is out of range, or the source cannot be read.
    """
    for fits, argument, value, remedy in (
        (0 <= noise <= 1, "noise", noise, "give a share in [0, 1]"),
        (0 <= held_out < 1, "held_out", held_out, "give a share in [0, 1)"),
        (0 <= seed < 2**32, "seed", seed, "give a whole number from 0 to 4294967295"),
        (examples >= 0, "examples", examples, "give a number of training examples, or 0 for all"),
        (image_size >= 0, "image_size", image_size, "give pixels, or 0 for the images as they are"),
        (workers >= 0, "workers", workers, "give a number of processes, or 0 for none"),
    ):
        if not fits:
            raise ValueError(f"{argument} = {value} is out of range: {remedy}")
    everything = _everything(name, None if data_dir is None else str(data_dir), image_size)
    train = everything.train
    labels = train.labels.numpy()
    rows = _balanced(labels, everything.classes, examples, seed) if examples else np.arange(len(labels))
    labels = labels[rows]
    generator = np.random.default_rng(seed)
    replaced = generator.permutation(len(labels))[: round(noise * len(labels))]
    labels[replaced] = generator.integers(0, everything.classes, len(replaced))
    test, split = everything.test, "test"
    if held_out:
        if math.ceil(held_out * len(rows)) == len(rows):
            raise ValueError(f"held_out = {held_out} leaves none of the {len(rows)} training examples: give less")
        kept, held = train_test_split(np.arange(len(rows)), test_size=held_out, random_state=seed)
        test, split = train.take(rows[held], labels[held]), "validation"
        rows, labels = rows[kept], labels[kept]
    train = train.take(rows, labels)
    if isinstance(train, Streamed) and isinstance(test, Streamed):
        train, test = replace(train, workers=workers), replace(test, workers=workers)
    return replace(everything, train=train, test=test, split=split)


def _balanced(labels: NDArray[np.int64], classes: int, examples: int, seed: int) -> NDArray[np.int64]:
    """Return which examples are taken: the first ones of all classes, then the second ones, and so on.

    Raises:
        ValueError: there are not so many.
    """
    if examples > len(labels):
        raise ValueError(f"examples = {examples} is out of range: there are {len(labels)} training examples")
    generator = np.random.default_rng((seed, 1))  # not the generator of the noise
    placed = places(labels, generator)
    chosen = np.sort(np.lexsort((generator.random(len(labels)), placed))[:examples])
    counts = np.bincount(labels[chosen], minlength=classes)
    if counts.max() > counts.min() + 1:
        raise ValueError(
            f"examples = {examples} is out of range: class {counts.argmin()} has only {counts.min()}, give less"
        )
    return chosen


@cache
def _everything(name: str, data_dir: str | None, image_size: int) -> Data:
    """Return all examples of a source, with its own labels and test set.

    Raises:
        ValueError: the digits are to be large.
    """
    source = read(name, data_dir)
    train, test, classes = source.train, source.test, len(source.classes)
    y, test_y = torch.from_numpy(train.labels), torch.from_numpy(test.labels)
    if (decoded := _decoded((train, test), image_size)) is not None:
        x, test_x = decoded
        mean, std = (torch.zeros(1), 16 * torch.ones(1)) if name == "digits" else _moments(x)
        mean, std = mean[:, None, None], std[:, None, None]
        fingerprint = _fingerprint(str((x.shape, test_x.shape)), x.numpy(), test_x.numpy(), train.labels, test.labels)
        small = Resident(x, y, mean, std, x), Resident(test_x, test_y, mean, std, test_x)
        return Data(*small, classes, x.shape[1], fingerprint, "test")
    if name == "digits":
        raise ValueError(f"image_size = {image_size} is too large for digits, of 8×8 pixels: give at most {SMALL}")
    size, names = image_size or 224, "\n".join(source.classes)
    fingerprint = _fingerprint(names, train.sizes(), test.sizes(), train.labels, test.labels)
    return Data(Streamed(train, y, size, 0), Streamed(test, test_y, size, 0), classes, 3, fingerprint, "test")


def _fingerprint(*parts: NDArray[Any] | str) -> str:
    digest = sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else np.ascontiguousarray(part).data)
    return digest.hexdigest()[:16]


def _decoded(pair: tuple[Pictures, Pictures], image_size: int) -> list[Tensor] | None:
    """Return the images of both sets, (N, C, H, W), uint8, or nothing where they are large, or of several sizes."""
    size = (image_size, image_size) if image_size else pair[0].picture(0).size
    if max(size) > SMALL:
        return None
    grey, decoded = True, []
    for pictures in pair:
        pixels = np.empty((len(pictures), 3, size[1], size[0]), np.uint8)
        for row in range(len(pictures)):
            image = pictures.picture(row)
            grey = grey and image.mode == "L"
            if image.size != size:
                if not image_size:
                    return None
                image = image.resize(size, Image.Resampling.BILINEAR)
            pixels[row] = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
        decoded.append(pixels)
    return [torch.from_numpy(pixels[:, :1].copy() if grey else pixels) for pixels in decoded]


def _moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel, (C,), float32; 1 in place of a deviation of 0."""
    levels = torch.arange(256, dtype=torch.float64)
    counts = torch.stack([images[:, c].flatten().bincount(minlength=256) for c in range(images.shape[1])]).double()
    counts /= counts.sum(1, keepdim=True)
    mean = counts @ levels
    std = (counts * (levels - mean[:, None]) ** 2).sum(1).sqrt()
    return mean.float(), torch.where(std == 0, 1.0, std).float()


def _normalized(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return torch.sub(pixels, mean).div_(std)


@dataclass(frozen=True)
class _Reader:
    """What a worker does for a batch."""

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
        except ValueError as error:  # returned, since a worker would bury its sentence under a traceback
            return error
