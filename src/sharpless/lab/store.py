"""Files that are whole or not there."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from sharpless.lab.threads import MOST_THREADS

__all__ = ["check_file", "check_folder", "difference", "known", "locked", "read", "write", "write_with"]


def check_folder(folder: Path) -> None:
    """Find out whether `folder`, with what a comparison writes into it, is a folder or can become one.

    Raises:
        ValueError: something else stands in its place.
    """
    for path in (folder, *folder.parents):
        if os.path.lexists(path):
            if not path.is_dir():
                what = "a link to nowhere" if path.is_symlink() and not path.exists() else "no folder"
                raise ValueError(f"{folder} cannot be a folder, {path} is {what}: give another one with --out")
            break
    for name in ("runs", "choice", "work", "weights"):
        if os.path.lexists(folder / name) and not (folder / name).is_dir():
            raise ValueError(f"{folder / name} is no folder: move it away, or give another one with --out")
    for name in ("study.json", "summary.json", "report.html", ".lock"):
        check_file(folder / name)


def check_file(path: Path) -> None:
    """Find out whether `path` is a file or can become one.

    Raises:
        ValueError: something else stands in its place.
    """
    if os.path.lexists(path) and not path.is_file():
        raise ValueError(f"{path} is no file: move it away, or give another folder with --out")


def read(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file, None where there is no file, or none with an object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def difference(mine: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    """Return in which facts, also within facts, two descriptions differ, as a clause; empty where they do not.

    >>> difference({"task": "a", "options": {"lr": 0.1}}, {"task": "a", "options": {"lr": 0.2}})
    'lr is 0.2 there and 0.1 here'
    """
    found = []
    for name, value in mine.items():
        other = there.get(name)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            found += [difference({key: value.get(key)}, {key: other.get(key)}) for key in {**value, **other}]
        elif value != other:
            found.append(f"{name} is {other} there and {value} here")
    found = [clause for clause in found if clause]
    return ", ".join(found[:3]) + (f", and {len(found) - 3} more" if len(found) > 3 else "")


def write(path: Path, text: str) -> None:
    r"""Write `text` to `path` atomically: a reader, or a run cut off, never meets half a file.

    What is not UTF-8 in the name of a file becomes \udc80 to \udcff, which JSON reads back as what it was.
    """
    write_with(path, lambda file: file.write(text.encode(errors="backslashreplace")))


def write_with(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Let `fill` write to an open file, which appears at `path` when it is whole and on the disk.

    Raises:
        OSError: it cannot be written; the error names `path`, and what was there is still there.
        RuntimeError: `fill` raised it for a reason of its own.
    """
    try:
        _write_with(path, fill)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    except RuntimeError as error:  # torch makes one of the other
        if not isinstance(cause := error.__context__, OSError):
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from error


def _write_with(path: Path, fill: Callable[[BinaryIO], object]) -> None:
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


def known(folder: Path, description: Path, mine: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """Return the description of the study in a folder: its threads, and what was measured. {} if there are no runs.

    Args:
        folder: the folder of the study.
        description: its file `study.json`.
        mine: the description of the study that wants to continue there.
        threads: the number of threads that was asked for, 0 for any.

    Raises:
        ValueError: it is no folder, or it holds another study.
    """
    check_folder(folder)
    if not any(path for place in ("runs", "choice", "work") for path in (folder / place).glob("*")):
        return {}
    there = {"flatness": False, **(read(description) or {})}
    its = there.get("threads")
    if type(its) is not int or not 1 <= its <= MOST_THREADS or not mine.keys() <= there.keys():
        raise ValueError(f"{description} is not the study of this version: choose another folder with --out")
    if other := difference(mine, there):
        raise ValueError(f"{folder} holds another study ({other}): choose another folder with --out")
    if threads not in {0, its}:
        raise ValueError(
            f"{folder} holds runs with {its} threads each, on which their rounding depends, and threads = "
            f"{threads} here: leave --threads out, or choose another folder with --out"
        )
    return there
