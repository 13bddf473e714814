"""A closure that is handed to `step`: it computes the gradients of the passes, or clips and logs after them."""

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
        closure: what the loop or its host hands to `step`.
        memory: of the optimizer.
        parameters: those that are trained.
        passes: begins a loop over passes without a batch; `again` lets a pass be repeated that brought no gradient.
        schedule: of sharpness-aware steps.
        batch_fraction: the share of the batch to climb with, which a closure cannot cut.

    Raises:
        RuntimeError: a part of the batch was asked for, or gradients arrive after those of passes.
    """
    misuse.check_scaler()
    # Hosts hand over closures that clip, log or do nothing after passes(), or that loop over them.
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
    if again and not memory.looked_at_closure and schedule.mean() > 0:  # once, since looking takes a walk
        memory.looked_at_closure = True
        misuse.warn_of_closure()
    losses = []
    for _ in passes(None, again=again):
        with torch.enable_grad():
            losses.append(closure())
    return losses[0]


def _after_passes(closure: Callable[[], Any], parameters: list[Tensor]) -> Any:
    """Return what a closure returns that may read the gradient of the step, and compute none.

    Raises:
        RuntimeError: it computes one.
    """
    with torch.enable_grad(), gradients.arrival(parameters) as arrived:
        loss = closure()
    if arrived:
        gradients.take(parameters)
        raise RuntimeError(
            "the closure of step() computed gradients, after passes() had: run all micro-batches of a step in "
            "loops over passes(), or all in closures"
        )
    return loss
