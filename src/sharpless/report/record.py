"""The record of one training run, and the checks of its file, which anyone may have written."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from sharpless import schedules

__all__ = ["MOST_RESULT", "Choice", "Curve", "Flatness", "Look", "Metric", "Run", "Tried", "diverged_in"]

MOST = 2**63
"""The largest number in a record, except for results and losses."""

MOST_RESULT = 1e100
MOST_STEPS = 10**9


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _in_proportion(value: Any) -> Any:
    return None if isinstance(value, float) and not abs(value) <= MOST_RESULT else value


def _written(value: Any) -> Any:
    """Return a text with escapes for bytes that are not UTF-8, which names of files may contain."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def _plain(facts: Any, levels: int = 5) -> Any:
    """Return facts after checks: texts and finite numbers, and lists and dicts of them, a few levels deep.

    Raises:
        ValueError: the facts are something else.
    """
    if isinstance(facts, dict | list):
        if levels == 0:
            raise ValueError("the facts are nested too deeply")
        for value in facts.values() if isinstance(facts, dict) else facts:
            _plain(value, levels - 1)
    elif isinstance(facts, int | float) and not abs(facts) <= MOST:
        raise ValueError("a number is not finite or too large")
    return facts


Text = Annotated[str, BeforeValidator(_written), Field(min_length=1, max_length=4096)]
Count = Annotated[int, Field(ge=0, le=MOST)]
Number = Annotated[float, Field(ge=-MOST, le=MOST)]
Amount = Annotated[float, Field(ge=0, le=MOST)]
Value = Annotated[
    Annotated[float, Field(ge=-MOST_RESULT, le=MOST_RESULT)] | None, BeforeValidator(_finite)
]  # None: not finite
Facts = Annotated[dict[str, Any], AfterValidator(_plain)]


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class Metric(_Record):
    """The metric of a task."""

    name: Annotated[Text, Field(max_length=60)]
    unit: Annotated[str, BeforeValidator(_written), Field(max_length=20)] = ""
    goal: Literal["max", "min"]

    @property
    def is_accuracy(self) -> bool:
        """Whether it is limited to 0 to 100 %. R² and relative errors in percent are not."""
        return self.unit == "%" and "accuracy" in self.name.lower()

    @property
    def sign(self) -> int:
        """The sign of a gain: 1 if higher is better, -1 if lower is."""
        return 1 if self.goal == "max" else -1


class Look(_Record):
    """Color, marker and dashes of a method."""

    color: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]
    marker: Annotated[str, Field(pattern=r"^[ov^<>8sp*hHDdPX]$")]
    dashes: Annotated[list[Annotated[float, Field(gt=0, le=100)]], Field(max_length=8)]

    @model_validator(mode="after")
    def _check(self) -> "Look":
        if len(self.dashes) % 2:
            raise ValueError("each dash needs a gap after it")
        return self


class Tried(_Record):
    """One candidate of a grid: its hyperparameters, as further fields, and its results on validation data."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")
    __pydantic_extra__: dict[str, Number]

    values: Annotated[list[Value], Field(min_length=1)]  # at the end of training, one per seed

    @property
    def hyperparameters(self) -> dict[str, float]:
        """The tried hyperparameters."""
        return self.__pydantic_extra__


class Choice(_Record):
    """The choice of a method's hyperparameters."""

    seeds: list[Count]
    cost: Amount  # in plain trainings
    tried: Annotated[list[Tried], Field(min_length=1)]


class Curve(_Record):
    """The reported points of a run. The last one is the result."""

    step: Annotated[list[Count], Field(min_length=1)]
    passes: list[Amount]
    seconds: list[Amount]
    validation: list[Value] | None = None
    test: list[Value] | None = None
    loss: list[Value] | None = None  # training loss at the unperturbed weights

    @model_validator(mode="after")
    def _check(self) -> "Curve":
        if self.validation is None and self.test is None:
            raise ValueError("there is neither validation nor test")
        lists = (self.step, self.passes, self.seconds, self.validation, self.test, self.loss)
        if len({len(values) for values in lists if values is not None}) > 1:
            raise ValueError("the lists have unequal lengths")
        for axis in (self.step, self.passes, self.seconds):
            if axis != sorted(axis):
                raise ValueError("steps, passes or seconds decrease")
        return self


