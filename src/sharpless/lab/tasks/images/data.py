"""The data of a task: training examples with noisy or clean labels, and test examples with clean labels."""

import math
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.model_selection import train_test_split
from torch import Tensor

from sharpless.lab.tasks.images.examples import LOOKED_AT, Examples, Resident, Streamed
from sharpless.lab.tasks.images.pictures import Pictures, all_faults
from sharpless.lab.tasks.images.sources import places, read

__all__ = ["Data", "load"]

SMALL = 64  # pixels: larger images are not kept in memory


@dataclass(frozen=True)
class Data:
    """The training and test examples of a run."""

    train: Examples
    test: Examples  # the test set, or the held-out training examples
    classes: int
    channels: int
    fingerprint: str  # 16 hexadecimal digits of the data, before subset, noise and validation
    split: str  # of `test`: test or validation


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

    A replaced label is drawn from all K classes, so that one in K stays right. Images of up to 64 pixels are decoded
    once per process and kept in memory. Larger ones are decoded each time, and have three channels.

    >>> clean, noisy = load("digits"), load("digits", noise=0.5)
    >>> round(float((clean.train.labels != noisy.train.labels).float().mean()), 2)
    0.45

    Args:
        name: the source, see `sharpless.lab.tasks.images.sources.read`.
        noise: share of the training labels that are replaced.
        seed: the seed of the subset, of the replaced labels and of the held-out examples.
        held_out: share of the training examples that replaces the test set, with noisy labels, to choose
            hyperparameters. The test set is not used then.
        examples: number of training examples, a class-balanced subset; 0 for all.
        image_size: height and width of the images in pixels. 0 keeps the size if all images have the same size of at
            most 64 pixels, and means 224 otherwise.
        data_dir: a local folder in place of the hub.
        workers: number of processes that decode large images.

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
        (image_size >= 0, "image_size", image_size, "give pixels, or 0 for the size of the images"),
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
    """Return the indices of a subset: the first example of each class, then the second ones, and so on.

    Raises:
        ValueError: there are fewer examples.
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
    """Return all examples of a source, with its labels and test set.

    Raises:
        ValueError: `image_size` is too large for the digits.
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
        raise ValueError(f"image_size = {image_size} is too large for digits of 8×8 pixels: give at most {SMALL}")
    size, names = image_size or 224, "\n".join(source.classes)
    fingerprint = _fingerprint(names, train.sizes(), test.sizes(), train.labels, test.labels)
    return Data(Streamed(train, y, size, 0), Streamed(test, test_y, size, 0), classes, 3, fingerprint, "test")


def _fingerprint(*parts: NDArray[Any] | str) -> str:
    digest = sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else np.ascontiguousarray(part).data)
    return digest.hexdigest()[:16]


def _decoded(pair: tuple[Pictures, Pictures], image_size: int) -> list[Tensor] | None:
    """Return the images of both sets, (N, C, H, W), uint8, or nothing if they are large or differ in size.

    Raises:
        ValueError: some are broken. The message names all of them.
    """
    try:
        return _pixels(pair, image_size)
    except ValueError as error:
        raise all_faults(*pair, looked_at=LOOKED_AT) or error from None


def _pixels(pair: tuple[Pictures, Pictures], image_size: int) -> list[Tensor] | None:
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
    """Return mean and standard deviation of each channel, (C,), float32. A deviation of 0 becomes 1."""
    levels = torch.arange(256, dtype=torch.float64)
    counts = torch.stack([images[:, c].flatten().bincount(minlength=256) for c in range(images.shape[1])]).double()
    counts /= counts.sum(1, keepdim=True)
    mean = counts @ levels
    std = (counts * (levels - mean[:, None]) ** 2).sum(1).sqrt()
    return mean.float(), torch.where(std == 0, 1.0, std).float()
