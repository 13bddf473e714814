"""What a pass costs in seconds, by its number of examples: the prices by which a budget in seconds is planned."""

from collections.abc import Callable, Generator, Sequence
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from sharpless import batches, ddp, gradients
from sharpless.cost import SMALLEST_PART
from sharpless.displaced import Buffers
from sharpless.rng import RepeatedRng

__all__ = ["driven", "halves", "pass_seconds", "timing"]


SMALLEST_SHARE = 32
"""No smaller share of the batch is measured: six sizes, which torch.compile has room for."""


def pass_seconds(
    run: Callable[[Any], Any],
    batch: Any,
    model: nn.Module,
    *,
    sizes: Sequence[int] | None = None,
    repeats: int = 11,
) -> dict[int, float]:
    """Measure how long a forward-backward pass takes, on all of a batch and on parts of it.

    Small passes cost more than their share, so that a budget counted in gradients is exceeded on the clock. Hand what
    this returns to `GRST.for_budget(…, seconds=…)`. Measure once, and keep the numbers: a run that goes on has to be
    planned with the ones it began with. `.grad`, buffers and random generators are left as they were. Under
    DistributedDataParallel all ranks have to call this, and get the same.

    >>> model = nn.Linear(3, 1)
    >>> seconds = pass_seconds(lambda x: model(x).square().mean().backward(), torch.randn(64, 3), model)
    >>> list(seconds)
    [4, 8, 16, 32, 64]

    Args:
        run: computes the loss of the (part of the) batch it is handed, and calls `backward`.
        batch: a batch as `passes` takes it: tensors with examples along the first dimension, in any nest.
        model: the network.
        sizes: the numbers of examples; by default the whole batch, half of it, a quarter, … down to 4 or a 32nd.
        repeats: how often each size is timed, in turn with the others, after two passes to warm up.

    Returns:
        The duration in seconds for each number of examples, from the smallest on: the shortest of the repeats, since
        what else a machine does only makes them longer.

    Raises:
        ValueError: the batch has no examples along a first dimension, or a size is out of range.
    """
    seconds: dict[int, float] = driven(timing(batch, model, sizes=sizes, repeats=repeats), run)
    return seconds


def driven(measuring: Generator[Any, None, Any], run: Callable[[Any], Any]) -> Any:
    """Run what a measurement yields to its end.

    Returns:
        What the measurement returns.
    """
    while True:
        try:
            part = next(measuring)
        except StopIteration as end:
            return end.value
        run(part)


def timing(
    batch: Any, model: nn.Module, *, sizes: Sequence[int] | None = None, repeats: int = 11
) -> Generator[Any, None, dict[int, float]]:
    """Yield parts of a batch to run forward and backward on, and time what is done with them; see `pass_seconds`.

    Yields:
        The batch, and parts of it.

    Returns:
        The shortest duration in seconds for each number of examples.

    Raises:
        ValueError: the batch has no examples along a first dimension, or a size is out of range.
    """
    if repeats < 1:
        raise ValueError(f"repeats = {repeats} is out of range: give 1 or more")
    counts = halves(batch, sizes)
    parts = {m: batch if m == counts[-1] else batches.part(batch, 0, m) for m in counts}
    parameters = list(model.parameters())
    kept, buffers, rng = gradients.take(parameters), Buffers(), RepeatedRng()
    drawn = rng.remember({parameter.device for parameter in parameters})
    found: dict[int, list[float]] = {m: [] for m in counts}
    try:
        with buffers.again(model, buffers.remember(model)), rng.again(drawn):
            for _ in range(repeats + 2):
                for m, part in parts.items():
                    gradients.take(parameters)
                    start = _now(parameters)
                    yield part
                    found[m].append(_now(parameters) - start)
    finally:
        gradients.put(kept, parameters)
    return ddp.agreed({m: min(times[2:]) for m, times in found.items()}, model)


def halves(batch: Any, sizes: Sequence[int] | None = None) -> list[int]:
    """Return the numbers of examples to measure, from the smallest on, all of the batch among them.

    Args:
        batch: the batch.
        sizes: those that are asked for; by default half of the batch, a quarter, … down to SMALLEST_PART and to one in
            SMALLEST_SHARE.

    Raises:
        ValueError: the batch has no examples along a first dimension, or a size is out of range.
    """
    n = batches.length(batch)
    if n is None:
        raise ValueError("batch has no tensor with a length: hand over tensors, as in passes((x, y))")
    found = [n]
    while sizes is None and found[0] // 2 >= max(SMALLEST_PART, n // SMALLEST_SHARE):
        found.insert(0, found[0] // 2)
    if sizes is not None:
        if not (min(sizes, default=1) >= 1 and max(sizes, default=n) <= n):
            raise ValueError(f"sizes = {list(sizes)} are out of range: give numbers of examples from 1 to {n}")
        found = sorted({n, *sizes})
    return found


def _now(parameters: Sequence[Tensor]) -> float:
    """Return the time when the devices have done what they were told."""
    for device in {parameter.device for parameter in parameters}:
        if device.type in {"cuda", "xpu", "mps"}:
            torch.get_device_module(device).synchronize()
    return perf_counter()
