"""How runs share the cores of a machine, found by measurement."""

import os
from statistics import median
from time import perf_counter

import torch
from torch.nn.functional import cross_entropy

from sharpless.lab.data import Data
from sharpless.lab.networks import build
from sharpless.lab.recipes import Recipe

__all__ = ["available_cores", "jobs_and_threads"]

ROUNDS = 5


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def jobs_and_threads(recipe: Recipe, data: Data, runs: int, cores: int) -> tuple[int, int]:
    """Return how many runs to execute at a time on a CPU, and with how many threads each.

    What is measured is a gradient of the recipe's network on a batch, with 1, 2, 4, … threads and with all cores.

    Args:
        recipe: what is trained.
        data: its data.
        runs: the number of runs to execute.
        cores: the number of cores to share.
    """
    if runs == 1 or cores == 1:
        return 1, cores
    before = torch.get_num_threads()
    choices = sorted({*(2**i for i in range(cores.bit_length()) if 2**i <= cores), cores})
    model = build(recipe.network, classes=data.classes, channels=data.channels, width=recipe.width)
    x, y = next(iter(data.train.batches([torch.arange(min(recipe.batch_size, len(data.train)))])))
    seconds: dict[int, list[float]] = {threads: [] for threads in choices}
    try:
        for _ in range(1 + ROUNDS):  # the first one warms up
            for threads in choices:
                torch.set_num_threads(threads)
                start = perf_counter()
                cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
                seconds[threads].append(perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    rates = {n: min(runs, cores // n) / median(times[1:]) for n, times in seconds.items()}
    threads = max(choices, key=lambda n: (rates[n], -n))
    return min(runs, cores // threads), threads
