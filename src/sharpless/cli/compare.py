"""`sharpless compare`: what does each method buy, and what does it cost?"""

import argparse
import math
import signal
import sys
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharpless.cli import extras, recipe
from sharpless.cli.report import MARGIN, conclude
from sharpless.cli.terminal import console, shown
from sharpless.lab import files
from sharpless.lab.recipes import METHODS, PEERS, Recipe, check_methods
from sharpless.lab.setup import Setup, is_main_process
from sharpless.report.runs import diverged_in

if TYPE_CHECKING:
    from sharpless.lab.compare import Comparison

__all__ = ["SEEDS", "add"]

SEEDS = 12  # so many that the default comparison comes to the same verdicts whichever they are
MOST_SEEDS = 10_000


def add(commands: Any) -> None:
    """Add the command to those of the parser."""
    command = commands.add_parser(
        "compare",
        allow_abbrev=False,
        usage="%(prog)s [OPTION ...]",
        help="train one recipe with several methods and seeds: what does each buy, and what does it cost?",
        description="Train one recipe with several methods and seeds, and say what each buys and what it costs. "
        "Stopped and started again, it continues and repeats no finished run.",
    )
    command.set_defaults(command=_compare)
    option = command.add_argument
    methods = f"among {', '.join(METHODS)} (default: all of these)"
    peers = f"{' and '.join(PEERS)}, which need pip install pytorch_optimizer"
    option("--methods", nargs="+", default=METHODS, metavar="METHOD", help=f"{methods}, and {peers}")
    option("--seeds", type=recipe.whole, default=SEEDS, metavar="N", help="number of seeds (default: %(default)s)")
    option("--first-seed", type=recipe.whole, default=0, metavar="K", help="take K, K + 1, … (default: %(default)s)")
    out = Path("runs/compare")
    option("--out", type=recipe.place, default=out, metavar="FOLDER", help="folder (default: %(default)s)")
    option("--jobs", type=recipe.whole, metavar="N", help="runs at a time (default: cores ÷ threads, or GPUs)")
    option("--on", choices=("local", "ray"), default="local", help="processes here, or a Ray cluster")
    option("--margin", **MARGIN)
    recipe.add(command)


def _compare(options: argparse.Namespace) -> int:
    extras.need("compare")
    given, setup, methods, seeds = _checked(options)
    if is_main_process():  # what follows takes seconds to be imported
        runs = f"{len(methods)} method{'s' * (len(methods) > 1)} × {len(seeds)} seed{'s' * (len(seeds) > 1)}"
        print(f"{runs} of {shown(given.data)}, in {shown(str(options.out))}", flush=True)

    from sharpless.lab import pools  # noqa: PLC0415
    from sharpless.lab.compare import Comparison  # noqa: PLC0415
    from sharpless.lab.stopping import Stopped  # noqa: PLC0415
    from sharpless.report.runs import read_runs  # noqa: PLC0415

    if options.on == "ray":
        pools.cluster()
    comparison = Comparison(given, methods, seeds, options.out, setup)
    if comparison.finished:
        read_runs(options.out)  # a file that cannot be read is better found now than after the last run
    if not is_main_process():
        with suppress(Stopped):
            for _ in comparison.execute():
                pass
        return 0
    with files.locked(options.out):
        comparison.open_folder()
        told = []

        def hear(signum: int, _: Any) -> None:
            told.append(signum)
            raise KeyboardInterrupt

        stops = [signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
            stops.append(signal.SIGHUP)
        before = {signum: signal.signal(signum, hear) for signum in stops}
        try:
            _watch(comparison, options.jobs, options.on)
        except BrokenProcessPool:
            raise ValueError(
                "a worker process was ended from outside, for want of memory perhaps: the runs that had ended are "
                "kept, and the same command, with a smaller --jobs say, continues"
            ) from None
        except (KeyboardInterrupt, Stopped) as error:
            signum = error.signum if isinstance(error, Stopped) else told[0] if told else signal.SIGINT
            finished, begun = len(comparison.finished), len(comparison.begun)
            kept = f"{finished} of {len(comparison.runs)} runs are finished in {shown(str(options.out))}"
            kept += f", {begun} more go on from a checkpoint" if begun else ""
            print(f"sharpless: interrupted; {kept}; the same command continues", file=sys.stderr)
            return 128 + signum
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
        conclude([options.out], options.out, options.margin)
    return 0


def _checked(options: argparse.Namespace) -> tuple[Recipe, Setup, list[str], range]:
    """Return recipe, setup, methods and seeds, as far as they can be checked without what takes seconds to be imported.

    Raises:
        ValueError: an option is out of range, or the folder is none.
    """
    methods = [method for listed in options.methods for method in listed.lower().replace(",", " ").split()]
    if not 0 < options.margin < math.inf:
        raise ValueError(f"margin = {options.margin} is out of range: give a positive number of points")
    for name, least in (("seeds", 1), ("first_seed", 0), ("jobs", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ValueError(f"{name} = {value} is out of range: give {least} or more")
    if options.seeds > MOST_SEEDS:
        raise ValueError(f"seeds = {options.seeds} is out of range: give at most {MOST_SEEDS} at once")
    if options.first_seed + options.seeds > 2**32:
        raise ValueError(f"first_seed = {options.first_seed} is out of range: seeds end at {2**32 - 1}, give less")
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    given = recipe.recipe(options)
    check_methods(methods)
    files.check_folder(options.out)
    return given, recipe.setup(options), methods, seeds


def _watch(comparison: "Comparison", jobs: int | None, on: str) -> None:
    """Run what is missing, with a progress bar and a line for each run that ends."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    done, total = len(comparison.finished), len(comparison.runs)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=console()) as progress:
        say = progress.console.print
        if done:
            say(f"{done} of {total} runs are in {shown(str(comparison.folder))} already", soft_wrap=True)
        bar = progress.add_task(f"{done}/{total} runs", total=total, completed=done)
        progress.refresh()
        if done < total:
            say(f"{'method':12}{'seed':>4}{'accuracy %':>11}{'cost':>5}{'seconds':>8}", style="bold")

        def watch(under_way: float) -> None:
            progress.update(bar, completed=done + under_way)

        # Closed at once when left: by then no worker is at work any more, and what they left can be counted.
        with closing(comparison.execute(jobs, on, watch)) as records:
            for record in records:
                cost = record["passes"] / record["plain_passes"]
                diverged = diverged_in(record["train_loss"])
                say(
                    f"{record['method']:12}{record['seed']:4d}{record['test_accuracy'][-1]:11.1f}"
                    f"{cost:5.2f}{record['seconds']:8.1f}"
                    + ("" if diverged is None else f"  diverged in epoch {diverged}")
                )
                done += 1
                progress.update(bar, completed=done, description=f"{done}/{total} runs")
