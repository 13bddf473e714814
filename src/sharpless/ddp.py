"""What DistributedDataParallel needs: ranks that climb alone, and ranks that decide alike."""

import gc
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["agreed", "around", "mean_over_ranks", "to_climb_alone", "unreduced"]


def around(model: nn.Module) -> nn.Module:
    """Return the DistributedDataParallel that `model` is in, or `model`.

    Hosts wrap the network after the optimizer was given it, and keep the wrapped one to themselves. Without it ranks
    would climb along the union of their batches, and communicate twice. The search takes a walk through all objects.

    Raises:
        RuntimeError: it is in several.
    """
    if isinstance(model, DistributedDataParallel) or not torch.distributed.is_available():
        return model
    if not torch.distributed.is_initialized():
        return model
    found = _all_around(model)
    if len(found) > 1:
        gc.collect()  # those of former runs
        found = _all_around(model)
    if len(found) > 1:
        raise RuntimeError(
            f"model is in {len(found)} DistributedDataParallel: set opt.model to the one whose forward the loop calls"
        )
    return found[0] if found else model


def _all_around(model: nn.Module) -> list[DistributedDataParallel]:
    every = [each for each in gc.get_objects() if issubclass(type(each), DistributedDataParallel)]
    return [each for each in every if any(inner is model for inner in each.modules())]


def to_climb_alone(model: nn.Module | None, *, first: bool) -> DistributedDataParallel | None:
    """Return the DistributedDataParallel whose ranks climb each along its own gradient, or None.

    Args:
        model: the network, DistributedDataParallel or another one.
        first: whether no backward of this process was reduced so far. A static graph is learned in the first backward,
            which therefore has to be a reduced one.
    """
    if not isinstance(model, DistributedDataParallel) or (model.static_graph and first):
        return None
    return model


def mean_over_ranks(square: Tensor | None, model: nn.Module | None) -> Tensor:
    """Return the mean of a 0-dim tensor over the ranks of `model`; None counts as 0.

    The ranks must agree, and under no_sync() each has a gradient of its own.
    """
    if square is None:
        device = next(model.parameters()).device if model is not None else None
        square = torch.zeros((), dtype=torch.float64, device=device)
    if isinstance(model, DistributedDataParallel):
        torch.distributed.all_reduce(square, group=model.process_group)
        square /= torch.distributed.get_world_size(model.process_group)
    return square


def agreed(measured: Mapping[int, float], model: nn.Module) -> dict[int, float]:
    """Return what was measured, the largest that any rank of `model` has: ranks have to make the same plan of it."""
    if not isinstance(model, DistributedDataParallel):
        return dict(measured)
    values = torch.tensor(list(measured.values()), dtype=torch.float64, device=next(model.parameters()).device)
    torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX, group=model.process_group)
    return dict(zip(measured, values.tolist(), strict=True))


def unreduced(model: nn.Module) -> AbstractContextManager[None]:
    """Return a block within which each rank of `model` keeps its own gradients."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()
