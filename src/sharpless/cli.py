"""The command line: parse, call, print."""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import fields
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharpless import schedules
from sharpless.coin import uniform
from sharpless.cost import expected_cost, expected_sharp_steps, plan
from sharpless.lab.peers import PEERS
from sharpless.lab.recipes import METHODS, Recipe
from sharpless.schedules import Constant, Schedule

if TYPE_CHECKING:
    from sharpless.lab.compare import Comparison

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows `sharpless`; those of the process by default.

    Returns:
        The exit status: 0, 2 for bad input, 130 when interrupted.

    >>> main(["plan", "--schedule", "linear:0,2", "--steps", "100"])
    2
    """
    parser = argparse.ArgumentParser(prog="sharpless", description="Sharpness-aware training for less.")
    parser.add_argument("--version", action="version", version=f"sharpless {version('sharpless')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_compare(commands)
    _add_plan(commands)
    options = parser.parse_args(arguments)
    try:
        return int(options.command(options))
    except (ValueError, ModuleNotFoundError, OSError) as error:
        print(f"sharpless: {error}", file=sys.stderr)
        return 2


def _add_compare(commands: Any) -> None:
    command = commands.add_parser(
        "compare",
        help="train one recipe with several methods and seeds: what does each buy, and what does it cost?",
        description="Train one recipe with several methods and seeds, and say what each buys and what it costs. "
        "Stopped and started again, it continues and repeats no finished run.",
    )
    command.set_defaults(command=_compare)
    add = command.add_argument
    methods = f"among {', '.join(METHODS)} (default: all of these)"
    peers = f"{' and '.join(PEERS)}, which need pip install pytorch_optimizer"
    add("--methods", nargs="+", default=METHODS, metavar="METHOD", help=f"{methods}, and {peers}")
    add("--seeds", type=int, default=5, metavar="N", help="number of seeds (default: %(default)s)")
    add("--out", type=Path, default=Path("runs/compare"), metavar="FOLDER", help="folder (default: %(default)s)")
    add("--jobs", type=int, metavar="N", help="runs at a time (default: one for each core)")
    add(
        "--margin",
        type=float,
        default=1.0,
        metavar="POINTS",
        help="points of accuracy that a non-inferior method may lose to SAM (default: %(default)s)",
    )
    recipe = command.add_argument_group("the recipe")
    for field in fields(Recipe):
        names = ["--" + name.replace("_", "-") for name in (field.name, *field.metadata["aliases"])]
        if field.type is bool:
            recipe.add_argument(*names, action="store_true", help=field.metadata["help"])
            continue
        recipe.add_argument(
            *names,
            dest=field.name,
            type=str if field.type is str else int if field.type is int else float,
            default=field.default,
            metavar=field.name.upper()[:1],
            help=field.metadata["help"] + ("" if field.default is None else " (default: %(default)s)"),
        )


def _compare(options: argparse.Namespace) -> int:
    try:
        from sharpless.lab.compare import Comparison, available_cores  # noqa: PLC0415
        from sharpless.report.runs import read_runs  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"compare needs {error.name}: pip install 'sharpless[lab]'") from error
    methods = [method for listed in options.methods for method in listed.lower().replace(",", " ").split()]
    recipe = Recipe(**{field.name: getattr(options, field.name) for field in fields(Recipe)})
    jobs = available_cores() if options.jobs is None else options.jobs
    if not 0 < options.margin < math.inf:
        raise ValueError(f"margin = {options.margin} is out of range: give a positive number of points")
    comparison = Comparison(recipe, methods, options.seeds, options.out, jobs)
    if comparison.finished:
        read_runs(options.out)  # a file that cannot be read is better found now than after the last run
    comparison.open_folder()
    try:
        _watch(comparison)
    except BrokenProcessPool:
        raise ValueError(
            "a worker process was ended from outside, for want of memory perhaps: the runs that had ended are kept, "
            "and the same command, with a smaller --jobs say, continues"
        ) from None
    except KeyboardInterrupt:
        finished = f"{len(comparison.finished)} of {len(comparison.runs)} runs are kept in {options.out}"
        print(f"sharpless: interrupted; {finished}, and the same command continues", file=sys.stderr)
        return 130
    _conclude(options.out, options.margin)
    return 0


def _watch(comparison: "Comparison") -> None:
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
        for record in comparison.execute():
            cost = record["passes"] / record["plain_passes"]
            say(
                f"{record['method']:12}{record['seed']:5d}{record['test_accuracy'][-1]:12.1f}"
                f"{cost:7.2f}{record['seconds']:9.1f}",
                highlight=False,
            )
            progress.advance(bar)


def _conclude(folder: Path, margin: float) -> None:
    """Write summary and page from the run files of the folder, and print the table."""
    from rich import box  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from sharpless.lab import files  # noqa: PLC0415
    from sharpless.report.html import render  # noqa: PLC0415
    from sharpless.report.runs import read_runs  # noqa: PLC0415
    from sharpless.report.summary import summarize  # noqa: PLC0415

    runs = read_runs(folder)
    summary = summarize(runs, margin)
    files.write(folder / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False))
    files.write(folder / "report.html", render(runs, summary))

    table = Table("method", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in ("accuracy %", "cost", "seconds", "minus SAM [95 %]", "non-\ninferior"):
        table.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    for method in summary["methods"]:
        table.add_row(*_row(method, margin))
    legend = "• not dominated: none is as accurate for as little, and better in one"
    Console().print("", table, f"{legend}\n\nThe page: {folder / 'report.html'}", highlight=False, soft_wrap=True)


def _row(method: Mapping[str, Any], margin: float) -> tuple[str, ...]:
    accuracy, seconds, versus = method["accuracy"], method["seconds"], method["versus_sam"]
    spread = "" if accuracy["std"] is None else f" ± {accuracy['std']:.1f}"
    difference, verdict = "", ""
    if versus is not None:
        interval = "" if versus["ci95"] is None else " [{:+.1f}, {:+.1f}]".format(*versus["ci95"])
        difference = f"{versus['difference']:+.1f}{interval}"
        verdict = {True: "yes", False: "not shown", None: "too few seeds"}[versus["non_inferior"]]
        if interval and versus["ci95"][1] < -margin:
            verdict = "no"
    return (
        method["label"] + (" •" if method["non_dominated"] else ""),
        f"{accuracy['mean']:.1f}{spread}",
        f"{method['cost']:.2f}",
        f"{seconds['mean']:.1f}",
        difference,
        verdict,
    )


def _add_plan(commands: Any) -> None:
    command = commands.add_parser(
        "plan",
        help="price a schedule, or find p, q and γ for a budget",
        description="Draw p(t) of a schedule, or choose p, q and γ of G-RST for a budget, and say how many "
        "propagations, sharpness-aware steps and seconds to expect.",
    )
    command.set_defaults(command=_plan)
    add = command.add_argument
    add(
        "--schedule",
        metavar="P",
        help="0.5, linear:0,1, cosine:1,0, piecewise:0,1@0.75, periodic:10, adaptive:1,-1, or warmup:0.05/ before one",
    )
    add(
        "--batch-fraction",
        type=float,
        metavar="Q",
        help="with --schedule: share of the batch to climb with (default: 1)",
    )
    add("--budget", type=float, metavar="B", help="gradients per step: above 1 (plain training), up to 2 (SAM)")
    add("--batch-size", type=int, metavar="N", help="with --budget: examples in a batch (default: 128)")
    add("--degree", type=float, metavar="D", help="with --budget: regularization degree (default: 1, SAM's)")
    add("--steps", type=int, metavar="T", help="number of steps of the run; a schedule needs it")
    add("--seed", type=int, default=0, metavar="N", help="seed of the coin (default: %(default)s)")
    add("--seconds-per-step", type=float, metavar="S", help="measured duration of a plain step")


def _plan(options: argparse.Namespace) -> int:
    if (options.schedule is None) == (options.budget is None):
        raise ValueError("plan takes either a schedule or a budget: give --schedule P --steps T, or --budget B")
    schedule, share, rows = _of_schedule(options) if options.budget is None else _of_budget(options)
    steps, seconds = options.steps, options.seconds_per_step
    if steps is None and (options.budget is None or seconds is not None):
        raise ValueError("a schedule and a duration refer to a number of steps: give --steps T")
    steps = 1 if steps is None else steps
    if steps < 1:
        raise ValueError(f"steps = {options.steps} is not a number of steps: give 1 or more")
    if seconds is not None and not 0 < seconds < math.inf:
        raise ValueError(f"seconds-per-step = {seconds} is not a duration: give a positive number of seconds")
    chances = [schedule.at(step, steps) for step in range(steps)]
    cost = expected_cost(schedule, steps, share)
    rows.append(
        ("expected propagation count", f"{cost:.4g} forward-backward passes per step (plain training 1, SAM 2)")
    )
    if options.steps is not None:
        rows += _steps_of(schedule, chances, share, options.seed)
    if seconds is not None:
        durations = [_duration(steps * seconds * ratio) for ratio in (cost, 1, 2)]
        rows.append(("expected time", "{} (plain training {}, SAM {})".format(*durations)))
    if options.budget is None:
        print(_drawing(chances), end="\n\n")
    for name, value in rows:
        print(f"{name:28}{value}")
    return 0


def _steps_of(schedule: Schedule, chances: Sequence[float], share: float, seed: int) -> list[tuple[str, str]]:
    """Return how many steps to expect, and how many this seed gives."""
    steps, spread = len(chances), math.sqrt(sum(p * (1 - p) for p in chances))
    rows = [
        ("sharpness-aware steps", f"{expected_sharp_steps(schedule, steps):.0f} ± {spread:.0f} of {steps} expected")
    ]
    if schedule.policy:
        return [*rows, ("but", "the gradients decide: this is what normally distributed squares would give")]
    drawn = sum(uniform(seed, step) < p for step, p in enumerate(chances))
    return [
        *rows,
        (f"with seed {seed}", f"{drawn} sharpness-aware steps, {1 + share * drawn / steps:.4g} passes per step"),
    ]


def _of_schedule(options: argparse.Namespace) -> tuple[Schedule, float, list[tuple[str, str]]]:
    """Return the schedule, the share of the batch to climb with, and what there is to say about them.

    Raises:
        ValueError: an option is out of range, or belongs to a budget.
    """
    _refuse(options, "schedule", ("batch_size", "degree"))
    schedule = schedules.parse(options.schedule)
    share = 1.0 if options.batch_fraction is None else options.batch_fraction
    if not 0 < share <= 1:
        raise ValueError(f"batch-fraction = {share} is not a share of the batch: give a number in (0, 1]")
    rows = [("schedule", str(schedule))]
    if share < 1:
        rows.append(("q", f"{share:.4g} of the batch"))
    if schedule.mean() > 0:
        rows.append(("γ for SAM's degree", f"{1 / schedule.mean():.4g}, G-RST's degree / mean p"))
    return schedule, share, rows


def _of_budget(options: argparse.Namespace) -> tuple[Schedule, float, list[tuple[str, str]]]:
    """Return what `_of_schedule` does, of the plan for a budget.

    Raises:
        ValueError: an option is out of range or missing, or belongs to a schedule.
    """
    _refuse(options, "budget", ("batch_fraction",))
    budget, size, degree = options.budget, options.batch_size, options.degree
    size = 128 if size is None else size
    planned = plan(budget, size, 1.0 if degree is None else degree)
    given = "" if degree is None else f"degree={degree:g}, "
    rows = [
        ("in Python", f"GRST.for_budget(base, {budget}, batch_size={size}, {given}model=model)"),
        ("p", f"{planned.p:.4g}"),
        ("q", f"{planned.batch_fraction * size:.0f} of {size} examples"),
        ("γ", f"{planned.gamma:.4g}, degree / p"),
        ("why", planned.why),
    ]
    return Constant(planned.p), planned.batch_fraction, rows


def _refuse(options: argparse.Namespace, mode: str, names: Sequence[str]) -> None:
    for name in names:
        if (value := getattr(options, name)) is not None:
            raise ValueError(f"{name.replace('_', '-')} = {value} says nothing to a {mode}: leave it out")


def _drawing(chances: Sequence[float], width: int = 60, height: int = 8) -> str:
    """Return p(t) as bars of text, an eighth of a line being the unit."""
    edges = [len(chances) * i // width for i in range(width + 1)]
    bins = [chances[left : max(right, left + 1)] for left, right in pairwise(edges)]
    eighths = [round(8 * height * sum(values) / len(values)) for values in bins]
    lines = []
    for level in reversed(range(height)):
        label = {height - 1: "p(t) 1", 0: "0"}.get(level, "")
        bars = "".join(" ▁▂▃▄▅▆▇█"[min(max(count - 8 * level, 0), 8)] for count in eighths)
        lines.append(f"{label:>6} │{bars}".rstrip())
    return "\n".join([*lines, f"{'':6} └{'─' * width}", f"{'':8}t = 0{f'T = {len(chances)}':>{width - 5}}"])


def _duration(seconds: float) -> str:
    """Return `seconds` as a reader would say it.

    >>> _duration(7.25), _duration(59.99), _duration(3725)
    ('7.2 s', '1 min 0 s', '1 h 2 min')
    """
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
