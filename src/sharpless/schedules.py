"""When to be sharpness-aware: the scheduling functions p(t) of RST (arXiv 2203.09962).

A schedule is a value. Called on progress u = t/T in [0, 1] it returns the probability with which the step
at that progress is sharpness-aware; `at` answers for step t of T, `mean` gives the average over the run.

The functions of the paper and of its code, for a parameter p:

| there            | p(t), step t of T                        | here                                        |
| ---------------- | ---------------------------------------- | ------------------------------------------- |
| constant         | p                                        | `Constant(p)`                               |
| piecewise1       | 0 for t ≤ pT, then 1                     | `Piecewise((0, 1), (p,))`                   |
| piecewise2       | 1 for t ≤ pT, then 0                     | `Piecewise((1, 0), (p,))`                   |
| piecewise3       | p for t ≤ T/2, then 1−p                  | `Piecewise((p, 1 - p), (0.5,))`             |
| piecewise (a, b) | a for t ≤ bT, then 1−a                   | `Piecewise((a, 1 - a), (b,))`               |
| linear1, p ≤ 0.5 | 2p·t/T                                   | `Linear(0, 2 * p)`                          |
| linear1, p > 0.5 | (2p−1) + 2(1−p)·t/T                      | `Linear(2 * p - 1, 1)`                      |
| linear2          | p + 2(0.5−p)·t/T                         | `Linear(p, 1 - p)`                          |
| trigonometric    | 0.5 + 0.5·cos(πt/T)                      | `Cosine(1, 0)`                              |
"""

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from typing import Any, Protocol

__all__ = [
    "Adaptive",
    "Constant",
    "Cosine",
    "Linear",
    "Periodic",
    "Piecewise",
    "Schedule",
    "Warmup",
    "parse",
    "schedule",
]


def _check_probability(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} = {value} is not a probability: give a number in [0, 1]")


def _text(*numbers: float) -> str:
    return ",".join(repr(float(number)).removesuffix(".0") for number in numbers)


Moments = tuple[float | None, float]
"""The running mean of ‖g‖², None before the first step, and its running variance."""


class Policy(Protocol):
    """What looks at the gradient of a step, in place of a coin."""

    def takes(
        self, step: int, total_steps: int | None, square: float, mean: float | None, variance: float
    ) -> tuple[bool, Moments]:
        """Return whether a step with ‖g‖² = `square` is sharpness-aware, and the moments for the next one."""
        ...


class Schedule(ABC):
    """A scheduling function: the probability of a sharpness-aware step as a function of progress."""

    needs_total_steps = True
    """Whether `at` has to know how many steps the run takes."""

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

        >>> Linear(0, 1).mean()
        0.5
        """
        return self.area(0.0, 1.0)

    @property
    def policy(self) -> Policy | None:
        """What decides, where p is positive, in place of a coin."""
        return None

    def at(self, step: int, total_steps: int | None) -> float:
        """Return p at step `step` (counted from 0) of `total_steps`; past the last step p stays what it was.

        >>> Linear(0, 1).at(25, 100)
        0.25
        """
        if total_steps is None:
            return self(0.0)
        return self(min(step, total_steps - 1) / total_steps)


@dataclass(frozen=True)
class Constant(Schedule):
    """The same p at every step.

    >>> Constant(0.5)(0.3), str(Constant(0.5))
    (0.5, '0.5')
    """

    p: float

    needs_total_steps = False

    def __post_init__(self) -> None:
        _check_probability("p", self.p)

    def __call__(self, progress: float) -> float:
        return float(self.p)

    def area(self, start: float, end: float) -> float:
        return self.p * (end - start)

    def __str__(self) -> str:
        return _text(self.p)


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
        object.__setattr__(self, "values", tuple(self.values))
        object.__setattr__(self, "boundaries", tuple(self.boundaries))
        for value in self.values:
            _check_probability("a value of Piecewise", value)
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
        return f"piecewise:{_text(*self.values)}@{_text(*self.boundaries)}"


@dataclass(frozen=True)
class _FromTo(Schedule):
    """From `start` at the beginning to `end` at the end."""

    start: float
    end: float

    def __post_init__(self) -> None:
        _check_probability("start", self.start)
        _check_probability("end", self.end)


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
        return f"linear:{_text(self.start, self.end)}"


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
        return f"cosine:{_text(self.start, self.end)}"


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
    """Where the gradient is unusually large: the policy of AE-SAM (arXiv 2304.14647), in place of a coin.

    A step is sharpness-aware when ‖g‖² ≥ μ + cσ, with exponential moving averages μ and σ² of mean and variance
    of ‖g‖² over the steps (this one included), and c going in a straight line from `start` to `end`: λ₂ and λ₁
    of the paper, which takes 1 and −1 and a decay of 0.9. μ starts at the first ‖g‖², σ at 0; g are the gradients
    of the parameters that are perturbed. Beside GradScaler give it a fixed scale (a large growth_interval): it
    sees scaled gradients, and a scale that grows looks like a gradient that does. As a function of progress it is
    the chance of that for a normal distribution, which is what expected costs and γ = degree / mean p are
    computed from; the gradients decide what is spent.

    >>> Adaptive().mean(), round(Adaptive(1, 1).mean(), 4)
    (0.5, 0.1587)
    """

    start: float = 1.0
    end: float = -1.0
    decay: float = 0.9

    def __post_init__(self) -> None:
        if not (abs(self.start) <= 1e100 and abs(self.end) <= 1e100):
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
        """Return whether a step is sharpness-aware, and the moments that the next one is to be given.

        Args:
            step: the step, counted from 0.
            total_steps: the number of steps.
            square: ‖g‖²; what is not finite is not taken, and leaves the moments alone.
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
        return f"adaptive:{_text(self.start, self.end, self.decay)}"


