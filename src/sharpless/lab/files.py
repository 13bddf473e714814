"""Files that are whole or not there."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["locked", "write", "write_with"]


def write(path: Path, text: str) -> None:
    """Write `text` to `path` atomically: a reader, or a run cut off, never meets half a file."""
    write_with(path, lambda file: file.write(text.encode()))


def write_with(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Let `fill` write to an open file, which appears at `path` when it is whole and on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of `folder` within the block, whichever way this one ends.

    Raises:
        ValueError: another process is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another process is at work in {folder}: wait for it, or choose another folder with --out"
            ) from None
        yield
