"""The methods of a comparison, one row each: a name with parameters, such as `g-rst:p=0.25` or `sam:average=0.99`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sharpless.lab.methods import parameters
from sharpless.lab.methods.kinds import KINDS, Kind, Settings

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from sharpless.ascent import Ascent
    from sharpless.options import Base

__all__ = ["Method"]


@dataclass(frozen=True)
class Method:
    """One row of a comparison.

    >>> Method("g-rst:p=0.25").settings(64)
    Settings(schedule=Constant(p=0.25), batch_fraction=1.0, gamma=4.0, gamma_cap=None, plan=None)
    >>> Method("late").epochs(10), Method("sgd-long:cost=2").epochs(10)
    (10, 20)

    Args:
        name: the kind, and its parameters after a colon: `rst:p=linear:0,1,ascent=asam`. Every kind takes `average`,
            the decay of an exponential moving average of the weights that is tested in their place.
        seconds: the duration of a step, by the number of examples of its ascent, for a budget in seconds. Without it,
            the budget is in gradients.
        noise: the noise of a part of the batch, by its number of examples.

    Raises:
        ValueError: the kind or a parameter is unknown, or a value is out of range.
    """

    name: str
    seconds: Mapping[int, float] | None = field(default=None, repr=False, compare=False)
    noise: Mapping[int, float] | None = field(default=None, repr=False, compare=False)
    kind: Kind = field(init=False, repr=False, compare=False)
    own: dict[str, Any] = field(init=False, repr=False, compare=False)
    given: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        head, _, tail = str(self.name).partition(":")
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
            own[parameter] = parameters.read(self.name, parameter, text)
        for other in ("degree", "gamma_cap"):
            if own.get(other) is not None and own.get("gamma") is not None:
                raise ValueError(f"method {self.name}: {other} and gamma exclude each other, give one of them")
        if own.get("systematic") == "yes" and own["p"].policy:
            raise ValueError(f"method {self.name}: systematic needs a random p, leave it out or give another p")
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
        """The position among the rows of a table."""
        return list(KINDS).index(self.head)

    @property
    def is_sharp(self) -> bool:
        """Whether it is sharpness-aware, and so has a radius."""
        return self.head == "thrifty" or self.settings(None).schedule.mean() > 0

    @property
    def is_longer(self) -> bool:
        """Whether it trains for more epochs than the base."""
        return "cost" in self.own

    @property
    def is_planned(self) -> bool:
        """Whether p, q and γ are planned for a budget, from measured passes and parts of the batch."""
        return "unit" in self.own

    def measured(self, seconds: Mapping[int, float], noise: Mapping[int, float]) -> "Method":
        """Return this method, with the measurements if its plan needs them."""
        if not self.is_planned:
            return self
        return Method(self.name, seconds if self.own["unit"] == "seconds" else None, noise)

    def settings(self, batch_size: int | None) -> Settings:
        """Return the settings for batches of `batch_size` examples.

        Raises:
            ValueError: the parameters do not fit one another or the batch.
        """
        try:
            return self.kind.settings(self, batch_size)
        except ValueError as error:
            raise ValueError(f"method {self.name}: {error}") from None

    def epochs(self, epochs: int) -> int:
        """Return the number of epochs of this method, for `epochs` epochs of the base."""
        return max(1, round(epochs * float(self.own.get("cost", 1.0))))

    def label(self, base: str, batch_size: int | None, epochs: int | None) -> str:
        """Return the name in tables, with the important parameters.

        >>> Method("thrifty").label("SGD", 64, None), Method("sgd-long").label("Adam", None, 15)
        ('thrifty, p=0.91, q=0.109, γ=1.09', 'Adam, 15 epochs')
        """
        own, settings = self.own, self.settings(batch_size)
        words = [self.kind.title or base]
        if self.is_longer:
            words.append(f"{own['cost']:g} times as long" if epochs is None else f"{epochs} epochs")
        if self.head in {"rst", "g-rst", "thrifty"}:
            p = settings.schedule
            words.append(f"p={p.mean():.2g}" if self.head == "thrifty" else f"p={p}")
            words += [f"q={settings.batch_fraction:.3g}"] * (settings.batch_fraction < 1)
            weight = f"{settings.gamma:.3g}"
            if settings.gamma_cap is not None:
                weight = f"{settings.gamma * p.mean():.3g}/p(t)≤{settings.gamma_cap:.3g}"
            words += [f"γ={weight}"] * (self.head != "rst")
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
            from sharpless.lab.methods.peers import PEERS  # noqa: PLC0415
            from sharpless.wrapper import as_one  # noqa: PLC0415

            return PEERS[self.head](as_one(base), rho, settings.schedule, model, total_steps)
        from sharpless.ascent import Friendly, asam, normalization_parameters, sam  # noqa: PLC0415
        from sharpless.grst import GRST  # noqa: PLC0415
        from sharpless.optimizer import RST  # noqa: PLC0415

        ascents: dict[str, Ascent] = {"asam": asam, "friendly": Friendly()}
        chosen = self.own.get("ascent", "sam")
        if chosen == "norms" and model is None:
            raise ValueError(f"method {self.name} climbs with the norms of the model: give trial.optimizer(…, model=…)")
        options: dict[str, Any] = {
            "rho": rho,
            "total_steps": total_steps,
            "model": model,
            "seed": seed,
            "climb_locally": climb_locally,
            "batch_fraction": settings.batch_fraction,
            "systematic": self.own.get("systematic") == "yes",
            "ascent": ascents.get(chosen, sam),
            "only": normalization_parameters(model) if chosen == "norms" and model is not None else None,
        }
        if settings.gamma_cap is not None:
            degree = self.own["degree"]
            return GRST(base, settings.schedule, degree=degree, gamma_cap=settings.gamma_cap, **options)
        return RST(base, settings.schedule, gamma=settings.gamma, **options)
