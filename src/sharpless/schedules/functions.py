"""The scheduling functions of RST (arXiv 2203.09962) and its code."""

import math
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from sharpless.schedules.base import Schedule, as_text, check_probability

__all__ = ["Constant", "Cosine", "Linear", "Piecewise"]


@dataclass(frozen=True)
class Constant(Schedule):
    """The same p at every step.

    >>> Constant(0.5)(0.3), str(Constant(0.5))
    (0.5, '0.5')
    """

    p: float

    needs_total_steps = False

    def __post_init__(self) -> None:
        check_probability("p", self.p)

    def __call__(self, progress: float) -> float:
        return float(self.p)

    def area(self, start: float, end: float) -> float:
        return self.p * (end - start)

    def __str__(self) -> str:
        return as_text(self.p)


@dataclass(frozen=True)
class Piecewise(Schedule):
    """`values[i]` up to and including `boundaries[i]`, then the next one.

    >>> late = Piecewise((0, 1), (0.875,))  # SAM for the last eighth of the run
    >>> late(0.875), late(0.876), late.mean()
    (0.0, 1.0, 0.125)
    """

    values: tuple[float, ...]
    boundaries: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("values", "boundaries"):
            given = getattr(self, name)
            if not isinstance(given, Iterable):
                raise TypeError(f"{name} = {given!r} is not a tuple: give one, as in Piecewise((0, 1), (0.75,))")
            object.__setattr__(self, name, tuple(given))
        for value in self.values:
            check_probability("a value of Piecewise", value)
        edges = (0.0, *self.boundaries, 1.0)
        fits = len(self.values) == len(self.boundaries) + 1 >= 2
        if not fits or not all(a <= b for a, b in pairwise(edges)):
            raise ValueError(
                f"Piecewise(values={self.values}, boundaries={self.boundaries}) does not fit together: "
                "give boundaries that rise within [0, 1], one or more, and one value more than boundaries"
            )

    def __call__(self, progress: float) -> float:
        return float(self.values[bisect_left(self.boundaries, progress)])

    def area(self, start: float, end: float) -> float:
        edges = pairwise((0.0, *self.boundaries, 1.0))
        return sum(
            value * max(0.0, min(end, right) - max(start, left))
            for value, (left, right) in zip(self.values, edges, strict=True)
        )

    def __str__(self) -> str:
        return f"piecewise:{as_text(*self.values)}@{as_text(*self.boundaries)}"


@dataclass(frozen=True)
class _FromTo(Schedule):
    """From `start` at the beginning to `end` at the end."""

    start: float
    end: float

    def __post_init__(self) -> None:
        check_probability("start", self.start)
        check_probability("end", self.end)


@dataclass(frozen=True)
class Linear(_FromTo):
    """From `start` to `end` in a straight line.

    >>> Linear(0, 1)(0.25), Linear(1, 0)(0.25)
    (0.25, 0.75)
    """

    def __call__(self, progress: float) -> float:
        return (1.0 - progress) * self.start + progress * self.end

    def area(self, start: float, end: float) -> float:
        return (end - start) * self((start + end) / 2)

    def __str__(self) -> str:
        return f"linear:{as_text(self.start, self.end)}"


@dataclass(frozen=True)
class Cosine(_FromTo):
    """From `start` to `end` along half a cosine.

    >>> round(Cosine(1, 0)(0.25), 4), Cosine(1, 0).mean()
    (0.8536, 0.5)
    """

    def __call__(self, progress: float) -> float:
        weight = (1.0 + math.cos(math.pi * progress)) / 2
        return weight * self.start + (1.0 - weight) * self.end

    def area(self, start: float, end: float) -> float:
        swing = (math.sin(math.pi * end) - math.sin(math.pi * start)) / math.pi
        return ((end - start) * (self.start + self.end) + swing * (self.start - self.end)) / 2

    def __str__(self) -> str:
        return f"cosine:{as_text(self.start, self.end)}"
