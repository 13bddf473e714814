"""The ledger: what sharpness-aware training costs, in units of one gradient of the whole batch."""

from dataclasses import dataclass

from sharpless.schedules import Schedule

__all__ = ["Cost", "expected_cost", "expected_sharp_steps"]


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

    >>> from sharpless.schedules import Linear
    >>> expected_sharp_steps(Linear(0, 1), 5)
    2.0
    """
    return sum(schedule.at(step, total_steps) for step in range(total_steps))


def expected_cost(schedule: Schedule, total_steps: int | None = None) -> float:
    """Return the expected propagation count η̂ = 1 + mean p, in gradients per step (plain: 1, SAM: 2).

    Exact for a run of `total_steps` steps; without it the limit for many steps, in closed form.

    >>> from sharpless.schedules import Constant, Linear
    >>> expected_cost(Constant(0.5)), expected_cost(Linear(0, 1)), expected_cost(Linear(0, 1), 5)
    (1.5, 1.5, 1.4)
    """
    if total_steps is None:
        return 1.0 + schedule.mean()
    return 1.0 + expected_sharp_steps(schedule, total_steps) / total_steps
