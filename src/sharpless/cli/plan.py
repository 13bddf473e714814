"""`sharpless plan`: the cost of a schedule, or a plan for a budget."""

import argparse
import math
from collections.abc import Sequence
from itertools import pairwise
from shutil import get_terminal_size
from statistics import fmean
from typing import Any, NamedTuple

from sharpless.cli import answer
from sharpless.cli.arguments import whole
from sharpless.cli.bars import bars, duration
from sharpless.coin import uniform
from sharpless.cost import expected_cost, expected_sharp_steps, plan
from sharpless.schedules import Constant, Schedule, parse

__all__ = ["add"]

LOOKED_AT = 100_000  # steps
LONGEST = 1e12  # seconds


class Planned(NamedTuple):
    """A schedule with its properties: rows for people, facts for programs."""

    schedule: Schedule
    share: float
    rows: list[tuple[str, str]]
    facts: dict[str, Any]


def add(commands: Any) -> None:
    """Add the command to those of the parser."""
    command = commands.add_parser(
        "plan",
        allow_abbrev=False,
        help="compute the cost of a schedule, or choose p, q and γ for a budget",
        description="Draw p(t) of a schedule, or choose p, q and γ of G-RST for a budget. Print the expected number of "
        "propagations, sharpness-aware steps and seconds.",
    )
    command.set_defaults(command=_plan)
    option = command.add_argument
    option(
        "--schedule",
        metavar="P",
        help="0.5, linear:0,1, cosine:1,0, piecewise:0,1@0.75, periodic:10 or adaptive:1,-1, optionally with "
        "warmup:0.05/ before it",
    )
    option(
        "--batch-fraction",
        type=float,
        metavar="Q",
        help="with --schedule: share of the batch to climb with (default: 1)",
    )
    option("--budget", type=float, metavar="B", help="gradients per step: above 1 (plain training), up to 2 (SAM)")
    option("--batch-size", type=whole, metavar="N", help="with --budget: examples in a batch (default: 128)")
    option(
        "--step-seconds",
        nargs="+",
        type=_priced,
        metavar="M:S",
        help="with --budget: plan in seconds. S is the duration of a step that climbs with M examples, for 0 (a plain "
        "step), some M, and the whole batch; sharpless.step_seconds measures it",
    )
    option("--degree", type=float, metavar="D", help="with --budget: regularization degree (default: 1, SAM's)")
    option("--steps", type=whole, metavar="T", help="number of steps of the run; required for a schedule")
    option("--seed", type=whole, default=0, metavar="N", help="seed of the coin (default: %(default)s)")
    option("--seconds-per-step", type=float, metavar="S", help="measured duration of a plain step")


def _plan(options: argparse.Namespace) -> int:
    if (options.schedule is None) == (options.budget is None):
        raise ValueError("plan takes either a schedule or a budget: give --schedule P --steps T, or --budget B")
    schedule, share, rows, facts = _of_schedule(options) if options.budget is None else _of_budget(options)
    steps, seconds = options.steps, options.seconds_per_step
    if steps is None and (options.budget is None or seconds is not None):
        raise ValueError("a schedule and a duration refer to a number of steps: give --steps T")
    steps = 1 if steps is None else steps
    if steps < 1:
        raise ValueError(f"steps = {options.steps} is not a number of steps: give 1 or more")
    if seconds is not None and not 0 < seconds <= LONGEST / steps:
        raise ValueError(
            f"seconds_per_step = {seconds} is not a duration: give a positive number of seconds, at most {LONGEST:g} "
            "in all steps"
        )
    chances = [schedule.at(step, steps) for step in _looked_at(steps)]
    cost = expected_cost(schedule, steps, share)
    rows.append(
        ("expected propagation count", f"{cost:.4g} forward-backward passes per step (plain training 1, SAM 2)")
    )
    facts["cost"] = cost
    if options.steps is not None:
        more, counts = _steps_of(schedule, steps, chances, share, options.seed)
        rows += more
        facts |= {"steps": steps, "sharp_steps": counts}
    if seconds is not None:
        durations = [steps * seconds * ratio for ratio in (cost, 1, 2)]
        rows.append(("expected time", "{} (plain training {}, SAM {})".format(*map(duration, durations))))
        facts["expected_seconds"] = dict(zip(("planned", "plain", "sam"), durations, strict=True))

    def show() -> None:
        if options.budget is None:
            print(bars(chances, steps, min(60, max(10, get_terminal_size().columns - 8))), end="\n\n")
        for name, value in rows:
            print(f"{name:28}{value}")

    answer.give(options, facts, show)
    return 0


def _priced(text: str) -> tuple[int, float]:
    """Return a number of examples, and the seconds of a step with an ascent on them.

    Raises:
        ArgumentTypeError: the text has another form.
    """
    count, _, seconds = text.partition(":")
    try:
        return int(count), float(seconds)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:24]!r} is not M:S: write 16:0.002") from None


