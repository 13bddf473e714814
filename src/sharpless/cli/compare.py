"""`sharpless compare`: train a task with several methods, and compare results and costs."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharpless.cli import answer, arguments, extras, task
from sharpless.cli.progress import watched
from sharpless.cli.report import MARGIN, conclude, tell
from sharpless.cli.terminal import shown
from sharpless.lab import store
from sharpless.lab.methods.kinds import DEFAULTS, KINDS
from sharpless.lab.runs.signals import interrupting
from sharpless.lab.studies.arguments import LEAST, PLACES, SEEDS, check
from sharpless.lab.studies.choice import AXES

if TYPE_CHECKING:
    from sharpless.lab.studies.study import Study

__all__ = ["add"]

DEFAULT = "digits"


def add(commands: Any) -> None:
    """Add the command to those of the parser."""
    command = commands.add_parser(
        "compare",
        allow_abbrev=False,
        add_help=False,
        usage="%(prog)s [TASK] [OPTION ...]",
        help="train a task with several methods and seeds, and compare results and costs",
        description="Train a task with several methods and seeds, and compare results and costs. The same command "
        "continues an interrupted comparison. TASK is digits (default), images, or your function of a trial: "
        "FILE.py:function or module:function. `sharpless compare TASK --help` shows the options of the task.",
        epilog="METHODS: " + "; ".join(f"{name}, {kind.about}" for name, kind in KINDS.items()) + ". Parameters "
        "follow a colon: g-rst:p=0.25, thrifty:budget=1.05,average=0.99.",
    )
    command.set_defaults(command=_compare, parser=command)
    option = command.add_argument
    option("-h", "--help", action="store_true", help="show this help and the options of TASK")
    option(
        "--methods",
        nargs="+",
        default=DEFAULTS,
        metavar="METHOD",
        help=f"rows of the table (default: {' '.join(DEFAULTS)})",
    )
    for name, what in (("rho", "radii"), ("lr", "learning rates"), ("weight-decay", "weight decays")):
        own = "; auto searches for radii" if name == "rho" else ""
        several = f"{what}: each method chooses the best one on validation data{own}"
        option(f"--{name}", nargs="+", type=task.read, default=[], metavar="X", help=several)
    option("--seeds", type=arguments.whole, default=SEEDS, metavar="N", help="number of seeds (default: %(default)s)")
    option(
        "--first-seed",
        type=arguments.whole,
        default=0,
        metavar="K",
        help="first seed, of K, K + 1, … (default: %(default)s)",
    )
    option(
        "--choice-seeds",
        type=arguments.whole,
        default=3,
        metavar="N",
        help="number of seeds for each choice of hyperparameters (default: %(default)s)",
    )
    option("--goal", choices=("min", "max"), help="direction in which the metric is better (default: from the task)")
    option("--metric", metavar="NAME", help="name of the metric (default: from the task)")
    option("--unit", metavar="UNIT", help="unit of the metric (default: from the task)")
    option("--flatness", action="store_true", help="measure the flatness of each minimum (docs/flatness.md)")
    option("--margin", **MARGIN)
    out = Path("runs/compare")
    option("--out", type=arguments.place, default=out, metavar="FOLDER", help="output folder (default: %(default)s)")
    option(
        "--jobs", type=arguments.whole, metavar="N", help="number of parallel runs (default: cores ÷ threads, or GPUs)"
    )
    option(
        "--on",
        choices=PLACES,
        default="local",
        help="where runs are executed: local processes or a Ray cluster",
    )
    option(
        "--threads",
        type=arguments.whole,
        default=0,
        metavar="N",
        help="CPU threads of a run (default: as in the folder; in a new folder OMP_NUM_THREADS or 1)",
    )


def _compare(options: argparse.Namespace) -> int:
    if options.help:
        return _help(options)
    extras.need("compare")
    methods = [method for listed in options.methods for method in listed.split()]
    counts = {name: getattr(options, name) for name in LEAST}
    check(methods, _grid(options), counts, options.margin, options.on, options.out)
    name = options.task or DEFAULT
    # The following imports take seconds.
    count = f"{len(methods)} method{'s' * (len(methods) > 1)} × {options.seeds} seed{'s' * (options.seeds > 1)}"
    print(f"{count} of {shown(name)}, in {shown(str(options.out))}", flush=True)

    from sharpless.lab.runs.execute import cluster  # noqa: PLC0415
    from sharpless.lab.studies.study import Study  # noqa: PLC0415
    from sharpless.lab.trials.definition import Task  # noqa: PLC0415
    from sharpless.report.runs import read_runs  # noqa: PLC0415

    if options.on == "ray":
        cluster()
    given = task.parsed(options.rest, name, Task(name).function, options.parser)
    options.names = given
    study = Study(
        Task.of(name, given, metric=options.metric, unit=options.unit, goal=options.goal),
        methods,
        range(options.first_seed, options.first_seed + options.seeds),
        options.out,
        grid=_grid(options),
        choice_seeds=options.choice_seeds,
        threads=options.threads,
        flatness=options.flatness,
    )
    if study.finished:
        read_runs(options.out)  # find unreadable files now, not after the last run
    with store.locked(options.out):
        study.open_folder()
        if study.notice:
            print(f"sharpless: {shown(study.notice)}", file=sys.stderr)
        if signum := _executed(study, options):
            return 128 + signum
        found: dict[str, Any] = {"page": None}
        failures = [{"run": failure.run, "why": failure.why} for failure in study.failures]
        if study.finished:
            summary, page = conclude([options.out], options.out, options.margin)
            found = summary | {"page": str(page)}
        answer.give(options, found | {"failures": failures}, lambda: tell(summary, page) if study.finished else None)
    for failure in study.failures:
        print(f"sharpless: {shown(str(failure))}", file=sys.stderr)
    if study.failures:
        print("sharpless: the same command repeats only the failed runs", file=sys.stderr)
    return 1 if study.failures else 0


def _help(options: argparse.Namespace) -> int:
    if options.task:
        extras.need("compare")
        from sharpless.lab.trials.definition import Task  # noqa: PLC0415

        group = options.parser.add_argument_group(f"options of {options.task}")
        task.add(group, Task(options.task).function, {*options.parser._option_string_actions})
    options.parser.print_help()
    return 0


def _grid(options: argparse.Namespace) -> dict[str, Any]:
    """Return the hyperparameters that are varied."""
    return {axis: values for axis in AXES if (values := _axis(getattr(options, axis)))}


def _axis(values: Sequence[Any]) -> Sequence[float] | str:
    """Return the values of an axis of the grid, or the word auto.

    Raises:
        ValueError: auto is given together with values.
    """
    if "auto" in values and len(values) > 1:
        raise ValueError(f"rho = {' '.join(map(str, values))} is out of range: give numbers, or auto alone")
    return "auto" if "auto" in values else values


def _executed(study: "Study", options: argparse.Namespace) -> int:
    """Execute the missing runs.

    Returns:
        The number of the signal that interrupted them, or 0.
    """
    from sharpless.lab.runs.stopping import Stopped  # noqa: PLC0415

    with interrupting() as heard:
        try:
            watched(study, options.jobs, options.on)
        except (KeyboardInterrupt, Stopped) as error:
            kept = f"{len(study.finished)} runs are finished in {shown(str(options.out))}"
            begun = sum(any(folder.iterdir()) for folder in study.folder.glob("work/*") if folder.is_dir())
            kept += f", {begun} more continue from a checkpoint" if begun else ""
            print(f"sharpless: interrupted; {kept}; the same command continues", file=sys.stderr)
            return int(error.signum if isinstance(error, Stopped) else heard[0] if heard else signal.SIGINT)
    return 0
