"""G-RST, which is RST with a chosen regularization degree, and SAM, which is RST at every step."""

import math
import warnings
from collections.abc import Mapping
from typing import Any, Self, Unpack

from sharpless import batchnorm
from sharpless.cost import SMALLEST_PART, BudgetError, plan
from sharpless.optimizer import RST
from sharpless.options import Base, Options, Probability, check_model, check_names, check_number
from sharpless.schedules import schedule
from sharpless.wrapper import as_one

__all__ = ["GRST", "SAM"]

LARGE_GAMMA = 10.0
"""A weight beyond this one is rarely meant: often a radius was given in the place of p."""


class GRST(RST):
    """G-RST: RST whose degree of sharpness regularization is set freely for any schedule.

    The expected degree of a step is p·γ, and SAM's is 1. With γ = degree / mean p, one constant for the
    run, the run has `degree` on average; with a constant p, at every step.

    >>> import torch
    >>> base = torch.optim.SGD(torch.nn.Linear(2, 1).parameters(), lr=0.1)
    >>> GRST(base, p=0.25).gamma
    4.0

    Args:
        base: the base optimizer, as in RST.
        p: the probability of a sharpness-aware step.
        degree: the regularization degree; by default 1, that of SAM, unless `gamma` is given.
        rho: the radius of the perturbation.
        gamma: γ itself, in place of a degree.
        gamma_cap: with it, γ = min(degree / p(t), gamma_cap) at step t, in place of one constant.
        total_steps: T, needed by schedules that vary.
        **options: the options of RST.

    Raises:
        TypeError: an argument has a wrong type, or is no option of GRST.
        ValueError: an argument is out of range, or `gamma` is combined with `degree` or `gamma_cap`.
    """

    def __init__(
        self,
        base: Base,
        p: Probability = 0.5,
        *,
        degree: float | None = None,
        rho: float = 0.05,
        gamma: float | None = None,
        gamma_cap: float | None = None,
        total_steps: int | None = None,
        **options: Unpack[Options],
    ) -> None:
        check_names("GRST", base, options)
        if gamma is not None and not (degree is None and gamma_cap is None):
            given = "degree" if degree is not None else "gamma_cap"
            raise ValueError(f"gamma = {gamma} and {given} exclude each other: a degree is γ times mean p")
        p = schedule(p)
        self._degree = 1.0 if degree is None else degree
        check_number("degree", self._degree)
        self.gamma_cap = gamma_cap
        if gamma is None:
            gamma = self._gamma_for(p.mean())
            if gamma == math.inf:
                raise ValueError(f"p = {p} is too small for degree = {self._degree}: γ = degree / mean p overflows")
            if round(gamma, 6) > LARGE_GAMMA and gamma_cap is None:
                warnings.warn(
                    f"p = {p} makes γ = {gamma:.3g}, and such a weight can break training: give a larger p or gamma; a "
                    "radius is given as rho=…",
                    stacklevel=2,
                )
        super().__init__(base, p, rho, gamma, total_steps, **options)

    @classmethod
    def for_budget(
        cls,
        base: Base,
        budget: float,
        *,
        batch_size: int,
        degree: float = 1.0,
        rho: float = 0.05,
        seconds: Mapping[int, float] | None = None,
        noise: Mapping[int, float] | None = None,
        **options: Unpack[Options],
    ) -> Self:
        """Return G-RST with p, q and γ chosen so that the cost is at most `budget` (see `sharpless.cost.plan`).

        BatchNorm normalizes each part of a batch by its own statistics, and trainings with small parts have failed
        (docs/how-to/budget.md). If `model` has BatchNorm, parts therefore have 32 examples or more, unless `noise` is
        given.

        >>> import torch
        >>> base = torch.optim.SGD(torch.nn.Linear(2, 1).parameters(), lr=0.1)
        >>> GRST.for_budget(base, 1.1, batch_size=128).batch_fraction * 128
        13.0

        Args:
            base: the base optimizer.
            budget: the cost in units of plain training: above 1 (plain training), up to 2 (SAM).
            batch_size: the number of examples that one pass would run on, on one device.
            degree: the regularization degree; that of SAM is 1.
            rho: the radius of the perturbation, for whole batches.
            seconds: the duration of a step by the number of examples it climbs with, from `sharpless.step_seconds`.
                With it the budget is in seconds, without it in gradients.
            noise: how noisy parts of the batch are, from `sharpless.part_noise`.
            **options: the options of RST, without `batch_fraction`.

        Raises:
            BudgetError: no plan fits the budget; the message gives the smallest possible cost.
            TypeError: an argument has a wrong type.
            ValueError: an argument is out of range.
        """
        given: dict[str, Any] = dict(options)
        for name in ("p", "gamma", "gamma_cap", "batch_fraction"):
            if name in given:
                raise ValueError(f"{name} = {given[name]} is chosen by the budget: leave it out")
        model = given.get("model")
        check_model(model, as_one(base))
        guarded = noise is None and model is not None and batchnorm.has_batch_statistics(model)
        try:
            chosen = plan(budget, batch_size, degree, seconds, noise, batchnorm.FEW if guarded else SMALLEST_PART)
        except BudgetError as error:
            if not guarded:
                raise
            why = "model has BatchNorm, which may fail with smaller parts: measure them, and give noise = part_noise(…)"
            raise BudgetError(f"{error}; {why}", error.cheapest) from None
        return cls(base, chosen.p, gamma=chosen.gamma, rho=rho, batch_fraction=chosen.batch_fraction, **given)

    def _gamma_for(self, p: float) -> float:
        if self._degree == 0:
            return 0.0
        if p == 0:
            raise ValueError(
                f"p = 0 at every step cannot have degree = {self._degree}: give a positive p, or degree = 0"
            )
        return self._degree / p

    def _gamma_at(self, p: float) -> float:
        return self.gamma if self.gamma_cap is None else min(self._gamma_for(p), self.gamma_cap)


class SAM(RST):
    """Sharpness-aware minimization (arXiv 2010.01412): RST with p = 1 and γ = 1, two passes at every step.

    >>> import torch
    >>> from torch import nn
    >>> model = nn.Linear(2, 1)
    >>> opt = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05)
    >>> for x, y in opt.passes((torch.randn(8, 2), torch.randn(8, 1))):
    ...     nn.functional.mse_loss(model(x), y).backward()
    >>> opt.step()
    >>> opt.cost.ratio
    2.0

    Args:
        base: the base optimizer, as in RST.
        rho: the radius of the perturbation.
        **options: the options of RST.
    """

    def __init__(self, base: Base, rho: float = 0.05, **options: Unpack[Options]) -> None:
        check_names("SAM", base, options)
        super().__init__(base, 1.0, rho, **options)
