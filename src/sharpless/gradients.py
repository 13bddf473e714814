"""The gradients in `.grad`: take them out, weigh them, add them up, put them back; in place, no copies."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from sharpless.weights import local

__all__ = ["Gradients", "add", "put", "scale", "take", "watch_for_clearing"]

Gradients = list[Tensor | None]
"""One entry for each of a list of parameters: its gradient, or None where it has none."""


def take(parameters: Iterable[Tensor]) -> Gradients:
    """Return the gradients of `parameters`, sparse ones made dense, and leave `.grad` empty."""
    taken: Gradients = []
    for parameter in parameters:
        grad = parameter.grad
        if grad is not None:
            grad = grad if grad.layout is torch.strided else grad.to_dense()
            parameter.grad = None
        taken.append(grad)
    return taken


def put(gradients: Gradients, parameters: Iterable[Tensor]) -> None:
    """Make `gradients` the `.grad` of `parameters`, which must be empty."""
    for parameter, grad in zip(parameters, gradients, strict=True):
        if grad is not None:
            parameter.grad = grad


@torch.no_grad()
def scale(gradients: Gradients, factor: float) -> None:
    """Multiply all `gradients` by `factor`."""
    present = [local(grad) for grad in gradients if grad is not None]
    if present and factor != 1.0:
        torch._foreach_mul_(present, factor)


@torch.no_grad()
def add(source: Gradients, *, to: Gradients) -> None:
    """Add `source` to the gradients in `to`, which takes over those that it lacks."""
    ours, theirs = [], []
    for i, (old, new) in enumerate(zip(to, source, strict=True)):
        if old is None:
            to[i] = new
        elif new is not None:
            ours.append(local(old))
            theirs.append(local(new))
    if ours:
        torch._foreach_add_(ours, theirs)


def watch_for_clearing(parameters: Iterable[Tensor], *, in_buckets: bool) -> Callable[[], bool]:
    """Return a function that says whether something has cleared the gradients since.

    `.grad` must be empty. It works for any `zero_grad(set_to_none=True)`, the model's or another optimizer's:
    a zero is left in one `.grad`, to which backward adds in place and which clearing removes.

    Args:
        parameters: the parameters; the first one that requires a gradient is watched.
        in_buckets: whether DistributedDataParallel may move gradients to its buckets meanwhile.

    Returns:
        A function to be called once, after backward. It takes the zero away if nothing was added to it.
    """
    probe = next((parameter for parameter in parameters if parameter.requires_grad), None)
    if probe is None:
        return lambda: False
    sentinel = probe.grad = torch.zeros_like(probe)

    def cleared() -> bool:
        grad = probe.grad
        with torch.no_grad():  # FSDP adds to the shard behind the DTensor's back, autograd to the DTensor
            added = sentinel._version > 0 or local(sentinel)._version > 0
        if added:
            return False
        if grad is sentinel:
            probe.grad = None  # a zero would not be the same to the base optimizer
            return False
        if grad is None:
            return True
        # Other reasons for a new tensor: backward builds a graph of the gradient, or it moved to a bucket.
        return not (grad.requires_grad or (in_buckets and grad.untyped_storage().nbytes() > grad.nbytes))

    return cleared
