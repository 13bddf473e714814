"""The ledger: what sharpness-aware training costs, in units of one gradient of the whole batch."""

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

from sharpless.schedules import Schedule

__all__ = ["Cost", "Plan", "expected_cost", "expected_sharp_steps", "plan"]

ADDED_UP = 100_000
"""The most steps whose probabilities are added up one by one."""


@dataclass(frozen=True)
class Cost:
    """What a run has spent so far.

    >>> Cost(steps=4, sharp_steps=1, passes=5.0, plain_passes=4.0).ratio
    1.25
    """

    steps: int
    """Optimizer steps."""
    sharp_steps: int
    """Sharpness-aware ones among them."""
    passes: float
    """Forward-backward passes spent; under gradient accumulation each micro-batch counts."""
    plain_passes: float
    """Forward-backward passes that the base optimizer alone would have spent."""

    @property
    def ratio(self) -> float:
        """Passes spent per pass of plain training; 1 before the first step."""
        return self.passes / self.plain_passes if self.plain_passes else 1.0


def expected_sharp_steps(schedule: Schedule, total_steps: int) -> float:
    """Return the expected number of sharpness-aware steps, Σ p(t) over the steps t = 0 … T−1.

    Beyond 100,000 steps it is T times the mean of p, by its integral: less than a step beside the sum for every place
    where p jumps, and for p(0) − p(1).

    >>> from sharpless.schedules import Linear
    >>> expected_sharp_steps(Linear(0, 1), 5)
    2.0
    """
    if total_steps > ADDED_UP:
        return total_steps * schedule.mean()
    return sum(schedule.at(step, total_steps) for step in range(total_steps))


def expected_cost(schedule: Schedule, total_steps: int | None = None, batch_fraction: float = 1.0) -> float:
    """Return the expected propagation count η̂ = 1 + q·mean p, in gradients per step (plain: 1, SAM: 2).

    Exact for a run of `total_steps` steps; without it the limit for many steps, in closed form.

    >>> from sharpless.schedules import Constant, Linear
    >>> expected_cost(Constant(0.5)), expected_cost(Linear(0, 1)), expected_cost(Linear(0, 1), 5)
    (1.5, 1.5, 1.4)
    >>> expected_cost(Constant(0.5), batch_fraction=0.25)
    1.125
    """
    share = schedule.mean() if total_steps is None else expected_sharp_steps(schedule, total_steps) / total_steps
    return 1.0 + batch_fraction * share


@dataclass(frozen=True)
class Plan:
    """How to spend a budget: p, q and γ of G-RST."""

    p: float
    """The probability of a sharpness-aware step."""
    batch_fraction: float
    """The share q of the batch that such a step climbs with."""
    gamma: float
    """The weight γ of the perturbed gradient."""
    why: str
    """The reason, for people."""
    seconds: float | None = None
    """The expected cost on the clock, in units of plain training, where the seconds of passes were known."""

    @property
    def cost(self) -> float:
        """The expected cost, 1 + p·q."""
        return 1.0 + self.p * self.batch_fraction


SMALLEST_PART = 4
"""The fewest examples that a plan climbs with."""


HIGHEST_GAMMA = 4.0
"""The largest γ ÷ degree of a plan in seconds: beyond it the correction was found to buy little."""

NOISE = 0.7
"""r(m) of a part of m examples falls as m to this power: mostly by 5 to 10 from m = 4 to 64 (variance.md), 16^0.7."""


