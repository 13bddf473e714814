"""The noise of the sharpness term on parts of the batch: it shows which parts are too small for a network."""

import math
from collections.abc import Callable, Generator, Sequence
from statistics import fmean
from typing import Any

from torch import Tensor, nn

from sharpless import batches, ddp, gradients
from sharpless.ascent import sam
from sharpless.displaced import Buffers, displaced
from sharpless.options import check_network, check_number
from sharpless.rng import RepeatedRng
from sharpless.tensors import global_norm, local
from sharpless.timing import driven, halves

__all__ = ["measuring", "part_noise"]

DRAWS = 4
"""The number of measured parts of each size, if the batch has that many."""


def part_noise(
    run: Callable[[Any], Any],
    batch: Any,
    model: nn.Module,
    *,
    rho: float = 0.05,
    sizes: Sequence[int] | None = None,
) -> dict[int, float]:
    """Measure the noise of the correction D = g⁺ − g on parts of the batch, by their number of examples.

    Without BatchNorm, E‖D‖² grows slowly as parts get smaller. BatchNorm normalizes a part by its own statistics, and
    E‖D‖² can be a hundred times that of the whole batch. Trainings with such parts have failed
    (docs/results/batchnorm.md). Pass the result to `GRST.for_budget(…, noise=…)`, which avoids them. `.grad`, weights,
    buffers and random generators are restored. Under DistributedDataParallel all ranks must call this function, and get
    the same result.

    >>> import torch
    >>> model = nn.Linear(3, 1)
    >>> noise = part_noise(lambda x: model(x).square().mean().backward(), torch.randn(64, 3), model)
    >>> list(noise), noise[64]
    ([4, 8, 16, 32, 64], 1.0)

    Args:
        run: a function that computes the loss of a batch or part, a mean over examples, and calls `backward`.
        batch: a batch as `passes` takes it, in random order.
        model: the network, in training mode.
        rho: the radius for the whole batch; for parts of m of n examples it is ρ√(m/n).
        sizes: the numbers of examples; by default the whole batch, half of it, a quarter, … down to 4 or a 16th.

    Returns:
        E‖D‖² for each number of examples, the smallest first, relative to that of the whole batch, which is 1. Sizes
        for which it is not finite are left out.

    Raises:
        TypeError: `model` is not a network.
        ValueError: the batch has no examples along a first dimension, a size is out of range, `run` gives no gradient,
            or D is 0.
    """
    check_network(model)
    found: dict[int, float] = driven(measuring(batch, model, rho=rho, sizes=sizes), run)
    return found


def measuring(
    batch: Any, model: nn.Module, *, rho: float = 0.05, sizes: Sequence[int] | None = None
) -> Generator[Any, None, dict[int, float]]:
    """Yield parts of a batch to run forward and backward on, each twice; see `part_noise`.

    Yields:
        Parts of the batch, before and after the climb.

    Returns:
        E‖D‖² for each number of examples, relative to that of the whole batch.

    Raises:
        ValueError: the batch has no examples along a first dimension, a size is out of range, the passes give no
            gradient, or D is 0.
    """
    check_number("rho", rho)
    counts = halves(batch, sizes)
    n = counts[-1]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kept, buffers, rng = gradients.take(parameters), Buffers(), RepeatedRng()
    drawn = rng.remember({parameter.device for parameter in parameters})
    found = buffers.remember(model)
    squares: dict[int, float] = {}
    try:
        for m in counts:
            each = []
            for start in range(0, min(n - m + 1, DRAWS * m), m):
                part = batch if m == n else batches.part(batch, start, start + m)
                with ddp.unreduced(model), buffers.again(model, found), rng.again(drawn):
                    yield part
                clean = gradients.take(parameters)
                if not any(grad is not None for grad in clean):
                    raise ValueError("no pass gave a gradient, so that there is no noise: call backward() in run")
                weights, eps = _climb(parameters, clean, rho * math.sqrt(m / n))
                scene = displaced(weights, eps)
                with ddp.unreduced(model), buffers.again(model, found), scene, rng.again(drawn):
                    yield part
                each.append(_squared_distance(gradients.take(parameters), clean))
            squares[m] = fmean(each)
    finally:
        gradients.put(kept, parameters)
    squares = ddp.agreed(squares, model)
    if not 0 < squares[n] < math.inf:
        raise ValueError(f"the correction g⁺ − g has the squared norm {squares[n]:g}: choose another rho or batch")
    return {m: square / squares[n] for m, square in squares.items() if 0 < square < math.inf}


def _climb(
    parameters: Sequence[Tensor], grads: gradients.Gradients, radius: float
) -> tuple[list[Tensor], list[Tensor]]:
    climbers = [(local(w), g) for w, g in zip(parameters, grads, strict=True) if g is not None]
    weights, uphill = [w for w, _ in climbers], [g for _, g in climbers]
    return weights, sam(weights, uphill, [radius] * len(weights))


def _squared_distance(a: gradients.Gradients, b: gradients.Gradients) -> float:
    apart = [x - y for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    return float(global_norm(apart)) ** 2 if apart else 0.0
