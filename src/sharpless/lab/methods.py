"""The methods of a comparison, one row each: a name with parameters, such as `g-rst:p=0.25` or `sam:average=0.99`."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sharpless.cost import BudgetError, Plan, plan
from sharpless.schedules import Constant, Periodic, Piecewise, Schedule, parse

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from sharpless.ascent import Ascent
    from sharpless.options import Base

__all__ = ["BASE", "DEFAULTS", "KINDS", "Kind", "Method", "Settings"]

BASE = "sgd"
DEFAULTS = ("sgd", "sgd-long", "ema", "sam", "late", "rst", "g-rst", "thrifty")


@dataclass(frozen=True)
class Settings:
    """When a method is sharpness-aware, with how much of the batch, and how strongly."""

    schedule: Schedule = field(default_factory=lambda: Constant(0.0))
    batch_fraction: float = 1.0
    gamma: float = 1.0
    plan: Plan | None = None
    """How they follow from a budget, if they do."""


@dataclass(frozen=True)
class Look:
    """How a method is drawn: readable on white and on black, distinct to the color-blind."""

    color: str
    marker: str
    dashes: tuple[float, ...] = ()


@dataclass(frozen=True)
class Kind:
    """One kind of method."""

    about: str
    look: Look
    parameters: Mapping[str, Any]
    """The parameters it takes, with their defaults."""
    settings: Callable[["Method", int | None], Settings]
    """From the method with its parameters and the batch size to what is done."""
    title: str = ""
    """Its name in tables."""
    package: str = ""
    """The package of a peer."""


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
    "batch_fraction": _number(1e-9, 1.0, "a share of the batch in (0, 1]"),
    "ascent": _choice("sam", "asam", "friendly", "norms"),
    "systematic": _choice("yes", "no"),
}
"""How the parameters of methods are read; each says what it takes."""


def _g_rst(method: "Method", _: int | None) -> Settings:
    own = method.own
    p: Schedule = own["p"]
    if own["gamma"] is not None:
        return Settings(p, own["batch_fraction"], own["gamma"])
    degree = 1.0 if own["degree"] is None else own["degree"]
    gamma = degree / p.mean() if p.mean() else math.inf
    if gamma == math.inf:
        raise ValueError(f"p = {p} is too small for a degree: γ = degree / mean p overflows, give a larger p, or gamma")
    return Settings(p, own["batch_fraction"], gamma)


def _thrifty(method: "Method", batch_size: int | None) -> Settings:
    if batch_size is None:
        raise ValueError("thrifty chooses a part of the batch: give trial.optimizer(…, batch_size=…)")
    try:
        chosen = plan(method.own["budget"], batch_size, seconds=method.seconds, noise=method.noise)
    except BudgetError as error:
        chosen = error.cheapest  # the page says so
    return Settings(Constant(chosen.p), chosen.batch_fraction, chosen.gamma, chosen)


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
    "sgd": Kind("the base optimizer, whatever it is", Look("#767676", "o"), {}, _plain),
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
        "SAM in the last steps, as many as the budget pays",
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
        "G-RST; γ = degree / mean p, and the degree is 1",
        Look("#cc3311", "v", (2, 2)),
        {**COIN, "degree": None, "gamma": None},
        _g_rst,
        "G-RST",
    ),
    "thrifty": Kind(
        "G-RST with p, q and γ chosen for a budget of seconds, or of gradients",
        Look("#aa4499", "P", (3, 1, 1, 1)),
        {"budget": 1.1, "unit": "seconds", **CLIMB},
        _thrifty,
        "thrifty",
    ),
    "peer-sam": Kind(
        "SAM of pytorch_optimizer", Look("#6677cc", "X", (1, 1)), {}, _always, "peer SAM", "pytorch_optimizer"
    ),
    "peer-looksam": Kind(
        "LookSAM (arXiv 2203.02714) of pytorch_optimizer, every k-th step by the budget",
        Look("#a0622d", "h", (8, 2)),
        {"budget": 1.1},
        lambda method, _: Settings(Periodic(round(1 / (method.own["budget"] - 1)))),
        "peer LookSAM",
        "pytorch_optimizer",
    ),
    "temperon": Kind(
        "temperon: SAM in the last share of the steps (arXiv 2609.17575)",
        Look("#d1618f", "d", (1, 3)),
        {"tail": 0.3},
        _temperon,
        "temperon",
        "temperon",
    ),
}
"""All there is to choose from, in the order of tables."""


@dataclass(frozen=True)
class Method:
    """One row of a comparison.

    >>> Method("g-rst:p=0.25").settings(64)
    Settings(schedule=Constant(p=0.25), batch_fraction=1.0, gamma=4.0, plan=None)
    >>> Method("late").epochs(10), Method("sgd-long:cost=2").epochs(10)
    (10, 20)

    Args:
        name: the kind, and its parameters after a colon: `rst:p=linear:0,1,ascent=asam`. Every kind takes `average`,
            the decay of an exponential moving average of the weights that is tested in their place.
        seconds: how long a pass takes by its number of examples, by which a budget of seconds is planned. Without it,
            the budget is one of gradients.
        noise: how noisy parts of a batch are, by their number of examples.

    Raises:
        ValueError: there is no such kind or parameter, or a value is out of range.
    """

    name: str
    seconds: Mapping[int, float] | None = field(default=None, repr=False, compare=False)
    noise: Mapping[int, float] | None = field(default=None, repr=False, compare=False)
    kind: Kind = field(init=False, repr=False, compare=False)
    own: dict[str, Any] = field(init=False, repr=False, compare=False)
    given: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        head, _, tail = self.name.partition(":")
        if head not in KINDS:
            raise ValueError(f"method {head!r} is unknown: choose from {', '.join(KINDS)}")
        kind = KINDS[head]
        own = {"average": 0.0, **kind.parameters}
        given = [pair.partition("=") for pair in re.split(r",(?=[a-z_]+=)", tail)] if tail else []
        for parameter, _, text in given:
            if parameter not in own:
                raise ValueError(
                    f"method {self.name}: {head} has no parameter {parameter!r}, choose from {', '.join(own)}"
                )
            own[parameter] = _read(self.name, parameter, text)
        if own.get("degree") is not None and own.get("gamma") is not None:
            raise ValueError(f"method {self.name}: degree and gamma exclude each other, give one of them")
        if own.get("systematic") == "yes" and own["p"].policy:
            raise ValueError(f"method {self.name}: systematic spreads coins, and this p tosses none, leave one out")
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "own", own)
        object.__setattr__(self, "given", tuple(parameter for parameter, _, _ in given))
        if head != "thrifty":
            self.settings(None)

    def __reduce__(self) -> tuple[Any, ...]:
        return Method, (self.name, self.seconds, self.noise)

    @property
    def head(self) -> str:
        """The name without parameters."""
        return self.name.partition(":")[0]

    @property
    def rank(self) -> int:
        """The place among the rows of a table."""
        return list(KINDS).index(self.head)

    @property
    def is_sharp(self) -> bool:
        """Whether it is sharpness-aware at all, and so has a radius."""
        return self.head == "thrifty" or self.settings(None).schedule.mean() > 0

    @property
    def is_planned(self) -> bool:
        """Whether p, q and γ follow from a budget, for which passes and parts of the batch are measured."""
        return "unit" in self.own

    def measured(self, seconds: Mapping[int, float], noise: Mapping[int, float]) -> "Method":
        """Return this method, planned with what was measured as far as it asks for it."""
        if not self.is_planned:
            return self
        return Method(self.name, seconds if self.own["unit"] == "seconds" else None, noise)

    def settings(self, batch_size: int | None) -> Settings:
        """Return what is done, with batches of `batch_size` examples.

        Raises:
            ValueError: the parameters do not fit one another or the batch.
        """
        try:
            return self.kind.settings(self, batch_size)
        except ValueError as error:
            raise ValueError(f"method {self.name}: {error}") from None

    def epochs(self, epochs: int) -> int:
        """Return for how many epochs it trains where the base trains for `epochs`."""
        return max(1, round(epochs * float(self.own.get("cost", 1.0))))

    def label(self, base: str, batch_size: int | None, epochs: int | None) -> str:
        """Return its name in tables, with the parameters that matter.

        >>> Method("thrifty").label("SGD", 64, None), Method("sgd-long").label("Adam", None, 15)
        ('thrifty, p=0.91, q=0.109, γ=1.09', 'Adam, 15 epochs')
        """
        own, settings = self.own, self.settings(batch_size)
        words = [self.kind.title or base]
        if "cost" in own:
            words.append(f"{own['cost']:g} times as long" if epochs is None else f"{epochs} epochs")
        if self.head in {"rst", "g-rst", "thrifty"}:
            p = settings.schedule
            words.append(f"p={p.mean():.2g}" if self.head == "thrifty" else f"p={p}")
            words += [f"q={settings.batch_fraction:.3g}"] * (settings.batch_fraction < 1)
            words += [f"γ={settings.gamma:.3g}"] * (self.head != "rst")
            words += ["systematic"] * (own.get("systematic") == "yes")
        elif self.head in {"late", "temperon"}:
            words.append(f"last {settings.schedule.mean():.0%}")
        elif self.head == "peer-looksam":
            words.append(f"k={str(settings.schedule).removeprefix('periodic:')}")
        words += [name for name in (own.get("ascent", "sam"),) if name != "sam"]
        words += [f"EMA {own['average']:g}"] * bool(own["average"])
        return ", ".join(words)

    def wrap(
        self,
        base: "Base",
        rho: float,
        *,
        model: "nn.Module | None",
        total_steps: int | None,
        batch_size: int | None,
        seed: int,
        climb_locally: bool = True,
    ) -> "Optimizer":
        """Return the optimizer of this method around `base`.

        Raises:
            ModuleNotFoundError: the package of a peer is not installed.
            ValueError: the arguments do not go together.
        """
        settings = self.settings(batch_size)
        if self.kind.package:
            from sharpless.lab.peers import PEERS  # noqa: PLC0415
            from sharpless.wrapper import as_one  # noqa: PLC0415

            return PEERS[self.head](as_one(base), rho, settings.schedule, model, total_steps)
        from sharpless.ascent import Friendly, asam, normalization_parameters, sam  # noqa: PLC0415
        from sharpless.optimizer import RST  # noqa: PLC0415

        ascents: dict[str, Ascent] = {"asam": asam, "friendly": Friendly()}
        chosen = self.own.get("ascent", "sam")
        if chosen == "norms" and model is None:
            raise ValueError(f"method {self.name} climbs with the norms of the model: give trial.optimizer(…, model=…)")
        return RST(
            base,
            settings.schedule,
            rho,
            settings.gamma,
            total_steps,
            model,
            seed,
            climb_locally=climb_locally,
            batch_fraction=settings.batch_fraction,
            systematic=self.own.get("systematic") == "yes",
            ascent=ascents.get(chosen, sam),
            only=normalization_parameters(model) if chosen == "norms" and model is not None else None,
        )


def _read(method: str, parameter: str, text: str) -> Any:
    reader = PARAMETERS[parameter]
    try:
        return reader(text)
    except ValueError as error:
        why = str(error) if reader is parse else f"{parameter} = {text} is out of range: give {reader.__doc__}"
        raise ValueError(f"method {method}: {why}") from None
