"""The perturbation ε of the weights, a function of (weights, gradients, ρ).

Any function with the arguments of `sam` can be the `ascent` of RST, GRST and SAM:

>>> def signs(weights, grads, rho):
...     return [radius * grad.sign() for grad, radius in zip(grads, rho)]

It returns new tensors, and does not change weights and gradients. An ascent with state, such as `Friendly`, has an
attribute `slots` with names, and takes a fourth argument: one dict for each weight. The dict holds one tensor of the
weight's shape for each slot, at first 0. These tensors are part of the optimizer's state.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sharpless.tensors import buckets, global_norm, local

__all__ = ["Ascent", "Friendly", "asam", "normalization_parameters", "sam"]

Ascent = Callable[..., list[Tensor]]
"""A function of (weights, gradients, ρ) that returns ε; one with `slots` also takes their tensors."""

_SMALLEST_NORM = 1e-12
"""The smallest divisor in ρ·g/‖g‖: it prevents a division by zero."""


def sam(weights: Sequence[Tensor], grads: Sequence[Tensor], rho: Sequence[float]) -> list[Tensor]:
    """Return ε = ρ·g/‖g‖ with one global L2 norm over all `grads` (SAM, arXiv 2010.01412, equation 2).

    Args:
        weights: the weights to perturb; for DTensors, the shards on this rank. SAM's direction does not depend on them.
        grads: their gradients, of the same shapes; any mixture of devices and dtypes.
        rho: the radius for each of them.

    Returns:
        ε, one tensor for each weight; for DTensors, the shards on this rank. A zero gradient gives zeros.

    >>> sam([torch.zeros(2)], [torch.tensor([3.0, 4.0])], [0.1])
    [tensor([0.0600, 0.0800])]
    >>> sam([torch.zeros(2)], [torch.zeros(2)], [0.1])
    [tensor([0., 0.])]
    """
    return _scaled([local(grad) for grad in grads], rho, global_norm(grads))


def asam(weights: Sequence[Tensor], grads: Sequence[Tensor], rho: Sequence[float], eta: float = 0.01) -> list[Tensor]:
    """Return ε = ρ·T²g/‖Tg‖ with T = |w| + η (ASAM, arXiv 2102.11600, equation 3): large weights move further.

    A rescaling of layers that does not change the function of the network rescales ε like the weights, up to η. ρ has
    another scale than SAM's: about ten times larger (the paper uses 0.5 to 2). To change η, pass
    `functools.partial(asam, eta=…)`.

    Args:
        weights: the weights to perturb, as for `sam`.
        grads: their gradients.
        rho: the radius for each of them.
        eta: η; with η > 0, weights of zero move too.

    Returns:
        ε, as for `sam`.

    >>> asam([torch.tensor([2.0, 0.0])], [torch.tensor([1.0, 1.0])], [0.1], eta=0.0)
    [tensor([0.2000, 0.0000])]
    """
    scales = [weight.abs() + eta for weight in weights]
    once = [scale * local(grad) for scale, grad in zip(scales, grads, strict=True)]
    norm = global_norm(once, placed_like=grads)
    return _scaled([scale * tensor for scale, tensor in zip(scales, once, strict=True)], rho, norm)


class Friendly:
    """Perturb by ε = ρ·d/‖d‖, d = g − σm, where m is a running mean of past gradients (F-SAM, arXiv 2403.12350).

    The direction loses the common part of past gradients, and keeps the noise of the batch. As in the authors' code,
    the first perturbation of a parameter is SAM's, m starts at its first gradient, and later gradients update m after
    it was used. m takes as much memory as the gradients, and is saved with the optimizer's state. Gradients that are
    not finite do not change m. With GradScaler, use a constant scale (a large growth_interval), since m averages scaled
    gradients.

    Args:
        sigma: σ, the multiple of m to subtract.
        decay: λ in m ← λm + (1−λ)g, applied once for each perturbation.

    >>> climb, memory = Friendly(), [{"friendly_mean": torch.zeros(2)}]
    >>> climb([torch.zeros(2)], [torch.tensor([3.0, 4.0])], [1.0], memory)
    [tensor([0.6000, 0.8000])]
    >>> climb([torch.zeros(2)], [torch.tensor([0.3, 1.4])], [1.0], memory)
    [tensor([-0.7203, -0.6936])]
    """

    slots = ("friendly_mean",)

    def __init__(self, sigma: float = 1.0, decay: float = 0.9) -> None:
        if not 0.0 <= sigma < float("inf"):
            raise ValueError(f"sigma = {sigma} is out of range: give a number, 0 or more")
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay = {decay} is out of range: give a number in [0, 1)")
        self.sigma, self.decay = sigma, decay

    def __call__(
        self, weights: Sequence[Tensor], grads: Sequence[Tensor], rho: Sequence[float], memory: list[dict[str, Tensor]]
    ) -> list[Tensor]:
        """Return ε, as `sam` does; `memory` holds a dict with m for each weight."""
        finite = global_norm(grads).isfinite()
        directions = []
        for grad, kept in zip(grads, memory, strict=True):
            new, mean = local(grad), local(kept["friendly_mean"])
            directions.append(new - self.sigma * mean)
            # A mean of zeros has not started, and becomes the gradient. This check does not wait for the device.
            is_first = global_norm([mean], placed_like=[grad]) == 0
            weight = torch.where(is_first.to(mean.device), mean.new_ones(()), mean.new_full((), 1.0 - self.decay))
            mean.lerp_(torch.where(finite.to(new.device), new, mean), weight)
        return _scaled(directions, rho, global_norm(directions, placed_like=grads))


def normalization_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of the normalization layers of `model`, for `only=` (SAM-ON, arXiv 2306.04226).

    A normalization layer is a module with "Norm" in the name of its class.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
    >>> [tuple(parameter.shape) for parameter in normalization_parameters(model)]
    [(3,), (3,)]

    Raises:
        ValueError: `model` has none.
    """
    layers = [module for module in model.modules() if "Norm" in type(module).__name__]
    found = [parameter for layer in layers for parameter in layer.parameters(recurse=False)]
    if not found:
        raise ValueError("model has no normalization layer with parameters: choose what to perturb with only=[…]")
    return found


def _scaled(directions: list[Tensor], rho: Sequence[float], norm: Tensor) -> list[Tensor]:
    """Return ρ·d/`norm`, where `norm` is ‖d‖, or ‖Tg‖ for ASAM."""
    norm = norm.clamp_min(_SMALLEST_NORM)
    eps = list(directions)
    for (device, dtype, _), where in buckets(directions, rho).items():
        scale = (rho[where[0]] / norm).to(device)
        if dtype == torch.float16:  # where ρ/‖d‖ may overflow
            scaled = [(eps[i].float() * scale).to(dtype) for i in where]
        else:
            scaled = list(torch._foreach_mul([eps[i] for i in where], scale.to(dtype)))
        for i, tensor in zip(where, scaled, strict=True):
            eps[i] = tensor
    return eps
