"""Checks before a measurement: two passes give equal losses, and the Hessian is the derivative of the gradient."""

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

__all__ = ["ONCE", "check_losses", "check_second_derivatives", "has_python_functions"]

AGREEMENT = 1e-5
"""The largest allowed relative difference of two passes: above the rounding errors of float32."""

STEPS = (1e-2, 1e-3, 1e-4)
"""Step lengths, relative to the weights; with one of them, the gradients must confirm the Hessian."""

ONCE = "leave out the eigenvalues and the trace (eigenvalues = 0, vectors = 0)"


def check_losses(losses: Callable[..., list[Tensor]]) -> None:
    """Check that the model gives the same losses twice, and that they are finite means.

    Args:
        losses: returns the loss of each batch, or with `halves=True` those of the halves of the first batch.

    Raises:
        ValueError: the losses differ, or are not finite means.
    """
    found = losses()
    if not isinstance(found[0], Tensor) or found[0].numel() != 1:
        kind = tuple(found[0].shape) if isinstance(found[0], Tensor) else type(found[0]).__name__
        raise ValueError(f"loss gives {kind}: let it return one number, the mean over the examples of a batch")
    for a, b in zip(map(float, found), map(float, losses()), strict=True):
        if not math.isfinite(a):
            raise ValueError("the loss is not finite at these weights: the training has diverged")
        if abs(a - b) > AGREEMENT * max(abs(a), abs(b)):
            raise ValueError(
                f"model gives two losses for the same examples in evaluation mode, {a:.6g} and {b:.6g}: turn off "
                "dropout and other noise that eval() does not turn off"
            )
    whole, halves = float(found[0]), [float(half) for half in losses(halves=True)]
    if halves and whole != 0 and abs(sum(halves) - whole) <= AGREEMENT * abs(whole):
        raise ValueError("loss is a sum over the examples of a batch: let it return the mean, reduction='mean'")


def has_python_functions(loss: Tensor) -> bool:
    """Return whether a loss was computed with a `torch.autograd.Function` written in Python.

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
    """Check, along the gradient, that the Hessian is the derivative of the gradient.

    If a network has kinks, such as those of ReLU, the two may differ a little.

    Raises:
        ValueError: they differ by half or more for every step length.
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
