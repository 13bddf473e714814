"""`sharpless compare`: what does each method buy, and what does it cost?"""

import argparse
import math
import signal
import sys
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharpless.cli import recipe
from sharpless.cli.report import MARGIN, conclude
from sharpless.lab.recipes import METHODS, PEERS
from sharpless.lab.setup import leads

if TYPE_CHECKING:
    from sharpless.lab.compare import Comparison

__all__ = ["SEEDS", "add"]

SEEDS = 12  # so many that the default comparison comes to the same verdicts whichever they are


def add(commands: Any) -> None:
    """Add the command to those of the parser."""
    command = commands.add_parser(
        "compare",
        allow_abbrev=False,
        help="train one recipe with several methods and seeds: what does each buy, and what does it cost?",
        description="Train one recipe with several methods and seeds, and say what each buys and what it costs. "
        "Stopped and started again, it continues and repeats no finished run.",
    )
    command.set_defaults(command=_compare)
    option = command.add_argument
    methods = f"among {', '.join(METHODS)} (default: all of these)"
    peers = f"{' and '.join(PEERS)}, which need pip install pytorch_optimizer"
    option("--methods", nargs="+", default=METHODS, metavar="METHOD", help=f"{methods}, and {peers}")
    option("--seeds", type=int, default=SEEDS, metavar="N", help="number of seeds (default: %(default)s)")
    option("--first-seed", type=int, default=0, metavar="K", help="take K, K + 1, … (default: %(default)s)")
    option("--out", type=Path, default=Path("runs/compare"), metavar="FOLDER", help="folder (default: %(default)s)")
    option("--jobs", type=int, metavar="N", help="runs at a time (default: cores ÷ threads, or GPUs)")
    option("--on", choices=("local", "ray"), default="local", help="processes here, or a Ray cluster")
    option("--margin", **MARGIN)
    recipe.add(command)


def _compare(options: argparse.Namespace) -> int:
    try:
        import lightning_fabric  # noqa: F401, PLC0415
        import rich.progress  # noqa: F401, PLC0415

        from sharpless.lab import files, pools  # noqa: PLC0415
        from sharpless.lab.compare import Comparison  # noqa: PLC0415
        from sharpless.lab.stopping import Stopped  # noqa: PLC0415
        from sharpless.report import html  # noqa: F401, PLC0415 - what is missing is better missed now
        from sharpless.report.runs import read_runs  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"compare needs {error.name}: pip install 'sharpless[lab]'") from error
    methods = [method for listed in options.methods for method in listed.lower().replace(",", " ").split()]
    if not 0 < options.margin < math.inf:
        raise ValueError(f"margin = {options.margin} is out of range: give a positive number of points")
    for name, value, least in (
        ("seeds", options.seeds, 1),
        ("first-seed", options.first_seed, 0),
        ("jobs", options.jobs, 1),
    ):
        if value is not None and value < least:
            raise ValueError(f"{name} = {value} is out of range: give {least} or more")
    if options.first_seed + options.seeds > 2**32:
        raise ValueError(f"first-seed = {options.first_seed} is out of range: seeds end at {2**32 - 1}, give less")
    if options.on == "ray":
        pools.cluster()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    comparison = Comparison(recipe.recipe(options), methods, seeds, options.out, recipe.setup(options))
    if comparison.finished:
        read_runs(options.out)  # a file that cannot be read is better found now than after the last run
    if not leads():
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

        before = signal.signal(signal.SIGTERM, hear)
        try:
            _watch(comparison, options.jobs, options.on)
        except BrokenProcessPool:
            raise ValueError(
                "a worker process was ended from outside, for want of memory perhaps: the runs that had ended are "
                "kept, and the same command, with a smaller --jobs say, continues"
            ) from None
        except (KeyboardInterrupt, Stopped) as error:
            signum = error.signum if isinstance(error, Stopped) else told[0] if told else signal.SIGINT
            finished = f"{len(comparison.finished)} of {len(comparison.runs)} runs are kept in {options.out}"
            print(f"sharpless: interrupted; {finished}, and the same command continues", file=sys.stderr)
            return 128 + signum
        finally:
            signal.signal(signal.SIGTERM, before)
        conclude([options.out], options.out, options.margin)
    return 0


def _watch(comparison: "Comparison", jobs: int | None, on: str) -> None:
    """Run what is missing, with a progress bar and a line for each run that ends."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    done, total = len(comparison.finished), len(comparison.runs)
    columns = (TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns) as progress:
        say = progress.console.print
        if done:
            say(f"{done} of {total} runs are in {comparison.folder} already", soft_wrap=True)
        bar = progress.add_task("runs", total=total, completed=done)
        progress.refresh()
        if done < total:
            say(f"{'method':12}{'seed':>5}{'accuracy %':>12}{'cost':>7}{'seconds':>9}", style="bold")
        for record in comparison.execute(jobs, on):
            cost = record["passes"] / record["plain_passes"]
            say(
                f"{record['method']:12}{record['seed']:5d}{record['test_accuracy'][-1]:12.1f}"
                f"{cost:7.2f}{record['seconds']:9.1f}",
                highlight=False,
            )
            progress.advance(bar)
