"""The run files of a comparison: FOLDER/runs/*.json, one file per run."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

from pydantic import ValidationError

from sharpless.report.record import Run, diverged_in

__all__ = ["Run", "by_method", "diverged_in", "fault", "read_runs"]

BESIDE = ("study.json", "summary.json")
"""Other files that may be in the folder of the run files."""

INSTEAD = "give runs/*.json, or the folder that holds runs"


def by_method(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Return the runs of each method, ordered by seed; the methods in the order of every table and figure."""
    methods: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.rank, run.method, run.seed)):
        methods.setdefault(run.method, []).append(run)
    return methods


def read_runs(*paths: Path) -> list[Run]:
    """Return all runs of folders and files, in the order of `by_method`.

    Args:
        *paths: folders of `sharpless compare` or `sharpless train`, of which runs/*.json are read, their folders runs,
            and files of single runs.

    Returns:
        At least one run. All have the same task, metric, split and data, and no method and seed occurs twice.

    Raises:
        ValueError: a file is truncated, is not a run, repeats a run or belongs to another comparison, or there
            is no file.
    """
    runs: dict[tuple[str, int], tuple[Path, Run]] = {}
    of_method: dict[str, tuple[Path, Run]] = {}
    for path in {os.path.realpath(file): file for given in paths for file in _files(given)}.values():
        run = _read(path, named=path in paths)
        first_path, first = next(iter(runs.values()), (path, run))
        other_path, other = of_method.setdefault(run.method, (path, run))
        for difference, than, mine, others in (
            ("is of another task", first_path, {"task": run.task}, {"task": first.task}),
            ("was trained with other options", first_path, run.options, first.options),
            ("was measured by another metric", first_path, run.metric.model_dump(), first.metric.model_dump()),
            ("was trained on other data", first_path, _fingerprint(run), _fingerprint(first)),
            ("was measured on another split", first_path, {"split": run.split}, {"split": first.split}),
            ("was trained with other hyperparameters", other_path, run.hyperparameters, other.hyperparameters),
        ):
            if disagreement := _disagreement(mine, others):
                raise ValueError(
                    f"{path} {difference} than {than} ({disagreement}): "
                    "keep comparisons in separate folders and reports"
                )
        twin_path, _ = runs.setdefault((run.method, run.seed), (path, run))
        if twin_path != path:
            raise ValueError(
                f"{path} and {twin_path} are the same run ({run.method}, seed {run.seed}): delete one of them, "
                "or leave it out"
            )
    return [run for group in by_method(run for _, run in runs.values()).values() for run in group]


def fault(record: Any) -> str | None:
    """Return why a record cannot be read, as a clause; None if it can.

    >>> fault({"format": 2}).partition(";")[0]
    'task: field required'
    """
    try:
        Run.model_validate(record)
    except ValidationError as error:
        return _fault(error)
    return None


def _files(given: Path) -> list[Path]:
    if given.is_file():
        return [given]
    folder = given / "runs" if (given / "runs").is_dir() else given
    found = sorted(path for path in folder.glob("*.json") if not path.name.startswith(".") and path.name not in BESIDE)
    if not found:
        raise ValueError(
            f"{given} holds no finished run: give a folder of `sharpless compare` or `sharpless train` "
            "with a finished run"
        )
    return found


def _fingerprint(run: Run) -> dict[str, Any]:
    return {"fingerprint": run.data.get("fingerprint")}


def _disagreement(mine: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    """Return the first difference, as a clause; empty if there is none. An option that is None may be absent."""
    found = (
        f"{name} = {mine.get(name)!r} instead of {others.get(name)!r}"
        for name in sorted(mine.keys() | others.keys())
        if mine.get(name) != others.get(name)
    )
    return next(found, "")


def _read(path: Path, *, named: bool) -> Run:
    # A file that the user named may be anything: do not advise to delete it.
    if not path.is_file():
        raise ValueError(f"{path} is not a file: {INSTEAD if named else 'move it out of the folder'}")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): {INSTEAD}") from error
    except (ValueError, RecursionError) as error:
        if named:
            raise ValueError(f"{path} is not a complete run file: {INSTEAD}") from error
        raise ValueError(f"{path} is not complete JSON ({error}): delete the file and train this run again") from error
    try:
        return Run.model_validate(record)
    except ValidationError as error:
        remedy = INSTEAD if named else "move the file out of the folder or train this run again"
        raise ValueError(f"{path} is not the record of a finished run ({_fault(error)}): {remedy}") from None


def _fault(error: ValidationError) -> str:
    """Return the first fault, as a clause: `curve.test.3: input should be a valid number`."""
    fault = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(str(part) for part in fault["loc"] if part not in {"constrained-float", "nullable"})
    said = shorten(fault["msg"].removeprefix("Value error, "), 200, placeholder=" …")
    said = said[0].lower() + said[1:]
    more = error.error_count() - 1
    return (f"{place}: {said}" if place else said) + (f"; {more} more" if more else "")
