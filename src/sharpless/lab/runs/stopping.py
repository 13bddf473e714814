"""Signals to stop: SIGTERM, SIGINT and SIGHUP, from clusters, people and closing terminals."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Stopped", "stop_signals"]


class Stopped(Exception):  # noqa: N818 - it is not an error
    """A signal stopped a run after a step.

    Args:
        step: the number of finished steps.
        signum: the signal.
    """

    def __init__(self, step: int, signum: int) -> None:
        super().__init__(step, signum)
        self.step = step
        self.signum = signum


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect these signals within the block, in place of their effect. A second SIGINT takes effect at once.

    A second SIGTERM does not: a process may get one from its group and one from its parent.

    Only the main thread can handle signals. In other threads the list stays empty.

    Yields:
        The received signals.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it
        before[signal.SIGHUP] = signal.getsignal(signal.SIGHUP)

    def hear(signum: int, _: FrameType | None) -> None:
        received.append(signum)
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    for signum in before:
        signal.signal(signum, hear)
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
