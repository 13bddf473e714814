"""The ledger: what sharpness-aware training costs, in units of one gradient of the whole batch."""

import math
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

    @property
    def cost(self) -> float:
        """The expected cost, 1 + p·q."""
        return 1.0 + self.p * self.batch_fraction


SMALLEST_PART = 4
"""The fewest examples that a plan climbs with."""


def plan(budget: float, batch_size: int, degree: float = 1.0) -> Plan:
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

    Returns:
        The plan, whose cost is the budget.

    Raises:
        ValueError: the budget is not in (1, 2], the batch size not positive, or the degree negative or not finite.
    """
    if not 1.0 < budget <= 2.0:
        raise ValueError(f"budget = {budget} is out of range: give more than 1 (plain training) and at most 2 (SAM)")
    if batch_size != int(batch_size) or batch_size < 1:
        raise ValueError(f"batch_size = {batch_size} is out of range: give the number of examples, a whole one")
    if not 0.0 <= degree < math.inf:
        raise ValueError(f"degree = {degree} is out of range: give a finite number, 0 or more")
    extra = float(f"{(budget - 1.0) * batch_size:.12g}")  # examples a step, without the rounding error of 1.1 - 1
    size = min(max(math.ceil(extra), SMALLEST_PART), batch_size)
    if batch_size - size < 2:  # what is left would be no batch
        size = batch_size
    p = extra / size
    why = f"{extra:.4g} examples a step are there to climb with: take {size} in {100 * p:.3g} % of the steps, "
    why += "often and few rather than seldom and many, which has more variance"
    return Plan(p, size / batch_size, degree / p, why)
