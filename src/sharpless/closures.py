"""A closure that is passed to `step`: it computes the gradients of the passes, or clips and logs after them."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from sharpless import gradients, misuse
from sharpless.memory import Memory
from sharpless.schedules import Schedule

__all__ = ["evaluate"]


def evaluate(
    closure: Callable[[], Any],
    memory: Memory,
    parameters: list[Tensor],
    passes: Callable[..., Iterator[Any]],
    schedule: Schedule,
    batch_fraction: float,
) -> Any:
    """Return the clean loss of `closure`, and leave the gradient of the step in `.grad`.

    Args:
        closure: the closure that the loop or its framework passes to `step`.
        memory: the memory of the optimizer.
        parameters: the trained parameters.
        passes: starts a loop over passes without a batch; with `again`, a pass without a gradient is repeated.
        schedule: the schedule p(t) of sharpness-aware steps.
        batch_fraction: the share q of the batch to climb with; a closure cannot split its batch.

    Raises:
        RuntimeError: `batch_fraction` is below 1, or the closure computes gradients after `passes` did.
        TypeError: `closure` is not a function.
    """
    if not callable(closure):
        raise TypeError(
            f"closure = {closure!r} is not a function: call step() without it, or give a function that returns the loss"
        )
    misuse.check_scaler()
    # Frameworks pass closures that clip, log or do nothing after passes(), or that loop over passes() themselves.
    if memory.closure_has_passes:
        with torch.enable_grad():
            return closure()
    if memory.draw is not None and memory.draw.left_gradients:
        return _after_passes(closure, parameters)
    again = memory.draw is None
    if again and batch_fraction < 1:
        raise RuntimeError(
            f"batch_fraction = {batch_fraction:g} needs the batch, which step(closure) does not see: run "
            "forward and backward in `for x, y in opt.passes((x, y))`, and call step()"
        )
    if again and schedule.mean() > 0 and memory.is_new("closure"):  # once: it reads the call stack
        misuse.warn_of_closure()
    losses = []
    for _ in passes(None, again=again):
        with torch.enable_grad():
            losses.append(closure())
    if not memory.has_worked and memory.draw is not None and memory.draw.empty and misuse.any_nonzero(parameters):
        memory.draw = None  # the gradients were there before: this closure does nothing, and the step has no passes
    return losses[0]


def _after_passes(closure: Callable[[], Any], parameters: list[Tensor]) -> Any:
    """Return the result of a closure that may read the gradient of the step, but must not compute gradients.

    Raises:
        RuntimeError: it computes gradients.
    """
    with torch.enable_grad(), gradients.arrival(parameters) as arrived:
        loss = closure()
    if arrived:
        gradients.take(parameters)
        raise RuntimeError(
            "the closure of step() computed gradients, but passes() already did: run all micro-batches of a step in "
            "loops over passes(), or all in closures"
        )
    return loss