def plan(budget: float, batch_size: int, degree: float = 1.0, seconds: Mapping[int, float] | None = None) -> Plan:
    """Return p, q and γ of G-RST for a budget: climb as often as possible, with as few examples as that takes.

    A sharpness-aware step corrects the gradient by γD, where D = g⁺ − g is that of m = q·n of the n examples and
    γ = degree/p. The second moment of the correction, relative to the square of its mean, is r(m)/p with r(m) =
    E‖D‖²/‖E D‖². For a budget 1 + p·q that is r(m)·m/(n·(budget − 1)): where noise dominates, r grows more
    slowly than 1/m, since a smaller part climbs a direction that is steeper for it, and the product falls with m. So
    p is taken as near to 1 as whole examples allow, and γ near to the degree (benchmarks/results/variance.md).
    Parts of fewer than SMALLEST_PART examples were not studied, and are not used.

    >>> thrifty = plan(1.1, batch_size=128)
    >>> round(thrifty.p, 3), thrifty.batch_fraction * 128, round(thrifty.gamma, 3), round(thrifty.cost, 9)
    (0.985, 13.0, 1.016, 1.1)

    Args:
        budget: the cost wanted, in gradients per step: above 1 (plain training), up to 2 (SAM).
        batch_size: n, the number of examples that one pass would run on (of a micro-batch, under accumulation).
        degree: the regularization degree p·γ.
        seconds: how long a pass takes by its number of examples, as `sharpless.pass_seconds` measures it; what lies
            between is interpolated. With it, the budget is one of seconds: a step that climbs with m examples takes
            2·t(m) + t(n−m) in the place of t(n), and of the p and m that this allows those are taken that make r(m)/p
            smallest, with γ of at most 4 times the degree.

    Returns:
        The plan, whose cost is the budget.

    Raises:
        ValueError: the budget is not in (1, 2], the batch size not positive, the degree negative or not finite, or the
            budget of seconds cannot be had.
    """
    if not 1.0 < budget <= 2.0:
        raise ValueError(f"budget = {budget} is out of range: give more than 1 (plain training) and at most 2 (SAM)")
    if batch_size != int(batch_size) or batch_size < 1:
        raise ValueError(f"batch_size = {batch_size} is out of range: give the number of examples, a whole one")
    if not 0.0 <= degree < math.inf:
        raise ValueError(f"degree = {degree} is out of range: give a finite number, 0 or more")
    if seconds is not None:
        return _plan_in_seconds(budget, int(batch_size), degree, seconds)
    extra = float(f"{(budget - 1.0) * batch_size:.12g}")  # examples a step, without the rounding error of 1.1 - 1
    size = min(max(math.ceil(extra), SMALLEST_PART), batch_size)
    if batch_size - size < 2:  # what is left would be no batch
        size = batch_size
    p = extra / size
    why = f"{extra:.4g} examples a step are there to climb with: take {size} in {100 * p:.3g} % of the steps, "
    why += "often and few rather than seldom and many, which has more variance"
    return Plan(p, size / batch_size, degree / p, why)


def _plan_in_seconds(budget: float, batch_size: int, degree: float, seconds: Mapping[int, float]) -> Plan:
    known = sorted(seconds.items())
    if not known or known[-1][0] < batch_size or not all(count > 0 and 0 < t < math.inf for count, t in known):
        raise ValueError(
            f"seconds = {dict(seconds)} does not price a batch of {batch_size}: give the seconds of a pass for some "
            f"numbers of examples, {batch_size} among them"
        )
    whole = _interpolated(known, batch_size)
    sizes = [*range(min(SMALLEST_PART, batch_size), batch_size - 1), batch_size]  # what is left is a batch, or nothing
    extra = {m: (2 * _interpolated(known, m) + _interpolated(known, batch_size - m)) / whole - 1 for m in sizes}
    extra[batch_size] = 1.0
    cheapest = min(extra, key=lambda m: extra[m])
    if (budget - 1) * HIGHEST_GAMMA < extra[cheapest]:
        least = 1 + extra[cheapest] / HIGHEST_GAMMA
        raise ValueError(
            f"budget = {budget:g} cannot be had in seconds with γ of at most {HIGHEST_GAMMA:g} times the degree: the "
            f"cheapest is {least:.3f}, with {cheapest} of {batch_size} examples in a quarter of the steps"
        )
    chances = {m: min(1.0, (budget - 1) / extra[m]) if extra[m] > 0 else 1.0 for m in sizes}
    fitting = [m for m in sizes if chances[m] * HIGHEST_GAMMA >= 1]
    size = min(fitting, key=lambda m: m**-NOISE / chances[m])
    p = chances[size]
    why = f"a step with {size} of {batch_size} examples takes {1 + extra[size]:.3g} times as long as a plain one: "
    why += f"it is taken in {100 * p:.3g} % of the steps, which has the least variance of what the budget buys"
    return Plan(p, size / batch_size, degree / p, why, 1 + p * extra[size])


def _interpolated(known: list[tuple[int, float]], count: int) -> float:
    """Return the seconds of a pass over `count` examples; of fewer than are known, those of the fewest."""
    if count == 0:
        return 0.0
    place = bisect_left(known, (count, 0.0))
    if place == 0:
        return known[0][1]
    (low, before), (high, after) = known[place - 1], known[place]
    return before + (after - before) * (count - low) / (high - low)
