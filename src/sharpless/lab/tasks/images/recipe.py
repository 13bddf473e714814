"""The hyperparameters of an experiment, and what each method makes of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from sharpless.cost import expected_cost, plan
from sharpless.schedules import Constant, Periodic, Schedule, parse

__all__ = [
    "AUGMENTATIONS",
    "METHODS",
    "PEERS",
    "Recipe",
    "Settings",
    "check_augmentations",
    "check_methods",
    "option",
    "parse_named",
]

LARGEST = 3e38
"""What float32 holds."""

METHODS = ("sgd", "sgd-long", "sam", "rst", "g-rst", "thrifty")
PEERS = ("peer-sam", "peer-looksam")
AUGMENTATIONS = ("flip", "crop", "cutout", "autoaugment")


@dataclass(frozen=True)
class Settings:
    """What makes a method of a recipe."""

    schedule: Schedule
    batch_fraction: float = 1.0
    gamma: float = 1.0


def check_augmentations(names: Sequence[str]) -> None:
    """Check the names of augmentations; what they do is in `sharpless.lab.tasks.images.augment`, and not needed for it.

    Args:
        names: some of flip, crop, cutout (arXiv 1708.04552) and autoaugment (arXiv 1805.09501). They are done in the
            order crop, flip, autoaugment, cutout, whatever the order of the names.

    Raises:
        ValueError: there is no such augmentation.
    """
    for name in names:
        if name not in AUGMENTATIONS:
            raise ValueError(f"augment = {name} is unknown: choose from {', '.join(AUGMENTATIONS)}, and join them by +")


def check_methods(methods: Sequence[str]) -> None:
    """Check the names of methods.

    Raises:
        ValueError: there is no such method, or none at all.
    """
    for method in methods:
        if method not in METHODS + PEERS:
            raise ValueError(f"method {method!r} is unknown: choose from {', '.join(METHODS + PEERS)}")
    if not methods:
        raise ValueError(f"methods = nothing: choose from {', '.join(METHODS + PEERS)}")


def parse_named(name: str, text: str) -> Schedule:
    """Return the schedule that an option holds.

    Raises:
        ValueError: it holds none, in a sentence that names the option.
    """
    try:
        return parse(text)
    except ValueError as error:
        clause = str(error).removeprefix(f"p = {text} ").removeprefix(f"schedule {text!r} ")
        raise ValueError(f"{name} = {text}{' ' if clause != str(error) else ': '}{clause}") from None


def option(default: Any, text: str, *aliases: str) -> Any:
    """Return a field that the command line offers: its default, its help, and further names."""
    return field(default=default, metadata={"help": text, "aliases": aliases})


@dataclass(frozen=True)
class Recipe:
    """One experiment: what all its runs have in common. The defaults show the paper's story in minutes.

    >>> Recipe(noise=0.0).describe("g-rst")
    'G-RST, p=0.5, γ=2'
    """

    data: str = option("digits", "digits (8×8, embedded), cifar10, cifar100, imagenet, folder:PATH or hub:NAME")
    examples: int = option(0, "training examples, a class-balanced choice by the seed; 0 for all")
    noise: float = option(0.3, "share of the training labels that is replaced at random")
    validation: float = option(0.0, "share of the training examples to test on in place of the test set")
    image_size: int = option(0, "pixels that images are brought to; 0 for as they are, or 224 where that is large")
    augment: str = option("none", f"none, or some of {', '.join(AUGMENTATIONS)}, joined by +")
    network: str = option(
        "convnet",
        "convnet (BatchNorm), convnet-groupnorm, convnet-strided, vit; resnet18, resnet50, wrn-28-10, vgg16-bn, "
        "pyramidnet-110; timm:NAME,argument=value; module:factory",
    )
    width: int = option(16, "of the first four networks: channels of the first convolution, or of a vit's tokens")
    epochs: int = option(30, "epochs of plain training")
    batch_size: int = option(64, "examples in a batch, of all devices together; an incomplete last one is dropped")
    accumulate: int = option(1, "parts of a batch that are run one after another")
    optimizer: str = option("sgd", "the base optimizer: sgd or adamw")
    lr: float = option(0.05, "learning rate at the start of a cosine to 0")
    lr_warmup: float = option(0.0, "share of the run in which the learning rate rises from 0")
    momentum: float = option(0.9, "momentum of SGD")
    nesterov: bool = option(False, "Nesterov's momentum for SGD")
    weight_decay: float = option(5e-4, "weight decay of the base optimizer, which the perturbation does not see")
    l2: float = option(0.0, "L2 regularization as a part of the loss, l2/2 ‖θ‖², which the perturbation sees")
    label_smoothing: float = option(0.0, "share of the target that is spread over all classes")
    clip: float = option(0.0, "norm that longer gradients are clipped to, 0 for none")
    ema: float = option(0.0, "decay of an average of the weights that is tested in their place, 0 for none")
    precision: str = option("32", "32, bf16 or 16 (float16 with loss scaling)")
    rho: float = option(0.3, "radius ρ of the perturbation")
    p: str = option("0.5", "probability or schedule of RST and G-RST: 0.5, linear:0,1, cosine:1,0, …", "schedule")
    degree: float | None = option(None, "regularization degree of G-RST, γ = degree / mean p (default: 1, SAM's)")
    gamma: float | None = option(None, "γ of G-RST itself, in place of a degree")
    batch_fraction: float = option(1.0, "share of the batch that sharpness-aware steps of RST and G-RST climb with")
    ascent: str = option("sam", "where RST, G-RST and thrifty climb: sam, asam, friendly or norms (SAM-ON)")
    systematic: bool = option(False, "spread the steps of RST and G-RST evenly, in place of a coin at each")
    climb_together: bool = option(False, "climb along the gradient of all devices, not each along its own")
    budget: float = option(1.1, "cost of thrifty, G-RST with p, q and γ chosen for it, and of peer-looksam")

    def __post_init__(self) -> None:
        for name, known in (
            ("optimizer", ["sgd", "adamw"]),
            ("precision", ["32", "bf16", "16"]),
            ("ascent", ["sam", "asam", "friendly", "norms"]),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} = {getattr(self, name)} is unknown: give {' or '.join(known)}")
        check_augmentations(self.augmentations)
        parse_named("p", self.p)
        for check, name, remedy in (
            (self.examples >= 0, "examples", "give a number of examples, or 0 for all"),
            (0 <= self.noise <= 1, "noise", "give a share in [0, 1]"),
            (0 <= self.validation < 1, "validation", "give a share in [0, 1)"),
            (self.image_size >= 0, "image_size", "give a number of pixels, or 0"),
            (1 <= self.width <= 2**16, "width", "give 1 to 65536"),
            (self.epochs >= 1, "epochs", "give 1 or more"),
            (self.batch_size >= 2, "batch_size", "give 2 or more"),
            (self.accumulate >= 1, "accumulate", "give 1 or more"),
            (0 < self.lr <= LARGEST, "lr", "give a positive number, up to 3e38"),
            (0 <= self.lr_warmup < 1, "lr_warmup", "give a share in [0, 1)"),
            (0 <= self.momentum <= LARGEST, "momentum", "give a number from 0 to 3e38"),
            (0 <= self.weight_decay <= LARGEST, "weight_decay", "give a number from 0 to 3e38"),
            (0 <= self.l2 <= LARGEST, "l2", "give a number from 0 to 3e38"),
            (0 <= self.label_smoothing < 1, "label_smoothing", "give a share in [0, 1)"),
            (0 <= self.clip <= LARGEST, "clip", "give a norm, or 0 for none"),
            (0 <= self.ema < 1, "ema", "give a decay in (0, 1), or 0 for none"),
            (0 <= self.rho <= LARGEST, "rho", "give a number from 0 to 3e38"),
            (self.degree is None or 0 <= self.degree <= LARGEST, "degree", "give a number from 0 to 3e38"),
            (self.gamma is None or 0 <= self.gamma <= LARGEST, "gamma", "give a number from 0 to 3e38"),
            (0 < self.batch_fraction <= 1, "batch_fraction", "give a share in (0, 1]"),
        ):
            if not check:
                raise ValueError(f"{name} = {getattr(self, name)} is out of range: {remedy}")
        self._check_together()

    def _check_together(self) -> None:
        """Find options that do not go together.

        Raises:
            ValueError: there are such.
        """
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size = {self.batch_size} is no multiple of accumulate = {self.accumulate}")
        if self.data == "digits" and "autoaugment" in self.augmentations:
            raise ValueError("autoaugment knows images of 256 levels, and digits have 17: leave it out")
        if self.nesterov and not (self.momentum and self.optimizer == "sgd"):
            raise ValueError("nesterov is a kind of momentum of SGD: give optimizer sgd and a positive momentum")
        if self.systematic and parse(self.p).policy:
            raise ValueError(f"systematic spreads coins, and p = {self.p} tosses none: leave one of them out")
        if self.precision == "16" and (parse(self.p).policy or self.ascent == "friendly"):
            raise ValueError(
                "precision = 16 scales the gradients, whose size from step to step adaptive schedules and friendly "
                "ascents compare: give bf16 or 32"
            )
        if self.degree is not None and self.gamma is not None:
            raise ValueError(f"gamma = {self.gamma} and degree = {self.degree} exclude each other: give one of them")
        if parse(self.p).mean() == 0 and self.gamma is None:
            raise ValueError(f"p = {self.p} gives G-RST no sharpness-aware step: give a positive p, or gamma")
        if self.settings("g-rst").gamma == math.inf:
            raise ValueError(f"p = {self.p} is too small for a degree: γ = degree / mean p overflows, give gamma")
        plan(self.budget, self.batch_size // self.accumulate)

    @property
    def augmentations(self) -> tuple[str, ...]:
        """The names in `augment`."""
        return () if self.augment == "none" else tuple(self.augment.split("+"))

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
                thrifty = plan(self.budget, self.batch_size // self.accumulate)
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

    def difference(self, other: Mapping[str, Any]) -> str:
        """Return in which fields `other` differs, as a clause for a sentence; empty where it does not."""
        found = [
            f"{item.name} is {other[item.name]} there and {getattr(self, item.name)} here"
            for item in fields(self)
            if getattr(self, item.name) != other[item.name]
        ]
        return ", ".join(found[:3]) + (f", and {len(found) - 3} more" if len(found) > 3 else "")
