"""Hyperparameters chosen on validation data: the grids, and the best point."""

import itertools
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from sharpless.lab.methods.method import Method

__all__ = ["AUTO", "AXES", "CHOICE_SEEDS", "Grid", "best", "check_grid", "more", "points"]

AUTO = "auto"
CHOICE_SEEDS = 1_000_000
"""The first seed of the runs that choose hyperparameters. The compared runs have smaller seeds."""

AXES = ("rho", "lr", "weight_decay")
Grid = Mapping[str, Sequence[float] | str]
"""The values to try for each of `rho`, `lr` and `weight_decay`; "auto" searches for a grid of ρ."""

Point = dict[str, float]

_START, _FACTOR = 0.1, 5.0
_FIRST, _FARTHEST = 2, 6  # in steps of √5 from 0.1


def check_grid(grid: Grid) -> None:
    """Check the values of a grid.

    Raises:
        ValueError: a value is out of range, or an axis has no values.
    """
    for name, values in grid.items():
        if name not in AXES:
            raise ValueError(f"{name} cannot be varied: choose from {', '.join(AXES)}")
        if values == AUTO:
            if name != "rho":
                raise ValueError(f"{name} = {AUTO} is not known: only rho has an automatic grid, give values")
            continue
        if isinstance(values, str) or not values:
            raise ValueError(f"{name} = {values or 'nothing'} is out of range: give one or more numbers")
        for value in values:
            if not (isinstance(value, Real) and 0 <= value < math.inf) or (name != "weight_decay" and value == 0):
                raise ValueError(f"{name} = {value!r} is out of range: give positive, finite numbers")


def points(method: Method, grid: Grid) -> list[Point]:
    """Return the first points to try for a method: one empty point if there is nothing to choose.

    >>> points(Method("sam"), {"rho": [0.1, 0.3]}), points(Method("sgd"), {"rho": [0.1, 0.3]})
    ([{'rho': 0.1}, {'rho': 0.3}], [{}])
    """
    axes = [name for name in AXES if name in grid and (name != "rho" or method.is_sharp)]
    values = [
        [_radius(k) for k in (-_FIRST, 0, _FIRST)]
        if grid[name] == AUTO
        else list(dict.fromkeys(map(float, grid[name])))
        for name in axes
    ]
    return [dict(zip(axes, chosen, strict=True)) for chosen in itertools.product(*values)]


def more(tried: Sequence[Mapping[str, Any]], goal: str) -> list[Point]:
    """Return the radii that an automatic grid tries next: beyond its end if the best one is there, else in between.

    >>> more([{"rho": 0.02, "values": [1.0]}, {"rho": 0.1, "values": [2.0]}, {"rho": 0.5, "values": [3.0]}], "max")
    [{'rho': 2.5}]
    >>> more([{"rho": 0.02, "values": [1.0]}, {"rho": 0.1, "values": [2.0]}, {"rho": 0.5, "values": [1.0]}], "max")
    [{'rho': 0.0447}, {'rho': 0.224}]

    Args:
        tried: the tried points with their `values` on validation data, one for each seed.
        goal: min or max.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for one in tried:
        rest = tuple((name, one[name]) for name in AXES[1:] if name in one)
        groups.setdefault(rest, []).append(one)
    found = []
    for rest, group in groups.items():
        steps = {_step(one["rho"]) for one in group}
        chosen = best(group, goal)
        if chosen is None or any(step % _FIRST for step in steps):
            continue
        here = _step(chosen["rho"])
        if here in {min(steps), max(steps)}:
            beyond = here + (_FIRST if here == max(steps) else -_FIRST)
            found += [{"rho": _radius(beyond), **dict(rest)}] if abs(beyond) <= _FARTHEST else []
        else:
            found += [{"rho": _radius(here + side), **dict(rest)} for side in (-1, 1)]
    return found


def best(tried: Sequence[Mapping[str, Any]], goal: str) -> Point | None:
    """Return the point with the best mean on validation data; None if every point failed with some seed.

    >>> best([{"rho": 0.1, "values": [1.0, 2.0]}, {"rho": 0.5, "values": [3.0, None]}], "max")
    {'rho': 0.1}
    """
    whole = [one for one in tried if one["values"] and None not in one["values"]]
    if not whole:
        return None
    sign = 1.0 if goal == "max" else -1.0
    chosen = max(whole, key=lambda one: sign * math.fsum(one["values"]) / len(one["values"]))
    return {name: chosen[name] for name in AXES if name in chosen}


def _radius(step: int) -> float:
    return float(f"{_START * _FACTOR ** (step / 2):.3g}")


def _step(radius: float) -> int:
    return round(2 * math.log(radius / _START, _FACTOR))
