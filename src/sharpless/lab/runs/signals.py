"""Signals to stop: deferred, blocked, or handled differently within a block."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["deferred", "held", "interrupting", "killing"]

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def deferred() -> Iterator[None]:
    """Deliver signals to stop after the block.

    An exception within the block could leave the locks of futures taken, and the executor would wait forever.
    """
    came: list[int] = []
    with _handled(STOPS, came.append):
        yield
    for each in came:
        signal.raise_signal(each)


@contextmanager
def killing(workers: Sequence[Any]) -> Iterator[None]:
    """Kill the workers at a signal to stop within the block. The block itself continues."""

    def kill(_: int) -> None:
        for worker in workers:
            worker.kill()

    with _handled(STOPS, kill):
        yield


@contextmanager
def interrupting() -> Iterator[list[int]]:
    """Raise KeyboardInterrupt at SIGTERM and SIGHUP within the block, as Ctrl-C does.

    Yields:
        The received signals.
    """
    heard: list[int] = []

    def interrupt(signum: int) -> None:
        heard.append(signum)
        raise KeyboardInterrupt

    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # under nohup
    with _handled([signal.SIGTERM] if ignored else [signal.SIGTERM, signal.SIGHUP], interrupt):
        yield heard


@contextmanager
def held(*signals: signal.Signals) -> Iterator[None]:
    """Block signals within the block, for this thread and for the processes that it starts."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _handled(signals: Sequence[signal.Signals], handle: Callable[[int], None]) -> Iterator[None]:
    """Handle signals by a function within the block. A thread other than the main one leaves them unchanged."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.signal(each, lambda signum, _: handle(signum)) for each in signals}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
