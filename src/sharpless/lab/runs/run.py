"""One run of a comparison: a task with one method and one seed, and the file of its record."""

import json
import random
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy
import torch

from sharpless.lab import store
from sharpless.lab.faults import Failure
from sharpless.lab.methods.method import Method
from sharpless.lab.runs.record import record
from sharpless.lab.runs.stopping import Stopped
from sharpless.lab.threads import computing_with
from sharpless.lab.trials.contract import check_ended
from sharpless.lab.trials.definition import Task
from sharpless.lab.trials.trial import Trial

__all__ = ["Run"]


@dataclass(frozen=True)
class Run:
    """One cell of a comparison."""

    task: Task
    method: Method
    seed: int
    folder: Path
    threads: int
    point: Mapping[str, float]
    choice: Mapping[str, Any] | None = None
    choosing: bool = False
    flatness: bool = False

    @property
    def name(self) -> str:
        """The method, the tried hyperparameters, and the seed, as a valid file name."""
        tried = "".join(f",{name}={value:g}" for name, value in self.point.items()) if self.choosing else ""
        return re.sub(r"[^\w=.,+-]", "_", f"{self.method.name}{tried}") + f"-seed{self.seed}"

    @property
    def path(self) -> Path:
        """The run file. It exists once the run is finished."""
        return self.folder / ("choice" if self.choosing else "runs") / f"{self.name}.json"

    @property
    def work(self) -> Path:
        """The folder for the task's files until the run is finished."""
        return self.folder / "work" / self.name

    def trial(self, watch: Callable[[float], None] | None = None) -> Trial:
        """Return the trial of this run."""
        return Trial(
            self.method, self.seed, dict(self.point), choosing=self.choosing, folder=self.work, watch=watch,
            flatness=self.flatness,
        )  # fmt: skip

    def train(self, trial: Trial) -> "dict[str, Any] | Failure":
        """Return the record of this run after training, or its failure.

        Args:
            trial: the trial that `trial` returned.

        Raises:
            Stopped: a signal stopped the task, which wrote a checkpoint.
        """
        try:
            with computing_with(self.threads):
                _seed_all(self.seed)
                result = self.task(trial)
                is_value = isinstance(result, (Real, torch.Tensor))
                if is_value and not trial.curve["step"]:
                    trial.report(test=result)  # refused while hyperparameters are chosen
                check_ended(trial)
        except Stopped:
            raise
        except (Exception, SystemExit) as error:  # any error of the task: the other runs continue
            return Failure.of(self.name, error, self.task.name)
        return record(self, trial)

    def read(self) -> dict[str, Any] | None:
        """Return the record of this run; None if it is not finished.

        Raises:
            ValueError: its file is not a record.
        """
        if not self.path.exists():
            return None
        found = store.read(self.path) or {}
        try:
            float(found["passes"] / found["plain_passes"]), float(found["curve"]["step"][-1])
        except (KeyError, TypeError, IndexError, ArithmeticError, ValueError):
            raise ValueError(f"{self.path} is not the record of a run: delete it, and it is trained again") from None
        return found

    @property
    def validation(self) -> float | None:
        """The metric on validation data at the end; None if there is none, or if it is not finite.

        Raises:
            ValueError: the file of the run is not a record.
        """
        value = ((self.read() or {}).get("curve", {}).get("validation") or [None])[-1]
        return float(value) if isinstance(value, int | float) else None

    def conclude(self, found: Mapping[str, Any]) -> None:
        """Write the record, and delete the task's files."""
        store.write(self.path, json.dumps(found, ensure_ascii=False, allow_nan=False))
        shutil.rmtree(self.work, ignore_errors=True)


def _seed_all(seed: int) -> None:
    """Seed all global random number generators."""
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
