"""The tasks of each part of the study of schedules, with its cases, methods and questions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from schedule_questions import (
    AFTER_WARMUP,
    ANNEALED,
    BASE,
    BY_WEIGHT,
    CONSTANT,
    CONTROL,
    COUNTED,
    DEGREES,
    EQUAL,
    FEW,
    HALVES,
    LINES,
    LONGER,
    OWN_ANNEAL,
    PARTIAL,
    QUARTER,
    QUESTIONS,
    SHORTER,
    STEPS,
    UNEQUAL,
    WARM,
    WARMED,
    Pairs,
)

OWN = "benchmarks/schedule_tasks.py"
WHOLE, OWN_TAIL = "a cosine over the run", "a cosine over the tail alone"


@dataclass(frozen=True)
class Case:
    """A variation of a task, optionally with other methods and values of ρ."""

    options: Mapping[str, Any] = field(default_factory=dict)
    methods: tuple[str, ...] = ()
    rho: tuple[float, ...] = ()


@dataclass(frozen=True)
class Part:
    """A task with its cases, methods and tests."""

    task: str
    cases: Mapping[str, Case]
    methods: tuple[str, ...]
    rho: tuple[float, ...]
    pairs: Pairs
    options: Mapping[str, Any] = field(default_factory=dict)
    choice_seeds: int = 2


PARTS = {
    "digits": Part(
        "digits",
        {"30 % noise": Case(), SHORTER: Case({"epochs": 15}, ("sam",))},
        (*BASE, *CONSTANT, *DEGREES, *STEPS, *HALVES, *LINES, *PARTIAL, *COUNTED, *WARM),
        (0.2, 0.4, 0.8),
        (*QUESTIONS, *EQUAL, (f"{CONTROL}SAM at equal cost", "rst:p=periodic:2", f"sam @ {SHORTER}")),
        {"epochs": 20},
    ),
    "forecast": Part(
        f"{OWN}:forecast",
        {WHOLE: Case({}, (*FEW, *UNEQUAL, "sgd-long")), OWN_TAIL: Case({"anneal": 0.3}, ANNEALED)},
        (),
        (0.2, 0.5, 1.0),
        (*QUARTER, *EQUAL, *OWN_ANNEAL, *BY_WEIGHT[:3], LONGER),
        {"months": 2, "epochs": 8, "lr": 2e-3},
        choice_seeds=1,
    ),
    "anneal": Part(
        f"{OWN}:digits",
        {WHOLE: Case(), OWN_TAIL: Case({"anneal": 0.3})},
        ANNEALED,
        (0.2, 0.4, 0.8),
        OWN_ANNEAL,
        choice_seeds=1,
    ),
    "warmup": Part(
        f"{OWN}:digits",
        {f"ρ = {rho:g}": Case(rho=(rho,)) for rho in (0.2, 0.4, 0.8)},
        WARMED,
        (),
        AFTER_WARMUP,
        {"network": "mlp", "lr": 0.1, "warmup": 0.1},
    ),
    "vit": Part(
        f"{OWN}:digits",
        {f"ρ = {rho:g}": Case(rho=(rho,)) for rho in (0.05, 0.2)},
        WARMED[:3],
        (),
        (("SAM against the base", "sam", "sgd"), AFTER_WARMUP[0]),
        {"network": "vit", "lr": 2e-3, "warmup": 0.1, "epochs": 40},
    ),
    "labels": Part(
        f"{OWN}:digits",
        {
            "160 examples, no wrong labels": Case({"noise": 0.0, "examples": 160, "epochs": 80}),
            "10 % wrong labels": Case({"noise": 0.1}),
        },
        (*FEW, "sgd-long"),
        (0.05, 0.1, 0.2, 0.4),
        (*QUARTER, *EQUAL, LONGER),
    ),
    "images": Part(
        "benchmarks/images.py:train",
        {"4000 clean images": Case()},
        (*FEW, "sgd-long"),
        (0.05, 0.1, 0.2),
        (*QUARTER, *EQUAL, LONGER),
        {"noise": 0.0, "epochs": 10},
        choice_seeds=1,
    ),
}
