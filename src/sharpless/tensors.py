"""Lists of tensors as one: shards of DTensors, several devices and dtypes, the norm over all of them."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors

__all__ = ["buckets", "copies", "foreach", "global_norm", "local", "placed_as", "scaled"]

_PLAIN = {Tensor, nn.Parameter}

SMALL = 4096
"""Tensors that are smaller on average have their norm taken as one vector, since the time per call dominates."""


def _is_sharded(tensor: Tensor) -> bool:
    """Return whether `tensor` is a DTensor, without importing the class, which takes a second."""
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
    """Return the indices of `tensors` by device, dtype and value: one foreach call can process each list."""
    keys = [(tensor.device, tensor.dtype, value) for tensor, value in zip(tensors, values, strict=True)]
    if len(set(keys)) == 1:  # most often, and quick
        return {keys[0]: list(range(len(keys)))}
    where = defaultdict(list)
    for i, key in enumerate(keys):
        where[key].append(i)
    return dict(where)


def foreach(operation: Callable[..., Any], *lists: list[Tensor]) -> None:
    """Call an in-place foreach `operation` on aligned lists, once for each device: not every backend accepts two."""
    devices = {tensor.device for tensor in lists[0]}
    if len(devices) == 1:
        operation(*lists)
        return
    for device in devices:
        where = [i for i, tensor in enumerate(lists[0]) if tensor.device == device]
        operation(*([tensors[i] for i in where] for tensors in lists))


@torch.no_grad()
def copies(tensors: list[Tensor]) -> list[Tensor]:
    """Return a copy of each tensor, detached from any graph."""
    # _foreach_clone is newer than the oldest torch that we support.
    if hasattr(torch, "_foreach_clone") and len({tensor.device for tensor in tensors}) == 1:
        cloned: list[Tensor] = list(torch._foreach_clone(tensors))
        return cloned
    return [tensor.clone() for tensor in tensors]


def scaled(tensors: list[Tensor], factor: float) -> list[Tensor]:
    """Return new tensors, `factor` times `tensors`; DTensors stay DTensors."""
    if len({tensor.device for tensor in tensors}) > 1 or any(map(_is_sharded, tensors)):
        return [tensor * factor for tensor in tensors]
    return list(torch._foreach_mul(tensors, factor))


def global_norm(tensors: Sequence[Tensor], placed_like: Sequence[Tensor] | None = None) -> Tensor:
    """Return the L2 norm over all `tensors`, over all shards of DTensors, as a 0-dim tensor.

    If `tensors` are shards, `placed_like` gives their DTensors. Sums are computed in float32, also for half precision,
    and in float64 for float64 tensors, or on a CPU where that costs nothing.

    >>> global_norm([torch.tensor([3.0]), torch.tensor([[4.0]], dtype=torch.bfloat16)])
    tensor(5.)
    """
    norms = []
    layouts = [_layout(tensor) for tensor in placed_like or tensors]
    for (device, dtype, layout), where in buckets(tensors, layouts).items():
        precision = torch.promote_types(dtype, torch.float32)
        shards = [local(tensors[i]) for i in where]
        if sum(shard.numel() for shard in shards) < SMALL * len(shards):
            flat = _flatten_dense_tensors(shards)  # type: ignore[no-untyped-call]
            wide = torch.promote_types(precision, torch.float64) if device.type == "cpu" else precision
            norm = torch.linalg.vector_norm(flat, dtype=wide).to(precision.to_real())
        else:
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(shards, 2, dtype=precision)))
        norm = _over_shards(norm, layout)
        norms.append(norm.to(tensors[0].device))
    norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    return norm


def _layout(tensor: Any) -> Any:
    return (tensor.device_mesh, tensor.placements) if _is_sharded(tensor) else None


def _over_shards(norm: Tensor, layout: Any) -> Tensor:
    """Return the norm of DTensors of one layout from that of their shards on this rank."""
    if layout is None:
        return norm
    from torch.distributed.tensor import DTensor, Partial, Replicate  # noqa: PLC0415  (slow, and rarely needed)

    mesh, placements = layout
    summed = [Replicate() if placement.is_replicate() else Partial() for placement in placements]
    return DTensor.from_local(norm.square(), mesh, summed).full_tensor().sqrt()
