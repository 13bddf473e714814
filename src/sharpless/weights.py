"""Move the weights and put them back; keep BatchNorm statistics and dropout noise as they were.

Everything here works in place, waits for no device, and undoes itself whatever happens in between.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

__all__ = ["Excursion", "Noise", "buckets", "foreach", "global_norm", "local", "placed_as"]


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


def foreach(operation: Callable[..., Any], *lists: list[Tensor]) -> None:
    """Call an in-place foreach `operation` on aligned lists, once for each device: not every backend takes two."""
    devices = {tensor.device for tensor in lists[0]}
    if len(devices) == 1:
        operation(*lists)
        return
    for device in devices:
        where = [i for i, tensor in enumerate(lists[0]) if tensor.device == device]
        operation(*([tensors[i] for i in where] for tensors in lists))


def global_norm(tensors: Sequence[Tensor], placed_like: Sequence[Tensor] | None = None) -> Tensor:
    """Return the L2 norm over all `tensors`, over all shards of DTensors, as a 0-dim tensor.

    Where `tensors` are the shards themselves, `placed_like` says of which DTensors. Sums are kept in float32, or in
    float64 for float64 tensors, also where the tensors are half precision.

    >>> global_norm([torch.tensor([3.0]), torch.tensor([[4.0]], dtype=torch.bfloat16)])
    tensor(5.)
    """
    norms = []
    layouts = [_layout(tensor) for tensor in placed_like or tensors]
    for (_, dtype, layout), where in buckets(tensors, layouts).items():
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

    def exchange(self) -> None:
        """Go to the remembered state, and remember the one that was left; a second call goes back."""
        states, self._states = self._states, self._read()
        torch.set_rng_state(states[0])
        for device, state in zip(self._accelerators, states[1:], strict=True):
            torch.get_device_module(device).set_rng_state(state, device)


class Excursion:
    """To the perturbed weights and back, with BatchNorm statistics and dropout noise as they were.

    Args:
        weights: the weights.
        eps: what to add to them; emptied when that is done.
        model: the network whose normalization layers shall not update their running statistics, or None.
        noise: the noise to draw once more, or None.
    """

    def __init__(self, weights: list[Tensor], eps: list[Tensor], model: nn.Module | None, noise: Noise | None) -> None:
        self._weights, self._eps, self._model, self._noise = weights, eps, model, noise
        self._before: list[Tensor] = []
        self._layers: list[_NormBase] = []
        self._buffers: list[tuple[_NormBase, Tensor | None, Tensor | None]] = []
        self._away = False

    @torch.no_grad()
    def begin(self) -> None:
        """Move the weights; use batch statistics without updating the running ones; draw the noise again."""
        if self._weights:
            self._before = _copies(self._weights)
            foreach(torch._foreach_add_, self._weights, self._eps)
            self._eps.clear()
            torch.clear_autocast_cache()  # casts of the weights as they were, where autocast surrounds the loop
        for layer in self._model.modules() if self._model is not None else ():
            if not (isinstance(layer, _NormBase) and layer.training and layer.track_running_stats):
                continue
            if isinstance(layer, _InstanceNorm):  # it updates the buffers that it finds, whatever the flag says
                self._buffers.append((layer, layer.running_mean, layer.running_var))
                layer.running_mean = layer.running_var = None
            else:
                self._layers.append(layer)
                layer.track_running_stats = False
        if self._noise is not None:
            self._noise.exchange()
            self._away = True

    @torch.no_grad()
    def end(self) -> None:
        """Put everything back, the weights in place and bit for bit; called once more it changes nothing.

        Weights are copied back and not subtracted from, since (w + ε) − ε is not w in floating point.
        """
        if self._before:
            foreach(torch._foreach_copy_, self._weights, self._before)
            torch.clear_autocast_cache()
        for layer in self._layers:
            layer.track_running_stats = True
        for layer, mean, variance in self._buffers:
            layer.running_mean, layer.running_var = mean, variance
        if self._away and self._noise is not None:
            self._away = False
            self._noise.exchange()


def _copies(weights: list[Tensor]) -> list[Tensor]:
    # The one call for all is younger than the oldest torch we support.
    if hasattr(torch, "_foreach_clone") and len({weight.device for weight in weights}) == 1:
        copies: list[Tensor] = list(torch._foreach_clone(weights))
        return copies
    return [weight.clone() for weight in weights]
