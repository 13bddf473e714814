"""The run files of a comparison: FOLDER/runs/*.json, one file a run."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_origin

__all__ = ["Run", "by_method", "read_runs"]

ORDER = ("sgd", "sgd-long", "sam", "rst", "g-rst", "thrifty")
"""The methods that come first in every table and figure; others follow alphabetically."""


@dataclass(frozen=True)
class Run:
    """One training run, as its file tells it."""

    method: str
    seed: int
    label: str  # the method with its parameters, for people
    recipe: dict[str, Any]  # the experiment, the same in all runs of a folder
    steps: int
    schedule: str  # p(t), in the form `sharpless.schedules.parse` reads
    sharp_steps: list[int]  # the steps at which the coin fell, counted from 0
    passes: float  # forward-backward passes, in full-batch gradients
    plain_passes: float  # what plain training by the recipe spends
    train_loss: list[float | None]  # clean, one per epoch; not finite where training diverged
    test_accuracy: list[float]  # percent, one per epoch
    seconds: float
    versions: dict[str, str]
    machine: dict[str, Any]
    batch_fraction: float = 1.0  # the share q of the batch that sharpness-aware steps climb with

    @property
    def accuracy(self) -> float:
        """The result: the test accuracy after the last epoch, in percent."""
        return self.test_accuracy[-1]


def by_method(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Return the runs of each method, ordered by seed; the methods in the order of every table and figure."""
    methods: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (_rank(run.method), run.method, run.seed)):
        methods.setdefault(run.method, []).append(run)
    return methods


def read_runs(folder: Path) -> list[Run]:
    """Return all runs of `folder`, in the order of `by_method`.

    Args:
        folder: what `sharpless compare` wrote; its files runs/*.json are read, anything else is left alone.

    Returns:
        At least one run; all of one recipe, no method and seed twice.

    Raises:
        ValueError: a file is truncated, is no run, repeats a run or belongs to another experiment, or there
            is no file at all.
    """
    paths = sorted(path for path in (folder / "runs").glob("*.json") if not path.name.startswith("."))
    if not paths:
        raise ValueError(f"{folder} holds no runs/*.json: give a folder that `sharpless compare` wrote")
    runs: dict[tuple[str, int], tuple[Path, Run]] = {}
    for path in paths:
        run = _read(path)
        first_path, first = next(iter(runs.values()), (path, run))
        if run.recipe != first.recipe:
            raise ValueError(
                f"{path} was trained by another recipe than {first_path} ({_disagreement(run, first)}): "
                "keep every experiment in a folder of its own"
            )
        twin_path, _ = runs.setdefault((run.method, run.seed), (path, run))
        if twin_path != path:
            raise ValueError(
                f"{path} and {twin_path} are the same run ({run.method}, seed {run.seed}): delete one of them"
            )
    return [run for group in by_method(run for _, run in runs.values()).values() for run in group]


def _rank(method: str) -> int:
    return ORDER.index(method) if method in ORDER else len(ORDER)


def _disagreement(run: Run, first: Run) -> str:
    name = min(key for key in run.recipe.keys() | first.recipe.keys() if run.recipe.get(key) != first.recipe.get(key))
    return f"{name} = {run.recipe.get(name)!r} instead of {first.recipe.get(name)!r}"


def _read(path: Path) -> Run:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not complete JSON ({error}): delete the file and train this run again") from error
    read = record if isinstance(record, dict) else {}
    found = {field.name: read.get(field.name, field.default) for field in fields(Run)}
    wrong = [field.name for field in fields(Run) if not _is_a(field.type, found[field.name])]
    if wrong:
        raise ValueError(
            f"{path} is not the record of a run ({', '.join(wrong)} missing or of the wrong type): "
            "move the file out of the folder or train this run again"
        )
    run = Run(**found)
    numbers = [run.passes, run.plain_passes, run.seconds, run.batch_fraction, *run.test_accuracy]
    if not run.test_accuracy or run.plain_passes <= 0 or not all(map(math.isfinite, numbers)):
        raise ValueError(
            f"{path} is not a finished run (no epoch, no passes or a result that is not finite): "
            "delete the file and train this run again"
        )
    return run


def _is_a(kind: Any, value: Any) -> bool:
    """Return whether a JSON value can stand in a field declared as `kind`."""
    accepted = {float: (float, int)}.get(kind, get_origin(kind) or kind)
    return isinstance(value, accepted) and not isinstance(value, bool)
