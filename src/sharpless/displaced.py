"""The state for the perturbed pass: displaced weights, and the buffers from before the clean pass.

Changes are made in place, and are undone at the end of a block, also after an exception.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from sharpless.tensors import copies, foreach, local

__all__ = ["Buffers", "displaced", "insist"]


def insist(restore: Callable[[], None]) -> None:
    """Call `restore`, and once more if a Ctrl-C arrives just then."""
    try:
        restore()
    except BaseException:
        restore()
        raise


@contextmanager
def displaced(weights: list[Tensor], eps: list[Tensor]) -> Iterator[None]:
    """Move `weights` by `eps`, in place, and put them back bit for bit.

    Weights are restored from copies, since (w + ε) − ε is not w in floating point. `eps` is emptied as soon as it is
    used, to free its memory during the pass.
    """
    if not weights:
        yield
        return
    before = copies(weights)
    try:
        with torch.no_grad():
            foreach(torch._foreach_add_, weights, eps)
        eps.clear()
        forget_casts()
        yield
    finally:
        insist(lambda: put_back(weights, before))


@torch.no_grad()
def put_back(weights: list[Tensor], before: list[Tensor]) -> None:
    """Give `weights` the values in `before`."""
    foreach(torch._foreach_copy_, weights, before)
    forget_casts()


def forget_casts() -> None:
    """Forget what was computed from the weights before a change, if autocast or a cache surrounds the loop."""
    torch.clear_autocast_cache()
    parametrize._cache.clear()


LARGE = 1 << 16
"""The size in bytes from which on a buffer is copied only if forwards change it."""

SAMPLE = 64
"""As many values of a parameter that is not trained show whether a forward changes it."""

Place = tuple[nn.Module, str]
"""A module, and the name of one of its buffers or parameters."""

Glance = tuple[int, int, Tensor]
"""The place of a tensor in memory, its version, and some of its values."""


@dataclass
class _Seen:
    """A buffer at one moment."""

    tensor: Tensor
    version: int
    copy: Tensor | None = None


class Buffers:
    """The buffers of a model: the perturbed pass starts from the values of the clean pass, and its changes are undone.

    Buffers are the running statistics of normalization layers, the vectors of spectral normalization, codebooks,
    queues, counters and the ranges of observers. They are copied before the clean pass. Large ones are copied only if
    forwards change them, so that masks and tables cost nothing. For this they are compared with their copies in
    sharpness-aware loops 1, 2, 4, 8, …, where the CPU waits for the device. In between, torch's version counter shows
    changes. A later change that this counter misses (through .data) is found at the next comparison. A buffer that is
    created late, or replaced by one of another shape, keeps its value from the clean pass, because layers with such
    caches also refer to them elsewhere.

    Parameters that are not trained count as buffers if a forward changes them, such as those of a momentum encoder.
    This is found out in the same loops from a few values of each, since a frozen network may be too large to copy. The
    loop that finds one restores it after the perturbed pass, and later loops also before it.
    """

    def __init__(self) -> None:
        self._loops = 0
        self._constant: dict[Place, _Seen | None] = {}  # large buffers that were compared; None: it changes
        self._moving: dict[Place, Tensor] = {}  # parameters that are not trained, but that forwards change
        self._resting: dict[Place, tuple[Tensor, Glance]] = {}  # the others, as they were at the start of a loop

    def remember(self, model: nn.Module, trained: Collection[Tensor] | None = None) -> dict[Place, _Seen]:
        """Return the buffers of `model` as they are now.

        Args:
            model: the network.
            trained: the parameters that are trained, if they require gradients; by default all.
        """
        found = self._look(model)
        _copy({place: seen for place, seen in found.items() if not self._is_constant(place, seen)})
        if trained is not None and self._loops & (self._loops + 1) == 0:
            self._resting = {
                place: (tensor, _glance(tensor))
                for place, tensor in _not_trained(model, {id(each) for each in trained if each.requires_grad})
                if place not in self._moving
            }
        return found

    @contextmanager
    def again(self, model: nn.Module, found: dict[Place, _Seen]) -> Iterator[None]:
        """Within the block, set the buffers of `model` to the values in `found`; then restore their present values."""
        resting, self._resting = self._resting, {}
        for place, (tensor, before) in resting.items():
            if _is_at(place, tensor) and not _looks_like(tensor, before):
                self._moving[place] = tensor
        left = self._look(model)
        self._compare(found, left)
        _copy({place: seen for place, seen in left.items() if not self._is_constant(place, seen)})
        try:
            _restore(found)
            yield
        finally:
            insist(lambda: _restore(left))

    def _look(self, model: nn.Module) -> dict[Place, _Seen]:
        moving = {place: tensor for place, tensor in self._moving.items() if _is_at(place, tensor)}
        return _look(model) | {place: _Seen(tensor, tensor._version) for place, tensor in moving.items()}

    def _is_constant(self, place: Place, now: _Seen) -> bool:
        known = self._constant.get(place)
        if known is None or known.tensor is not now.tensor:
            return False
        if known.version != now.version:
            self._constant[place] = None
            return False
        return True

    def _compare(self, found: dict[Place, _Seen], left: dict[Place, _Seen]) -> None:
        """Find out which of the copied large buffers are constant."""
        for place, now in left.items():
            before = found.get(place)
            if now.tensor.nbytes < LARGE or before is None or before.copy is None or place in self._constant:
                continue
            same = before.tensor is now.tensor and torch.equal(before.copy, local(now.tensor))
            self._constant[place] = _Seen(now.tensor, now.version) if same else None
            before.copy = None if same else before.copy
        self._loops += 1
        if self._loops & (self._loops + 1) == 0:  # the next one is the second, the fourth, the eighth …
            self._constant.clear()


def _modules(model: nn.Module) -> set[nn.Module]:
    """Return the modules of `model`, faster than `model.modules()`, which also builds their names."""
    found, waiting = {model}, [model]
    for module in waiting:
        for child in module._modules.values():
            if child is not None and child not in found:
                found.add(child)
                waiting.append(child)
    return found


def _look(model: nn.Module) -> dict[Place, _Seen]:
    return {
        (module, name): _Seen(tensor, tensor._version)
        for module in _modules(model)
        for name, tensor in module._buffers.items()
        if tensor is not None and _is_writable(tensor)
    }


def _not_trained(model: nn.Module, trained: set[int]) -> Iterator[tuple[Place, Tensor]]:
    """Yield the parameters of `model` whose ids are not among `trained`."""
    for module in _modules(model):
        for name, parameter in module._parameters.items():
            if parameter is None or id(parameter) in trained or not _is_writable(parameter):
                continue
            values = local(parameter.detach())
            if type(values) is Tensor and not values.is_meta:
                yield (module, name), parameter


def _is_at(place: Place, parameter: Tensor) -> bool:
    """Return whether `parameter` is at its place; FSDP2 replaces parameters, and frees them."""
    return getattr(place[0], place[1], None) is parameter


def _glance(parameter: Tensor) -> Glance:
    values = local(parameter.detach())
    count = min(values.numel(), SAMPLE)
    some = values.as_strided((count,), (max(values.numel() // SAMPLE, 1),)).clone()
    return values.data_ptr(), parameter._version, some


def _looks_like(parameter: Tensor, before: Glance) -> bool:
    """Return whether nothing has changed `parameter` since a glance at it; this may wait for the device."""
    pointer, version, some = _glance(parameter)
    return (pointer, version) == before[:2] and torch.equal(some, before[2])


def _is_writable(tensor: Tensor) -> bool:
    """Return whether a forward can have written to `tensor`, and it can be written back."""
    return (
        not is_lazy(tensor)
        and tensor.layout is torch.strided
        and not (tensor.is_nested or tensor.is_inference())
        and torch._debug_has_internal_overlap(local(tensor)) != 1  # one number expanded to many
    )


def _copy(buffers: dict[Place, _Seen]) -> None:
    for dtype in {seen.tensor.dtype for seen in buffers.values()}:
        present = [seen for seen in buffers.values() if seen.tensor.dtype == dtype]
        for seen, copy in zip(present, copies([local(seen.tensor) for seen in present]), strict=True):
            seen.copy = copy


@torch.no_grad()
def _restore(to: dict[Place, _Seen]) -> None:
    """Restore the buffer in each place, and its values."""
    values: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for (module, name), seen in to.items():
        now = getattr(module, name, None)
        is_buffer = name in module._buffers
        if is_buffer and now is not None and now is not seen.tensor and now.shape == seen.tensor.shape:
            setattr(module, name, seen.tensor)
        if seen.copy is None:
            continue
        tensor = local(seen.tensor)
        if tensor.shape != seen.copy.shape:  # observers resize their buffers
            tensor.resize_(seen.copy.shape)
        # Through .data, since autograd rejects a saved buffer whose version has changed.
        written, copied = values.setdefault(tensor.dtype, ([], []))
        written.append(tensor.data)
        copied.append(seen.copy)
    for written, copied in values.values():
        foreach(torch._foreach_copy_, written, copied)
