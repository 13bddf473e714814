"""The base class of scheduling functions, and of policies that replace the coin."""

from abc import ABC, abstractmethod
from numbers import Real
from typing import Any, Protocol

__all__ = ["Moments", "Policy", "Schedule", "as_text", "check_probability"]

Moments = tuple[float | None, float]
"""The running mean of ‖g‖², None before the first step, and its running variance."""


class Policy(Protocol):
    """A rule that looks at the gradient of a step, in place of a coin."""

    def takes(
        self, step: int, total_steps: int | None, square: float, mean: float | None, variance: float
    ) -> tuple[bool, Moments]:
        """Return whether a step with ‖g‖² = `square` is sharpness-aware, and the moments for the next one."""
        ...


class Schedule(ABC):
    """A scheduling function: the probability of a sharpness-aware step as a function of progress.

    >>> from sharpless.schedules import Linear
    >>> isinstance(Linear(0, 1), Schedule), Linear(0, 1)(0.25)
    (True, 0.25)
    """

    needs_total_steps = True
    """Whether `at` needs the number of steps of the run."""

    @abstractmethod
    def __call__(self, progress: float) -> float:
        """Return p at `progress` = t/T in [0, 1]."""

    @abstractmethod
    def area(self, start: float, end: float) -> float:
        """Return the integral of p over progress from `start` to `end`, in closed form where there is one."""

    @abstractmethod
    def __str__(self) -> str:
        """Return the form that `parse` reads."""

    def mean(self) -> float:
        """Return the average of p over the run, the limit for many steps.

        >>> from sharpless.schedules import Linear
        >>> Linear(0, 1).mean()
        0.5
        """
        return self.area(0.0, 1.0)

    @property
    def policy(self) -> Policy | None:
        """The rule that replaces the coin where p is positive, or None."""
        return None

    def at(self, step: int, total_steps: int | None) -> float:
        """Return p at step `step` (counted from 0) of `total_steps`; after the last step p keeps its last value.

        >>> from sharpless.schedules import Linear
        >>> Linear(0, 1).at(25, 100)
        0.25
        """
        if total_steps is None:
            return self(0.0)
        return self(min(step, total_steps - 1) / total_steps)


def check_probability(name: str, value: Any) -> None:
    """Refuse a `value` outside [0, 1].

    Raises:
        TypeError: it is not a number.
        ValueError: it is not a probability.
    """
    if not isinstance(value, Real):
        raise TypeError(f"{name} = {value!r} is not a number: give one in [0, 1]")
    if not 0.0 <= float(value) <= 1.0:
        raise ValueError(f"{name} = {value} is not a probability: give a number in [0, 1]")


def as_text(*numbers: float) -> str:
    """Return numbers as a reader would type them."""
    return ",".join(repr(float(number)).removesuffix(".0") for number in numbers)
