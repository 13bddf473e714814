"""Execute many runs: in processes on this machine, or on a Ray cluster."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib import import_module
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

import torch

from sharpless.lab.runs.signals import deferred, held, killing
from sharpless.lab.runs.stopping import Stopped

if TYPE_CHECKING:
    from sharpless.lab.faults import Failure
    from sharpless.lab.runs.pricing import Measurement
    from sharpless.lab.runs.run import Run

__all__ = ["cluster", "execute", "parallel_runs"]

PATIENCE = 30.0  # seconds for a checkpoint after a signal to stop
BETWEEN_LOOKS = 0.25  # seconds
SHARES: list[Any] = []  # in a worker: the array of the finished shares of its runs

Results = Iterator[tuple[Any, "dict[str, Any] | Failure"]]
"""Each run with its record or its failure."""


def execute(
    runs: Sequence["Run | Measurement"],
    jobs: int | None = None,
    on: str = "local",
    watch: Callable[[float], None] | None = None,
) -> Results:
    """Yield runs as they end, with their records.

    Args:
        runs: the runs.
        jobs: number of parallel runs; by default cores ÷ threads, or one for each GPU.
        on: `local` for processes on this machine, or `ray` for a cluster.
        watch: called regularly with the sum of the finished shares of the running runs, on this machine.

    Raises:
        ModuleNotFoundError: `on` is `ray`, and Ray is not installed.
    """
    gpus = torch.cuda.device_count()
    if runs and runs[0].task.in_process:
        yield from ((run, run.train(run.trial(watch))) for run in runs)
    elif runs and on == "ray":
        yield from on_ray(runs, gpus)
    elif runs:
        yield from local(runs, jobs or gpus or parallel_runs(runs[0].threads), gpus, watch)


def parallel_runs(threads: int) -> int:
    """Return the number of parallel runs: the cores that this process may use, by the threads of a run; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // threads)


def local(
    runs: Sequence["Run | Measurement"], jobs: int, gpus: int = 0, watch: Callable[[float], None] | None = None
) -> Results:
    """Yield runs and their records as they end, from processes on this machine.

    Leaving the loop, also by Ctrl-C, ends the processes. Unfinished runs write a checkpoint.

    Args:
        runs: the runs.
        jobs: number of parallel processes.
        gpus: number of GPUs to divide among the processes, 0 for none.
        watch: called regularly with the sum of the finished shares of the running runs.

    Raises:
        ValueError: a process was killed.
    """
    jobs = min(jobs, len(runs))
    # Workers are forked from a process that has only imported torch: they start at once, and share its memory.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sharpless.lab.runs.run", "sharpless.lab.runs.pricing"])
    with held(signal.SIGHUP):  # the resource tracker ignores the other signals itself
        resource_tracker.ensure_running()
    places, usual = context.Queue(), multiprocessing.get_start_method()
    for job in range(jobs):
        places.put(str(job % gpus) if gpus else "")
    shares = context.RawArray("d", len(runs))  # one worker writes each entry: no lock is needed
    executor = ProcessPoolExecutor(jobs, mp_context=context, initializer=_prepare, initargs=(places, shares, usual))
    try:
        # Workers inherit the held signals: the parent handles the signals that all processes get.
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
    except BrokenProcessPool:
        raise ValueError(
            "a worker process was killed, perhaps for lack of memory: the finished runs are kept, and the same command "
            "continues, perhaps with a smaller --jobs"
        ) from None
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        with killing(workers := multiprocessing.active_children()):
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.join(PATIENCE)
                worker.kill()
            executor.shutdown()  # ends its thread too, or Python would wait for it at exit


def on_ray(runs: Sequence["Run | Measurement"], gpus: int = 0) -> Results:
    """Yield runs and their records as they end, from a Ray cluster: the one at RAY_ADDRESS, or one on this machine.

    All nodes should share the folder of the runs. Otherwise checkpoints stay on the node that wrote them.

    Args:
        runs: the runs.
        gpus: 0 for runs without a GPU, more for one GPU per run.

    Raises:
        ModuleNotFoundError: Ray is not installed.
    """
    ray = cluster()
    ray.init(log_to_driver=False, logging_level=logging.ERROR)
    task = ray.remote(num_gpus=int(gpus > 0), max_retries=0)(_work)
    largest = max(node["Resources"].get("CPU", 1) for node in ray.nodes())  # Ray would wait forever for more
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
    """Return the record of a run, executed in a worker. A row of SHARES gets the finished share."""
    # The comparison itself shows the effect of small parts on BatchNorm.
    warnings.filterwarnings("ignore", message="batch_fraction = .* and model has BatchNorm")

    def tell(share: float) -> None:
        SHARES[0][row] = share

    try:
        return run.train(run.trial(None if row is None else tell))
    except Stopped as stopped:
        os._exit(128 + stopped.signum)  # without starting another run


def _prepare(places: Any, shares: Any, usual: str) -> None:
    """Prepare this process as a worker; processes of its task, such as a DataLoader's, start as in a script."""
    multiprocessing.set_start_method(usual, force=True)
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

    # A killed parent cannot end its workers. They would run beside the workers of the next command.
    threading.Thread(target=follow, daemon=True).start()


@contextmanager
def _without_main() -> Iterator[None]:
    """Keep processes that start within the block from running the main script again. Tasks do not need it."""
    main = sys.modules["__main__"]
    hidden: dict[str, Any] = {name: vars(main).pop(name) for name in ("__file__", "__spec__") if name in vars(main)}
    main.__spec__ = None
    try:
        yield
    finally:
        vars(main).update(hidden)
