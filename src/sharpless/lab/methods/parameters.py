"""The parameters of methods, and their readers."""

import math
from collections.abc import Callable
from typing import Any

from sharpless.schedules import parse

__all__ = ["read"]


def _number(low: float, high: float, what: str) -> Callable[[str], float]:
    def read(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise ValueError
        return value

    read.__doc__ = what
    return read


def _choice(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in choices:
            raise ValueError
        return text

    read.__doc__ = " or ".join(choices)
    return read


ABOVE_1 = math.nextafter(1.0, 2.0)
PARAMETERS: dict[str, Callable[[str], Any]] = {
    "average": _number(0.0, math.nextafter(1.0, 0.0), "a decay in [0, 1), 0 for no average"),
    "cost": _number(ABOVE_1, 1000.0, "more than 1, in trainings of the base"),
    "budget": _number(ABOVE_1, 2.0, "more than 1 and at most 2, in trainings of the base"),
    "unit": _choice("seconds", "gradients"),
    "tail": _number(0.0, 1.0, "a share of the steps"),
    "p": parse,
    "degree": _number(0.0, 3e38, "a number from 0 on"),
    "gamma": _number(0.0, 3e38, "a number from 0 on"),
    "gamma_cap": _number(0.0, 3e38, "a number from 0 on"),
    "batch_fraction": _number(1e-9, 1.0, "a share of the batch in (0, 1]"),
    "ascent": _choice("sam", "asam", "friendly", "norms"),
    "systematic": _choice("yes", "no"),
}
"""The readers of the parameters. The docstring of each describes the valid values."""


def read(method: str, parameter: str, text: str) -> Any:
    """Return the value of a parameter from its text.

    Args:
        method: the full name of the method.
        parameter: the name of the parameter.
        text: the text of its value.

    Raises:
        ValueError: the value is out of range.
    """
    reader = PARAMETERS[parameter]
    try:
        return reader(text)
    except ValueError as error:
        why = str(error) if reader is parse else f"{parameter} = {text} is out of range: give {reader.__doc__}"
        raise ValueError(f"method {method}: {why}") from None
