"""Problems with known minimum, smoothness and noise, for benchmarks/convergence.py.

All are scaled so that β = 1, and used with ρ = 1: SAM's floor β²ρ² is 1.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn

from sharpless import ascent

__all__ = ["Problem", "double_well", "fixed_direction", "logistic", "skewed_quadratic"]


class Problem(NamedTuple):
    """A mean of losses, each of them 1-smooth."""

    examples: Tensor
    gradient: Callable[[Tensor, Tensor], Tensor]
    """∇ of the mean loss of some examples, at weights."""
    start: Tensor
    """The start of runs: the minimum, except in the double well."""
    variance: float = 0.0
    """σ², at most."""
    batch: int = 0
    """Examples in a batch, drawn with replacement; 0 for all of them."""
    above: float = 0.0
    """Δ = L(start) − L*."""
    climb: ascent.Ascent = ascent.sam


def skewed_quadratic(batch: int = 1) -> Problem:
    """½ Σ aₖ(wₖ − cₖ)², a from 1 to ¼. One example c in eight is far away, so that directions do not cancel."""
    examples = 0.1 * torch.randn(64, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    examples[:, 0] += torch.where(torch.arange(64) < 8, 7.0, -1.0)
    curvatures, center = torch.linspace(1.0, 0.25, 8, dtype=torch.float64), examples.mean(0)
    variance = float((curvatures * (examples - center)).square().sum(1).mean()) / batch
    return Problem(examples, lambda w, some: curvatures * (w - some.mean(0)), center, variance, batch)


def logistic(batch: int = 16, decay: float = 0.05) -> Problem:
    """Logistic regression on scikit-learn's breast cancer data with L2 regularization, rows of length 2√(1 − decay)."""
    inputs, labels = load_breast_cancer(return_X_y=True)
    length = 2 * (1 - decay) ** 0.5  # the loss of a row x is (¼‖x‖² + decay)-smooth, and its gradient at most ‖x‖ long
    inputs = nn.functional.normalize(torch.tensor((inputs - inputs.mean(0)) / inputs.std(0)))
    rows = length * inputs * torch.tensor(1.0 - 2.0 * labels).unsqueeze(1)

    def gradient(w: Tensor, some: Tensor) -> Tensor:
        return some.T @ torch.sigmoid(some @ w) / len(some) + decay * w

    w = torch.zeros(rows.shape[1], dtype=torch.float64)
    for _ in range(30):  # Newton's method
        w = w - torch.linalg.solve(torch.func.jacrev(gradient)(w, rows), gradient(w, rows))
    return Problem(rows, gradient, w, length**2 / batch, batch)


def fixed_direction() -> Problem:
    """½w², with the same perturbation ε at every step."""
    zero = torch.zeros(1, dtype=torch.float64)
    return Problem(zero, lambda w, _: w.clone(), zero, climb=lambda w, g, rho: [torch.full_like(w[0], rho[0])])


def double_well(margin: float = 1 / 16) -> Problem:
    """Two wells and a ridge between them: at 0, on the slope of one, SAM perturbs to the bottom of the other."""
    slope, zero = 1 - 4 * margin, torch.zeros(1, dtype=torch.float64)

    def gradient(w: Tensor, _: Tensor) -> Tensor:
        return torch.maximum(torch.minimum(slope + w, slope + 2 * margin - w), w - 1)

    return Problem(zero, gradient, zero, above=slope**2 / 2)
