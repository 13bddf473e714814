"""The cost of sharpness-aware training, in units of one gradient of the whole batch."""

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real

from sharpless.schedules import schedule as read
from sharpless.schedules.reading import Probability

__all__ = ["BudgetError", "Cost", "Plan", "expected_cost", "expected_sharp_steps", "plan"]

ADDED_UP = 100_000
"""Up to this number of steps, probabilities are summed one by one."""


@dataclass(frozen=True)
class Cost:
    """The passes that a run has used so far.

    >>> Cost(steps=4, sharp_steps=1, passes=5.0, plain_passes=4.0).ratio
    1.25
    """

    steps: int
    """Optimizer steps."""
    sharp_steps: int
    """Sharpness-aware steps among them."""
    passes: float
    """Forward-backward passes used; with gradient accumulation, each micro-batch counts."""
    plain_passes: float
    """Forward-backward passes that the base optimizer alone would have used."""

    @property
    def ratio(self) -> float:
        """The number of passes relative to plain training; 1 before the first step."""
        return self.passes / self.plain_passes if self.plain_passes else 1.0


def expected_sharp_steps(schedule: Probability, total_steps: int) -> float:
    """Return the expected number of sharpness-aware steps, Σ p(t) over the steps t = 0 … T−1.

    Beyond 100,000 steps it is T times the mean of p, by its integral. This differs from the sum by less than one step
    for each jump of p, and for p(0) − p(1).

    >>> from sharpless.schedules import Linear
    >>> expected_sharp_steps(Linear(0, 1), 5)
    2.0

    Args:
        schedule: p(t), in any form that RST takes.
        total_steps: T.

    Raises:
        ValueError: `total_steps` is not 1 or more.
    """
    p = read(schedule)
    if total_steps < 1:
        raise ValueError(f"total_steps = {total_steps} is not a number of steps: give 1 or more")
    if total_steps > ADDED_UP:
        return total_steps * p.mean()
    return sum(p.at(step, total_steps) for step in range(total_steps))


def expected_cost(schedule: Probability, total_steps: int | None = None, batch_fraction: float = 1.0) -> float:
    """Return the expected propagation count η̂ = 1 + q·mean p, in gradients per step (plain: 1, SAM: 2).

    Exact for a run of `total_steps` steps; without it the limit for many steps, in closed form.

    >>> from sharpless.schedules import Linear
    >>> expected_cost(0.5), expected_cost(Linear(0, 1)), expected_cost("linear:0,1", 5)
    (1.5, 1.5, 1.4)
    >>> expected_cost(0.5, batch_fraction=0.25)
    1.125

    Args:
        schedule: p(t), in any form that RST takes.
        total_steps: T.
        batch_fraction: the share q of the batch that a sharpness-aware step climbs with.
    """
    share = read(schedule).mean() if total_steps is None else expected_sharp_steps(schedule, total_steps) / total_steps
    return 1.0 + batch_fraction * share


@dataclass(frozen=True)
class Plan:
    """The p, q and γ of G-RST that a budget allows, as `plan` returns them.

    >>> half = Plan(p=0.5, batch_fraction=0.25, gamma=2.0, why="an example")
    >>> half.cost  # 1 + p·q gradients a step
    1.125
    """

    p: float
    """The probability of a sharpness-aware step."""
    batch_fraction: float
    """The share q of the batch that such a step climbs with."""
    gamma: float
    """The weight γ of the perturbed gradient."""
    why: str
    """The reason, as a sentence."""
    seconds: float | None = None
    """The expected time, in units of plain training; None if the plan used no measured seconds."""

    @property
    def cost(self) -> float:
        """The expected cost, 1 + p·q."""
        return 1.0 + self.p * self.batch_fraction


SMALLEST_PART = 4
"""The fewest examples that a plan climbs with."""

HIGHEST_GAMMA = 4.0
"""The largest γ ÷ degree of a plan: beyond it the correction hardly helped."""

