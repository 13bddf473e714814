"""Atomic writes, and checks of folders and files."""

import fcntl
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from sharpless.lab.threads import MOST_THREADS

__all__ = ["check_file", "check_folder", "difference", "known", "locked", "plain", "read", "write", "write_with"]


def check_folder(folder: Path) -> None:
    """Check that `folder` and its subfolders are folders or can be made.

    Raises:
        ValueError: something else has this path.
    """
    for path in (folder, *folder.parents):
        if os.path.lexists(path):
            if not path.is_dir():
                what = "a link to nowhere" if path.is_symlink() and not path.exists() else "not a folder"
                raise ValueError(f"{folder} cannot be a folder, {path} is {what}: give another one with --out")
            break
    for name in ("runs", "choice", "work", "weights"):
        if os.path.lexists(folder / name) and not (folder / name).is_dir():
            raise ValueError(f"{folder / name} is not a folder: move it away, or give another one with --out")
    for name in ("study.json", "summary.json", "report.html", ".lock"):
        check_file(folder / name)


def check_file(path: Path) -> None:
    """Check that `path` is a file or can be made.

    Raises:
        ValueError: something else has this path.
    """
    if os.path.lexists(path) and not path.is_file():
        raise ValueError(f"{path} is not a file: move it away, or give another folder with --out")


def read(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None if there is no file or no object in it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def plain(value: Any) -> Any:
    """Return a value as JSON has it, and as it is read again: arrays as lists, and what JSON lacks as text.

    >>> plain({"width": (1, 2), "data": Path("a/b"), "noise": float("nan"), "layers": {"b", "a"}})
    {'width': [1, 2], 'data': 'a/b', 'noise': 'nan', 'layers': ['a', 'b']}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, set | frozenset):  # in an order that is the same in every process
        return sorted(map(plain, value), key=str)
    if hasattr(value, "tolist"):  # arrays, tensors and numbers of NumPy
        return plain(value.tolist())
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    name = getattr(value, "__qualname__", "<")  # of a class or function; that of a lambda function is no name
    return str(value) if "<" in name else f"{value.__module__}.{name}"


def difference(mine: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    """Return the differences of two nested descriptions, as a clause; empty if there are none.

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
    r"""Write `text` to `path` atomically: there is never half a file, even after an interruption.

    Bytes of file names that are not UTF-8 become \udc80 to \udcff. JSON restores them.
    """
    write_with(path, lambda file: file.write(text.encode(errors="backslashreplace")))


def write_with(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Let `fill` write to an open file, which gets the name `path` once it is complete and on the disk.

    Raises:
        OSError: it cannot be written. The error names `path`, and an existing file is unchanged.
        RuntimeError: `fill` raised it for another reason.
    """
    try:
        _write_with(path, fill)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    except RuntimeError as error:  # torch turns an OSError into one
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
    """Lock `folder` against other processes within the block. The end of this process always unlocks it.

    Raises:
        ValueError: another process uses the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another process uses {folder}: wait for it, or choose another folder with --out"
            ) from None
        yield


def known(folder: Path, description: Path, mine: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """Return the description of the study in a folder, with threads and measurements. {} if there are no runs.

    Args:
        folder: the folder of the study.
        description: its file `study.json`.
        mine: the description of the study that wants to continue there.
        threads: the requested number of threads, 0 for any.

    Raises:
        ValueError: it is not a folder, or it holds another study.
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
            f"{folder} holds runs with {its} threads each, and threads = {threads} here changes the rounding: "
            "leave --threads out, or choose another folder with --out"
        )
    return there
