"""The random generators: the perturbed pass draws the same random numbers as the clean pass."""

import ctypes
import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from sharpless.displaced import insist

__all__ = ["RepeatedRng"]


@dataclass
class RngState:
    """The states of torch's and of Python's global generators at one moment."""

    python: Any
    cpu: torch.Tensor
    accelerators: dict[torch.device, torch.Tensor]

    @classmethod
    def now(cls, devices: Iterable[torch.device]) -> "RngState":
        """Return the states as they are now: the CPU's, and those of the accelerators among `devices` or in use."""
        # With weights that are offloaded to the CPU, forwards run on the current accelerator.
        modules = {kind: torch.get_device_module(kind) for kind in ("cuda", "xpu")}
        in_use = {torch.device(kind, each.current_device()) for kind, each in modules.items() if each.is_initialized()}
        own = {device for device in devices if device.type in {"cuda", "mps", "xpu"}} | in_use
        states = {device: torch.get_device_module(device).get_rng_state(*_named(device)) for device in own}
        return cls(random.getstate(), torch.get_rng_state(), states)

    def restore(self) -> None:
        """Set the generators to these states."""
        random.setstate(self.python)
        torch.set_rng_state(self.cpu)
        self.restore_accelerators()

    def restore_accelerators(self) -> None:
        """Set the generators of the accelerators to these states."""
        for device, state in self.accelerators.items():
            torch.get_device_module(device).set_rng_state(state, *_named(device))


def _named(device: torch.device) -> list[torch.device]:
    """Return what names `device` to its module: nothing for Apple's, which older versions of torch do not let name."""
    return [] if device.type == "mps" else [device]


class RepeatedRng:
    """The global random generators, from which a second pass can draw the same numbers as the first.

    These are the generators of torch (CPU and accelerators), of Python and of NumPy. Generators that belong to a
    network are not included.
    """

    def __init__(self) -> None:
        self._numpy = _NumPy()

    def remember(self, devices: Iterable[torch.device]) -> tuple[RngState, Any]:
        """Return the generators as they are now: the CPU's, and those of the accelerators among `devices` or in use."""
        state = RngState.now(devices)
        # cuDNN has a generator of its own for the dropout within an LSTM, which begins anew after its state was set.
        state.restore_accelerators()
        return state, self._numpy.now()

    @contextmanager
    def again(self, remembered: tuple[RngState, Any]) -> Iterator[None]:
        """Within the block, draw the remembered numbers again; then restore the present states."""
        before, numpy = remembered
        left = RngState.now(before.accelerators)
        with self._numpy.again(numpy):
            try:
                before.restore()
                yield
            finally:
                insist(left.restore)


class _NumPy:
    """NumPy's global generator, if NumPy has been imported.

    Reading its state takes a tenth of a millisecond. This is skipped if the memory of the generator has not changed
    since the last read, and the state held no second normal number, whose use does not change that memory.
    """

    _BYTES = 625 * 4  # of a Mersenne Twister: 624 words and a position

    def __init__(self) -> None:
        self._known: tuple[bytes, Any] | None = None

    def now(self) -> Any:
        """Return the state of the generator; None without NumPy."""
        if "numpy" not in sys.modules:
            return None
        memory = self._memory()
        if memory is not None and self._known is not None and memory == self._known[0]:
            return self._known[1]
        state = self._random.get_state(legacy=False)
        self._known = None if memory is None or state["has_gauss"] else (memory, state)
        return state

    @contextmanager
    def again(self, before: Any) -> Iterator[None]:
        """Within the block, draw from the state `before`; then restore the present state."""
        left = None if before is None else self.now()
        if left is None:
            yield
            return
        try:
            if left is not before:
                self._random.set_state(before)
            yield
        finally:
            if left is not before or self.now() is not left:
                insist(lambda: self._random.set_state(left))

    @property
    def _random(self) -> Any:
        return sys.modules["numpy"].random

    def _memory(self) -> bytes | None:
        if not hasattr(self._random, "get_bit_generator"):  # newer than the oldest NumPy that torch supports
            return None
        generator = self._random.get_bit_generator()
        if type(generator).__name__ != "MT19937":
            return None
        return ctypes.string_at(generator.ctypes.state_address, self._BYTES)
