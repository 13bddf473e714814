"""The clock of a run: it counts seconds of training only."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import torch

__all__ = ["Clock"]


class Clock:
    """Counts seconds of training. It waits for the GPU before it stops."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """The seconds until the clock last stopped."""
        self._since: float | None = None
        self._device = torch.device("cpu")

    def start(self, device: torch.device) -> None:
        """Start the clock, for work on `device`."""
        self._device, self._since = device, perf_counter()

    def go_on(self, seconds: float) -> None:
        """Continue from `seconds` of a checkpoint. A running clock keeps running."""
        self.seconds = seconds
        self._since = None if self._since is None else perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock within the block."""
        running = self._since is not None
        self._stop()
        try:
            yield
        finally:
            if running:
                self._since = perf_counter()

    def _stop(self) -> None:
        if self._since is None:
            return
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.seconds += perf_counter() - self._since
        self._since = None
