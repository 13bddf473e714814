"""The run files of a comparison: FOLDER/runs/*.json, one file a run."""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from sharpless import schedules

__all__ = ["Run", "by_method", "diverged_in", "read_runs"]

BESIDE = ("experiment.json", "summary.json")
"""What may stand beside the run files and is none."""

INSTEAD = "give runs/*.json, or the folder that holds runs"

MOST = 2**63
"""No number in a record of a run is larger."""

MOST_STEPS = 10**9
MOST_LOSS = 1e100

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
    epoch_passes: list[float] = field(default_factory=list)  # passes spent when each epoch ended; empty: not known
    epoch_seconds: list[float] = field(default_factory=list)  # seconds of training when each epoch ended
    data_seconds: float | None = None  # of these, waiting for data
    split: str = "test"  # what test_accuracy was measured on: "test" or "validation"
    data: dict[str, Any] = field(default_factory=dict)  # "fingerprint" and whatever else describes the data
    setup: dict[str, Any] = field(default_factory=dict)  # devices, strategy, …

    @property
    def accuracy(self) -> float:
        """The result: the accuracy after the last epoch, in percent."""
        return self.test_accuracy[-1]

    @property
    def diverged(self) -> int | None:
        """The epoch, counted from 1, from which on the loss was not finite, None where it ended finite."""
        return diverged_in(self.train_loss)


def diverged_in(train_loss: Sequence[float | None]) -> int | None:
    """Return the epoch, counted from 1, from which on a training loss was not finite, None where it ended finite.

    >>> diverged_in([2.3, None, None]), diverged_in([2.3, None, 2.1])
    (2, None)
    """
    finite = [loss is not None and math.isfinite(loss) for loss in train_loss]
    sound = max((epoch for epoch, is_finite in enumerate(finite, 1) if is_finite), default=0)
    return None if sound == len(finite) else sound + 1


