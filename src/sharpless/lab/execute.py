"""Where many runs are executed: processes on this machine, or a Ray cluster."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from importlib import import_module
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

import torch

from sharpless.lab.signals import deferred, held, killing
from sharpless.lab.stopping import Stopped

if TYPE_CHECKING:
    from sharpless.lab.faults import Failure
    from sharpless.lab.pricing import Measurement
    from sharpless.lab.run import Run

__all__ = ["cluster", "execute", "room"]

PATIENCE = 30.0  # seconds in which a run that was told to stop writes its checkpoint
BETWEEN_LOOKS = 0.25  # seconds
SHARES: list[Any] = []  # in a worker: the array in which it tells how far its runs are

Results = Iterator[tuple[Any, "dict[str, Any] | Failure"]]
"""Of what was executed, and what came of it."""


def execute(
    runs: Sequence["Run | Measurement"],
    jobs: int | None = None,
    on: str = "local",
    watch: Callable[[float], None] | None = None,
) -> Results:
    """Yield runs as they end, with their records.

    Args:
        runs: what to execute.
        jobs: runs at a time; by default as many as the cores have room for, by the threads of each, and on GPUs one for
            each.
        on: `local` for processes on this machine, or `ray` for a cluster.
        watch: is called now and then with how many runs' worth is done of those under way, on this machine.

    Raises:
        ModuleNotFoundError: Ray is asked for and not installed.
    """
    gpus = torch.cuda.device_count()
    if runs and runs[0].task.in_process:
        yield from ((run, run.train(run.trial(watch))) for run in runs)
    elif runs and on == "ray":
        yield from on_ray(runs, gpus)
    elif runs:
        yield from local(runs, jobs or gpus or room(runs[0].threads), gpus, watch)


def room(threads: int) -> int:
    """Return how many runs of so many threads each keep the cores busy that this process may use; at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // threads)


def local(
    runs: Sequence["Run | Measurement"], jobs: int, gpus: int = 0, watch: Callable[[float], None] | None = None
) -> Results:
    """Yield runs and their records as they end, from processes on this machine.

    Leaving the loop, also by Ctrl-C, ends the processes; runs that are under way leave a checkpoint.

    Args:
        runs: what to execute.
        jobs: processes at a time.
        gpus: GPUs to share out among the processes, if they shall use any.
        watch: is called now and then with the shares that are done of the runs under way, added up.
    """
    jobs = min(jobs, len(runs))
    # Workers are forked from a process that has imported torch and nothing else: they start at once, and share it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sharpless.lab.study"])
    with held(signal.SIGHUP):  # the process that cleans up behind the others ignores the rest by itself
        resource_tracker.ensure_running()
    places = context.Queue()
    for job in range(jobs):
        places.put(str(job % gpus) if gpus else "")
    shares = context.RawArray("d", len(runs))  # each written by one worker, and read here: it needs no lock
    executor = ProcessPoolExecutor(jobs, mp_context=context, initializer=_prepare, initargs=(places, shares))
    try:
        # Workers inherit the signals that are held: what all are sent is the parent's to handle.
        with held(signal.SIGINT, signal.SIGHUP), _without_main():
            rows = {executor.submit(_work, run, row): row for row, run in enumerate(runs)}
        pending = set(rows)
        while pending:
            with deferred():
                ended, pending = wait(pending, BETWEEN_LOOKS, FIRST_COMPLETED)
                found = [(runs[rows[future]], future.result()) for future in ended]
            yield from found
            if watch is not None:
                watch(sum(shares[rows[future]] for future in pending))
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        with killing(workers := multiprocessing.active_children()):
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.join(PATIENCE)
                worker.kill()
            executor.shutdown()  # its thread too, or Python would wait for it at its end


def on_ray(runs: Sequence["Run | Measurement"], gpus: int = 0) -> Results:
    """Yield runs and their records as they end, from a Ray cluster: the one at RAY_ADDRESS, or one on this machine.

    The folder of the runs should be one that all nodes see; otherwise checkpoints stay on the node that wrote them.

    Args:
        runs: what to execute.
        gpus: 0, or more if each run shall have a GPU.

    Raises:
        ModuleNotFoundError: Ray is not installed.
    """
    ray = cluster()
    ray.init(log_to_driver=False, logging_level=logging.ERROR)
    task = ray.remote(num_gpus=int(gpus > 0), max_retries=0)(_work)
    largest = max(node["Resources"].get("CPU", 1) for node in ray.nodes())  # for more than it has, Ray waits forever
    under_way = {task.options(num_cpus=min(run.threads, largest)).remote(run): run for run in runs}
    try:
        while under_way:
            (ended, *_), _ = ray.wait(list(under_way))
            try:
                yield under_way.pop(ended), ray.get(ended)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
    finally:
        for reference in under_way:
            ray.cancel(reference)
        if under_way:
            ray.wait(list(under_way), num_returns=len(under_way), timeout=PATIENCE)
        ray.shutdown()


def cluster() -> Any:
    """Return Ray.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        return import_module("ray")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("on = ray needs ray: pip install 'sharpless[ray]'") from error


def _work(run: "Run | Measurement", row: int | None = None) -> "dict[str, Any] | Failure":
    """Return the record of a run, executed in a worker that tells in a row of SHARES how much of it is done."""
    # What small parts do beside BatchNorm is what a comparison shows.
    warnings.filterwarnings("ignore", message="batch_fraction = .* and model has BatchNorm")

    def tell(share: float) -> None:
        SHARES[0][row] = share

    try:
        return run.train(run.trial(None if row is None else tell))
    except Stopped as stopped:
        os._exit(128 + stopped.signum)  # without taking another run


def _prepare(places: Any, shares: Any) -> None:
    """Make a worker of this process."""
    SHARES.append(shares)
    place = places.get()
    if place:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[int(place)] if visible else place
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def follow() -> None:
        parent.join()
        os._exit(1)

    # A parent that was killed cannot end its workers, which would go on beside those of its successor.
    threading.Thread(target=follow, daemon=True).start()


@contextmanager
def _without_main() -> Iterator[None]:
    """Let processes that start within the block not run the main script again, which tasks do not need."""
    main = sys.modules["__main__"]
    hidden: dict[str, Any] = {name: vars(main).pop(name) for name in ("__file__", "__spec__") if name in vars(main)}
    main.__spec__ = None
    try:
        yield
    finally:
        vars(main).update(hidden)
