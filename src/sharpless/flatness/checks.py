"""What must hold before a number is given: two passes agree, and so do two ways to the second derivative."""

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

__all__ = ["ONCE", "check_losses", "check_second_derivatives", "has_python_functions"]

AGREEMENT = 1e-5
"""How far two passes may differ, relative to the loss: more than sums in another order make of float32."""

STEPS = (1e-2, 1e-3, 1e-4)
"""Lengths of steps, relative to the weights, of which one has to show the second derivative."""

ONCE = "leave the eigenvalues and the trace out, with 0 of them"


def check_losses(losses: Callable[..., list[Tensor]]) -> None:
    """Find out whether the model gives the same losses twice, and whether they are finite means.

    Args:
        losses: returns the loss of each batch, or with `halves=True` those of the halves of the first batch.

    Raises:
        ValueError: it does not, or they are not.
    """
    found = losses()
    if not isinstance(found[0], Tensor) or found[0].numel() != 1:
        kind = tuple(found[0].shape) if isinstance(found[0], Tensor) else type(found[0]).__name__
        raise ValueError(f"loss gives {kind}: let it give one number, the mean over the examples of a batch")
    for a, b in zip(map(float, found), map(float, losses()), strict=True):
        if not math.isfinite(a):
            raise ValueError("the loss is no finite number at these weights: the training has diverged")
        if abs(a - b) > AGREEMENT * max(abs(a), abs(b)):
            raise ValueError(
                f"model gives two losses for the same examples in evaluation mode, {a:.6g} and {b:.6g}: switch dropout "
                "and other noise off that eval() does not reach"
            )
    whole, halves = float(found[0]), [float(half) for half in losses(halves=True)]
    if halves and whole != 0 and abs(sum(halves) - whole) <= AGREEMENT * abs(whole):
        raise ValueError("loss adds up over the examples of a batch: let it give their mean, reduction='mean'")


def has_python_functions(loss: Tensor) -> bool:
    """Return whether a `torch.autograd.Function` of somebody's has a part in a loss.

    >>> has_python_functions(torch.ones(2, requires_grad=True).square().sum())
    False
    """
    seen, waiting = set[Any](), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if isinstance(node, BackwardCFunction):
            return True
        seen.add(node)
        waiting += [before for before, _ in node.next_functions]
    return False


class _Function(Protocol):
    def vector(self) -> Tensor: ...
    def gradient(self, eps: Tensor | None = None) -> tuple[float, Tensor]: ...
    def product(self, vector: Tensor) -> Tensor: ...


def check_second_derivatives(function: _Function) -> None:
    """Find out whether the Hessian is the derivative of the gradient, along the gradient.

    Where a network has kinks, as those of ReLU, the two may differ a little.

    Raises:
        ValueError: it is not, by half of it or more, however short the step.
    """
    gradient = function.gradient()[1]
    size, length = float(torch.linalg.vector_norm(function.vector())), float(torch.linalg.vector_norm(gradient))
    if size == 0 or length == 0:
        return
    product = function.product(gradient / length)
    for step in (share * size for share in STEPS):
        ahead, behind = (function.gradient(side * step / length * gradient)[1] for side in (1, -1))
        difference = (ahead - behind) / (2 * step)
        noise = 100 * torch.finfo(gradient.dtype).eps * max(length, float(torch.linalg.vector_norm(ahead))) / step
        known = max(float(torch.linalg.vector_norm(one)) for one in (product, difference))
        if float(torch.linalg.vector_norm(product - difference)) <= 0.5 * known + noise:
            return
    raise ValueError(
        f"model cannot be differentiated twice (its Hessian is not the derivative of its gradient, a layer lacks its "
        f"second derivative): {ONCE}"
    )