class Plan(_Record):
    """The plan of p, q and γ for a budget."""

    budget: Annotated[float, Field(gt=1, le=2)]
    cost: Amount  # expected, in the unit of the budget
    unit: Literal["seconds", "gradients"]
    why: Annotated[Text, Field(max_length=400)]

    @property
    def is_kept(self) -> bool:
        """Whether the plan is within the budget."""
        return self.cost <= self.budget + 1e-9


class Flatness(_Record):
    """The flatness of the minimum of a run."""

    examples: Count
    measures: Annotated[dict[Text, Annotated[float | None, BeforeValidator(_in_proportion)]], Field(max_length=20)]
    refused: Text | None  # the reason for having none


class Run(_Record):
    """One training run, from its file."""

    format: Literal[2]
    task: Text
    options: Facts
    metric: Metric
    method: Text
    label: Annotated[Text, Field(max_length=200)]  # the method with its parameters, for people
    rank: Annotated[int, Field(ge=-MOST, le=MOST)]  # orders the methods in every table and figure
    look: Look
    seed: Count
    hyperparameters: dict[str, Number]
    choice: Choice | None
    steps: Annotated[int, Field(ge=1, le=MOST_STEPS)]
    schedule: str  # p(t), in the form of `sharpless.schedules.parse`
    sharp_steps: list[Count]  # counted from 0
    gamma: Number
    batch_fraction: Annotated[float, Field(gt=0, le=1)]  # the share q of the batch for the ascent
    plan: Plan | None = None
    passes: Annotated[float, Field(gt=0, le=MOST)]  # forward-backward passes, in full-batch gradients
    plain_passes: Annotated[float, Field(ge=1, le=MOST)]  # the passes of plain training
    seconds: Amount  # of training, evaluation not counted
    data_seconds: Amount | None  # of these, waiting for data
    curve: Curve
    flatness: Flatness | None = None
    data: Facts  # "fingerprint" and whatever else describes the data
    setup: Facts
    versions: Facts
    machine: Facts

    @model_validator(mode="after")
    def _check(self) -> "Run":
        if len({step for step in self.sharp_steps if step < self.steps}) != len(self.sharp_steps):
            raise ValueError("sharp_steps are outside the steps")
        reported = [*(self.curve.validation or []), *(self.curve.test or [])]
        if self.metric.is_accuracy and not all(value is None or 0 <= value <= 100 for value in reported):
            raise ValueError("an accuracy is not from 0 to 100 %")
        schedules.parse(self.schedule)
        return self

    @property
    def split(self) -> str:
        """The split of the result: "test", or else "validation"."""
        return "validation" if self.curve.test is None else "test"

    @property
    def values(self) -> list[float | None]:
        """The metric at each point of the curve; None if it was not finite."""
        found = self.curve.validation if self.curve.test is None else self.curve.test
        return [] if found is None else found

    @property
    def value(self) -> float | None:
        """The result: the metric at the last point; None if it was not finite."""
        return self.values[-1]

    @property
    def diverged(self) -> int | None:
        """The first point, from 1, of a not finite loss or metric until the end; None if both ended finite."""
        return min((at for at in map(diverged_in, (self.values, self.curve.loss or [])) if at), default=None)


def diverged_in(values: Sequence[float | None]) -> int | None:
    """Return the first position, from 1, of values that are not finite until the end; None if they ended finite.

    >>> diverged_in([2.3, None, None]), diverged_in([2.3, None, 2.1])
    (2, None)
    """
    finite = [value is not None and math.isfinite(value) for value in values]
    sound = max((place for place, is_finite in enumerate(finite, 1) if is_finite), default=0)
    return None if sound == len(finite) else sound + 1
