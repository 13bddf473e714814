"""Schedules without a coin: every k-th step, and steps whose gradient is large."""

import math
from dataclasses import dataclass
from numbers import Real

from sharpless.schedules.base import Moments, Policy, Schedule, as_text

__all__ = ["Adaptive", "Periodic"]


@dataclass(frozen=True)
class Periodic(Schedule):
    """1 at every `every`-th step, 0 at the others; as a function of progress, its average 1/`every`.

    >>> [Periodic(3).at(step, None) for step in range(6)], Periodic(4)(0.5)
    ([0.0, 0.0, 1.0, 0.0, 0.0, 1.0], 0.25)
    """

    every: int

    needs_total_steps = False

    def __post_init__(self) -> None:
        if not (isinstance(self.every, int) and self.every >= 1):
            raise ValueError(f"every = {self.every} is not a period: give a whole number of steps, 1 or more")

    def __call__(self, progress: float) -> float:
        return 1.0 / self.every

    def area(self, start: float, end: float) -> float:
        return (end - start) / self.every

    def at(self, step: int, total_steps: int | None) -> float:
        return float((step + 1) % self.every == 0)

    def __str__(self) -> str:
        return f"periodic:{self.every}"


@dataclass(frozen=True)
class Adaptive(Schedule):
    """Sharpness-aware where the gradient is unusually large, in place of a coin (AE-SAM, arXiv 2304.14647).

    A step is sharpness-aware when ‖g‖² ≥ μ + cσ. μ and σ² are exponential moving averages of the mean and variance of
    ‖g‖² over the steps, including this one. c goes linearly from `start` to `end`: λ₂ and λ₁ of the paper, which uses 1
    and −1 and a decay of 0.9. μ starts at the first ‖g‖², σ at 0. g is the gradient of the perturbed parameters. With
    GradScaler, use a constant scale (a large growth_interval): the gradients are scaled, and a growing scale looks like
    a growing gradient. As a function of progress, the schedule is the probability of this condition for a normal
    distribution. Expected costs and γ = degree / mean p are computed from it; the actual cost depends on the gradients.

    >>> Adaptive().mean(), round(Adaptive(1, 1).mean(), 4)
    (0.5, 0.1587)
    """

    start: float = 1.0
    end: float = -1.0
    decay: float = 0.9

    def __post_init__(self) -> None:
        if not all(isinstance(each, Real) and abs(each) <= 1e100 for each in (self.start, self.end)):
            raise ValueError(f"Adaptive({self.start}, {self.end}) has no finite thresholds: give numbers like 1 and -1")
        if not 0.0 <= self.decay < 1.0:
            raise ValueError(f"decay = {self.decay} is out of range: give a number in [0, 1)")

    def _threshold(self, progress: float) -> float:
        return (1.0 - progress) * self.start + progress * self.end

    @property
    def policy(self) -> Policy:
        return self

    def takes(
        self, step: int, total_steps: int | None, square: float, mean: float | None, variance: float
    ) -> tuple[bool, Moments]:
        """Return whether a step is sharpness-aware, and the moments for the next step.

        Args:
            step: the step, counted from 0.
            total_steps: the number of steps.
            square: ‖g‖²; if it is not finite, the step is plain, and the moments do not change.
            mean: μ so far, None before the first step.
            variance: σ² so far, at first 0.
        """
        if not math.isfinite(square):
            return False, (mean, variance)
        mean = square if mean is None else self.decay * mean + (1.0 - self.decay) * square
        variance = self.decay * variance + (1.0 - self.decay) * (square - mean) ** 2
        threshold = self._threshold(0.0 if total_steps is None else min(step, total_steps - 1) / total_steps)
        return square > 0 and square >= mean + threshold * math.sqrt(variance), (mean, variance)

    def __call__(self, progress: float) -> float:
        return math.erfc(self._threshold(progress) / math.sqrt(2)) / 2

    def area(self, start: float, end: float) -> float:
        low, high = self._threshold(start), self._threshold(end)
        if low == high:
            return (end - start) * self(start)

        def integral(c: float) -> float:
            density = math.exp(-(c**2) / 2) / math.sqrt(2 * math.pi)
            return c * math.erfc(c / math.sqrt(2)) / 2 - density

        return (end - start) * (integral(high) - integral(low)) / (high - low)

    def __str__(self) -> str:
        return f"adaptive:{as_text(self.start, self.end, self.decay)}"
