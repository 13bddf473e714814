"""A comparison: every method with every seed, in parallel, in a folder that can be continued."""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sharpless.lab import files
from sharpless.lab.peers import PEERS, pytorch_optimizer
from sharpless.lab.recipes import METHODS, Recipe
from sharpless.lab.train import train

__all__ = ["Comparison", "Run"]


@dataclass(frozen=True)
class Run:
    """One cell of a comparison."""

    recipe: Recipe
    method: str
    seed: int
    folder: Path

    @property
    def path(self) -> Path:
        """The run file, which is there when the run is finished."""
        return self.folder / "runs" / f"{self.method}-seed{self.seed}.json"

    def execute(self) -> dict[str, Any]:
        """Return the record of the run, whose file is written first."""
        record = train(self.recipe, self.method, self.seed)
        files.write(self.path, json.dumps(record, ensure_ascii=False))
        return record


class Comparison:
    """Methods × seeds of one recipe in one folder.

    Nothing is written before everything has been checked. Runs that the folder already holds are not
    repeated, whichever way the process that made them ended.

    Args:
        recipe: what all runs have in common.
        methods: a choice of METHODS and PEERS.
        seeds: the number of seeds, 0 … seeds − 1.
        folder: where run files go.
        jobs: processes at a time; the cores are shared out among them.

    Raises:
        ValueError: an argument is out of range, or the folder holds another experiment.
        ModuleNotFoundError: a peer is among the methods whose package is not installed.
    """

    def __init__(self, recipe: Recipe, methods: Sequence[str], seeds: int, folder: Path, jobs: int) -> None:
        for method in methods:
            if method not in METHODS + PEERS:
                raise ValueError(f"method {method!r} is unknown: choose from {', '.join(METHODS + PEERS)}")
        if not methods:
            raise ValueError(f"methods is empty: choose from {', '.join(METHODS + PEERS)}")
        if not set(PEERS).isdisjoint(methods):
            pytorch_optimizer()
        for name, value in (("seeds", seeds), ("jobs", jobs)):
            if value < 1:
                raise ValueError(f"{name} = {value} is out of range: give 1 or more")
        self.recipe = recipe
        self.folder = folder
        self.jobs = jobs
        self._check_folder()
        self.runs = [Run(recipe, method, seed, folder) for seed in range(seeds) for method in dict.fromkeys(methods)]

    def _check_folder(self) -> None:
        path = self.folder / "experiment.json"
        if not path.exists():
            return
        try:
            there = Recipe(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise ValueError(f"{path} is not a recipe of this version: choose another folder with --out") from None
        if difference := self.recipe.difference(there):
            raise ValueError(f"{self.folder} holds another experiment ({difference}): choose another folder with --out")

    def open_folder(self) -> None:
        """Make the folder, and say in it whose runs it holds."""
        files.write(self.folder / "experiment.json", json.dumps(asdict(self.recipe), indent=1, ensure_ascii=False))

    @property
    def finished(self) -> list[Run]:
        """The runs whose files are there."""
        return [run for run in self.runs if run.path.exists()]

    def execute(self) -> Iterator[dict[str, Any]]:
        """Yield the records of the missing runs as they end.

        Leaving the loop, also by Ctrl-C, ends the processes; what they had finished is in the folder.
        """
        missing = [run for run in self.runs if not run.path.exists()]
        if not missing:
            return
        executor = ProcessPoolExecutor(
            min(self.jobs, len(missing)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_prepare_worker,
            initargs=(max(1, available_cores() // self.jobs),),
        )
        try:
            with _ctrl_c_held():  # workers inherit it: a Ctrl-C is the parent's to handle
                futures = [executor.submit(run.execute) for run in missing]
            for future in as_completed(futures):
                yield future.result()
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
            for worker in multiprocessing.active_children():
                worker.terminate()


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _ctrl_c_held() -> Iterator[None]:
    """Hold back SIGINT within the block, for this thread and for the processes that it starts."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _prepare_worker(threads: int) -> None:
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def follow() -> None:
        parent.join()
        os._exit(1)

    # A parent that was killed cannot end its workers, which would go on beside those of its successor.
    threading.Thread(target=follow, daemon=True).start()
