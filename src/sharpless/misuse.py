"""Checks for loops that train something else than the user asked for, and their messages."""

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sharpless import batches, callers, ddp
from sharpless.gradients import Mark, any_of, changed
from sharpless.memory import Draw, Memory

__all__ = [
    "Outsiders",
    "any_nonzero",
    "check_alone",
    "check_batch",
    "check_inside",
    "check_scaler",
    "outsiders",
    "warn_of_closure",
    "warn_of_no_gradients",
    "warn_of_plain_steps",
    "watch_saving",
]


def warn_of_plain_steps() -> None:
    """Warn that steps are plain; the framework is searched for only now, so that ordinary steps stay fast."""
    host = callers.host()
    if host is None:
        who, remedy = "step() was called", "run forward and backward in `for x, y in opt.passes((x, y))`"
    else:
        who, remedy = f"{host.title} called step()", host.remedy
    warnings.warn(f"{who} without passes(): such a step is a plain one of the base optimizer; {remedy}", stacklevel=5)


def warn_of_closure() -> None:
    """Warn if the closure of a step comes from a framework whose closures do more than forward and backward."""
    host = callers.host_of_closure()
    if host is not None:
        warnings.warn(
            f"{host.title} hands step() a closure that {host.in_closure}, and it is called in each pass; {host.remedy}",
            stacklevel=5,
        )


def warn_of_no_gradients(memory: Memory, parameters: list[Tensor]) -> None:
    """Warn if a step has no gradients: at once if its loop over passes was left early, else at the second one."""
    if memory.draw is None or any_of(parameters):
        memory.idle_steps = 0
        return
    memory.idle_steps += 1
    if memory.draw.left_early:
        warnings.warn(
            "step() changes nothing: the loop over passes() was left early (break, return, an exception, or zip and "
            "islice, which do not come to its end), and its gradients are discarded; let the loop end, or call "
            "opt.zero_grad() in place of step()",
            stacklevel=5,
        )
    elif memory.idle_steps == 2 and not memory.has_worked:  # a loop that has worked may skip batches
        warnings.warn(
            "step() changes nothing: in two steps no pass has left a gradient in a parameter of base; wrap the "
            "optimizer of the network that the loop runs, and let no hook clear gradients during backward()",
            stacklevel=5,
        )


def check_alone(draw: Draw | None, parameters: list[Tensor]) -> None:
    """Check that the gradients of a pass or step are not those that the loop of another optimizer has added to.

    Raises:
        RuntimeError: they are.
    """
    if draw is not None and draw.mixed and not changed(parameters, draw.mixed):
        raise RuntimeError(
            "a loop over passes() of another optimizer has added the gradients of its passes to those of this one: "
            "for one loss give both bases to one optimizer, as in SAM([base, other], …), and for two losses let the "
            "loop of one end, and clear the gradients that it gives to the other, before that one's passes"
        )


def check_batch(batch: Any, *more: Any, batch_fraction: float, memory: Memory | None = None) -> None:
    """Check that `passes` got one batch, which has examples if it is to be split.

    Raises:
        TypeError: it got several arguments, or all batches.
        ValueError: `batch_fraction` is below 1, and the tensors of `batch` have different lengths, or none,
            or are single examples in a list, which is looked for in the first batch, since the last one may be small.
    """
    if more:
        raise TypeError(
            f"passes takes the batch as one object, and got {1 + len(more)} arguments: write opt.passes((x, y))"
        )
    if isinstance(batch, DataLoader):
        raise TypeError(
            "batch = a DataLoader has all batches, and passes takes one: loop over it, as in `for batch in loader: "
            "for x, y in opt.passes(batch): …`"
        )
    if batch_fraction < 1 and memory is not None and "fields" not in memory.checked:
        batches.check_fields(batch)
        memory.checked.add("fields")  # not before: a batch that is refused must be refused again
    if batch_fraction < 1 and batches.length(batch) is None:
        raise ValueError(
            f"batch_fraction = {batch_fraction:g} splits the batch, and this one has no tensor with a length: hand "
            "over tensors, as in passes((x, y))"
        )


