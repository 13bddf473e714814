"""BatchNorm, which makes the gradients of small parts and corrections with a large γ unreliable: warnings."""

import warnings

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from sharpless.memory import Memory

__all__ = ["FEW", "has_batch_statistics", "warn_of_fine_tuning", "warn_of_small_part"]

FEW = 32
"""With parts of fewer examples, trainings of networks with BatchNorm have failed (docs/results/batchnorm.md)."""

FINE_TUNING_GAMMA = 2.0
"""With a larger γ, the fine-tuning of networks with BatchNorm has failed (docs/results/batchnorm.md)."""


def has_batch_statistics(model: nn.Module) -> bool:
    """Return whether a layer of `model` normalizes by the statistics of the batch, which need two examples."""
    return any(
        isinstance(module, _BatchNorm)
        or "BatchNorm" in getattr(module, "original_name", "")  # scripted
        or ("Instance" not in type(module).__name__ and getattr(module, "running_var", None) is not None)
        for module in model.modules()
    )


def warn_of_small_part(memory: Memory, examples: int | None, batch_fraction: float) -> None:
    """Warn, once in a run, if a part of the batch is small for a network with BatchNorm.

    Args:
        memory: the state of the optimizer.
        examples: the size of the part.
        batch_fraction: the requested share of the batch.
    """
    if examples is None or examples >= FEW or not memory.is_new("small part"):
        return
    warnings.warn(
        f"batch_fraction = {batch_fraction:.3g} climbs with {examples} examples, and model has BatchNorm: parts of "
        f"fewer than about {FEW} examples have made the fine-tuning of such a network fail "
        "(docs/results/batchnorm.md); compare with SAM first, or choose a larger batch_fraction or budget",
        stacklevel=5,
    )


def warn_of_fine_tuning(memory: Memory, model: nn.Module | None, gamma: float, step: int) -> None:
    """Warn if a run begins with a large γ, and with BatchNorm layers that were trained before.

    This waits for the device, once, at step 0. A resumed run begins later.
    """
    if step > 0 or model is None or not memory.is_new("fine-tuning"):
        return
    layers = (module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats)
    layer = next(layers, None) if gamma > FINE_TUNING_GAMMA else None
    if layer is None or layer.running_mean is None or is_lazy(layer.running_mean) or layer.running_mean.is_meta:
        return
    counted = 0 if layer.num_batches_tracked is None else int(layer.num_batches_tracked)
    if counted > 10 or (counted == 0 and bool(layer.running_mean.any())):  # a forward or two trains nothing
        warnings.warn(
            f"γ = {gamma:.3g}, and the BatchNorm layers of model were trained before: such a γ has made the "
            "fine-tuning of a network with BatchNorm fail (docs/results/batchnorm.md); choose gamma=1 on whole "
            "batches, as in RST(base, p=0.25, …), or compare with the base first",
            stacklevel=5,
        )