NOISE = 0.7
"""r(m) falls as m^-0.7, by 16^0.7 = 7 from m = 4 to 64; measured: mostly 5 to 10 (benchmarks/results/variance.md)."""

MOST_NOISE = 10.0
"""The largest second moment of a step's correction, in units of SAM's, if `noise` is given (docs/how-to/budget.md)."""


TOLERANCE = 0.01
"""Plans in seconds whose costs differ by at most this are equally cheap: measured times are no more precise."""


class BudgetError(ValueError):
    """No plan fits the budget; `cheapest` is the cheapest plan.

    >>> try:
    ...     plan(1.1, batch_size=64, smallest_part=32)
    ... except BudgetError as error:
    ...     print(error.cheapest.p, error.cheapest.batch_fraction, error.cheapest.cost)
    0.25 0.5 1.125
    """

    def __init__(self, message: str, cheapest: Plan) -> None:
        super().__init__(message)
        self.cheapest = cheapest


def plan(
    budget: float,
    batch_size: int,
    degree: float = 1.0,
    seconds: Mapping[int, float] | None = None,
    noise: Mapping[int, float] | None = None,
    smallest_part: int = SMALLEST_PART,
) -> Plan:
    """Return p, q and γ of G-RST for a budget, such that the sharpness term has the least variance.

    A sharpness-aware step corrects the gradient by γD, where D = g⁺ − g is that of m = q·n of the n examples and
    γ = degree/p. The second moment of the correction, relative to the square of its mean, is r(m)/p with r(m) =
    E‖D‖²/‖E D‖², which falls as m^-0.7 (benchmarks/results/variance.md). Such a step costs 1 + m/n times a plain one in
    gradients; a budget in seconds uses measured times. Of all p and m that the budget allows, the plan has those with
    the smallest r(m)/p. With a budget in gradients, it climbs as often as possible, with as few examples as necessary.

    γ is at most 4 times the degree, and parts have at least 4 examples: values beyond these limits did not help.
    BatchNorm can make small parts so noisy that training fails. With a measured `noise`, the second moment of the
    correction is at most 10 times SAM's.

    >>> thrifty = plan(1.1, batch_size=128)
    >>> round(thrifty.p, 3), thrifty.batch_fraction * 128, round(thrifty.gamma, 3), round(thrifty.cost, 9)
    (0.985, 13.0, 1.016, 1.1)

    Args:
        budget: the wanted cost, in units of plain training: above 1 (plain training), up to 2 (SAM).
        batch_size: n, the number of examples that one pass would run on (of a micro-batch, under accumulation).
        degree: the regularization degree p·γ.
        seconds: the duration of a step by the number of examples it climbs with (0 for a plain step), as
            `sharpless.step_seconds` measures it. With it, the budget is in seconds. Values in between are interpolated,
            and parts smaller than all measured ones are not used.
        noise: E‖D‖² of a part by its number of examples, relative to the whole batch's, as `sharpless.part_noise`
            measures it.
        smallest_part: the fewest examples to climb with.

    Returns:
        The plan, whose cost is at most the budget.

    Raises:
        BudgetError: no plan fits the budget; the message gives the smallest possible cost.
        TypeError: an argument is not a number, or `seconds` or `noise` are not values by number of examples.
        ValueError: the budget is not in (1, 2], a number of examples is not positive, the degree is negative or not
            finite, or `seconds` or `noise` lack a value or have a wrong one.
    """
    for name, value in {"budget": budget, "batch_size": batch_size, "degree": degree}.items():
        if not isinstance(value, Real):
            raise TypeError(f"{name} = {value!r} is not a number: give one")
    if not 1.0 < budget <= 2.0:
        raise ValueError(f"budget = {budget} is out of range: give more than 1 (plain training) and at most 2 (SAM)")
    if batch_size % 1 or batch_size < 1:  # a remainder of NaN, too
        raise ValueError(f"batch_size = {batch_size} is out of range: give the number of examples, a whole one")
    if not 0.0 <= degree < math.inf:
        raise ValueError(f"degree = {degree} is out of range: give a finite number, 0 or more")
    n = int(batch_size)
    prices = {} if seconds is None else _checked("seconds", seconds, 0, n)
    measured = {} if noise is None else _checked("noise", noise, n)
    first = max(smallest_part, min((m for m in prices if m), default=1), min(measured, default=1))
    parts = [*range(first, n - 1), n]  # the rest has at least two examples, or none
    # A cost in seconds below the cost in gradients is a measurement error.
    extra = {m: max(_interpolated(prices, m) / prices[0] - 1 if prices else 0.0, m / n) for m in parts}
    least = {m: max(1 / HIGHEST_GAMMA, _interpolated(measured, m) / MOST_NOISE if measured else 0.0) for m in parts}

    def variance(m: int, p: float) -> float:
        return max(math.pow(n / m, NOISE), _interpolated(measured, m) if measured else 0.0) / p

    def planned(m: int, p: float) -> Plan:
        costs = "costs" if seconds is None else "takes"
        why = f"a step that climbs with {m} of {n} examples {costs} {1 + extra[m]:.3g} times a plain step"
        why += f"; in {100 * p:.3g} % of the steps, it gives the least variance within the budget"
        return Plan(p, m / n, degree / p, why, None if seconds is None else 1 + p * extra[m])

    probabilities = {m: float(f"{min(1.0, (budget - 1) / extra[m]):.12g}") for m in parts}  # 1.1 - 1 > 0.1
    fitting = [m for m in parts if probabilities[m] >= least[m]]
    if not fitting:
        cost = {m: least[m] * extra[m] for m in parts if least[m] <= 1}
        near = [m for m in cost if cost[m] <= min(cost.values()) + TOLERANCE * bool(prices)]
        cheapest = min(near, key=lambda m: variance(m, least[m]))
        p = least[cheapest]
        raise BudgetError(
            f"budget = {budget:g} is too small{'' if seconds is None else ' in seconds'} with γ of at most "
            f"{HIGHEST_GAMMA:g} times the degree{' and the measured noise' * bool(measured)}: the cheapest plan "
            f"costs {1 + p * extra[cheapest]:.3f}, with {cheapest} of {n} examples in {100 * p:.3g} % of the steps",
            planned(cheapest, p),
        )
    size = min(fitting, key=lambda m: variance(m, probabilities[m]))
    return planned(size, probabilities[size])


