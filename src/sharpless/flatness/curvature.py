"""The Hessian of the loss: its largest eigenvalues and its trace, only from products with vectors."""

from dataclasses import dataclass
from importlib import import_module
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from sharpless.flatness.objective import Objective
from sharpless.options import check_whole

__all__ = ["Eigenvalues", "Estimate", "eigenvalues", "trace"]

RESTARTS = 20
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Estimate:
    """A mean over random samples, with its standard error.

    >>> Estimate.of([1.0, 2.0, 3.0])
    Estimate(mean=2.0, standard_error=0.5773502691896258, samples=3)
    """

    mean: float
    standard_error: float
    samples: int

    @classmethod
    def of(cls, values: list[float]) -> "Estimate":
        """Return the mean of two values or more."""
        found = torch.tensor(values, dtype=torch.float64)
        return cls(float(found.mean()), float(found.std()) / sqrt(len(values)), len(values))


@dataclass(frozen=True)
class Eigenvalues:
    """The largest eigenvalues that were found.

    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> objective = Objective(model, torch.nn.functional.mse_loss, [(torch.eye(2), torch.zeros(2, 1))])
    >>> found = eigenvalues(objective, 1)  # the Hessian is that of ‖w‖² / 2
    >>> [round(value, 3) for value in found.values], max(found.residuals) < 1e-3, found.wanted
    ([1.0], True, 1)
    """

    values: list[float]  # (k,), the largest first; fewer where the others did not converge
    residuals: list[float]  # (k,), ‖Hv − λv‖ for the unit eigenvector v: an eigenvalue is this close to λ
    wanted: int


def eigenvalues(objective: Objective, k: int = 3, *, seed: int = 0) -> Eigenvalues:
    """Return the k algebraically largest eigenvalues of the Hessian, by Lanczos' method (ARPACK's, through SciPy).

    Args:
        objective: the loss.
        k: how many.
        seed: decides the first vector.

    Returns:
        The eigenvalues, to a thousandth, and their residuals.

    Raises:
        TypeError: k is not a whole number.
        ValueError: there are k weights or fewer.
        ModuleNotFoundError: SciPy is not installed.

    >>> model = torch.nn.Linear(4, 1, bias=False)
    >>> x = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0]))  # H = 2 xᵀx / 4
    >>> objective = Objective(model, torch.nn.functional.mse_loss, [(x, torch.zeros(4, 1))])
    >>> [round(value, 3) for value in eigenvalues(objective, 2).values]
    [8.0, 4.5]
    """
    check_whole("eigenvalues", k)
    if not 0 <= k < objective.size:
        raise ValueError(f"eigenvalues = {k} is out of range: give 0 to {objective.size - 1}, fewer than the weights")
    if k == 0:
        return Eigenvalues([], [], 0)
    linalg = _scipy()
    start = _normal(objective, torch.Generator().manual_seed(seed))
    if not objective.product(start).any():
        return Eigenvalues([0.0] * k, [0.0] * k, k)  # ARPACK raises an error here

    def product(vector: Any) -> Any:
        found = objective.product(torch.as_tensor(vector).flatten().to(objective.device))
        return found.cpu().numpy()

    first = start.cpu().numpy()
    hessian = linalg.LinearOperator((objective.size, objective.size), matvec=product, dtype=first.dtype)
    basis = min(objective.size, 2 * k + 10)  # vectors of length P: they take most of the memory
    try:
        found, vectors = linalg.eigsh(hessian, k, which="LA", v0=first, ncv=basis, maxiter=RESTARTS, tol=TOLERANCE)
    except linalg.ArpackNoConvergence as error:
        found, vectors = error.eigenvalues, error.eigenvectors
    order = found.argsort()[::-1]
    values = [float(found[i]) for i in order]
    columns = [torch.as_tensor(vectors[:, i].copy()).to(objective.device) for i in order]
    residuals = [
        float((objective.product(v) - value * v).norm() / v.norm()) for value, v in zip(values, columns, strict=True)
    ]
    return Eigenvalues(values, residuals, k)


def trace(objective: Objective, vectors: int = 30, *, seed: int = 0) -> Estimate:
    """Return the trace of the Hessian, by Hutchinson's method: the mean of vᵀHv over random vectors v of ±1.

    Args:
        objective: the loss.
        vectors: how many, 2 or more.
        seed: decides them.

    Returns:
        The trace with its standard error over the vectors.

    Raises:
        ValueError: there are fewer than two vectors.

    >>> model = torch.nn.Linear(4, 1, bias=False)
    >>> x = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0]))
    >>> trace(Objective(model, torch.nn.functional.mse_loss, [(x, torch.zeros(4, 1))]), 2)
    Estimate(mean=15.0, standard_error=0.0, samples=2)
    """
    if vectors < 2:
        raise ValueError(f"vectors = {vectors} is out of range: give 2 or more, for a standard error")
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(vectors):
        signs = 2 * torch.randint(2, (objective.size,), generator=generator).to(objective.dtype) - 1
        vector = signs.to(objective.device)
        values.append(float(vector @ objective.product(vector)))
    return Estimate.of(values)


def _normal(objective: Objective, generator: torch.Generator) -> Tensor:
    return torch.randn(objective.size, generator=generator, dtype=objective.dtype).to(objective.device)


def _scipy() -> Any:
    try:
        return import_module("scipy.sparse.linalg")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("eigenvalues need scipy: pip install 'sharpless[flatness]'") from error
