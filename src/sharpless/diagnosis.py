"""What the first perturbed pass shows: weights that do not move or are not used, and data that change in each pass."""

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import GeneratorType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data.dataloader import _BaseDataLoaderIter

from sharpless import callers
from sharpless.gradients import Gradients
from sharpless.tensors import local

__all__ = ["sample", "warn_of_same", "watched"]

SAMPLE = 64
"""About as many values of a gradient show whether it has changed."""


@contextmanager
def watched(weights: list[Tensor], eps: list[Tensor]) -> Iterator[bool]:
    """Watch a pass in the block, at the displaced weights, and warn of what would go wrong in each step.

    Args:
        weights: the weights before the displacement.
        eps: their perturbation.

    Yields:
        Whether the weights move.
    """
    move = not _warn_of_rounding(weights, eps)
    loaders = [(loader, loader._num_yielded) for loader in _loaders()]
    yield move
    if any(loader._num_yielded > number for loader, number in loaders):
        warnings.warn(
            "the body of the loop over passes() takes a batch from a DataLoader, so that the passes of a "
            "sharpness-aware step see different data: take it before the loop, as in passes(next(batches))",
            stacklevel=2,
        )


def _loaders() -> list[Any]:
    """Return the running iterators over DataLoaders among the variables of the loop, also within its generators."""
    values = callers.variables()
    for value in list(values):
        if isinstance(value, GeneratorType):
            values.extend(gc.get_referents(value))
    return [value for value in values if issubclass(type(value), _BaseDataLoaderIter)]


@torch.no_grad()
def _warn_of_rounding(weights: list[Tensor], eps: list[Tensor]) -> bool:
    """Warn if weights of half precision hardly move, since ε is lost in rounding; this waits for the device.

    Each rank looks at its own shards.

    Returns:
        Whether they hardly move.
    """
    asked = moved = 0.0
    for weight, step in zip(map(local, weights), map(local, eps), strict=True):
        if weight.dtype in {torch.float16, torch.bfloat16}:
            asked += float(step.float().square().sum())
            moved += float((((weight + step).float() - weight.float()) * step.float()).sum())
    if lost := moved < 0.5 * asked:
        warnings.warn(
            f"weights of half precision lose {1 - moved / asked:.0%} of their perturbation to rounding, so that a "
            "sharpness-aware step is nearly a plain one: keep the weights in float32 and run forwards under "
            "torch.autocast, or choose a larger rho",
            stacklevel=2,
        )
    return lost


@torch.no_grad()
def sample(gradients: Gradients) -> Gradients:
    """Return some values of each gradient."""
    shards = [None if grad is None else local(grad).reshape(-1) for grad in gradients]
    return [None if shard is None else shard[:: max(shard.numel() // SAMPLE, 1)].clone() for shard in shards]


def warn_of_same(clean: Gradients, later: Gradients, *, displaced: bool) -> None:
    """Warn if the gradients of a later pass are those of the first one; this waits for the device.

    Args:
        clean: the `sample` of the gradients of the first pass.
        later: the gradients of the later pass.
        displaced: whether that pass was the perturbed one, or ran on the rest of the batch.
    """
    pairs = list(zip(clean, sample(later), strict=True))
    both = [(one, other) for one, other in pairs if one is not None and other is not None]
    if not all(torch.equal(one, other) for one, other in both) or not any(bool(one.any()) for one, _ in both):
        return
    if displaced:
        text = (
            "the gradient at the displaced weights is the clean one bit for bit, so that a sharpness-aware step is a "
            "plain one: compute the loss from the parameters of base in each pass, not from copies of them, or from "
            "what was computed before the loop over passes(), and choose a rho that moves them; a loss that is linear "
            "in them needs no SAM"
        )
    else:
        text = (
            "the gradient of the rest of the batch is that of its first part bit for bit: run forward and backward on "
            "what passes() yields, as in `for x, y in opt.passes((x, y))`, not on the whole batch"
        )
    warnings.warn(text, stacklevel=2)
