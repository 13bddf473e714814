"""The gradients in `.grad`: take those of each pass, and sum them with weights."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from weakref import ref

import torch
from torch import Tensor

from sharpless.tensors import foreach, local, placed_as, scaled

__all__ = [
    "Gradients",
    "Kept",
    "Mark",
    "Sum",
    "add_to_grad",
    "any_of",
    "arrival",
    "changed",
    "marks",
    "put",
    "take",
    "times",
]

Gradients = list[Tensor | None]
"""One entry for each of a list of parameters: its gradient, or None if it has none."""


def take(parameters: Iterable[Tensor]) -> Gradients:
    """Return the gradients of `parameters`, sparse ones made dense and without a graph, and leave `.grad` empty."""
    taken: Gradients = []
    for parameter in parameters:
        grad = parameter.grad
        if grad is not None:
            parameter.grad = None
            grad = grad if grad.layout is torch.strided else grad.to_dense()
            grad = grad.detach() if grad.requires_grad else grad
        taken.append(grad)
    return taken


class Mark:
    """A mark to recognize a gradient later, if it still exists and nobody has written to it."""

    __slots__ = ("_grad", "_versions")

    def __init__(self, grad: Tensor | None) -> None:
        self._grad = None if grad is None else ref(grad)
        self._versions = None if grad is None else _versions(grad)

    def still_is(self, grad: Tensor | None) -> bool:
        """Return whether `grad` is the one that was marked, unchanged."""
        if grad is None or self._grad is None:
            return grad is None and self._grad is None
        return self._grad() is grad and self._versions == _versions(grad)


@torch.no_grad()
def _versions(grad: Tensor) -> tuple[int, int]:
    return grad._version, local(grad)._version  # FSDP2 writes only to the shard


def marks(parameters: list[Tensor]) -> list[Mark]:
    """Return a mark of the `.grad` of each parameter; an empty list if there are no gradients."""
    return [Mark(parameter.grad) for parameter in parameters] if any_of(parameters) else []


def changed(parameters: list[Tensor], before: list[Mark]) -> bool:
    """Return whether the `.grad` of a parameter has changed since it was marked."""
    if not before:
        return any_of(parameters)
    return not all(mark.still_is(parameter.grad) for mark, parameter in zip(before, parameters, strict=True))


def any_of(parameters: list[Tensor]) -> bool:
    """Return whether a parameter has a gradient."""
    return any(parameter.grad is not None for parameter in parameters)


def put(gradients: Gradients, parameters: Iterable[Tensor]) -> None:
    """Make `gradients` the `.grad` of `parameters`."""
    for parameter, grad in zip(parameters, gradients, strict=True):
        parameter.grad = grad


class Kept:
    """The gradients in `.grad` before a loop, which are there again during its last pass.

    Views of a buffer that holds many gradients are written to in place, as a backward does, so that clearing the buffer
    clears them. Their values are copied, since any backward may overwrite a bucket of DistributedDataParallel.

    Args:
        gradients: the gradients in `.grad` before the loop.
    """

    def __init__(self, gradients: Gradients) -> None:
        self._views: Gradients = [grad if grad is not None and _is_part(grad) else None for grad in gradients]
        self._stand = self._views
        self.gradients = [
            grad if view is None else view.clone() for grad, view in zip(gradients, self._views, strict=True)
        ]

    @torch.no_grad()
    def in_units_of(self, weight: float) -> Gradients:
        """Return the gradients divided by `weight`."""
        divided = times(self.gradients, 1.0 / weight)
        self.gradients = [
            None if view is None else grad for grad, view in zip(self.gradients, self._views, strict=True)
        ]
        return [
            grad if view is None or grad is None else view.copy_(grad)
            for grad, view in zip(divided, self._views, strict=True)
        ]

    @torch.no_grad()
    def find(self, gradients: Gradients) -> None:
        """Find out which views a pass has left in `.grad`, and restore the values of the others."""
        self._stand = [
            view if view is not None and grad is not None and _share_memory(view, grad) else None
            for view, grad in zip(self._views, gradients, strict=True)
        ]
        for view, stands, value in zip(self._views, self._stand, self.gradients, strict=True):
            if view is not None and value is not None and stands is None:
                view.copy_(value)
        self.gradients = []

    @torch.no_grad()
    def filled_with(self, total: Gradients) -> Gradients:
        """Return `total`, written into the views that are still in `.grad`."""
        filled = list(total)
        for i, (view, grad) in enumerate(zip(self._stand, total, strict=True)):
            if view is not None and grad is not None:
                filled[i] = view if grad is view else view.copy_(grad)
        return filled


def _share_memory(view: Tensor, grad: Tensor) -> bool:
    one, other = local(view), local(grad)
    return (one.data_ptr(), one.shape, one.stride()) == (other.data_ptr(), other.shape, other.stride())


def _is_part(grad: Tensor) -> bool:
    """Return whether `grad` is a part of a larger buffer, and not one number expanded to many."""
    return grad._is_view() and not any(n > 1 and step == 0 for n, step in zip(grad.shape, grad.stride(), strict=True))


@torch.no_grad()
def add_to_grad(gradients: Gradients, parameters: list[Tensor]) -> None:
    """Add `gradients` to the `.grad` of `parameters`, or set it where it is None."""
    sums, addends = [], []
    for parameter, grad in zip(parameters, gradients, strict=True):
        if grad is None:
            continue
        if parameter.grad is None:
            parameter.grad = grad
        else:
            sums.append(local(parameter.grad))
            addends.append(local(placed_as(parameter.grad, grad)))
    if sums:
        foreach(torch._foreach_add_, sums, addends)


@torch.no_grad()
def times(gradients: Gradients, factor: float) -> Gradients:
    """Return `factor` times `gradients`, in new tensors unless the factor is 1.

    A tensor that a loop body put into `.grad` is never written to: two parameters may share it, it may be expanded, or
    the body may use it again.
    """
    where = [i for i, grad in enumerate(gradients) if grad is not None]
    if not where or factor == 1.0:
        return gradients
    multiplied = list(gradients)
    for i, grad in zip(where, scaled([grad for grad in gradients if grad is not None], factor), strict=True):
        multiplied[i] = grad
    return multiplied


class Sum:
    """The weighted sum of the gradients of several passes."""

    def __init__(self, parameters: list[Tensor]) -> None:
        self.gradients: Gradients = [None] * len(parameters)
        self._ours = [False] * len(parameters)  # tensors that nobody else uses, which may be written to

    def is_empty(self) -> bool:
        """Return whether nothing was added so far."""
        return not any(grad is not None for grad in self.gradients)

    @torch.no_grad()
    def add(self, gradients: Gradients, weight: float) -> None:
        """Add `weight` times `gradients`."""
        if self.is_empty():
            self.gradients, self._ours = times(gradients, weight), [weight != 1.0] * len(gradients)
            return
        new: Gradients = [None] * len(gradients)
        sums, addends = [], []
        for i, (old, grad) in enumerate(zip(self.gradients, gradients, strict=True)):
            if old is None:
                new[i] = grad
            elif grad is not None:
                ours = self.gradients[i] = old if self._ours[i] else old.clone()
                self._ours[i] = True
                sums.append(local(ours))
                addends.append(local(placed_as(ours, grad)))
        if sums:
            foreach(lambda ours, theirs: torch._foreach_add_(ours, theirs, alpha=weight), sums, addends)
        for i, grad in enumerate(times(new, weight)):
            if grad is not None:
                self.gradients[i], self._ours[i] = grad, weight != 1.0

    def scale(self, factor: float) -> None:
        """Multiply the sum by `factor`."""
        if factor != 1.0:
            self.gradients = times(self.gradients, factor)
            self._ours = [True] * len(self.gradients)

    def clear(self) -> None:
        """Remove all gradients from the sum."""
        self.gradients = [None] * len(self.gradients)


@contextmanager
def arrival(parameters: list[Tensor], call: Callable[[], None] | None = None) -> Iterator[list[bool]]:
    """Detect the first gradient that a backward adds to the `.grad` of `parameters`, and then run `call`.

    Yields:
        a list that is empty until then.
    """
    arrived: list[bool] = []

    def notice(_: Tensor) -> None:
        if not arrived:
            arrived.append(True)
            if call is not None:
                call()

    trained = [parameter for parameter in parameters if parameter.requires_grad]
    hooks = [p.register_post_accumulate_grad_hook(notice) for p in trained]  # type: ignore[no-untyped-call]
    try:
        yield arrived
    finally:
        for hook in hooks:
            hook.remove()
