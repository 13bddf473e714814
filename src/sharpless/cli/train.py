"""`sharpless train`: train one network on images, and keep the weights."""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from inspect import signature
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from sharpless.cli import answer, arguments, extras, task
from sharpless.cli.terminal import console, shown
from sharpless.lab import store
from sharpless.lab.methods.kinds import KINDS
from sharpless.lab.methods.method import Method
from sharpless.lab.tasks.images import resolve, train

if TYPE_CHECKING:
    from sharpless.lab.runs.run import Run
    from sharpless.lab.trials.trial import Trial

__all__ = ["add"]

AXES = ("rho", "lr", "weight_decay")


def add(commands: Any) -> None:
    """Add the command to those of the parser."""
    command = commands.add_parser(
        "train",
        allow_abbrev=False,
        usage="%(prog)s [OPTION ...]",
        help="train a network on images with one method, on one or more devices",
        description="Train a network on images with one method, and save the weights. The same command continues an "
        "interrupted training from its last checkpoint.",
    )
    command.set_defaults(command=_train)
    option = command.add_argument
    methods = f"{', '.join(KINDS)}, with parameters after a colon: thrifty:budget=1.05 (default: %(default)s)"
    option("--method", default="thrifty", metavar="METHOD", help=methods)
    option(
        "--seed", type=arguments.whole, default=0, metavar="N", help="seed of everything random (default: %(default)s)"
    )
    out = Path("runs/train")
    option("--out", type=arguments.place, default=out, metavar="FOLDER", help="output folder (default: %(default)s)")
    option("--log", nargs="+", choices=("tensorboard", "wandb"), default=(), help="further logs of the curves")
    threads = "CPU threads (default: as in the folder; in a new folder OMP_NUM_THREADS or 1)"
    option("--threads", type=arguments.whole, default=0, metavar="N", help=threads)
    task.add(command.add_argument_group("the recipe and the machine"), train, ())


