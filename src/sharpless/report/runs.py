"""The run files of a comparison: FOLDER/runs/*.json, one file a run."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

__all__ = ["Run", "by_method", "read_runs"]

BESIDE = ("experiment.json", "summary.json")
"""What may stand beside the run files and is none."""

INSTEAD = "give runs/*.json, or the folder that holds runs"

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
    for path in {file.resolve(): file for given in paths for file in _files(given)}.values():
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


def _rank(method: str) -> int:
    return ORDER.index(method) if method in ORDER else len(ORDER)


def _fingerprint(run: Run) -> dict[str, Any]:
    return {"fingerprint": run.data.get("fingerprint")}


def _disagreement(mine: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    name = min(key for key in mine.keys() | others.keys() if mine.get(key) != others.get(key))
    return f"{name} = {mine.get(name)!r} instead of {others.get(name)!r}"


def _read(path: Path, *, named: bool) -> Run:
    # A file that was named by hand may be anything: nobody is told to delete it.
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
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
    curves = [run.test_accuracy, run.epoch_passes, run.epoch_seconds]
    numbers = [run.passes, run.plain_passes, run.seconds, run.data_seconds or 0.0, run.batch_fraction]
    numbers += [value for curve in curves for value in curve]
    lengths = {len(curve) for curve in curves if curve}
    if not run.test_accuracy or len(lengths) > 1 or run.plain_passes <= 0 or not all(map(math.isfinite, numbers)):
        raise ValueError(
            f"{path} is not a finished run (no epoch, curves of unequal length, no passes or a result that is not "
            "finite): delete the file and train this run again"
        )
    return run


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
