"""Support for DistributedDataParallel: each rank climbs along its own gradient, and all decide alike."""

import gc
import sys
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["agreed", "around", "mean_over_ranks", "to_climb_alone", "unreduced"]

Wrap = TypeVar("Wrap", bound=nn.Module)


def around(model: nn.Module, *, locally: bool) -> nn.Module:
    """Return the DistributedDataParallel that wraps `model`, or `model` if none does.

    Frameworks wrap the network after it was passed to the optimizer, and do not return the wrapper. Without the
    wrapper, all ranks would climb along their mean gradient, and communicate twice. The search goes through all Python
    objects.

    Args:
        model: the network.
        locally: whether each rank is to climb along its own gradient.

    Raises:
        RuntimeError: several of them wrap it.
    """
    if isinstance(model, DistributedDataParallel) or not torch.distributed.is_available():
        return model
    if not torch.distributed.is_initialized():
        return model
    found = _all_around(model, DistributedDataParallel)
    if len(found) > 1:
        gc.collect()  # frees those of earlier runs
        found = _all_around(model, DistributedDataParallel)
    if len(found) > 1:
        raise RuntimeError(
            f"model is wrapped by {len(found)} DistributedDataParallel modules: set opt.model to the one whose forward "
            "the loop calls"
        )
    if not found and locally:
        _check_deepspeed(model)
    return found[0] if found else model


def _all_around(model: nn.Module, kind: type[Wrap]) -> list[Wrap]:
    every = [each for each in gc.get_objects() if issubclass(type(each), kind)]
    return [each for each in every if any(inner is model for inner in each.modules())]


def _check_deepspeed(model: nn.Module) -> None:
    """Warn if DeepSpeed's engine around `model` reduces gradients in each pass."""
    if "deepspeed" not in sys.modules or torch.distributed.get_world_size() == 1:
        return
    for engine in _all_around(model, sys.modules["deepspeed"].DeepSpeedEngine):
        if not getattr(engine, "inside_no_sync_ctxt", True):
            warnings.warn(
                "DeepSpeed averages the gradient of each pass over the ranks, so that they climb along their mean and "
                "communicate twice: run the loop over passes() in `with engine.no_sync():`, and then call "
                "engine.allreduce_gradients() (docs/hosts/deepspeed.md)",
                stacklevel=6,
            )


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
    if isinstance(model, DistributedDataParallel):
        torch.distributed.all_reduce(square, group=model.process_group)
        square /= torch.distributed.get_world_size(model.process_group)
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
