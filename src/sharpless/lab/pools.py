"""Where many runs are executed: processes on this machine, or a Ray cluster."""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sharpless.lab.stopping import Stopped

if TYPE_CHECKING:
    from sharpless.lab.compare import Run

__all__ = ["cluster", "local", "on_ray", "room"]

PATIENCE = 30.0  # seconds in which a run that was told to stop writes its checkpoint

Results = Iterator[tuple["Run", dict[str, Any]]]


def room(threads: int) -> int:
    """Return how many runs of so many threads each keep the cores busy that this process may use; at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // threads)


def local(runs: Sequence["Run"], jobs: int, gpus: int = 0) -> Results:
    """Yield runs and their records as they end, from processes on this machine.

    Leaving the loop, also by Ctrl-C, ends the processes; runs that are under way leave a checkpoint.

    Args:
        runs: what to execute.
        jobs: processes at a time.
        gpus: GPUs to share out among the processes, if they shall use any.
    """
    jobs = min(jobs, len(runs))
    context = multiprocessing.get_context("spawn")
    places = context.Queue()
    for job in range(jobs):
        places.put(str(job % gpus) if gpus else "")
    executor = ProcessPoolExecutor(jobs, mp_context=context, initializer=_prepare, initargs=(places,))
    try:
        with _ctrl_c_held():  # workers inherit it: a Ctrl-C is the parent's to handle
            futures = {executor.submit(_work, run): run for run in runs}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        workers = multiprocessing.active_children()
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join(PATIENCE)
            worker.kill()


def on_ray(runs: Sequence["Run"], gpus: int = 0) -> Results:
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
    under_way = {task.options(num_cpus=min(run.setup.threads, largest)).remote(run): run for run in runs}
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


def _work(run: "Run") -> dict[str, Any]:
    """Return the record of a run, executed in a worker."""
    try:
        return run.training().run()
    except Stopped as stopped:
        os._exit(128 + stopped.signum)  # without taking another run


def _prepare(places: Any) -> None:
    """Make a worker of this process."""
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
def _ctrl_c_held() -> Iterator[None]:
    """Hold back SIGINT within the block, for this thread and for the processes that it starts."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
