"""Slices of the loss around the weights, along random directions that are scaled filter by filter."""

import torch
from torch import Tensor

from sharpless.flatness.objective import Objective

__all__ = ["direction", "loss_slice", "loss_surface"]


def direction(objective: Objective, seed: int = 0) -> Tensor:
    """Return a random direction, (P,), filter-normalized (Li et al., arXiv 1712.09913).

    Each filter of the direction, a slice of a weight along its first dimension, has the norm of the network's filter in
    its place. Biases and the parameters of normalization layers, which have one dimension, do not move. The same seed
    gives the same direction for every network of these shapes, before it is scaled.

    >>> model = torch.nn.Linear(3, 2)
    >>> objective = Objective(model, torch.nn.functional.mse_loss, [(torch.ones(1, 3), torch.ones(1, 2))])
    >>> weight, bias = objective.split(direction(objective))
    >>> torch.allclose(weight.norm(dim=1), model.weight.norm(dim=1)), bias
    (True, tensor([0., 0.]))

    Args:
        objective: the loss.
        seed: decides the direction.
    """
    drawn = torch.randn(objective.size, generator=torch.Generator().manual_seed(seed), dtype=objective.dtype)
    parts = objective.split(drawn.to(objective.device))
    return torch.cat(
        [_like(part, weight.detach()).flatten() for part, weight in zip(parts, objective.weights, strict=True)]
    )


def loss_slice(objective: Objective, at: list[float], seed: int = 0) -> list[float]:
    """Return the losses at θ + a·d for each a in `at`, where d is `direction(objective, seed)`.

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> _ = model.weight.data.fill_(1.0)
    >>> objective = Objective(model, torch.nn.functional.mse_loss, [(torch.ones(1, 1), torch.ones(1, 1))])
    >>> loss_slice(objective, [-0.5, 0.0, 0.5])
    [0.25, 0.0, 0.25]

    Args:
        objective: the loss.
        at: the distances, in units of the length of each filter.
        seed: decides the direction.
    """
    along = direction(objective, seed)
    return [objective.loss(a * along) for a in at]


def loss_surface(objective: Objective, at: list[float], seed: int = 0) -> list[list[float]]:
    """Return the losses at θ + a·d + b·e, with a row for each b in `at` and a column for each a.

    d and e are the directions of `seed` and `seed + 1`.

    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> objective = Objective(model, torch.nn.functional.mse_loss, [(torch.ones(1, 2), torch.ones(1, 1))])
    >>> rows = loss_surface(objective, [-1.0, 0.0, 1.0])
    >>> rows[1] == loss_slice(objective, [-1.0, 0.0, 1.0])
    True

    Args:
        objective: the loss.
        at: the distances, as for `loss_slice`.
        seed: decides the directions.
    """
    d, e = direction(objective, seed), direction(objective, seed + 1)
    return [[objective.loss(a * d + b * e) for a in at] for b in at]


def _like(drawn: Tensor, weight: Tensor) -> Tensor:
    """Return the part of a direction with filters as long as those of the weight."""
    if weight.dim() < 2:
        return torch.zeros_like(drawn)
    filters, own = drawn.flatten(1), weight.flatten(1)
    tiny = torch.finfo(own.dtype).tiny
    lengths = torch.linalg.vector_norm(own, dim=1, keepdim=True)
    drawn_lengths = torch.linalg.vector_norm(filters, dim=1, keepdim=True)
    found: Tensor = filters * (lengths / drawn_lengths.clamp_min(tiny))
    return found.view_as(weight)