def _train(options: argparse.Namespace) -> int:
    extras.need("train")
    given = {name: getattr(options, name) for name in signature(train).parameters if hasattr(options, name)}
    resolved, method = resolve(given), Method(options.method)
    store.check_folder(options.out)
    base = {"sgd": "SGD", "adamw": "AdamW"}[resolved["optimizer"]]
    label = method.label(base, resolved["batch_size"] // resolved["accumulate"], method.epochs(resolved["epochs"]))
    label = method.name if method.is_planned else label  # the plan needs measurements first
    # The following imports take seconds.
    print(f"{label} on {shown(resolved['data'])}, in {shown(str(options.out))}", flush=True)

    from sharpless.lab.runs.run import Run  # noqa: PLC0415
    from sharpless.lab.runs.stopping import Stopped  # noqa: PLC0415
    from sharpless.lab.studies.study import Study  # noqa: PLC0415
    from sharpless.lab.trials.definition import Task  # noqa: PLC0415

    # As in compare, so that both can share a folder: a single value needs no choice.
    point = {name: float(given.pop(name)) for name in AXES if name in given}
    grid = {name: [value] for name, value in point.items()}
    study = Study(
        Task.of("images", given), [options.method], [options.seed], options.out, grid=grid, threads=options.threads
    )
    if not method.is_sharp:
        point.pop("rho", None)
    run = Run(study.task, study.methods[0], options.seed, study.folder, study.threads, point)
    for path in (run.path, _weights_of(run)):
        store.check_file(path)
    if run.path.exists() and _weights_of(run).exists():
        there = f"{shown(str(_weights_of(run)))} exists already: there is nothing to train"
        answer.give(options, _result(run, run.read() or {}), lambda: print(there))
        return 0
    with store.locked(options.out):
        study.open_folder()
        study.measure("here")
        if study.failures:
            raise ValueError(study.failures[0].why)
        run = replace(run, method=study.methods[0])
        try:
            found = _watched(run, options.log)
        except Stopped as stopped:
            then = "starts again" if method.kind.package else "continues from there"
            print(f"sharpless: interrupted after step {stopped.step}; the same command {then}", file=sys.stderr)
            return 128 + stopped.signum
    result = _result(run, found)
    answer.give(options, result, lambda: _show(result))
    return 0


def _watched(run: "Run", log: Any) -> dict[str, Any]:
    """Train, with a progress bar, and write weights and record.

    Returns:
        The record.

    Raises:
        ValueError: the run failed.
        MemoryError: it failed for lack of memory.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    from sharpless.lab.faults import Failure  # noqa: PLC0415
    from sharpless.lab.tasks.images.logs import Logs  # noqa: PLC0415

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("left"), TimeRemainingColumn())
    logs = Logs(log, run)
    with Progress(*columns, console=console()) as progress:
        bar = progress.add_task("", total=None)
        last = [0.0]

        def watch(_: float) -> None:
            logs.follow(trial)
            now = perf_counter()
            if now - last[0] >= 0.25 or trial.cost.steps == trial.total_steps:
                last[0] = now
                progress.update(bar, total=trial.total_steps, completed=trial.cost.steps, description=_status(trial))

        trial = run.trial(watch)
        found = run.train(trial)
    if isinstance(found, Failure):
        if found.of_memory:
            raise MemoryError(found.why)
        raise ValueError(found.why.removeprefix("ValueError: "))  # noqa: TRY004
    assert trial.weights is not None
    _conclude(run, found, trial.weights)
    logs.end(trial)
    return found


def _status(trial: "Trial") -> str:
    """Return the progress of a run, in a line."""
    cost, steps = trial.cost, trial.total_steps or 1
    epochs = trial.planned_epochs or 1
    p = trial.method.settings(trial.batch_size).schedule.at(min(cost.steps, steps - 1), steps)
    values = trial.curve.get("test", trial.curve.get("validation"))
    accuracy = f", accuracy {values[-1]:.1f} %" if values else ""
    epoch = (max(cost.steps, 1) - 1) * epochs // steps + 1
    return f"epoch {epoch}/{epochs}, passes {cost.passes:.0f}, p {p:.2f}{accuracy}"


def _result(run: "Run", found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of a run, ready for JSON."""
    from sharpless.report.runs import diverged_in  # noqa: PLC0415

    curve, seconds = found["curve"], found["seconds"]
    split = "test" if "test" in curve else "validation"
    return {
        **{name: found[name] for name in ("method", "label", "seed", "hyperparameters")},
        "metric": found["metric"],
        "split": split,
        "value": curve[split][-1],
        "diverged_in_epoch": diverged_in(curve["loss"]),
        "cost": found["passes"] / found["plain_passes"],
        "seconds": seconds,
        "waiting_for_data": found["data_seconds"] / seconds,
        "weights": str(_weights_of(run)),
        "record": str(run.path),
    }


def _show(result: Mapping[str, Any]) -> None:
    """Print the result of a run."""
    print("{label}: accuracy {value:.2f} % ({split})".format(**result))
    if (epoch := result["diverged_in_epoch"]) is not None:
        print(f"the training diverged: the loss was not finite from epoch {epoch} on; try a smaller --lr or --rho")
    print("cost {cost:.3f}, {seconds:.1f} seconds, {waiting_for_data:.0%} of them waiting for data".format(**result))
    print(f"weights: {shown(result['weights'])}")


def _weights_of(run: "Run") -> Path:
    return run.folder / "weights" / f"{run.name}.pt"


def _conclude(run: "Run", found: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
    """Write the result of a run. If its folder is not writable, write to a temporary one and name it in the error.

    Raises:
        OSError: the folder of the run is not writable.
    """
    try:
        _write(run, found, weights)
    except OSError as error:
        elsewhere = Path(tempfile.mkdtemp(prefix="sharpless-"))
        try:
            _write(replace(run, folder=elsewhere), found, weights)
        except OSError:
            shutil.rmtree(elsewhere, ignore_errors=True)
            raise error from None
        message = (
            f"{error.strerror}: weights and record are in {elsewhere} instead, free space and move them to {run.folder}"
        )
        raise OSError(None, message, error.filename) from error


def _write(run: "Run", found: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
    """Write the weights, and then the record."""
    from sharpless.lab.tasks.images.checkpoints import write_weights  # noqa: PLC0415

    write_weights(_weights_of(run), weights)
    run.conclude(found)
