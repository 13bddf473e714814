"""The accepted forms of p(t): a number, a text, a function of progress, or a schedule after a warm-up."""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

from sharpless.schedules.base import Policy, Schedule, as_text, check_probability
from sharpless.schedules.functions import Constant, Cosine, Linear, Piecewise
from sharpless.schedules.policies import Adaptive, Periodic

__all__ = ["Probability", "Warmup", "parse", "schedule"]

Probability = float | str | Schedule | Callable[[float], float]
"""The argument of `schedule`."""


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
        if not (isinstance(self.fraction, Real) and 0.0 <= self.fraction <= 1.0):
            raise ValueError(f"fraction = {self.fraction!r} is not a share of the run: give a number in [0, 1]")

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
        return f"warmup:{as_text(self.fraction)}/{self.then}"


@dataclass(frozen=True)
class _Function(Schedule):
    """A callable of the user; its values are checked to be in [0, 1]."""

    function: Callable[[float], float]

    _GRID = 1000

    def __post_init__(self) -> None:
        try:
            float(self.function(0.0))
        except Exception as error:
            name = getattr(self.function, "__name__", f"a {type(self.function).__name__}")
            raise TypeError(
                f"p = {name} is not a function of progress ({type(error).__name__} at 0.0: {error}): give a number, a "
                "schedule, or a function such as lambda u: u / 2"
            ) from error
        for i in range(self._GRID + 1):
            self(i / self._GRID)

    def __call__(self, progress: float) -> float:
        p = float(self.function(progress))
        check_probability(f"p({progress:g})", p)
        return p

    def area(self, start: float, end: float) -> float:
        width = (end - start) / self._GRID
        return width * sum(self(start + (i + 0.5) * width) for i in range(self._GRID))

    def __str__(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))


def schedule(p: Probability) -> Schedule:
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
        TypeError: `text` is not a text.
        ValueError: `text` has none of these forms, or gives values outside [0, 1].
    """
    if not isinstance(text, str):
        raise TypeError(f"text = {text!r} is not a text: give one, such as 'linear:0,1'")
    try:
        return _read(text.strip())
    except (_FormError, RecursionError):  # the latter by deeply nested warm-ups
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
