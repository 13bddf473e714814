"""The number of CPU threads of a run: part of the study, since it changes the rounding of sums."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["MOST_THREADS", "computing_with", "settled"]

MOST_THREADS = 1024


def settled(asked: int, there: int = 0) -> int:
    """Return the number of threads of a run: the requested one, or that of its folder, or OMP_NUM_THREADS, or 1.

    It must not depend on the machine or on its load.

    Raises:
        ValueError: `asked` is out of range.
    """
    if not 0 <= asked <= MOST_THREADS:
        raise ValueError(f"threads = {asked} is out of range: give 1 to {MOST_THREADS}, or 0 for the usual number")
    text = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    usual = min(int(text), MOST_THREADS) if text.isdecimal() else 0
    return asked or there or usual or 1


@contextmanager
def computing_with(threads: int) -> Iterator[None]:
    """Compute with a number of CPU threads within the block."""
    import torch  # noqa: PLC0415

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
