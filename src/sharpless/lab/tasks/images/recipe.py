"""The common hyperparameters of all methods: data, network and optimization."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["AUGMENTATIONS", "Recipe", "check_augmentations", "option"]

LARGEST = 3e38
"""About the largest float32."""

AUGMENTATIONS = ("flip", "crop", "cutout", "autoaugment")


def check_augmentations(names: Sequence[str]) -> None:
    """Check the names of augmentations, which are implemented in `sharpless.lab.tasks.images.augment`.

    Args:
        names: some of flip, crop, cutout (arXiv 1708.04552) and autoaugment (arXiv 1805.09501), in any order. They are
            applied in the order crop, flip, autoaugment, cutout.

    Raises:
        ValueError: there is no such augmentation.
    """
    for name in names:
        if name not in AUGMENTATIONS:
            raise ValueError(f"augment = {name} is unknown: choose from {', '.join(AUGMENTATIONS)}, and join them by +")


def option(default: Any, text: str) -> Any:
    """Return a field that is an option of the command line: default and help text."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Recipe:
    """The common hyperparameters of all runs of an experiment. The defaults show the paper's effect in minutes.

    >>> Recipe(augment="flip+crop").augmentations
    ('flip', 'crop')
    """

    data: str = option("digits", "digits (8×8, embedded), cifar10, cifar100, imagenet, folder:PATH or hub:NAME")
    examples: int = option(
        0, "number of training examples, a class-balanced subset that depends on the seed; 0 for all"
    )
    noise: float = option(0.3, "share of the training labels that are replaced at random")
    validation: float = option(0.0, "share of the training examples that replaces the test set")
    image_size: int = option(0, "size of the images in pixels; 0 keeps theirs, or takes 224 for large ones")
    augment: str = option("none", f"none, or some of {', '.join(AUGMENTATIONS)}, joined by +")
    network: str = option(
        "convnet",
        "convnet (BatchNorm), convnet-groupnorm, convnet-strided, vit; resnet18, resnet50, wrn-28-10, vgg16-bn, "
        "pyramidnet-110; timm:NAME,argument=value; module:factory",
    )
    width: int = option(16, "width of the first four networks: channels of the first convolution, or of a token of vit")
    epochs: int = option(30, "epochs of plain training")
    batch_size: int = option(64, "examples in a batch of all devices together; an incomplete last batch is dropped")
    accumulate: int = option(1, "number of micro-batches in a batch")
    optimizer: str = option("sgd", "the base optimizer: sgd or adamw")
    lr: float = option(0.05, "initial learning rate, with cosine decay to 0")
    lr_warmup: float = option(0.0, "share of the run in which the learning rate rises from 0")
    momentum: float = option(0.9, "momentum of SGD")
    nesterov: bool = option(False, "Nesterov's momentum for SGD")
    weight_decay: float = option(5e-4, "weight decay of the base optimizer; not in the gradient of the perturbation")
    l2: float = option(0.0, "L2 regularization in the loss, l2/2 ‖θ‖²; in the gradient of the perturbation")
    label_smoothing: float = option(0.0, "label smoothing: share of the target that all classes get")
    clip: float = option(0.0, "largest norm of the gradient, by clipping; 0 for none")
    precision: str = option("32", "32, bf16 or 16 (float16 with loss scaling)")
    rho: float = option(0.3, "radius ρ of the perturbation")
    climb_together: bool = option(False, "perturb along the gradient of all devices, not each along its own")

    def __post_init__(self) -> None:
        for name, known in (
            ("optimizer", ["sgd", "adamw"]),
            ("precision", ["32", "bf16", "16"]),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} = {getattr(self, name)} is unknown: give {' or '.join(known)}")
        check_augmentations(self.augmentations)
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
            (0 <= self.rho <= LARGEST, "rho", "give a number from 0 to 3e38"),
        ):
            if not check:
                raise ValueError(f"{name} = {getattr(self, name)} is out of range: {remedy}")
        self._check_together()

    def _check_together(self) -> None:
        """Check for options that exclude each other.

        Raises:
            ValueError: there are such options.
        """
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size = {self.batch_size} is not a multiple of accumulate = {self.accumulate}")
        if self.data == "digits" and "autoaugment" in self.augmentations:
            raise ValueError("autoaugment needs images of 256 levels, and digits have 17: leave it out")
        if self.nesterov and not (self.momentum and self.optimizer == "sgd"):
            raise ValueError("nesterov is a kind of momentum of SGD: give optimizer sgd and a positive momentum")

    @property
    def augmentations(self) -> tuple[str, ...]:
        """The names in `augment`."""
        return () if self.augment == "none" else tuple(self.augment.split("+"))
