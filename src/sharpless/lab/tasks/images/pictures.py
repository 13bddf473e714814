"""Encoded images with their labels, and the errors of broken ones."""

import os
from dataclasses import dataclass, replace
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

__all__ = ["Pictures", "all_faults"]

SHOWN = 10  # of broken images


@dataclass(frozen=True)
class Pictures:
    """Encoded images with their labels."""

    encoded: Any  # a datasets.Dataset with the only column `image`, not decoded, or an array (N, H, W)
    indices: NDArray[np.int64]  # (n,), the rows of this set
    labels: NDArray[np.int64]  # (n,)
    where: str  # for messages: "split train of hub:mnist"

    def __len__(self) -> int:
        """Return n, the number of images."""
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> "Pictures":
        """Return some of the pictures."""
        return replace(self, indices=self.indices[rows], labels=self.labels[rows])

    def picture(self, row: int) -> Image.Image:
        """Return an image, decoded, in Pillow's mode L if it is a greyscale image and RGB if not.

        Raises:
            ValueError: it cannot be decoded, or has more than 8 bits.
        """
        index = int(self.indices[row])
        if isinstance(self.encoded, np.ndarray):
            return Image.fromarray(self.encoded[index])
        encoded = self.encoded[index]["image"] or {"bytes": None, "path": None}
        name = f"image {index} of {self.where}" + ("" if encoded["path"] is None else f" ({encoded['path']})")
        try:
            content = Path(encoded["path"]).read_bytes() if encoded["bytes"] is None else encoded["bytes"]
            image = Image.open(BytesIO(content))
            deep = image.mode[0] in "IF"
            decoded = ImageOps.exif_transpose(image).convert("L" if image.mode in {"1", "L", "LA"} else "RGB")
        except Exception as error:  # a broken file can raise any error in Pillow
            raise ValueError(f"{name} cannot be decoded: repair it, or take it out") from error
        if deep:
            raise ValueError(f"{name} has Pillow's mode {image.mode}: give images of 8 bits, greyscale or color")
        return decoded

    def sizes(self) -> NDArray[np.int64]:
        """Return the number of bytes of each encoded image, (n,), without reading them."""
        column = self.encoded.with_format("arrow")[:]["image"]
        compute = import_module("pyarrow.compute")
        lengths = compute.binary_length(compute.struct_field(column, "bytes")).to_pylist()
        paths = compute.struct_field(column, "path").to_pylist()
        pairs = zip(lengths, paths, strict=True)
        sizes = [os.stat(path).st_size if length is None else length for length, path in pairs]
        return np.array(sizes, np.int64)[self.indices]


def all_faults(*sets: Pictures, looked_at: int | None = None) -> ValueError | None:
    """Return one error for all broken images, None if there are none.

    Args:
        *sets: the images.
        looked_at: largest number of images to decode in each set, all by default.
    """
    faults = []
    for pictures in sets:
        for row in range(len(pictures))[:looked_at]:
            try:
                pictures.picture(row)
            except ValueError as error:
                faults.append(str(error))
    more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    return ValueError("; ".join(faults[:SHOWN]) + more) if faults else None
