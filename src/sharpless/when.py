"""When to climb: the rules that decide whether a step is sharpness-aware."""

from typing import Any, Protocol

from sharpless.coin import evenly, uniform
from sharpless.schedules import Schedule

__all__ = ["Adaptive", "Coin", "Systematic", "When", "when"]


class When(Protocol):
    """Decides whether a step is sharpness-aware, only from numbers that a checkpoint holds."""

    kept: dict[str, Any]
    """Its numbers for the checkpoint, with their initial values."""

    def takes(self, p: float, kept: dict[str, Any], square: float | None = None) -> bool | None:
        """Return whether a step is sharpness-aware; None if it needs ‖g‖² first.

        Args:
            p: the probability p(t) of the step, above 0.
            kept: the numbers for the checkpoint before the step; a decision may change them.
            square: ‖g‖², of the first gradient of the step.
        """
        ...


class Coin:
    """A coin with probability p at each step (RST, arXiv 2203.09962)."""

    def __init__(self, seed: int) -> None:
        self.kept = {"coin_seed": seed}

    def takes(self, p: float, kept: dict[str, Any], square: float | None = None) -> bool:
        """Return whether the coin of this step falls below p."""
        return uniform(kept["coin_seed"], kept["coin_step"]) < p


class Systematic:
    """Systematic sampling: Σp(t) steps in all, evenly spread, each with probability p(t)."""

    def __init__(self, seed: int, schedule: Schedule, total_steps: int | None) -> None:
        self.kept = {"coin_seed": seed}
        self._schedule, self._total_steps = schedule, total_steps
        self._sum = (0, 0.0)

    def takes(self, p: float, kept: dict[str, Any], square: float | None = None) -> bool:
        """Return whether Σp passes one of the sampling points at this step."""
        return evenly(kept["coin_seed"], self._sum_before(kept["coin_step"]), p)

    def _sum_before(self, step: int) -> float:
        """Return Σp over the steps before `step`, added up in the same order, also in a resumed run."""
        start, total = self._sum if self._sum[0] <= step else (0, 0.0)
        for earlier in range(start, step):
            total += self._schedule.at(earlier, self._total_steps)
        self._sum = (step, total)
        return total


class Adaptive:
    """A policy that looks at the size of the gradient, `schedules.Adaptive`."""

    def __init__(self, seed: int, schedule: Schedule, total_steps: int | None) -> None:
        self.kept = {"coin_seed": seed, "norm_mean": None, "norm_variance": 0.0}
        self._policy, self._total_steps = schedule.policy, total_steps

    def takes(self, p: float, kept: dict[str, Any], square: float | None = None) -> bool | None:
        """Return whether ‖g‖² is unusually large, and update the moments."""
        if square is None or self._policy is None:
            return None
        moments = kept["norm_mean"], kept["norm_variance"]
        taken, moments = self._policy.takes(kept["coin_step"], self._total_steps, square, *moments)
        kept["norm_mean"], kept["norm_variance"] = moments
        return taken


def when(schedule: Schedule, total_steps: int | None, seed: int, *, systematic: bool) -> When:
    """Return the rule for a `schedule`.

    Raises:
        ValueError: `systematic` is combined with a schedule without a coin.
    """
    if schedule.policy is None:
        return Systematic(seed, schedule, total_steps) if systematic else Coin(seed)
    if systematic:
        raise ValueError(f"systematic = True replaces the coin, but p = {schedule} has none: leave one out")
    return Adaptive(seed, schedule, total_steps)
