"""The hyperparameters of an experiment, and what each method makes of them."""

import math
from dataclasses import dataclass, field, fields
from typing import Any

from torch import nn
from torch.optim import Optimizer

from sharpless.cost import expected_cost
from sharpless.optimizer import GRST, RST, SAM
from sharpless.schedules import Schedule, parse

__all__ = ["METHODS", "Recipe"]

METHODS = ("sgd", "sgd-long", "sam", "rst", "g-rst")


def _option(default: Any, text: str, *aliases: str) -> Any:
    return field(default=default, metadata={"help": text, "aliases": aliases})


@dataclass(frozen=True)
class Recipe:
    """One experiment: what all its runs have in common. The defaults show the paper's story in minutes.

    >>> Recipe(noise=0.0).describe("g-rst")
    'G-RST, p=0.5, γ=2'
    """

    task: str = _option("digits", "the task: digits (8×8 handwritten digits, embedded in scikit-learn)")
    noise: float = _option(0.3, "share of the training labels that is replaced at random")
    epochs: int = _option(30, "epochs of plain training")
    batch_size: int = _option(64, "examples in a batch; an incomplete last one is dropped")
    lr: float = _option(0.05, "learning rate at the start of a cosine to 0")
    momentum: float = _option(0.9, "momentum of SGD")
    weight_decay: float = _option(5e-4, "weight decay of SGD")
    width: int = _option(16, "channels of the first convolution")
    rho: float = _option(0.3, "radius ρ of the perturbation")
    p: str = _option("0.5", "probability or schedule of RST and G-RST: 0.5, linear:0,1, cosine:1,0, …", "schedule")
    degree: float | None = _option(None, "regularization degree of G-RST, γ = degree / mean p (default: 1, SAM's)")
    gamma: float | None = _option(None, "γ of G-RST itself, in place of a degree")

    def __post_init__(self) -> None:
        if self.task != "digits":
            raise ValueError(f"task = {self.task} is unknown: give digits")
        for check, name, remedy in (
            (0 <= self.noise <= 1, "noise", "give a share in [0, 1]"),
            (self.epochs >= 1, "epochs", "give 1 or more"),
            (2 <= self.batch_size <= 1297, "batch_size", "give 2 to 1297, the number of training examples"),
            (0 < self.lr < math.inf, "lr", "give a positive number"),
            (0 <= self.momentum < math.inf, "momentum", "give a finite number, 0 or more"),
            (0 <= self.weight_decay < math.inf, "weight_decay", "give a finite number, 0 or more"),
            (self.width >= 1, "width", "give 1 or more"),
            (0 <= self.rho < math.inf, "rho", "give a finite number, 0 or more"),
            (self.degree is None or 0 <= self.degree < math.inf, "degree", "give a finite number, 0 or more"),
            (self.gamma is None or 0 <= self.gamma < math.inf, "gamma", "give a finite number, 0 or more"),
        ):
            if not check:
                raise ValueError(f"{name} = {getattr(self, name)} is out of range: {remedy}")
        if self.degree is not None and self.gamma is not None:
            raise ValueError(f"gamma = {self.gamma} and degree = {self.degree} exclude each other: give one of them")
        if parse(self.p).mean() == 0 and self.gamma is None:
            raise ValueError(f"p = {self.p} gives G-RST no sharpness-aware step: give a positive p, or gamma")
        if self.gamma_of("g-rst") == math.inf:
            raise ValueError(f"p = {self.p} is too small for a degree: γ = degree / mean p overflows, give gamma")

    def schedule(self, method: str) -> Schedule:
        """Return the p(t) of `method`."""
        return parse({"sgd": "0", "sgd-long": "0", "sam": "1"}.get(method, self.p))

    def epochs_of(self, method: str) -> int:
        """Return how long `method` trains: sgd-long takes as many gradients as G-RST, by more epochs."""
        if method != "sgd-long" or self.rho == 0 or self.gamma_of("g-rst") == 0:
            return self.epochs
        return round(self.epochs * expected_cost(self.schedule("g-rst")))

    def gamma_of(self, method: str) -> float:
        """Return the γ of `method`."""
        if method != "g-rst":
            return 1.0
        if self.gamma is not None:
            return self.gamma
        return (1.0 if self.degree is None else self.degree) / self.schedule(method).mean()

    def describe(self, method: str) -> str:
        """Return the name of `method` with its parameters, for tables and pages."""
        match method:
            case "sgd-long":
                return f"SGD, {self.epochs_of(method)} epochs"
            case "rst":
                return f"RST, p={self.schedule(method)}"
            case "g-rst":
                return f"G-RST, p={self.schedule(method)}, γ={self.gamma_of(method):g}"
            case _:
                return method.upper()

    def wrap(self, method: str, base: Optimizer, model: nn.Module, total_steps: int, seed: int) -> RST:
        """Return the optimizer of `method` around `base`."""
        if method == "sam":
            return SAM(base, self.rho, model=model, seed=seed)
        if method == "g-rst":
            return GRST(
                base,
                self.schedule(method),
                rho=self.rho,
                gamma=self.gamma_of(method),
                total_steps=total_steps,
                model=model,
                seed=seed,
            )
        return RST(base, self.schedule(method), self.rho, total_steps=total_steps, model=model, seed=seed)

    def difference(self, other: "Recipe") -> str:
        """Return in which fields `other` differs, as a clause for a sentence; empty where it does not."""
        return ", ".join(
            f"{item.name} = {getattr(other, item.name)} and not {getattr(self, item.name)}"
            for item in fields(self)
            if getattr(self, item.name) != getattr(other, item.name)
        )
