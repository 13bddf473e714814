"""An exponential moving average of a network's weights, and its use in place of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

__all__ = ["Average", "evaluation"]


class Average:
    """The moving average of weights and buffers. It starts with the values after the first step.

    Args:
        model: the network that is trained.
        decay: the weight of the previous average at every step, in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        own = getattr(model, "_orig_mod", model)  # the network inside the wrapper of torch.compile
        self.model: nn.Module = own.module if isinstance(own, DistributedDataParallel) else own
        averaging = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(self.model, multi_avg_fn=averaging, use_buffers=True)

    def update(self) -> None:
        """Update the average with the current weights."""
        self.average.update_parameters(self.model)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Use the averaged weights and buffers in the network within the block."""
        pairs = list(zip(_tensors(self.model), _tensors(self.average.module), strict=True))
        own = [tensor.clone() for tensor, _ in pairs]
        try:
            for tensor, averaged in pairs:
                tensor.copy_(averaged)
            yield
        finally:
            for (tensor, _), before in zip(pairs, own, strict=True):
                tensor.copy_(before)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the average, for a checkpoint."""
        return dict(self.average.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the state that `state_dict` returned."""
        self.average.load_state_dict(state)


@contextmanager
def evaluation(model: nn.Module, average: Average | None) -> Iterator[None]:
    """Put `model` in evaluation mode within the block, without gradients. Use the averaged weights if there are any."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), nullcontext() if average is None else average.in_place():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*(parameter.data for parameter in model.parameters()), *model.buffers()]
