"""The gradients in `.grad`: take them out, weigh them, add them up, put them back; in place, no copies."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

__all__ = ["Gradients", "add", "put", "scale", "take", "watch_for_clearing"]

Gradients = dict[Tensor, Tensor]
"""Parameter → gradient; parameters without a gradient are absent."""


def take(parameters: Iterable[Tensor]) -> Gradients:
    """Return the gradients of `parameters`, and leave `.grad` empty."""
    taken = {}
    for parameter in parameters:
        if parameter.grad is not None:
            taken[parameter] = parameter.grad
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
        torch._foreach_mul_(list(gradients.values()), factor)


@torch.no_grad()
def add(source: Gradients, *, to: Gradients) -> None:
    """Add `source` to the gradients in `to`, which takes over those that it lacks."""
    both = [parameter for parameter in source if parameter in to]
    if both:
        torch._foreach_add_([to[parameter] for parameter in both], [source[parameter] for parameter in both])
    for parameter, grad in source.items():
        to.setdefault(parameter, grad)


def watch_for_clearing(parameters: Iterable[Tensor]) -> Callable[[], bool]:
    """Return a function that says whether something has cleared the gradients since.

    `.grad` must be empty. It works for any `zero_grad(set_to_none=True)`, the model's or another optimizer's:
    a zero is left in one `.grad`, to which backward adds in place and which clearing removes.
    """
    probe = next(parameter for parameter in parameters if parameter.requires_grad)
    sentinel = probe.grad = torch.zeros_like(probe)

    def cleared() -> bool:
        grad = probe.grad
        if sentinel._version > 0:
            return False
        if grad is sentinel:
            probe.grad = None  # no gradient arrived, and a zero would not be the same to the base optimizer
            return False
        # The one other reason for a new tensor: backward builds a graph of the gradient.
        return grad is None or not grad.requires_grad

    return cleared
