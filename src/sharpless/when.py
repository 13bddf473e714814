"""When to climb: what decides, at each step, whether it is a sharpness-aware one."""

from typing import Any, Protocol

from sharpless.coin import evenly, uniform
from sharpless.schedules import Schedule

__all__ = ["Adaptive", "Coin", "Systematic", "When", "when"]


class When(Protocol):
    """Decides whether a step is sharpness-aware, from nothing but what a checkpoint holds."""

    kept: dict[str, Any]
    """The numbers that a checkpoint has to hold for it, as they are at the beginning."""

    def takes(self, p: float, kept: dict[str, Any], square: float | None = None) -> bool | None:
        """Return whether a step is sharpness-aware; None asks for ‖g‖² first.

        Args:
            p: the probability p(t) of the step, above 0.
            kept: what a checkpoint would hold before the step; a decision may change it.
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
    """Systematic sampling: each step with probability p(t), evenly spread, and as many steps as Σp(t) says."""

    def __init__(self, seed: int, schedule: Schedule, total_steps: int | None) -> None:
        self.kept = {"coin_seed": seed}
        self._schedule, self._total_steps = schedule, total_steps
        self._sum = (0, 0.0)

    def takes(self, p: float, kept: dict[str, Any], square: float | None = None) -> bool:
        """Return whether Σp passes one of the sampling points at this step."""
        return evenly(kept["coin_seed"], self._sum_before(kept["coin_step"]), p)

    def _sum_before(self, step: int) -> float:
        """Return Σp over the steps before `step`, always added up in the same order: a resumed run finds the same."""
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
        """Return whether ‖g‖² is unusually large, and take it into the moments."""
        if square is None or self._policy is None:
            return None
        moments = kept["norm_mean"], kept["norm_variance"]
        taken, moments = self._policy.takes(kept["coin_step"], self._total_steps, square, *moments)
        kept["norm_mean"], kept["norm_variance"] = moments
        return taken


def when(schedule: Schedule, total_steps: int | None, seed: int, *, systematic: bool) -> When:
    """Return what decides for a `schedule`.

    Raises:
        ValueError: `systematic` sampling of a schedule that tosses no coins.
    """
    if schedule.policy is None:
        return Systematic(seed, schedule, total_steps) if systematic else Coin(seed)
    if systematic:
        raise ValueError(f"systematic = True spreads coins, and p = {schedule} tosses none: leave one out")
    return Adaptive(seed, schedule, total_steps)
