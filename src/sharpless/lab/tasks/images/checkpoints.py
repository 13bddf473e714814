"""The last two checkpoints of one run, written atomically."""

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
"""The errors of reading a file that is not a checkpoint, or a state that is not of a run."""


class Checkpoints:
    """The last checkpoints of a run, in a separate folder.

    The name of a file contains the step and a digest of the content, to detect damage.

    Args:
        folder: the folder.
        run: the description of the run, ready for `torch.load(weights_only=True)`. Checkpoints of other runs are
            refused.
    """

    def __init__(self, folder: Path, run: dict[str, Any]) -> None:
        self.folder = folder
        self.run = run
        self.loaded: Path | None = None

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write a checkpoint and delete the oldest one. If it cannot be written, warn, and keep the older ones."""
        unnamed = self.folder / "unnamed.pt"
        self._clear()
        try:
            store.write_with(unnamed, lambda file: torch.save({"run": self.run, "state": state}, file))
            unnamed.replace(self.folder / f"step-{step:09d}-{_digest(unnamed)}.pt")
        except OSError as error:
            warnings.warn(
                f"no checkpoint was written at step {step} ([Errno {error.errno}] {error.strerror}): the run goes on, "
                f"and the earlier ones are kept in {self.folder}",
                stacklevel=2,
            )
            return
        for old in self._newest_first()[KEPT:]:
            old.unlink()

    def load(self) -> dict[str, Any] | None:
        """Return the newest undamaged state, None if there is none. Warn about damaged ones.

        Raises:
            ValueError: the checkpoint belongs to another run.
        """
        for path in self._newest_first():
            if path.stem.rpartition("-")[2] != _digest(path):
                warnings.warn(f"{path} is damaged: an earlier one is used, if there is one", stacklevel=2)
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
        """Return the error to raise if the loaded checkpoint caused an error of JUNK."""
        if is_out_of_memory(error):
            return MemoryError(*error.args)
        place = self.loaded or self.folder
        return ValueError(f"{place} is not a checkpoint of this version: delete it, or use another folder")

    def _clear(self) -> None:
        """Delete the incomplete files of a killed process."""
        for path in (*self.folder.glob("unnamed.pt"), *self.folder.glob(".unnamed.pt.*")):
            path.unlink()

    def _newest_first(self) -> list[Path]:
        return sorted((path for path in self.folder.glob("step-*.pt") if path.is_file()), reverse=True)


def write_weights(path: Path, weights: Mapping[str, Any]) -> None:
    """Write weights for `torch.load` and `load_state_dict`, atomically.

    Raises:
        OSError: they cannot be written.
    """
    store.write_with(path, lambda file: torch.save(dict(weights), file))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