def by_method(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Return the runs of each method, ordered by seed; the methods in the order of every table and figure."""
    methods: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (_rank(run.method), run.method, run.seed)):
        methods.setdefault(run.method, []).append(run)
    return methods


def read_runs(*paths: Path) -> list[Run]:
    """Return all runs of folders and files, in the order of `by_method`.

    Args:
        *paths: folders that `sharpless compare` or `sharpless train` wrote, of which runs/*.json are read and anything
            else is left alone, their folders runs, and files of single runs.

    Returns:
        At least one run; all of one recipe, on the same data and split, no method and seed twice.

    Raises:
        ValueError: a file is truncated, is no run, repeats a run or belongs to another experiment, or there
            is no file at all.
    """
    runs: dict[tuple[str, int], tuple[Path, Run]] = {}
    of_method: dict[str, tuple[Path, Run]] = {}
    for path in {os.path.realpath(file): file for given in paths for file in _files(given)}.values():
        run = _read(path, named=path in paths)
        first_path, first = next(iter(runs.values()), (path, run))
        for difference, mine, others in (
            ("was trained by another recipe", run.recipe, first.recipe),
            ("was trained on other data", _fingerprint(run), _fingerprint(first)),
            ("was measured on another split", {"split": run.split}, {"split": first.split}),
        ):
            if mine != others:
                raise ValueError(
                    f"{path} {difference} than {first_path} ({_disagreement(mine, others)}): "
                    "keep every experiment in a folder, and a report, of its own"
                )
        other_path, other = of_method.setdefault(run.method, (path, run))
        if _epochs(run) != _epochs(other):
            raise ValueError(
                f"{path} and {other_path} are of one method and recipe, and have other numbers of epochs "
                f"({_epochs(run)} and {_epochs(other)}): delete the one that is wrong, and train this run again"
            )
        twin_path, _ = runs.setdefault((run.method, run.seed), (path, run))
        if twin_path != path:
            raise ValueError(
                f"{path} and {twin_path} are the same run ({run.method}, seed {run.seed}): delete one of them, "
                "or leave it out"
            )
    return [run for group in by_method(run for _, run in runs.values()).values() for run in group]


def _files(given: Path) -> list[Path]:
    if given.is_file():
        return [given]
    folder = given / "runs" if (given / "runs").is_dir() else given
    found = sorted(path for path in folder.glob("*.json") if not path.name.startswith(".") and path.name not in BESIDE)
    if not found:
        raise ValueError(
            f"{given} holds no finished run: give a folder that `sharpless compare` or `sharpless train` wrote, "
            "once a run in it has ended"
        )
    return found


def _epochs(run: Run) -> str:
    return " or ".join(map(str, sorted({len(run.test_accuracy), len(run.train_loss)})))


def _rank(method: str) -> int:
    return ORDER.index(method) if method in ORDER else len(ORDER)


def _fingerprint(run: Run) -> dict[str, Any]:
    return {"fingerprint": run.data.get("fingerprint")}


def _disagreement(mine: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    name = min(key for key in mine.keys() | others.keys() if mine.get(key) != others.get(key))
    return f"{name} = {mine.get(name)!r} instead of {others.get(name)!r}"


def _read(path: Path, *, named: bool) -> Run:
    # A file that was named by hand may be anything: nobody is told to delete it.
    if not path.is_file():
        raise ValueError(f"{path} is no file: {INSTEAD if named else 'move it out of the folder'}")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): {INSTEAD}") from error
    except (ValueError, RecursionError) as error:
        if named:
            raise ValueError(f"{path} is no run file, or not a complete one: {INSTEAD}") from error
        raise ValueError(f"{path} is not complete JSON ({error}): delete the file and train this run again") from error
    read = record if isinstance(record, dict) else {}
    wrong = [item.name for item in fields(Run) if not _fits(item, read)]
    if wrong:
        remedy = INSTEAD if named else "move the file out of the folder or train this run again"
        raise ValueError(
            f"{path} is not the record of a run ({', '.join(wrong)} missing or of the wrong type): {remedy}"
        )
    run = Run(**{item.name: read[item.name] for item in fields(Run) if item.name in read})
    if fault := _fault(run):
        raise ValueError(f"{path} is not a finished run ({fault}): delete the file and train this run again")
    return run


def _fault(run: Run) -> str | None:
    """Return what no finished run is like, a clause for a sentence; None where there is nothing."""
    curves = {name: getattr(run, name) for name in ("test_accuracy", "epoch_passes", "epoch_seconds")}
    amounts = {"passes": run.passes, "seconds": run.seconds, "data_seconds": run.data_seconds or 0.0}
    for name, values in (*((name, [value]) for name, value in amounts.items()), *curves.items()):
        if not all(0 <= value <= MOST for value in values):
            return f"{name} is not finite, negative or out of all proportion"
    found = {
        "no epoch": not (run.test_accuracy and run.train_loss),
        "curves of unequal length": len({len(curve) for curve in curves.values() if curve}) > 1,
        "an accuracy above 100": any(accuracy > 100 for accuracy in run.test_accuracy),
        f"{run.steps} steps": not 1 <= run.steps <= MOST_STEPS,
        "no passes": not (run.passes > 0 and 1 <= run.plain_passes <= MOST),
        f"a batch_fraction of {run.batch_fraction}": not 0 < run.batch_fraction <= 1,
        f"a seed of {run.seed}": not 0 <= run.seed <= MOST,
        "sharp_steps that are none of the steps": len({step for step in run.sharp_steps if 0 <= step < run.steps})
        != len(run.sharp_steps),
        "a loss out of all proportion": any(loss and MOST_LOSS < abs(loss) < math.inf for loss in run.train_loss),
        "facts that are no plain values": not _is_plain([run.recipe, run.data, run.setup, run.machine, run.versions]),
    }
    try:
        schedules.parse(run.schedule)
    except ValueError as error:
        return str(error)
    return next((clause for clause, holds in found.items() if holds), None)


def _is_plain(facts: Any, levels: int = 4) -> bool:
    """Return whether facts are texts and finite numbers, and lists and dicts of them, a few levels deep."""
    if isinstance(facts, dict | list):
        values = facts.values() if isinstance(facts, dict) else facts
        return levels > 0 and all(_is_plain(value, levels - 1) for value in values)
    return not isinstance(facts, int | float) or abs(facts) <= MOST


def _fits(item: Any, read: Mapping[str, Any]) -> bool:
    """Return whether a field of Run is there, or may be missing, and is of its type."""
    if item.name not in read:
        return item.default is not MISSING or item.default_factory is not MISSING
    value, accepted = read[item.name], _types(item.type)
    if type(value) not in accepted:
        return False
    return not isinstance(value, list) or {*map(type, value)} <= _types(get_args(item.type)[0])


def _types(kind: Any) -> set[type]:
    """Return the types that a JSON value may have where a field is declared as `kind`."""
    if isinstance(kind, UnionType):
        return {accepted for part in get_args(kind) for accepted in _types(part)}
    return {float, int} if kind is float else {get_origin(kind) or kind}
