"""`sharpless train`: one run, with its weights at the end."""

import argparse
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from sharpless.cli import extras, recipe
from sharpless.cli.terminal import console, shown
from sharpless.lab import store as files
from sharpless.lab.recipes import METHODS, PEERS
from sharpless.lab.setup import barrier, is_main_process
from sharpless.report.runs import diverged_in

if TYPE_CHECKING:
    from sharpless.lab.compare import Run
    from sharpless.lab.train import Training

__all__ = ["add"]

METHOD = f"{', '.join(METHODS + PEERS)} (default: %(default)s)"


def add(commands: Any) -> None:
    """Add the command to those of the parser."""
    command = commands.add_parser(
        "train",
        allow_abbrev=False,
        usage="%(prog)s [OPTION ...]",
        help="train one recipe with one method, on one device or on many",
        description="Train one recipe with one method and leave the weights. Stopped in whatever way and started "
        "again, it continues from its last checkpoint.",
    )
    command.set_defaults(command=_train)
    option = command.add_argument
    option("--method", choices=METHODS + PEERS, default="thrifty", metavar="METHOD", help=METHOD)
    option(
        "--seed", type=recipe.whole, default=0, metavar="N", help="decides all that is random (default: %(default)s)"
    )
    option(
        "--out", type=recipe.place, default=Path("runs/train"), metavar="FOLDER", help="folder (default: %(default)s)"
    )
    option("--log", nargs="+", choices=("tensorboard", "wandb"), default=(), help="where curves go")
    recipe.add(command)


def _train(options: argparse.Namespace) -> int:
    extras.need("train")
    given, setup = recipe.recipe(options), recipe.setup(options)
    files.check_folder(options.out)
    if is_main_process():  # what follows takes seconds to be imported
        print(f"{given.describe(options.method)} on {shown(given.data)}, in {shown(str(options.out))}", flush=True)

    from sharpless.lab.compare import Comparison  # noqa: PLC0415
    from sharpless.lab.stopping import Stopped  # noqa: PLC0415

    comparison = Comparison(given, [options.method], [options.seed], options.out, setup)
    (run,) = comparison.runs
    if run.path.exists() and run.weights_path.exists():
        if is_main_process():
            print(f"{shown(str(run.weights_path))} is there already: nothing is left to train")
        return 0
    try:
        if not is_main_process():
            training = run.training()
            training.run()
            training.weights()  # which the ranks gather together
            barrier()
            return 0
        with files.locked(options.out):
            comparison.open_folder()
            _watched(run, options.log)
            barrier()
    except Stopped as stopped:
        if not is_main_process():
            return 0  # whoever started this process would take another status for a reason to kill the rest
        then = "begins anew" if run.method in PEERS else "continues from there"
        print(f"sharpless: told to stop, after step {stopped.step}; the same command {then}", file=sys.stderr)
        return 128 + stopped.signum
    return 0


def _watched(run: "Run", log: Any) -> None:
    """Train, with a progress bar, and leave weights and record."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    from sharpless.lab.logs import Logs  # noqa: PLC0415

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("left"), TimeRemainingColumn())
    logs = Logs(log, run)
    with Progress(*columns, console=console()) as progress:
        bar = progress.add_task("", total=None)
        last = [0.0]

        def watch(training: "Training") -> None:
            logs.follow(training)
            testing = training.progress.step % training.steps_per_epoch == 0  # which is what comes next
            if perf_counter() - last[0] < 0.25 and not testing:
                return
            last[0] = perf_counter()
            done = training.progress
            accuracy = f", accuracy {done.test_accuracy[-1]:.1f} %" if done.test_accuracy else ""
            epoch = min((done.step - 1) // training.steps_per_epoch + 1, training.epochs)
            doing = ", testing" if testing else accuracy
            told = f"epoch {epoch}/{training.epochs}, passes {training.passes:.0f}, p {training.p:.2f}{doing}"
            progress.update(bar, total=training.steps, completed=done.step, description=told)

        training = run.training(watch)
        record = training.run()
    _conclude(run, record, training.weights())
    logs.end(training)
    print(f"{record['label']}: accuracy {record['test_accuracy'][-1]:.2f} % ({record['split']})")
    if (epoch := diverged_in(record["train_loss"])) is not None:
        print(f"the training diverged: the loss was not finite from epoch {epoch} on; try a smaller --lr or --rho")
    cost, waited = record["passes"] / record["plain_passes"], record["data_seconds"] / record["seconds"]
    print(f"cost {cost:.3f}, {record['seconds']:.1f} seconds, {waited:.0%} of them waiting for data")
    print(f"weights: {shown(str(run.weights_path))}")


def _conclude(run: "Run", record: dict[str, Any], weights: dict[str, Any]) -> None:
    """Write what the run has come to; where its folder cannot take it, to a temporary one, and say so.

    Raises:
        OSError: the folder of the run cannot take it.
    """
    try:
        run.conclude(record, weights)
    except OSError as error:
        elsewhere = Path(tempfile.mkdtemp(prefix="sharpless-"))
        try:
            replace(run, folder=elsewhere).conclude(record, weights)
        except OSError:
            shutil.rmtree(elsewhere, ignore_errors=True)
            raise error from None
        told = (
            f"{error.strerror}: weights and record are in {elsewhere} instead, make room and move them to {run.folder}"
        )
        raise OSError(None, told, error.filename) from error
