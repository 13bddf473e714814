"""The hyperparameters of an experiment, and what each method makes of them."""

import math
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from sharpless.ascent import Ascent, Friendly, asam, normalization_parameters, sam
from sharpless.cost import expected_cost, plan
from sharpless.lab.models import NETWORKS
from sharpless.lab.peers import PEERS, Peer
from sharpless.optimizer import RST
from sharpless.schedules import Constant, Periodic, Schedule, parse

__all__ = ["METHODS", "Recipe"]

METHODS = ("sgd", "sgd-long", "sam", "rst", "g-rst", "thrifty")


@dataclass(frozen=True)
class Settings:
    """What makes a method of a recipe."""

    schedule: Schedule
    batch_fraction: float = 1.0
    gamma: float = 1.0


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
    weight_decay: float = _option(5e-4, "weight decay")
    lr_warmup: float = _option(0.0, "share of the run in which the learning rate rises from 0")
    network: str = _option("convnet", "the network: convnet (BatchNorm), convnet-groupnorm, convnet-strided or vit")
    optimizer: str = _option("sgd", "the base optimizer: sgd or adamw")
    width: int = _option(16, "channels of the first convolution, or of a vit's tokens")
    rho: float = _option(0.3, "radius ρ of the perturbation")
    p: str = _option("0.5", "probability or schedule of RST and G-RST: 0.5, linear:0,1, cosine:1,0, …", "schedule")
    degree: float | None = _option(None, "regularization degree of G-RST, γ = degree / mean p (default: 1, SAM's)")
    gamma: float | None = _option(None, "γ of G-RST itself, in place of a degree")
    batch_fraction: float = _option(1.0, "share of the batch that sharpness-aware steps of RST and G-RST climb with")
    ascent: str = _option("sam", "where RST, G-RST and thrifty climb: sam, asam, friendly or norms (SAM-ON)")
    systematic: bool = _option(False, "spread the steps of RST and G-RST evenly, in place of a coin at each")
    budget: float = _option(1.1, "cost of thrifty, G-RST with p, q and γ chosen for it, and of peer-looksam")
    clip: float = _option(0.0, "norm that longer gradients are clipped to, 0 for none")
    validation: float = _option(0.0, "share of the training examples to test on in place of the test set")

    def __post_init__(self) -> None:
        for name, known in (
            ("task", ["digits"]),
            ("network", list(NETWORKS)),
            ("optimizer", ["sgd", "adamw"]),
            ("ascent", ["sam", "asam", "friendly", "norms"]),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} = {getattr(self, name)} is unknown: give {' or '.join(known)}")
        for check, name, remedy in (
            (0 <= self.noise <= 1, "noise", "give a share in [0, 1]"),
            (self.epochs >= 1, "epochs", "give 1 or more"),
            (2 <= self.batch_size <= 1297, "batch_size", "give 2 to 1297, the number of training examples"),
            (0 < self.lr < math.inf, "lr", "give a positive number"),
            (0 <= self.momentum < math.inf, "momentum", "give a finite number, 0 or more"),
            (0 <= self.weight_decay < math.inf, "weight_decay", "give a finite number, 0 or more"),
            (0 <= self.lr_warmup < 1, "lr_warmup", "give a share in [0, 1)"),
            (self.width >= 1, "width", "give 1 or more"),
            (0 < self.batch_fraction <= 1, "batch_fraction", "give a share in (0, 1]"),
            (0 <= self.clip < math.inf, "clip", "give a norm, or 0 for none"),
            (0 <= self.validation < 1, "validation", "give a share in [0, 1)"),
            (0 <= self.rho < math.inf, "rho", "give a finite number, 0 or more"),
            (self.degree is None or 0 <= self.degree < math.inf, "degree", "give a finite number, 0 or more"),
            (self.gamma is None or 0 <= self.gamma < math.inf, "gamma", "give a finite number, 0 or more"),
        ):
            if not check:
                raise ValueError(f"{name} = {getattr(self, name)} is out of range: {remedy}")
        if self.systematic and parse(self.p).policy:
            raise ValueError(f"systematic spreads coins, and p = {self.p} tosses none: leave one of them out")
        if self.degree is not None and self.gamma is not None:
            raise ValueError(f"gamma = {self.gamma} and degree = {self.degree} exclude each other: give one of them")
        if parse(self.p).mean() == 0 and self.gamma is None:
            raise ValueError(f"p = {self.p} gives G-RST no sharpness-aware step: give a positive p, or gamma")
        if self.settings("g-rst").gamma == math.inf:
            raise ValueError(f"p = {self.p} is too small for a degree: γ = degree / mean p overflows, give gamma")
        plan(self.budget, self.batch_size)

    def settings(self, method: str) -> Settings:
        """Return when `method` is sharpness-aware, on how much of the batch, and how strongly.

        Raises:
            ValueError: there is no such method.
        """
        match method:
            case "sgd" | "sgd-long":
                return Settings(Constant(0.0))
            case "sam" | "peer-sam":
                return Settings(Constant(1.0))
            case "peer-looksam":
                return Settings(Periodic(round(1 / (self.budget - 1))))  # its k, by its cost of 1 + 1/k
            case "rst":
                return Settings(parse(self.p), self.batch_fraction)
            case "g-rst":
                p, degree = parse(self.p), 1.0 if self.degree is None else self.degree
                return Settings(p, self.batch_fraction, degree / p.mean() if self.gamma is None else self.gamma)
            case "thrifty":
                thrifty = plan(self.budget, self.batch_size)
                return Settings(Constant(thrifty.p), thrifty.batch_fraction, thrifty.gamma)
        raise ValueError(f"method {method!r} is unknown: choose from {', '.join(METHODS + PEERS)}")

    def epochs_of(self, method: str) -> int:
        """Return how long `method` trains: sgd-long takes as many gradients as G-RST, by more epochs."""
        g_rst = self.settings("g-rst")
        if method != "sgd-long" or self.rho == 0 or g_rst.gamma == 0:
            return self.epochs
        return round(self.epochs * expected_cost(g_rst.schedule, batch_fraction=g_rst.batch_fraction))

    def describe(self, method: str) -> str:
        """Return the name of `method` with its parameters, for tables and pages."""
        base, own = self.optimizer.upper().replace("ADAMW", "AdamW"), self.settings(method)
        part = "" if own.batch_fraction == 1 else f", q={own.batch_fraction:.3g}"
        part += ", systematic" if self.systematic and method != "thrifty" else ""
        part += "" if self.ascent == "sam" else f", {self.ascent}"
        labels = {
            "sgd": base,
            "sgd-long": f"{base}, {self.epochs_of(method)} epochs",
            "sam": "SAM",
            "rst": f"RST, p={own.schedule}{part}",
            "g-rst": f"G-RST, p={own.schedule}{part}, γ={own.gamma:g}",
            "thrifty": f"thrifty, p={own.schedule.mean():.2g}{part}, γ={own.gamma:.3g}",
            "peer-sam": "peer SAM",
            "peer-looksam": f"peer LookSAM, k={str(own.schedule).removeprefix('periodic:')}",
        }
        return labels[method]

    def base(self, model: nn.Module) -> Optimizer:
        """Return the base optimizer."""
        if self.optimizer == "adamw":
            return torch.optim.AdamW(model.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        return torch.optim.SGD(model.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)

    def wrap(self, method: str, base: Optimizer, model: nn.Module, total_steps: int, seed: int) -> RST | Peer:
        """Return the optimizer of `method` around `base`."""
        own = self.settings(method)
        if method in PEERS:
            return Peer(method, base, model, self.rho, own.schedule)
        free = method in {"rst", "g-rst", "thrifty"}
        ascents: dict[str, Ascent] = {"asam": asam, "friendly": Friendly()}
        return RST(
            base,
            own.schedule,
            self.rho,
            own.gamma,
            total_steps,
            model,
            seed,
            batch_fraction=own.batch_fraction,
            systematic=self.systematic and method in {"rst", "g-rst"},
            ascent=ascents.get(self.ascent, sam) if free else sam,
            only=normalization_parameters(model) if free and self.ascent == "norms" else None,
        )

    def difference(self, other: "Recipe") -> str:
        """Return in which fields `other` differs, as a clause for a sentence; empty where it does not."""
        return ", ".join(
            f"{item.name} = {getattr(other, item.name)} and not {getattr(self, item.name)}"
            for item in fields(self)
            if getattr(self, item.name) != getattr(other, item.name)
        )
