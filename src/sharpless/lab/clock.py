"""The clock of a run: seconds of training, and of nothing else."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import torch

__all__ = ["Clock"]


class Clock:
    """Counts seconds of training, on a GPU until its work is done."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """What was counted until the clock last stood still."""
        self._since: float | None = None
        self._device = torch.device("cpu")

    def start(self, device: torch.device) -> None:
        """Run from now on, for work on `device`."""
        self._device, self._since = device, perf_counter()

    def go_on(self, seconds: float) -> None:
        """Go on from `seconds`, as a checkpoint has them; a clock that runs does so from now on."""
        self.seconds = seconds
        self._since = None if self._since is None else perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stand still within the block."""
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
