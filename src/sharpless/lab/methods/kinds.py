"""The kinds of methods: settings, parameters, and colors and markers."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sharpless.cost import BudgetError, Plan, plan
from sharpless.schedules import Constant, Periodic, Piecewise, Schedule

if TYPE_CHECKING:
    from sharpless.lab.methods.method import Method

__all__ = ["BASE", "DEFAULTS", "KINDS", "Kind", "Settings"]

BASE = "sgd"
DEFAULTS = ("sgd", "sgd-long", "ema", "sam", "late", "rst", "g-rst", "thrifty")


@dataclass(frozen=True)
class Settings:
    """The settings of a method: the schedule p(t), the share q of the batch, and the weight γ."""

    schedule: Schedule = field(default_factory=lambda: Constant(0.0))
    batch_fraction: float = 1.0
    gamma: float = 1.0
    gamma_cap: float | None = None
    """If given, γ = degree / p(t), up to this value, in place of a constant."""
    plan: Plan | None = None
    """The plan for a budget, if there is one."""


@dataclass(frozen=True)
class Look:
    """Color, marker and dashes of a method: readable on white and black, and with color blindness."""

    color: str
    marker: str
    dashes: tuple[float, ...] = ()


@dataclass(frozen=True)
class Kind:
    """One kind of method."""

    about: str
    look: Look
    parameters: Mapping[str, Any]
    """The parameters, with their defaults."""
    settings: Callable[["Method", int | None], Settings]
    """Returns the settings for the parameters of a method and the batch size."""
    title: str = ""
    """The name in tables."""
    package: str = ""
    """The package of a peer."""


def _g_rst(method: "Method", _: int | None) -> Settings:
    own = method.own
    p: Schedule = own["p"]
    if own["gamma"] is not None:
        return Settings(p, own["batch_fraction"], own["gamma"])
    degree = 1.0 if own["degree"] is None else own["degree"]
    gamma = degree / p.mean() if p.mean() else math.inf
    if gamma == math.inf:
        raise ValueError(f"p = {p} is too small for a degree: γ = degree / mean p overflows, give a larger p, or gamma")
    return Settings(p, own["batch_fraction"], gamma, own["gamma_cap"])


def _thrifty(method: "Method", batch_size: int | None) -> Settings:
    if batch_size is None:
        raise ValueError("thrifty chooses a part of the batch: give trial.optimizer(…, batch_size=…)")
    try:
        chosen = plan(method.own["budget"], batch_size, seconds=method.seconds, noise=method.noise)
    except BudgetError as error:
        chosen = error.cheapest  # the page warns about it
    return Settings(Constant(chosen.p), chosen.batch_fraction, chosen.gamma, plan=chosen)


def _late(method: "Method", _: int | None) -> Settings:
    return _last(method.own["budget"] - 1)


def _temperon(method: "Method", _: int | None) -> Settings:
    return _last(method.own["tail"])


def _last(share: float) -> Settings:
    """Return SAM in the last share of the steps."""
    return Settings(Piecewise((0.0, 1.0), (float(f"{1.0 - share:.12g}"),)) if 0 < share < 1 else Constant(share))


def _plain(_: "Method", __: int | None) -> Settings:
    return Settings()


def _always(_: "Method", __: int | None) -> Settings:
    return Settings(Constant(1.0))


CLIMB = {"ascent": "sam"}
COIN = {"p": Constant(0.5), "batch_fraction": 1.0, "systematic": "no", **CLIMB}

KINDS: dict[str, Kind] = {
    "sgd": Kind("the base optimizer", Look("#767676", "o"), {}, _plain),
    "sgd-long": Kind(
        "the base optimizer with as many gradients as G-RST", Look("#997700", "s", (5, 1.5)), {"cost": 1.5}, _plain
    ),
    "ema": Kind(
        "an exponential moving average of the base's weights",
        Look("#5566aa", "<", (6, 1, 1, 1)),
        {"average": 0.99},
        _plain,
    ),
    "sam": Kind("SAM (arXiv 2010.01412)", Look("#0077bb", "D"), CLIMB, _always, "SAM"),
    "late": Kind(
        "SAM in the last steps, as many as the budget allows",
        Look("#4d8b31", "p", (4, 4)),
        {"budget": 1.1, **CLIMB},
        _late,
        "late SAM",
    ),
    "rst": Kind(
        "RST (arXiv 2203.09962)",
        Look("#009988", "^", (5, 1.5)),
        COIN,
        lambda method, _: Settings(method.own["p"], method.own["batch_fraction"]),
        "RST",
    ),
    "g-rst": Kind(
        "G-RST with γ = degree / mean p, or degree / p(t) up to gamma_cap; degree 1",
        Look("#cc3311", "v", (2, 2)),
        {**COIN, "degree": None, "gamma": None, "gamma_cap": None},
        _g_rst,
        "G-RST",
    ),
    "thrifty": Kind(
        "G-RST with p, q and γ planned for a budget in seconds or in gradients",
        Look("#aa4499", "P", (3, 1, 1, 1)),
        {"budget": 1.1, "unit": "seconds", **CLIMB},
        _thrifty,
        "thrifty",
    ),
    "peer-sam": Kind(
        "SAM of pytorch_optimizer", Look("#6677cc", "X", (1, 1)), {}, _always, "peer SAM", "pytorch_optimizer"
    ),
    "peer-looksam": Kind(
        "LookSAM (arXiv 2203.02714) of pytorch_optimizer, with k for the budget",
        Look("#a0622d", "h", (8, 2)),
        {"budget": 1.1},
        lambda method, _: Settings(Periodic(round(1 / (method.own["budget"] - 1)))),
        "peer LookSAM",
        "pytorch_optimizer",
    ),
    "temperon": Kind(
        "SAM in the last share of the steps, of the package temperon (arXiv 2609.17575)",
        Look("#d1618f", "d", (1, 3)),
        {"tail": 0.3},
        _temperon,
        "temperon",
        "temperon",
    ),
}
"""All kinds, in the order of tables."""
