"""Support for FSDP2: each pass leaves its gradient in `.grad`, and gathers the weights as they are."""

from typing import Any

import torch.distributed
from torch import nn

__all__ = ["forget_gathered", "reduce_each_pass"]


def reduce_each_pass(model: nn.Module | None) -> None:
    """Let FSDP2 reduce the gradients of each pass.

    Under `set_requires_gradient_sync(False)`, for accumulation, it keeps them out of `.grad`, adds up those of several
    passes, and no pass could climb along its own.
    """
    for module in _sharded(model):
        module.set_requires_gradient_sync(True, recurse=False)
        module.set_is_last_backward(True)


def forget_gathered(model: nn.Module | None) -> None:
    """Let FSDP2 forget the weights that it has gathered, before or after a displacement of the shards.

    They stay after a forward without backward, and under `set_reshard_after_backward(False)`.
    """
    for module in _sharded(model):
        module.reshard()


def _sharded(model: nn.Module | None) -> list[Any]:
    if model is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return []
    return [module for module in model.modules() if hasattr(type(module), "set_requires_gradient_sync")]
