"""The duration of a sharpness-aware step by its number of examples, for budgets in seconds."""

from collections.abc import Callable, Generator, Sequence
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from sharpless import batches, ddp, gradients
from sharpless.cost import SMALLEST_PART
from sharpless.displaced import Buffers
from sharpless.optimizer import RST
from sharpless.options import check_network
from sharpless.rng import RepeatedRng

__all__ = ["driven", "halves", "step_seconds", "timing"]


SMALLEST_SHARE = 16
"""1/16 of the batch is the smallest measured part: steps then have eight pass sizes, which torch.compile can cache."""


class Idle(torch.optim.Optimizer):
    """A base whose step takes about as long as that of SGD, and changes no weights."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Read the gradients and write the same number of values.

        Raises:
            ValueError: there are no gradients.
        """
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not grads:
            raise ValueError("no pass gave a gradient, so that no step can be measured: call backward() in run")
        torch._foreach_mul(grads, 0.5)


class Timed(RST):
    """Steps that climb with m of n examples, or with none, and change no weights.

    Args:
        parameters: the trained parameters.
        m: the number of examples, 0 for a plain step.
        n: the number of examples in a batch.
        model: the network; None times steps without it.
    """

    def __init__(self, parameters: Sequence[Tensor], m: int, n: int, model: nn.Module | None) -> None:
        base = Idle(parameters, {})
        # γ differs from 1 and from q, so that all gradients of the step are added up.
        super().__init__(base, float(m > 0), gamma=2.0, model=model, batch_fraction=m / n if m else 1.0)
        self._memory.checked |= {"small part", "same gradient"}  # a measurement needs no warning


def step_seconds(
    run: Callable[[Any], Any],
    batch: Any,
    model: nn.Module,
    *,
    sizes: Sequence[int] | None = None,
    repeats: int = 7,
) -> dict[int, float]:
    """Measure the duration of a step by the number of examples that it climbs with.

    Passes over few examples take longer than their share of the batch, so that a run with a budget in gradients can
    take more time than the budget says. Steps run as in training, with an update that takes as long as that of plain
    SGD but changes no weights. Pass the result to `GRST.for_budget(…, seconds=…)`. Measure once and save the result: a
    resumed run must use the same numbers. Weights, `.grad`, buffers and random generators are restored. Under
    DistributedDataParallel all ranks must call this function, and get the same result.

    >>> model = nn.Linear(3, 1)
    >>> seconds = step_seconds(lambda x: model(x).square().mean().backward(), torch.randn(64, 3), model)
    >>> list(seconds)
    [0, 4, 8, 16, 32, 64]

    Args:
        run: a function that computes the loss of a batch or part, and calls `backward`.
        batch: a batch as `passes` takes it: tensors with examples along the first dimension, in any nest.
        model: the network.
        sizes: the numbers of examples; by default the whole batch, half of it, a quarter, … down to 4 or a 16th.
        repeats: how often each step is timed, alternating with the others, after two warm-up steps.

    Returns:
        The duration in seconds for each number of examples: 0 for a plain step, then the smallest first. It is the
        shortest of the repeats, because other load on the machine only makes them longer.

    Raises:
        TypeError: `model` is not a network.
        ValueError: the batch has no examples along a first dimension, a size is out of range, or `run` gives no
            gradient.
    """
    check_network(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    seconds: dict[int, float] = driven(timing(batch, trained, model, sizes=sizes, repeats=repeats), run)
    return seconds


def driven(measuring: Generator[Any, None, Any], run: Callable[[Any], Any]) -> Any:
    """Call `run` on each part that a measurement yields.

    Returns:
        The result of the measurement.
    """
    while True:
        try:
            part = next(measuring)
        except StopIteration as end:
            return end.value
        run(part)


def timing(
    batch: Any,
    parameters: Sequence[Tensor],
    model: nn.Module | None,
    *,
    sizes: Sequence[int] | None = None,
    repeats: int = 7,
) -> Generator[Any, None, dict[int, float]]:
    """Yield the passes of steps, to run forward and backward on, and time the steps; see `step_seconds`.

    Args:
        batch: a batch.
        parameters: the trained parameters.
        model: the network; None times steps without it.
        sizes: the numbers of examples to climb with.
        repeats: how often each step is timed.

    Yields:
        The batch, and parts of it.

    Returns:
        The shortest duration in seconds for each number of examples, 0 for a plain step.

    Raises:
        ValueError: the batch has no examples along a first dimension, a size is out of range, or the passes give no
            gradient.
    """
    if repeats < 1:
        raise ValueError(f"repeats = {repeats} is out of range: give 1 or more")
    counts = halves(batch, sizes)
    kept, buffers, rng = gradients.take(parameters), Buffers(), RepeatedRng()
    drawn = rng.remember({parameter.device for parameter in parameters})
    module = nn.ParameterList(parameters) if model is None else model
    steps = {m: Timed(parameters, m, counts[-1], model) for m in (0, *counts)}
    found: dict[int, list[float]] = {m: [] for m in steps}
    try:
        with buffers.again(module, buffers.remember(module)), rng.again(drawn):
            for _ in range(repeats + 2):
                for m, step in steps.items():
                    start = _now(parameters)
                    yield from step.passes(batch)
                    step.step()
                    step.zero_grad()
                    found[m].append(_now(parameters) - start)
    finally:
        gradients.put(kept, parameters)
    return ddp.agreed({m: min(times[2:]) for m, times in found.items()}, module)


def halves(batch: Any, sizes: Sequence[int] | None = None) -> list[int]:
    """Return the numbers of examples to climb with, the smallest first, including the whole batch.

    Args:
        batch: the batch.
        sizes: the requested numbers; by default half of the batch, a quarter, … down to SMALLEST_PART and to one in
            SMALLEST_SHARE.

    Raises:
        ValueError: the batch has no examples along a first dimension, or a size is out of range.
    """
    batches.check_fields(batch)
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
    """Return the time after the devices have finished their work."""
    for device in {parameter.device for parameter in parameters}:
        if device.type in {"cuda", "xpu", "mps"}:
            torch.get_device_module(device).synchronize()
    return perf_counter()
