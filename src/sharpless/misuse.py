"""What is noticed when a loop trains something else than was asked for, and the sentences that say so."""

import warnings
from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sharpless import callers
from sharpless.gradients import Mark, changed
from sharpless.memory import Draw, Memory

__all__ = [
    "FEW",
    "Outsiders",
    "check_inside",
    "check_scaler",
    "has_batch_statistics",
    "outsiders",
    "warn_of_closure",
    "warn_of_plain_steps",
    "warn_of_small_part",
]

FEW = 32
"""Below this number of examples, parts of the batch have broken networks with BatchNorm (docs/results/batchnorm.md)."""


def warn_of_plain_steps() -> None:
    """Warn that steps are plain; the host that takes them is looked for now, so that a step does not pay for it."""
    host = callers.host()
    if host is None:
        who, cure = "step() was called", "run forward and backward in `for x, y in opt.passes((x, y))`"
    else:
        who, cure = f"{host.title} called step()", host.cure
    warnings.warn(f"{who} without passes(): such a step is a plain one of the base optimizer; {cure}", stacklevel=5)


def warn_of_closure() -> None:
    """Warn if the closure of a step comes from a host that does more in it than forward and backward."""
    host = callers.host_of_closure()
    if host is not None:
        warnings.warn(
            f"{host.title} hands step() a closure that {host.in_closure}, and it is called in each pass; {host.cure}",
            stacklevel=5,
        )


def check_inside(draw: Draw | None, parameters: list[Tensor]) -> None:
    """Find out whether the gradients of a step arrived after its passes had ended.

    Raises:
        RuntimeError: they did.
    """
    if draw is None or draw.left is None or not changed(parameters, draw.left):
        return
    if any(bool(parameter.grad.any()) for parameter in parameters if parameter.grad is not None):  # and not cleared
        if callers.is_called_by("deepspeed"):
            raise RuntimeError(
                "DeepSpeed keeps the gradients to itself until step(), so that no pass can climb along one: set the "
                "stage of zero_optimization to 0, and torch_autocast in place of bf16 or fp16 (docs/hosts/deepspeed.md)"
            )
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
        self._before = [Mark(parameter.grad) for parameter in self._outside.values()]

    def warn(self) -> None:
        """Warn if there are some that got gradients since."""
        names = [
            name
            for (name, parameter), before in zip(self._outside.items(), self._before, strict=True)
            if parameter.grad is not None and not before.still_is(parameter.grad)
        ]
        if names:
            shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            warnings.warn(
                f"base does not hold {shown} of model, which got gradients of both passes, added up: give all the "
                "optimizers that train on this loss, as in SAM([base, other], …), or freeze what none of them trains",
                stacklevel=2,
            )


def outsiders(memory: Memory, model: nn.Module | None, held: Iterable[Tensor]) -> Outsiders | None:
    """Return the parameters of `model` that no base holds; once, since looking takes a walk through it."""
    if model is None or memory.looked_outside:
        return None
    memory.looked_outside = True
    return Outsiders(model, held)


def check_scaler() -> None:
    """Check that a closure is not called by GradScaler, which lets pass what it cannot unscale.

    Raises:
        RuntimeError: GradScaler.step is among the callers.
    """
    if callers.is_called_by("torch.amp.grad_scaler"):
        raise RuntimeError(
            "GradScaler.step(opt, closure) cannot unscale what the closure computes: "
            "run forward and backward in passes(), and call GradScaler.step(opt)"
        )


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
        f"fewer than about {FEW} examples have broken the fine-tuning of such a network "
        "(docs/results/batchnorm.md); compare with SAM first, or choose a larger batch_fraction or budget",
        stacklevel=5,
    )
    return True