def _checked(name: str, values: Mapping[int, float], *needed: int) -> dict[int, float]:
    """Return the measured values, sorted by the number of examples.

    Raises:
        TypeError: `values` are not numbers by number of examples.
        ValueError: a number of examples is missing or out of range, or a value is not positive and finite.
    """
    if not (isinstance(values, Mapping) and all(isinstance(each, Real) for pair in values.items() for each in pair)):
        raise TypeError(f"{name} = {values!r} are not numbers by number of examples: give {{{needed[-1]}: 1.0, …}}")
    known = dict(sorted(values.items()))
    right = known.keys() >= {*needed} and max(known) == needed[-1] and min(known) >= min(1, *needed)
    if not right or not all(0 < value < math.inf for value in known.values()):
        plain = "0 for a plain step and " if 0 in needed else ""
        raise ValueError(
            f"{name} = {dict(values)} does not fit a batch of {needed[-1]}: give a positive number for some numbers of "
            f"examples, including {plain}{needed[-1]}"
        )
    return known


def _interpolated(known: Mapping[int, float], count: int) -> float:
    """Return the value for `count` examples; below the smallest known count, the value of that count."""
    counts = list(known)
    place = bisect_left(counts, count)
    if place == 0:
        return known[counts[0]]
    low, high = counts[place - 1], counts[place]
    return known[low] + (known[high] - known[low]) * (count - low) / (high - low)
