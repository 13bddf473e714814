"""The random numbers of the clean pass, for the perturbed pass to draw once more."""

import ctypes
import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sharpless.displaced import insist

__all__ = ["Noise"]


class Noise:
    """The global random generators: torch's on the CPU and on accelerators, Python's, and NumPy's.

    Generators that a network keeps for itself are not among them.
    """

    def __init__(self) -> None:
        self._numpy = _NumPy()
        self._accelerators: list[torch.device] = []
        self._states: list[Any] = []

    def remember(self, devices: Iterable[torch.device]) -> None:
        """Remember the generators as they are now: the CPU's, and those of `devices` that have their own."""
        self._accelerators = sorted({device for device in devices if device.type in {"cuda", "xpu"}}, key=str)
        self._states = self._read()
        self._numpy.remember()

    @contextmanager
    def again(self) -> Iterator[None]:
        """Let a pass draw the remembered numbers once more, and leave the generators as they are now."""
        left = self._read()
        with self._numpy.again():
            try:
                self._set(self._states)
                yield
            finally:
                insist(lambda: self._set(left))

    def _read(self) -> list[Any]:
        accelerators = [torch.get_device_module(device).get_rng_state(device) for device in self._accelerators]
        return [random.getstate(), torch.get_rng_state(), *accelerators]

    def _set(self, states: list[Any]) -> None:
        python, cpu, *accelerators = states
        random.setstate(python)
        torch.set_rng_state(cpu)
        for device, state in zip(self._accelerators, accelerators, strict=True):
            torch.get_device_module(device).set_rng_state(state, device)


class _NumPy:
    """NumPy's global generator, if NumPy has been imported.

    Its state takes a tenth of a millisecond to read. Where the first pass does not draw from it, as in most networks,
    the memory of the generator is watched in place of that: a copy of 2.5 kB tells whether a later pass does.
    """

    _MEMORY = 625 * 4  # of a Mersenne Twister: 624 words and a position

    def __init__(self) -> None:
        self._draws = True
        self._state: Any = None
        self._memory: bytes | None = None

    def remember(self) -> None:
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            self._memory = self._read_memory(numpy)
            self._state = numpy.random.get_state() if self._draws or self._memory is None else None

    @contextmanager
    def again(self) -> Iterator[None]:
        numpy = sys.modules.get("numpy")
        if numpy is None or (self._state is None and self._memory is None):
            yield
            return
        self._draws = self._memory is None or self._memory != self._read_memory(numpy) or self._has_cached(numpy)
        left = numpy.random.get_state() if self._draws else self._state_of(numpy)
        try:
            if self._draws:
                numpy.random.set_state(self._state if self._state is not None else self._state_of(numpy))
            yield
        finally:
            if self._draws or self._memory != self._read_memory(numpy):
                insist(lambda: numpy.random.set_state(left))

    def _has_cached(self, numpy: Any) -> bool:
        """Return whether the generator had a second normal number in store, which is drawn without a trace."""
        return self._state is not None and bool(numpy.random.get_state()[3] or self._state[3])

    def _state_of(self, numpy: Any) -> Any:
        assert self._memory is not None
        words = numpy.frombuffer(self._memory, dtype=numpy.uint32)
        return "MT19937", words[:-1], int(words[-1]), 0, 0.0

    def _read_memory(self, numpy: Any) -> bytes | None:
        if not hasattr(numpy.random, "get_bit_generator"):  # younger than the oldest NumPy that torch takes
            return None
        generator = numpy.random.get_bit_generator()
        if type(generator).__name__ != "MT19937":
            return None
        return ctypes.string_at(generator.ctypes.state_address, self._MEMORY)