def _looked_at(steps: int) -> list[int]:
    """Return all steps, or for a long run a stratified random sample, for a fast answer."""
    if steps <= LOOKED_AT:
        return list(range(steps))
    edges = [steps * i // LOOKED_AT for i in range(LOOKED_AT + 1)]
    return [left + int((right - left) * uniform(0, left)) for left, right in pairwise(edges)]


def _steps_of(
    schedule: Schedule, steps: int, chances: Sequence[float], share: float, seed: int
) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """Return the expected number of sharpness-aware steps and that of this seed, in rows and in facts."""
    expected, spread = expected_sharp_steps(schedule, steps), math.sqrt(steps * fmean(p * (1 - p) for p in chances))
    facts = {"expected": expected, "std": spread, "seed": seed, "drawn": None}
    rows = [("sharpness-aware steps", f"{expected:.0f} ± {spread:.0f} of {steps} expected")]
    if schedule.policy:
        rows.append(("but", "it depends on the gradients: this value assumes normally distributed squared norms"))
    elif steps > LOOKED_AT:
        rows.append(("with this seed", f"not counted: more than {LOOKED_AT} steps take a while"))
    else:
        facts["drawn"] = drawn = sum(uniform(seed, step) < p for step, p in enumerate(chances))
        passes = 1 + share * drawn / steps
        rows.append((f"with seed {seed}", f"{drawn} sharpness-aware steps, {passes:.4g} passes per step"))
    return rows, facts


def _of_schedule(options: argparse.Namespace) -> Planned:
    """Return the schedule, the share of the batch for the ascent, and their rows and facts.

    Raises:
        ValueError: an option is out of range, or belongs to a budget.
    """
    _refuse(options, "schedule", ("batch_size", "degree", "step_seconds"))
    schedule = _parsed(options.schedule)
    share = 1.0 if options.batch_fraction is None else options.batch_fraction
    if not 0 < share <= 1:
        raise ValueError(f"batch_fraction = {share} is not a share of the batch: give a number in (0, 1]")
    rows = [("schedule", str(schedule))]
    if share < 1:
        rows.append(("q", f"{share:.4g} of the batch"))
    gamma = 1 / schedule.mean() if schedule.mean() > 0 else math.inf
    if gamma < math.inf:
        rows.append(("γ for SAM's degree", f"{gamma:.4g}, G-RST's degree / mean p"))
    facts = {"schedule": str(schedule), "batch_fraction": share, "gamma": gamma if gamma < math.inf else None}
    return Planned(schedule, share, rows, facts)


def _parsed(text: str) -> Schedule:
    """Return the schedule of a text.

    Raises:
        ValueError: the text is not a schedule. The message names the option.
    """
    try:
        return parse(text)
    except ValueError as error:
        clause = str(error).removeprefix(f"p = {text} ").removeprefix(f"schedule {text!r} ")
        raise ValueError(f"schedule = {text}{' ' if clause != str(error) else ': '}{clause}") from None


def _of_budget(options: argparse.Namespace) -> Planned:
    """Return the same as `_of_schedule`, for the plan of a budget.

    Raises:
        ValueError: an option is out of range or missing, or belongs to a schedule.
    """
    _refuse(options, "budget", ("batch_fraction",))
    budget, size, degree = options.budget, options.batch_size, options.degree
    size = 128 if size is None else size
    prices = None if options.step_seconds is None else dict(options.step_seconds)
    if prices is not None and len(prices) < len(options.step_seconds):
        raise ValueError(
            f"step_seconds = {' '.join(f'{m}:{s:g}' for m, s in options.step_seconds)} has two durations "
            "for one number of examples: give one for each"
        )
    planned = plan(budget, size, 1.0 if degree is None else degree, prices)
    given = "" if degree is None else f"degree={degree:g}, "
    given += "" if prices is None else f"seconds={prices}, "
    code = f"GRST.for_budget(base, {budget}, batch_size={size}, {given}model=model)"
    rows = [
        ("in Python", code),
        ("p", f"{planned.p:.4g}"),
        ("q", f"{planned.batch_fraction * size:.0f} of {size} examples"),
        ("γ", f"{planned.gamma:.4g}, degree / p"),
        ("why", planned.why),
    ]
    facts = {
        "schedule": str(Constant(planned.p)),
        "batch_fraction": planned.batch_fraction,
        "gamma": planned.gamma,
        "budget": budget,
        "batch_size": size,
        "why": planned.why,
        "python": code,
    }
    if planned.seconds is not None:
        rows.append(("expected seconds", f"{planned.seconds:.4g} times those of plain training"))
        facts["seconds_ratio"] = planned.seconds
    return Planned(Constant(planned.p), planned.batch_fraction, rows, facts)


def _refuse(options: argparse.Namespace, mode: str, names: Sequence[str]) -> None:
    for name in names:
        if (value := getattr(options, name)) is not None:
            raise ValueError(f"{name} = {value} has no effect on a {mode}: leave it out")
