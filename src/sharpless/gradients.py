"""The gradients in `.grad`: take them out, weigh them, add them up, put them back; in place, no copies."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from sharpless.weights import local

__all__ = ["Gradients", "add", "put", "scale", "take", "watch_for_clearing"]

Gradients = dict[Tensor, Tensor]
"""Parameter → gradient; parameters without a gradient are absent."""


def take(parameters: Iterable[Tensor]) -> Gradients:
    """Return the gradients of `parameters`, sparse ones made dense, and leave `.grad` empty."""
    taken = {}
    for parameter in parameters:
        if parameter.grad is not None:
            taken[parameter] = parameter.grad if parameter.grad.layout is torch.strided else parameter.grad.to_dense()
            parameter.grad = None
    return taken


def put(gradients: Gradients) -> None:
    """Make `gradients` the `.grad` of their parameters."""
    for parameter, grad in gradients.items():
        parameter.grad = grad


@torch.no_grad()
def scale(gradients: Gradients, factor: float) -> None:
    """Multiply all `gradients` by `factor`."""
    if gradients and factor != 1.0:
        torch._foreach_mul_([local(grad) for grad in gradients.values()], factor)


@torch.no_grad()
def add(source: Gradients, *, to: Gradients) -> None:
    """Add `source` to the gradients in `to`, which takes over those that it lacks."""
    both = [parameter for parameter in source if parameter in to]
    if both:
        ours, theirs = ([local(side[parameter]) for parameter in both] for side in (to, source))
        torch._foreach_add_(ours, theirs)
    for parameter, grad in source.items():
        to.setdefault(parameter, grad)


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
