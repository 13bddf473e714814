"""The scene of the perturbed pass: displaced weights, and the buffers as the clean pass found them.

Each scene works in place, waits for no device, and undoes itself whatever happens in between.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

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

    Weights are copied back and not subtracted from, since (w + ε) − ε is not w in floating point. `eps` is emptied as
    soon as it is used, so that its memory is free during the pass.
    """
    if not weights:
        yield
        return
    before = copies(weights)
    try:
        with torch.no_grad():
            foreach(torch._foreach_add_, weights, eps)
        eps.clear()
        torch.clear_autocast_cache()  # casts of the weights as they were, where autocast surrounds the loop
        yield
    finally:
        insist(lambda: put_back(weights, before))


@torch.no_grad()
def put_back(weights: list[Tensor], before: list[Tensor]) -> None:
    """Give `weights` the values in `before`."""
    foreach(torch._foreach_copy_, weights, before)
    torch.clear_autocast_cache()


LARGE = 1 << 16
"""A buffer of so many bytes or more is copied only if forwards change it."""

Place = tuple[nn.Module, str]
"""A module, and the name of a buffer of its own."""


@dataclass
class _Seen:
    """A buffer at one moment."""

    tensor: Tensor | None
    version: int = 0
    copy: Tensor | None = None


class Buffers:
    """The buffers of a model: the perturbed pass finds them as the clean pass found them, and leaves no trace in them.

    Buffers are the running statistics of normalization layers, the vectors of spectral normalization, codebooks,
    queues, counters and the ranges of observers. They are copied before the clean pass. Large ones are copied only if
    forwards change them, so that masks and tables cost nothing: the first sharpness-aware step compares them with
    their copies, which is the one time that the host waits for the device, and later writes are noticed by torch's
    version counter.
    """

    def __init__(self) -> None:
        self._constant: dict[Place, _Seen | None] = {}  # large buffers that were compared; None: it changes
        self._modules: list[nn.Module] = []

    def remember(self, model: nn.Module) -> dict[Place, _Seen]:
        """Return the buffers of `model` as they are now."""
        self._modules = list(model.modules())
        found = _look(self._modules)
        _copy({place: seen for place, seen in found.items() if not self._is_constant(place, seen)})
        return found

    @contextmanager
    def again(self, found: dict[Place, _Seen]) -> Iterator[None]:
        """Let a pass find the buffers as they were `found`, and put them back as they are now."""
        left = _look(self._modules)
        self._compare(found, left)
        _copy({place: seen for place, seen in left.items() if not self._is_constant(place, seen)})
        try:
            _restore(found, now=left)
            yield
        finally:
            insist(lambda: _restore(left, now=_look(self._modules)))

    def _is_constant(self, place: Place, now: _Seen) -> bool:
        known = self._constant.get(place)
        if known is None or known.tensor is not now.tensor:
            return False
        if known.version != now.version:
            self._constant[place] = None
            return False
        return True

    def _compare(self, found: dict[Place, _Seen], left: dict[Place, _Seen]) -> None:
        """Find out which large buffers are constant, of those that were not compared before."""
        for place, now in left.items():
            if now.tensor is None or now.tensor.nbytes < LARGE or place in self._constant:
                continue
            before = found.get(place)
            self._constant[place] = None
            if before is None or before.copy is None or before.tensor is not now.tensor:
                continue
            if torch.equal(before.copy, local(now.tensor)):
                self._constant[place] = now
                before.copy = None  # what is not written to keeps its version


def _look(modules: list[nn.Module]) -> dict[Place, _Seen]:
    return {
        (module, name): _Seen(None) if tensor is None else _Seen(tensor, tensor._version)
        for module in modules
        for name, tensor in module._buffers.items()
    }


def _copy(buffers: dict[Place, _Seen]) -> None:
    present = [(seen, local(seen.tensor)) for seen in buffers.values() if seen.tensor is not None]
    for (seen, _), copy in zip(present, copies([tensor for _, tensor in present]), strict=True):
        seen.copy = copy


@torch.no_grad()
def _restore(to: dict[Place, _Seen], now: dict[Place, _Seen]) -> None:
    """Put back the buffers that stood in each place, with the values that they had, where others may stand `now`."""
    for place in now.keys() - to.keys():  # registered in between
        delattr(*place)
    written, values = [], []
    for place, seen in to.items():
        if place not in now or now[place].tensor is not seen.tensor:
            module, name = place
            module.register_buffer(name, seen.tensor) if place not in now else setattr(module, name, seen.tensor)
        if seen.tensor is None or seen.copy is None:
            continue
        tensor = local(seen.tensor)
        if tensor.shape != seen.copy.shape:  # observers resize theirs
            tensor.resize_(seen.copy.shape)
        written.append(tensor)
        values.append(seen.copy)
    if written:
        foreach(torch._foreach_copy_, written, values)
