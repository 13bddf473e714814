"""Support for DistributedDataParallel and DeepSpeed: each rank climbs along its own gradient, and all decide alike."""

import gc
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["agreed", "around", "averages_each_pass", "inside", "mean_over_ranks", "to_climb_alone", "unreduced"]


def around(model: nn.Module) -> nn.Module:
    """Return the DistributedDataParallel, or DeepSpeed's engine, that wraps `model`, or `model` if none does.

    Frameworks wrap the network after it was passed to the optimizer, and do not return the wrapper. Without the
    wrapper, all ranks would climb along their mean gradient, and communicate twice. The search goes through all Python
    objects.

    Args:
        model: the network.

    Raises:
        RuntimeError: several of them wrap it.
    """
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return model
    if isinstance(model, _wrappers()):
        return model
    found = _all_around(model)
    if len(found) > 1:
        gc.collect()  # frees those of earlier runs
        found = _all_around(model)
    if len(found) > 1:
        raise RuntimeError(
            f"model is wrapped by {len(found)} {type(found[0]).__name__} modules: set opt.model to the one whose "
            "forward the loop calls"
        )
    return found[0] if found else model


def _wrappers() -> tuple[type[nn.Module], ...]:
    """Return DistributedDataParallel, and the class of DeepSpeed's engines if it was imported."""
    engine = getattr(sys.modules.get("deepspeed"), "DeepSpeedEngine", None)
    return (DistributedDataParallel,) if engine is None else (DistributedDataParallel, engine)


def _all_around(model: nn.Module) -> list[nn.Module]:
    every = [each for each in gc.get_objects() if issubclass(type(each), _wrappers())]
    return [each for each in every if any(part is model for part in each.modules())]


def inside(model: nn.Module) -> nn.Module:
    """Return the network that DistributedDataParallel or DeepSpeed's engine wraps, or `model` if it is neither."""
    return model.get_submodule("module") if isinstance(model, _wrappers()) else model


def averages_each_pass(model: nn.Module | None) -> bool:
    """Return whether `model` is DeepSpeed's engine on several ranks, outside of its `no_sync()`."""
    if isinstance(model, DistributedDataParallel) or not isinstance(model, _wrappers()):
        return False
    return torch.distributed.get_world_size() > 1 and not getattr(model, "inside_no_sync_ctxt", True)


def to_climb_alone(model: nn.Module | None, *, first: bool) -> DistributedDataParallel | None:
    """Return the DistributedDataParallel whose ranks each climb along their own gradient, or None.

    Args:
        model: the network, DistributedDataParallel or another one.
        first: whether no backward of this process was reduced so far. A static graph is recorded in the first backward,
            which must therefore be reduced.
    """
    if not isinstance(model, DistributedDataParallel) or (model.static_graph and first):
        return None
    return model


def mean_over_ranks(square: Tensor | None, model: nn.Module | None) -> Tensor:
    """Return the mean of a 0-dim tensor over the ranks of `model`; None counts as 0.

    The ranks must decide alike, but under no_sync() each has a different gradient.
    """
    if square is None:
        device = next(model.parameters()).device if model is not None else None
        square = torch.zeros((), dtype=torch.float64, device=device)
    if isinstance(model, _wrappers()):
        ranks: Any = model.process_group if isinstance(model, DistributedDataParallel) else model.data_parallel_group
        torch.distributed.all_reduce(square, group=ranks)
        square /= torch.distributed.get_world_size(ranks)
    return square


def agreed(measured: Mapping[int, float], model: nn.Module) -> dict[int, float]:
    """Return the largest of each value over the ranks of `model`: all ranks must compute the same plan."""
    if not isinstance(model, DistributedDataParallel):
        return dict(measured)
    values = torch.tensor(list(measured.values()), dtype=torch.float64, device=next(model.parameters()).device)
    torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX, group=model.process_group)
    return dict(zip(measured, values.tolist(), strict=True))


def unreduced(model: nn.Module) -> AbstractContextManager[None]:
    """Return a block within which each rank of `model` keeps its own gradients."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()
