"""What is noticed when a loop trains something else than was asked for, and the sentences that say so."""

import warnings
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sharpless.memory import Draw
from sharpless.tensors import local

__all__ = [
    "FEW",
    "Outsiders",
    "check_inside",
    "has_batch_statistics",
    "marks",
    "warn_of_plain_steps",
    "warn_of_small_part",
]

FEW = 32
"""Below this number of examples, a part of the batch has broken a network with BatchNorm (docs/cheaper.md)."""


def warn_of_plain_steps() -> None:
    """Warn that steps are plain."""
    warnings.warn(
        "step() was called without passes(): such a step is a plain one of the base optimizer; "
        "run forward and backward in `for x, y in opt.passes((x, y))`",
        stacklevel=4,
    )


def check_inside(draw: Draw | None, parameters: list[Tensor]) -> None:
    """Find out whether the gradients of a step arrived after its passes had ended.

    Raises:
        RuntimeError: they did.
    """
    if draw is None or not (draw.sharp and draw.empty and not draw.left_gradients):
        return
    if any(parameter.grad is not None for parameter in parameters):
        raise RuntimeError(
            "no pass of the last loop over passes() brought a gradient, and one arrived after it: run forward and "
            "backward inside the loop, which list(opt.passes(…)) ends at once"
        )


class Outsiders:
    """The parameters of a model that no base optimizer holds, and whether a loop over passes gives them gradients.

    Args:
        model: the network.
        held: the parameters that the base holds.
    """

    def __init__(self, model: nn.Module, held: Iterable[Tensor]) -> None:
        mine = set(held)
        self._outside = {name: each for name, each in model.named_parameters() if each not in mine}
        self._before = marks(self._outside.values())

    def warn(self) -> None:
        """Warn if there are some that got gradients since."""
        now = marks(self._outside.values())
        names = [
            name
            for name, before, after in zip(self._outside, self._before, now, strict=True)
            if after not in {before, None}
        ]
        if names:
            shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            warnings.warn(
                f"base does not hold {shown} of model, which got gradients of both passes, added up: give all the "
                "optimizers that train on this loss, as in SAM([base, other], …), or freeze what none of them trains",
                stacklevel=2,
            )


@torch.no_grad()
def marks(parameters: Iterable[Tensor]) -> list[tuple[int, int, int] | None]:
    """Return what changes when a backward changes the `.grad` of `parameters`; None where there is none."""
    grads = [parameter.grad for parameter in parameters]
    return [None if grad is None else (id(grad), grad._version, local(grad)._version) for grad in grads]


def has_batch_statistics(model: nn.Module) -> bool:
    """Return whether a layer of `model` normalizes by the statistics of the batch, which takes two examples."""
    return any(
        isinstance(module, _BatchNorm)
        or "BatchNorm" in getattr(module, "original_name", "")  # scripted
        or ("Instance" not in type(module).__name__ and getattr(module, "running_var", None) is not None)
        for module in model.modules()
    )


def warn_of_small_part(examples: int | None, batch_fraction: float) -> bool:
    """Warn of a part of the batch that is small for a network with BatchNorm.

    Args:
        examples: its size.
        batch_fraction: the share of the batch that was asked for.

    Returns:
        Whether it is small.
    """
    if examples is None or examples >= FEW:
        return False
    warnings.warn(
        f"batch_fraction = {batch_fraction:.3g} climbs with {examples} examples, and model has BatchNorm: parts of "
        f"fewer than about {FEW} examples have broken the fine-tuning of such a network (docs/cheaper.md); compare "
        "with SAM first, or choose a larger batch_fraction or budget",
        stacklevel=5,
    )
    return True