def check_inside(memory: Memory, parameters: list[Tensor]) -> None:
    """Check that the gradients of a step did not arrive after its passes had ended.

    Where a loop has given gradients before, this one was skipped, and a gradient outside of it is meant.

    Raises:
        RuntimeError: they did.
    """
    draw = memory.draw
    if memory.has_worked or draw is None or draw.left is None or not changed(parameters, draw.left):
        return
    if any_nonzero(parameters):  # and not cleared
        if callers.is_called_by("deepspeed"):
            raise RuntimeError(
                "DeepSpeed keeps the gradients to itself until step(), so that no pass can climb along one: set the "
                "stage of zero_optimization to 0, and torch_autocast in place of bf16 or fp16 (docs/hosts/deepspeed.md)"
            )
        if draw.left_early:
            raise RuntimeError(
                "the last loop over passes() was left early, which discards its gradients, and a gradient arrived "
                "after it: run forward and backward inside the loop, not after next(iter(opt.passes(…))), and call "
                "opt.zero_grad() to give up a step"
            )
        raise RuntimeError(
            "no pass of the last loop over passes() gave a gradient, and one arrived after the loop: run forward and "
            "backward inside the loop, not after list(opt.passes(…))"
        )


def warn_of_averaged_passes() -> None:
    """Warn that the ranks of DeepSpeed climb along their mean gradient."""
    warnings.warn(
        "DeepSpeed averages the gradient of each pass over the ranks, so that they climb along their mean and "
        "communicate twice: run every loop over passes() in `with engine.no_sync():`, and then call "
        "engine.allreduce_gradients() (docs/hosts/deepspeed.md)",
        stacklevel=5,
    )


def any_nonzero(parameters: list[Tensor]) -> bool:
    """Return whether a parameter has a gradient other than zero; this waits for the device."""
    return any(bool(parameter.grad.any()) for parameter in parameters if parameter.grad is not None)


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
        """Warn if any of them got gradients since."""
        names = [
            name
            for (name, parameter), before in zip(self._outside.items(), self._before, strict=True)
            if parameter.grad is not None and not before.still_is(parameter.grad)
        ]
        if names:
            shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            warnings.warn(
                f"base does not hold {shown} of model, whose gradients of both passes were added up: give all "
                "optimizers that train on this loss, as in SAM([base, other], …), or freeze the other parameters",
                stacklevel=2,
            )


def outsiders(memory: Memory, model: nn.Module | None, held: Iterable[Tensor]) -> Outsiders | None:
    """Return the parameters of `model` that no base holds; only once, since it searches the model."""
    return Outsiders(model, held) if model is not None and memory.is_new("outsiders") else None


def watch_saving(model: nn.Module) -> Callable[[], None]:
    """Warn from now on if the weights of `model`, which are displaced, are saved.

    Returns:
        A function that ends the watch.
    """
    if isinstance(model, torch.jit.ScriptModule):  # takes no hooks
        return lambda: None

    def warn(*_: Any) -> None:
        warnings.warn(
            "model.state_dict() was called in the middle of passes(), and has the weights of the perturbed pass: save "
            "and average weights after step(), also from a signal handler",
            stacklevel=3,
        )

    network: Any = ddp.inside(model)
    remove: Callable[[], None] = network.register_state_dict_pre_hook(warn).remove
    return remove


def check_scaler() -> None:
    """Check that a closure is not called by GradScaler, which cannot unscale its gradients.

    Raises:
        RuntimeError: GradScaler.step is among the callers.
    """
    if callers.is_called_by("torch.amp.grad_scaler"):
        raise RuntimeError(
            "GradScaler.step(opt, closure) cannot unscale what the closure computes: "
            "run forward and backward in passes(), and call GradScaler.step(opt)"
        )
