"""The gradients in `.grad`: take them out, weigh them, add them up, put them back; in place, no copies."""

from collections.abc import Iterable

import torch
from torch import Tensor

from sharpless.weights import foreach, local

__all__ = ["ClearingWatch", "Gradients", "Mixture", "add", "own", "put", "scale", "take"]

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


def own(gradients: Gradients) -> Gradients:
    """Return `gradients` with copies of those that lie in a larger buffer, which the next backward may overwrite.

    DistributedDataParallel with `gradient_as_bucket_view` makes such gradients.
    """
    return [grad.clone() if grad is not None and grad._is_view() else grad for grad in gradients]


@torch.no_grad()
def scale(gradients: Gradients, factor: float) -> None:
    """Multiply all `gradients` by `factor`."""
    present = [local(grad) for grad in gradients if grad is not None]
    if present and factor != 1.0:
        foreach(lambda grads: torch._foreach_mul_(grads, factor), present)


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
        foreach(torch._foreach_add_, ours, theirs)


class Mixture:
    """The weighted sum of the gradients of successive passes, which autograd itself adds up.

    It lies in `.grad` while a pass runs, in units of the weight of that pass: so it needs no second buffer, and the one
    all-reduce of DistributedDataParallel sees the whole sum. Where gradients are cleared before every backward, it is
    set aside instead and added afterwards.

    Args:
        parameters: the parameters.
        grads: what the sum starts from.
        aside: whether gradients are cleared before every backward.
    """

    def __init__(self, parameters: list[Tensor], grads: Gradients, *, aside: bool) -> None:
        self._parameters, self._grads, self._aside = parameters, grads, aside
        self._unit = 1.0
        self._placed = False  # in `.grad`, where it stays until it has to be scaled

    def expect(self, weight: float) -> None:
        """Prepare for a pass whose gradient has `weight`, which is not 0."""
        if weight == self._unit:
            return
        if self._placed:
            self._grads, self._placed = take(self._parameters), False
        scale(self._grads, self._unit / weight)
        self._unit = weight

    def add(self, grads: Gradients, weight: float) -> None:
        """Add `grads` times `weight`; they are used up."""
        scale(grads, weight / self._unit)
        add(grads, to=self._grads)

    def is_aside(self) -> bool:
        """Return whether something has to be set aside during the next pass."""
        return self._aside and any(grad is not None for grad in self._grads)

    def release(self) -> None:
        """Let the next pass add its gradient."""
        if not (self._aside or self._placed):
            put(self._grads, self._parameters)
            self._grads, self._placed = [], True

    def collect(self) -> None:
        """Take in the gradient of the pass that has ended."""
        if self._aside:
            grads = own(take(self._parameters))
            add(self._grads, to=grads)
            self._grads = grads

    def finish(self) -> None:
        """Leave the sum in `.grad`, in its own units."""
        self.expect(1.0)
        if not self._placed:
            put(self._grads, self._parameters)


class ClearingWatch:
    """Notices whether gradients are cleared before the next backward, by whichever `zero_grad`.

    A zero is left in the `.grad` of the smallest parameter, which must be empty, and looked for when that
    parameter's gradient arrives. Sharded parameters of FSDP get theirs behind autograd's back: for them the zero
    itself tells.

    Args:
        parameters: the parameters.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        self._probe = min(trained, key=Tensor.numel, default=None)
        self._arrived: list[bool] = []
        if self._probe is not None:
            self._zero = self._probe.grad = torch.zeros_like(self._probe)
            self._hook = self._probe.register_hook(self._arrives)  # type: ignore[no-untyped-call]

    def _arrives(self, grad: Tensor) -> None:
        if not self._arrived:  # a second backward of the same pass finds the first one's gradient
            self._arrived.append(self._is_cleared())

    def _is_cleared(self) -> bool:
        # Another tensor than the zero is the zero in another place: DistributedDataParallel moves it to its buckets.
        grad = self._probe.grad if self._probe is not None else None
        return grad is None or (grad is self._zero and self._zero._version > 0)

    def end(self) -> bool:
        """Return whether gradients were cleared; the watch is over, and the zero is gone if nothing was added."""
        if self._probe is None:
            return False
        self._hook.remove()
        if self._arrived:
            return self._arrived[0]
        if self._probe.grad is not self._zero:
            return True
        with torch.no_grad():
            added = local(self._zero)._version > self._zero._version  # by FSDP, to the shard alone
        cleared = self._is_cleared()
        if not added:
            self._probe.grad = None  # a zero would not be the same to the base optimizer
        return cleared
