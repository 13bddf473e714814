"""How much the loss rises near the weights: in the worst direction and in the average one."""

import math
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from sharpless.flatness.curvature import Estimate
from sharpless.flatness.objective import Objective

__all__ = ["Ascent", "average_sharpness", "sharpness"]

START = 0.1
"""Length of the first, random ε, as a share of ρ: it leaves a point where the gradient is zero."""

LAST = 0.25
"""In this last share of the steps, a converged ascent hardly rises any more."""


@dataclass(frozen=True)
class Ascent:
    """The highest loss that was found within a radius, minus the loss at the weights.

    >>> Ascent(0.3, [0.1, 0.2, 0.25, 0.3]).still_rising, Ascent(0.3, [0.1, 0.3, 0.3, 0.3]).still_rising
    (True, False)
    """

    value: float
    rises: list[float]  # L(θ+ε) − L(θ) after 0, 1, … steps

    @property
    def still_rising(self) -> bool:
        """Whether the last quarter of the steps added more than 2 % of the value: then more steps would find more."""
        before = self.rises[: len(self.rises) - max(1, round(LAST * len(self.rises)))]
        return math.isfinite(self.value) and max(before, default=0.0) < 0.98 * self.value


def sharpness(objective: Objective, rho: float, *, steps: int = 20, adaptive: bool = False, seed: int = 0) -> Ascent:
    """Return SAM's sharpness, the maximum of L(θ+ε) − L(θ) over ‖ε‖ ≤ ρ, as far as an ascent finds it.

    It uses projected gradient ascent with steps to the surface of the ball: ε ← ρg/‖g‖ with the gradient g at θ + ε.
    SAM takes only the first step. The result is the best ε of all steps. Adaptive sharpness (ASAM, arXiv 2102.11600) is
    the maximum over ‖ε/|θ|‖ ≤ ρ, elementwise. It is invariant under rescalings of weights that do not change the
    function of the network. Weights of 0 do not move.

    Args:
        objective: the loss.
        rho: the radius.
        steps: the number of gradient steps.
        adaptive: whether ε is measured in units of the weights.
        seed: decides where the ascent begins.

    Returns:
        The value, a lower bound of the maximum, and the rise after each step.

    Raises:
        ValueError: an argument is out of range.

    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[0.0, 1.0]]))
    >>> x = torch.diag(torch.tensor([2.0, 1.0]))  # L = 2 w₁² + w₂² / 2
    >>> objective = Objective(model, torch.nn.functional.mse_loss, [(x, torch.zeros(2, 1))])
    >>> round(sharpness(objective, 1.0).value, 3)  # at ε = (√8, 1) / 3
    2.167
    """
    _check_radius(rho)
    if steps < 1:
        raise ValueError(f"steps = {steps} is out of range: give 1 or more")
    scale = _scale(objective, adaptive=adaptive)
    unit = _unit(objective, torch.Generator().manual_seed(seed))
    at_weights, eps = objective.loss(), START * rho * unit
    rises = []
    for _ in range(steps):
        value, gradient = objective.gradient(scale * eps)
        rises.append(value - at_weights)
        if not math.isfinite(value):
            return Ascent(math.inf, rises)
        upwards = scale * gradient
        eps = rho * upwards / upwards.norm().clamp_min(torch.finfo(eps.dtype).tiny)
    rises.append(objective.loss(scale * eps) - at_weights)
    return Ascent(max(0.0, *rises) if math.isfinite(rises[-1]) else math.inf, rises)


def average_sharpness(
    objective: Objective, rho: float, *, directions: int = 10, adaptive: bool = False, seed: int = 0
) -> Estimate:
    """Return the mean of L(θ+ε) − L(θ) over the directions of ε with ‖ε‖ = ρ (Wen et al., arXiv 2211.05729).

    For small ρ it is ρ²/2P times the trace of the Hessian. Each direction is used with both signs, ε and −ε, which
    cancels the slope. Adaptive: ε/|θ| has the length ρ.

    Args:
        objective: the loss.
        rho: the radius.
        directions: how many, 2 or more.
        adaptive: whether ε is measured in units of the weights.
        seed: decides the directions.

    Returns:
        The mean with its standard error over the directions.

    Raises:
        ValueError: an argument is out of range.

    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> x = torch.eye(2)  # L is ‖w‖² / 2
    >>> objective = Objective(model, torch.nn.functional.mse_loss, [(x, torch.zeros(2, 1))])
    >>> round(average_sharpness(objective, 1.0).mean, 4)
    0.5
    """
    _check_radius(rho)
    if directions < 2:
        raise ValueError(f"directions = {directions} is out of range: give 2 or more, for a standard error")
    scale, generator = _scale(objective, adaptive=adaptive), torch.Generator().manual_seed(seed)
    at_weights, values = objective.loss(), []
    for _ in range(directions):
        eps = scale * (rho * _unit(objective, generator))
        values.append((objective.loss(eps) + objective.loss(-eps)) / 2 - at_weights)
    return Estimate.of(values)


def _scale(objective: Objective, *, adaptive: bool) -> Tensor:
    """Return the units in which each weight is moved: its size, or 1."""
    weights = objective.vector()
    return weights.abs() if adaptive else torch.ones_like(weights)


def _unit(objective: Objective, generator: torch.Generator) -> Tensor:
    """Return a random direction, (P,), of length 1."""
    drawn = torch.randn(objective.size, generator=generator, dtype=objective.dtype)
    unit: Tensor = drawn / torch.linalg.vector_norm(drawn)
    return unit.to(objective.device)


def _check_radius(rho: float) -> None:
    if not (isinstance(rho, Real) and 0 < rho < math.inf):
        raise ValueError(f"rho = {rho!r} is out of range: give a positive number")
