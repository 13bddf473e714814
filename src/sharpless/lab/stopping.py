"""Being told to stop: SIGTERM, SIGINT and SIGHUP, as clusters, people and closing terminals send them."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Stopped", "told_to_stop"]


class Stopped(Exception):  # noqa: N818 - it is no error
    """A run was told to stop, and did so after a step.

    Args:
        step: the steps that are done.
        signum: the signal.
    """

    def __init__(self, step: int, signum: int) -> None:
        super().__init__(step, signum)
        self.step = step
        self.signum = signum


@contextmanager
def told_to_stop() -> Iterator[list[int]]:
    """Collect these signals within the block, in place of what they do; a second SIGINT does it at once.

    A second SIGTERM does not: a process may well get one from its group and one from its parent.

    Elsewhere than in the main thread, which alone can handle signals, the list stays empty.

    Yields:
        The signals that have arrived.
    """
    told: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield told
        return
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        before[signal.SIGHUP] = signal.getsignal(signal.SIGHUP)

    def hear(signum: int, _: FrameType | None) -> None:
        told.append(signum)
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    for signum in before:
        signal.signal(signum, hear)
    try:
        yield told
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