@dataclass(frozen=True)
class Warmup(Schedule):
    """0 for the first `fraction` of the run, then `then`, which still sees the progress of the whole run.

    Sharpness-aware steps during learning-rate warm-up can hurt, most of all with Adam on transformers.

    >>> Warmup(0.1, Constant(0.5))(0.09), Warmup(0.1, Constant(0.5))(0.1), Warmup(0.1, 0.5).mean()
    (0.0, 0.5, 0.45)
    """

    fraction: float
    then: Schedule

    def __post_init__(self) -> None:
        object.__setattr__(self, "then", schedule(self.then))
        if not 0.0 <= self.fraction <= 1.0:
            raise ValueError(f"fraction = {self.fraction} is not a share of the run: give a number in [0, 1]")

    def __call__(self, progress: float) -> float:
        return 0.0 if progress < self.fraction else self.then(progress)

    def area(self, start: float, end: float) -> float:
        start = max(start, self.fraction)
        return self.then.area(start, end) if start < end else 0.0

    def at(self, step: int, total_steps: int | None) -> float:
        if total_steps is None or min(step, total_steps - 1) / total_steps < self.fraction:
            return 0.0
        return self.then.at(step, total_steps)

    @property
    def policy(self) -> Policy | None:
        return self.then.policy

    def __str__(self) -> str:
        return f"warmup:{_text(self.fraction)}/{self.then}"


@dataclass(frozen=True)
class _Function(Schedule):
    """A callable of the user's, watched: it must stay in [0, 1]."""

    function: Callable[[float], float]

    _GRID = 1000

    def __post_init__(self) -> None:
        for i in range(self._GRID + 1):
            self(i / self._GRID)

    def __call__(self, progress: float) -> float:
        p = float(self.function(progress))
        _check_probability(f"p({progress:g})", p)
        return p

    def area(self, start: float, end: float) -> float:
        width = (end - start) / self._GRID
        return width * sum(self(start + (i + 0.5) * width) for i in range(self._GRID))

    def __str__(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))


def schedule(p: Any) -> Schedule:
    """Return `p` as a schedule: a number is a constant, a text is parsed, a function of progress is taken as it is.

    >>> schedule(0.5), schedule("linear:0,1")
    (Constant(p=0.5), Linear(start=0.0, end=1.0))
    >>> schedule(lambda u: 2 * u)
    Traceback (most recent call last):
        ...
    ValueError: p(0.501) = 1.002 is not a probability: give a number in [0, 1]

    Args:
        p: a number in [0, 1], a schedule, the text of one, or a function of progress in [0, 1].

    Returns:
        The schedule.

    Raises:
        TypeError: `p` is none of these.
    """
    if isinstance(p, Schedule):
        return p
    if isinstance(p, str):
        return parse(p)
    if callable(p):
        return _Function(p)
    if isinstance(p, Real):
        return Constant(float(p))
    raise TypeError(f"p = {p!r} is not a schedule: give a number, a schedule or a function of progress")


def parse(text: str) -> Schedule:
    """Return the schedule written as `text`, the inverse of `str`.

    >>> [str(parse(text)) for text in ("0.5", "linear:0,1", "piecewise:0,1@0.75", "warmup:0.1/periodic:5")]
    ['0.5', 'linear:0,1', 'piecewise:0,1@0.75', 'warmup:0.1/periodic:5']

    Raises:
        ValueError: `text` is in none of the forms, or leaves [0, 1].
    """
    try:
        return _read(text.strip())
    except (_FormError, RecursionError):  # the latter by warm-ups before warm-ups
        raise ValueError(
            f"schedule {text!r} cannot be read: write 0.5, linear:0,1, cosine:1,0, piecewise:0,1@0.75, "
            "periodic:10, adaptive:1,-1, or warmup:0.05/ before one of these"
        ) from None


class _FormError(Exception):
    """The text of a schedule has none of the known forms."""


def _read(text: str) -> Schedule:
    kind, _, rest = text.partition(":")
    match kind:
        case "linear":
            found: Schedule = Linear(*_numbers(rest, 2))
        case "cosine":
            found = Cosine(*_numbers(rest, 2))
        case "piecewise":
            values, _, boundaries = rest.partition("@")
            found = Piecewise(_numbers(values), _numbers(boundaries))
        case "adaptive":
            found = Adaptive(*_numbers(rest, 3 if rest.count(",") > 1 else 2))
        case "periodic" if rest.isdecimal():
            found = Periodic(int(rest))
        case "warmup":
            fraction, _, then = rest.partition("/")
            found = Warmup(_numbers(fraction, 1)[0], _read(then))
        case _:
            found = Constant(*_numbers(text.removeprefix("constant:"), 1))
    return found


def _numbers(text: str, count: int | None = None) -> tuple[float, ...]:
    try:
        numbers = tuple(float(number) for number in text.split(","))
    except ValueError:
        raise _FormError from None
    if count not in {None, len(numbers)}:
        raise _FormError
    return numbers
