"""What is trained and compared in each part of the study of schedules."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """A variation of a task, with methods and ρ of its own where it has any."""

    options: Mapping[str, Any] = field(default_factory=dict)
    methods: tuple[str, ...] = ()
    rho: tuple[float, ...] = ()


@dataclass(frozen=True)
class Part:
    """A task with its cases and methods."""

    task: str
    cases: Mapping[str, Case]
    methods: tuple[str, ...]
    rho: tuple[float, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    choice_seeds: int = 2


def weighted(p: str, *, capped: bool = False) -> tuple[str, ...]:
    """Return a schedule as RST, as G-RST with γ = 1/mean p, and where asked with γ = 1/p(t) up to 4."""
    return (f"rst:p={p}", f"g-rst:p={p}") + (f"g-rst:p={p},gamma_cap=4",) * capped


BASE = ("sgd", "sam")
LATE, EARLY = "piecewise:0,1@", "piecewise:1,0@"
CONSTANT = (*weighted("0.1"), *weighted("0.25"), *weighted("0.5"))
DEGREES = ("g-rst:p=0.5,degree=1.5", "g-rst:p=0.5,degree=2", "g-rst:p=0.25,degree=2", "g-rst:p=1,gamma=2")
STEPS = (*weighted(f"{LATE}0.5"), *weighted(f"{LATE}0.75"), *weighted(f"{EARLY}0.5"), *weighted(f"{EARLY}0.25"))
HALVES = (*weighted("piecewise:0.25,0.75@0.5", capped=True), *weighted("piecewise:0.75,0.25@0.5", capped=True))
LINES = (*weighted("linear:0,1", capped=True), *weighted("linear:1,0", capped=True), *weighted("cosine:1,0", capped=True))
TAIL = f"batch_fraction=0.25,p={LATE}0.8"
PARTIAL = (f"rst:{TAIL}", f"g-rst:{TAIL}", "g-rst:batch_fraction=0.25,p=0.2")
COUNTED = (*weighted("periodic:2"), "g-rst:p=0.5,systematic=yes", *weighted("adaptive:1,-1"), "temperon:tail=0.5")
WARM = ("g-rst:p=warmup:0.1/0.5", "rst:p=warmup:0.1/1", "g-rst:p=warmup:0.1/linear:1,0")
UNEVEN = weighted("piecewise:0.1,0.9@0.75")

PARTS = {
    "digits": Part(
        "digits",
        {"30 % noise": Case()},
        (*BASE, "sgd-long", *CONSTANT, *DEGREES, *STEPS, *HALVES, *UNEVEN, *LINES, *PARTIAL, *COUNTED, *WARM),
        (0.2, 0.4, 0.8),
        {"epochs": 20},
    ),
}
