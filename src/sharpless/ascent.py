"""Where to climb: the perturbation ε of the weights, a pure function of (weights, gradients, ρ)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sharpless.weights import buckets, global_norm, local

__all__ = ["sam"]

_SMALLEST_NORM = 1e-12
"""Below this norm a gradient counts as zero and the perturbation fades out, instead of dividing by zero."""


def sam(weights: Sequence[Tensor], grads: Sequence[Tensor], rho: Sequence[float]) -> list[Tensor]:
    """Return ε = ρ·g/‖g‖ with one global L2 norm over all `grads` (SAM, arXiv 2010.01412, equation 2).

    Args:
        weights: the weights to be perturbed; SAM's direction does not depend on them.
        grads: their gradients, of the same shapes; any mixture of devices and dtypes.
        rho: the radius for each of them.

    Returns:
        ε, one tensor for each weight, of DTensors the shards on this rank. A zero gradient gives zeros.

    >>> sam([torch.zeros(2)], [torch.tensor([3.0, 4.0])], [0.1])
    [tensor([0.0600, 0.0800])]
    >>> sam([torch.zeros(2)], [torch.zeros(2)], [0.1])
    [tensor([0., 0.])]
    """
    norm = global_norm(grads).clamp_min(_SMALLEST_NORM)
    eps = [local(grad) for grad in grads]
    for (device, dtype, _), where in buckets(grads, rho).items():
        scale = (rho[where[0]] / norm).to(device)
        if dtype == torch.float16:  # in which ρ/‖g‖ may overflow
            scaled = [(eps[i].float() * scale).to(dtype) for i in where]
        else:
            scaled = list(torch._foreach_mul([eps[i] for i in where], scale.to(dtype)))
        for i, tensor in zip(where, scaled, strict=True):
            eps[i] = tensor
    return eps
