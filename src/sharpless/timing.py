"""What a pass costs in seconds, by its number of examples: the prices by which a budget in seconds is planned."""

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from sharpless import batches, gradients
from sharpless.displaced import Buffers
from sharpless.rng import RepeatedRng

__all__ = ["pass_seconds"]

SMALLEST = 4
"""The fewest examples that are timed unless others are asked for."""


def pass_seconds(
    run: Callable[[Any], Any],
    batch: Any,
    model: nn.Module,
    *,
    sizes: Sequence[int] | None = None,
    repeats: int = 7,
) -> dict[int, float]:
    """Measure how long a forward-backward pass takes, on all of a batch and on parts of it.

    Small passes cost more than their share, so that a budget counted in gradients is exceeded on the clock. Hand what
    this returns to `GRST.for_budget(…, seconds=…)`. Measure once, and keep the numbers: a run that goes on has to be
    planned with the ones it began with. `.grad`, buffers and random generators are left as they were.

    >>> model = nn.Linear(3, 1)
    >>> seconds = pass_seconds(lambda x: model(x).square().mean().backward(), torch.randn(64, 3), model)
    >>> list(seconds)
    [4, 8, 16, 32, 64]

    Args:
        run: computes the loss of the (part of the) batch it is handed, and calls `backward`.
        batch: a batch as `passes` takes it: tensors with examples along the first dimension, in any nest.
        model: the network.
        sizes: the numbers of examples; by default the whole batch, half of it, a quarter, … down to 4.
        repeats: how often each size is timed, in turn with the others, after two passes to warm up.

    Returns:
        The median duration in seconds for each number of examples, from the smallest on.

    Raises:
        ValueError: the batch has no examples along a first dimension, or a size is out of range.
    """
    n = batches.length(batch)
    if n is None:
        raise ValueError("batch has no tensor with a length: hand over tensors, as in passes((x, y))")
    if repeats < 1:
        raise ValueError(f"repeats = {repeats} is out of range: give 1 or more")
    counts = sorted({n, *(_halves(n) if sizes is None else sizes)})
    if not counts[0] >= 1 or counts[-1] > n:
        raise ValueError(f"sizes = {list(sizes or ())} are out of range: give numbers of examples from 1 to {n}")
    parts = {count: batches.part(batch, 0, count) if count < n else batch for count in counts}
    parameters = list(model.parameters())
    kept, buffers, rng = gradients.take(parameters), Buffers(), RepeatedRng()
    found: dict[int, list[float]] = {count: [] for count in counts}
    drawn = rng.remember({parameter.device for parameter in parameters})
    try:
        with buffers.again(model, buffers.remember(model)), rng.again(drawn):
            for _ in range(repeats + 2):
                for count, part in parts.items():
                    found[count].append(_timed(run, part, parameters))
    finally:
        gradients.put(kept, parameters)
    return {count: median(times[2:]) for count, times in found.items()}


def _halves(n: int) -> list[int]:
    sizes = [n]
    while sizes[-1] // 2 >= SMALLEST:
        sizes.append(sizes[-1] // 2)
    return sizes


def _timed(run: Callable[[Any], Any], part: Any, parameters: Sequence[Tensor]) -> float:
    """Return how long one pass takes, on its device too."""
    gradients.take(parameters)
    _wait(parameters)
    start = perf_counter()
    run(part)
    _wait(parameters)
    return perf_counter() - start


def _wait(parameters: Sequence[Tensor]) -> None:
    for device in {parameter.device for parameter in parameters}:
        if device.type in {"cuda", "xpu", "mps"}:
            torch.get_device_module(device).synchronize()
