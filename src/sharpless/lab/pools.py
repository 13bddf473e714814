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

import torch

from sharpless.lab.stopping import Stopped

if TYPE_CHECKING:
    from sharpless.lab.compare import Run

__all__ = ["cluster", "local", "on_ray"]

PATIENCE = 30.0  # seconds in which a run that was told to stop writes its checkpoint

Results = Iterator[tuple["Run", dict[str, Any]]]


def local(runs: Sequence["Run"], jobs: int, threads: int, gpus: int = 0) -> Results:
    """Yield runs and their records as they end, from processes on this machine.

    Leaving the loop, also by Ctrl-C, ends the processes; runs that are under way leave a checkpoint.

    Args:
        runs: what to execute.
        jobs: processes at a time.
        threads: threads of each.
        gpus: GPUs to share out among the processes, if they shall use any.
    """
    context = multiprocessing.get_context("spawn")
    places = context.Queue()
    for job in range(jobs):
        places.put(str(job % gpus) if gpus else "")
    executor = ProcessPoolExecutor(
        min(jobs, len(runs)), mp_context=context, initializer=_prepare, initargs=(threads, places)
    )
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


def on_ray(runs: Sequence["Run"], threads: int, gpus: int = 0) -> Results:
    """Yield runs and their records as they end, from a Ray cluster: the one at RAY_ADDRESS, or one on this machine.

    The folder of the runs should be one that all nodes see; otherwise checkpoints stay on the node that wrote them.

    Args:
        runs: what to execute.
        threads: CPU cores for each run.
        gpus: 0, or more if each run shall have a GPU.

    Raises:
        ModuleNotFoundError: Ray is not installed.
    """
    ray = cluster()
    ray.init(log_to_driver=False, logging_level=logging.ERROR)
    task = ray.remote(num_cpus=threads, num_gpus=int(gpus > 0), max_retries=0)(_work)
    under_way = {task.remote(run, threads): run for run in runs}
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


def _work(run: "Run", threads: int | None = None) -> dict[str, Any]:
    """Return the record of a run, executed in a worker."""
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        return run.training().run()
    except Stopped as stopped:
        os._exit(128 + stopped.signum)  # without taking another run


def _prepare(threads: int, places: Any) -> None:
    """Make a worker of this process."""
    torch.set_num_threads(threads)
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
