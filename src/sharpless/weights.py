"""Move the weights and put them back; keep BatchNorm statistics and dropout noise as they were.

Everything here works in place, waits for no device, and undoes itself whatever happens in between.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

__all__ = ["Noise", "buckets", "displaced", "frozen_statistics", "global_norm", "local", "placed_as"]


_PLAIN = {Tensor, nn.Parameter}


def _is_sharded(tensor: Tensor) -> bool:
    """Return whether `tensor` is a DTensor, without the second that importing the class takes."""
    return type(tensor) not in _PLAIN and hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """Return the shard of a DTensor that is on this rank, with the same storage; a plain tensor as it is."""
    shard: Tensor = tensor.to_local() if _is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return shard


def placed_as(weight: Any, grad: Any) -> Tensor:
    """Return `grad` sharded as `weight` is: under tensor parallelism it may still be a partial sum."""
    if _is_sharded(grad) and grad.placements != weight.placements:
        grad = grad.redistribute(placements=weight.placements)
    shards: Tensor = grad
    return shards


def buckets(
    tensors: Sequence[Tensor], values: Sequence[Hashable]
) -> dict[tuple[torch.device, torch.dtype, Hashable], list[int]]:
    """Return the indices of `tensors` by device, dtype and value: what one foreach call can work on."""
    where = defaultdict(list)
    for i, (tensor, value) in enumerate(zip(tensors, values, strict=True)):
        where[tensor.device, tensor.dtype, value].append(i)
    return dict(where)


def global_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Return the L2 norm over all `tensors`, over all shards of DTensors, as a 0-dim tensor.

    Sums are kept in float32, or in float64 for float64 tensors, also where the tensors are half precision.

    >>> global_norm([torch.tensor([3.0]), torch.tensor([[4.0]], dtype=torch.bfloat16)])
    tensor(5.)
    """
    norms = []
    for (_, dtype, layout), where in buckets(tensors, [_layout(tensor) for tensor in tensors]).items():
        precision = torch.promote_types(dtype, torch.float32)
        parts = torch._foreach_norm([local(tensors[i]) for i in where], 2, dtype=precision)
        norm = _over_shards(torch.linalg.vector_norm(torch.stack(parts)), layout)
        norms.append(norm.to(tensors[0].device))
    norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    return norm


def _layout(tensor: Any) -> Any:
    return (tensor.device_mesh, tensor.placements) if _is_sharded(tensor) else None


def _over_shards(norm: Tensor, layout: Any) -> Tensor:
    """Return the norm of DTensors of one layout from that of their shards on this rank."""
    if layout is None:
        return norm
    from torch.distributed.tensor import DTensor, Partial, Replicate  # noqa: PLC0415  (a second, and rarely needed)

    mesh, placements = layout
    summed = [Replicate() if placement.is_replicate() else Partial() for placement in placements]
    return DTensor.from_local(norm.square(), mesh, summed).full_tensor().sqrt()


@contextmanager
def displaced(weights: list[Tensor], eps: list[Tensor]) -> Iterator[None]:
    """Add `eps` to `weights` and, in the end, copy back what they held: in place, bit for bit.

    A copy and not a subtraction, since (w + ε) − ε is not w in floating point. `eps` is emptied.
    """
    before = _copies(weights)
    try:
        if weights:
            _add(weights, eps)
        eps.clear()
        yield
    finally:
        try:
            _put_back(weights, before)
        except BaseException:  # a Ctrl-C that arrives just here must not leave half of the weights displaced
            _put_back(weights, before)
            raise


@torch.no_grad()
def _copies(weights: list[Tensor]) -> list[Tensor]:
    if weights and hasattr(torch, "_foreach_clone"):  # younger than the oldest torch we support
        copies: list[Tensor] = list(torch._foreach_clone(weights))
        return copies
    return [weight.clone() for weight in weights]


@torch.no_grad()
def _add(weights: list[Tensor], eps: list[Tensor]) -> None:
    torch._foreach_add_(weights, eps)


@torch.no_grad()
def _put_back(weights: list[Tensor], before: list[Tensor]) -> None:
    if weights:
        torch._foreach_copy_(weights, before)


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Let the BatchNorm layers of `model` use batch statistics without updating the running ones.

    No buffer is touched, `num_batches_tracked` included. Layers in evaluation mode stay as they are.
    """
    layers = [
        module
        for module in model.modules()
        if isinstance(module, _NormBase) and module.training and module.track_running_stats
    ]
    try:
        for layer in layers:
            layer.track_running_stats = False
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


class Noise:
    """The state of torch's generators at one moment, to draw the same dropout masks once more."""

    def __init__(self, devices: set[torch.device]) -> None:
        """Remember the generators of the CPU and of those of `devices` that have their own."""
        self._accelerators = sorted((d for d in devices if d.type in {"cuda", "xpu"}), key=str)
        self._states = self._read()

    def _read(self) -> list[Tensor]:
        return [
            torch.get_rng_state(),
            *(torch.get_device_module(device).get_rng_state(device) for device in self._accelerators),
        ]

    def _write(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        for device, state in zip(self._accelerators, states[1:], strict=True):
            torch.get_device_module(device).set_rng_state(state, device)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Draw from the remembered state within the block, and go on as if nothing had been drawn there."""
        outside = self._read()
        self._write(self._states)
        try:
            yield
        finally:
            self._write(outside)
