"""The checkpoints of one run: the last two, each whole or not there."""

import hashlib
import pickle
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sharpless.lab import store
from sharpless.lab.faults import is_out_of_memory

__all__ = ["JUNK", "Checkpoints", "write_weights"]

KEPT = 2
JUNK = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError),
    *(OSError, RecursionError, RuntimeError, TypeError, ValueError, pickle.UnpicklingError, struct.error),
)
"""What reading a file that is no checkpoint, or a state that is no run's, may raise."""


class Checkpoints:
    """The last checkpoints of a run, in a folder of their own.

    The name of a file holds the step and a digest of the content, so that a damaged one is recognized.

    Args:
        folder: where they go.
        run: what the run is, ready for `torch.load(weights_only=True)`; checkpoints of another one are refused.
    """

    def __init__(self, folder: Path, run: dict[str, Any]) -> None:
        self.folder = folder
        self.run = run
        self.loaded: Path | None = None

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write a checkpoint and delete the oldest one; where it cannot be written, warn, and keep what there is."""
        unnamed = self.folder / "unnamed.pt"
        self._clear()
        try:
            store.write_with(unnamed, lambda file: torch.save({"run": self.run, "state": state}, file))
            unnamed.replace(self.folder / f"step-{step:09d}-{_digest(unnamed)}.pt")
        except OSError as error:
            warnings.warn(
                f"no checkpoint was written at step {step} ([Errno {error.errno}] {error.strerror}): the run goes on, "
                f"and the ones before are kept in {self.folder}",
                stacklevel=2,
            )
            return
        for old in self._newest_first()[KEPT:]:
            old.unlink()

    def load(self) -> dict[str, Any] | None:
        """Return the newest state that is whole, None where there is none; a damaged one is passed over and warned of.

        Raises:
            ValueError: the checkpoint is one of another run.
        """
        for path in self._newest_first():
            if path.stem.rpartition("-")[2] != _digest(path):
                warnings.warn(f"{path} is damaged: an earlier one takes its place, if there is one", stacklevel=2)
                continue
            self.loaded = path
            try:
                found = torch.load(path, map_location="cpu", weights_only=True)
                run, state = dict(found["run"]), dict(found["state"])
            except JUNK as error:
                raise self.refusal(error) from None
            for name, value in self.run.items():
                if run.get(name) != value:
                    raise ValueError(
                        f"{path} belongs to another run ({name} differs): delete {self.folder}, or use another folder"
                    )
            return state
        return None

    def refusal(self, error: Exception) -> Exception:
        """Return what to raise where the checkpoint that was loaded leads to an error of JUNK."""
        if is_out_of_memory(error):
            return MemoryError(*error.args)
        place = self.loaded or self.folder
        return ValueError(f"{place} is no checkpoint of this version: delete it, or use another folder")

    def _clear(self) -> None:
        """Delete what was left by a process that was killed in the middle of writing."""
        for path in (*self.folder.glob("unnamed.pt"), *self.folder.glob(".unnamed.pt.*")):
            path.unlink()

    def _newest_first(self) -> list[Path]:
        return sorted((path for path in self.folder.glob("step-*.pt") if path.is_file()), reverse=True)


def write_weights(path: Path, weights: Mapping[str, Any]) -> None:
    """Write weights for `torch.load` and `load_state_dict`, whole or not at all.

    Raises:
        OSError: they cannot be written.
    """
    store.write_with(path, lambda file: torch.save(dict(weights), file))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
