"""RST, G-RST and SAM around any optimizer: what a user chooses, and its checks. The steps are in passes.py."""

import math
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from typing import Any, Self, TypedDict, Unpack

import torch
from torch import Tensor, nn

from sharpless.ascent import Ascent, sam
from sharpless.cost import plan
from sharpless.passes import Passes
from sharpless.schedules import Schedule, schedule
from sharpless.wrapper import check_base

__all__ = ["GRST", "RST", "SAM"]

Probability = float | str | Schedule | Callable[[float], float]


class Options(TypedDict, total=False):
    """The options that RST, GRST and SAM share; RST explains them."""

    model: nn.Module | None
    seed: int
    freeze_batchnorm: bool
    repeat_dropout: bool
    climb_locally: bool
    batch_fraction: float
    keep_strength: bool
    systematic: bool
    ascent: Ascent
    only: Iterable[Tensor] | None


class RST(Passes):
    """Randomized sharpness-aware training (arXiv 2203.09962) around any optimizer.

    At step t of T a coin with probability p(t/T) chooses between the base optimizer's own step and a
    sharpness-aware one, whose gradient is (1−γ)∇L(θ) + γ∇L(θ + ρ∇L(θ)/‖∇L(θ)‖). With p = 1 and γ = 1 this
    is SAM; p = 0, ρ = 0 or γ = 0 is the base optimizer bit for bit.

    The wrapper is an optimizer that shares `param_groups` and `state` with `base`, so that learning-rate
    schedulers and checkpoints work on either. A training loop gains one line:

    >>> model = nn.Linear(2, 1)
    >>> base = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> opt = RST(base, p=0.5, rho=0.05, model=model)
    >>> loader = [(torch.randn(8, 2), torch.randn(8, 1))] * 4
    >>> for batch in loader:
    ...     for x, y in opt.passes(batch):  # once on a plain step, twice on a sharpness-aware one
    ...         nn.functional.mse_loss(model(x), y).backward()
    ...     opt.step()
    ...     opt.zero_grad()
    >>> opt.cost.steps, opt.cost.passes == 4 + opt.cost.sharp_steps
    (4, True)

    Several `passes` before one `step` accumulate gradients: one coin for all of them, each micro-batch
    climbs along its own gradient. Clip or log gradients, and unscale them with `torch.amp.GradScaler`,
    between the loop over `passes` and `step`, where the mixed gradient is complete.

    Args:
        base: an instance of any optimizer that takes dense gradients and needs no closure of its own.
        p: the probability of a sharpness-aware step: a number, a schedule (also as text, "linear:0,1"), or a
            function of progress. `schedules.Adaptive` looks at the gradient of each step instead, for which the
            host waits; under DistributedDataParallel the squared norm is averaged over the ranks.
        rho: the radius ρ of the perturbation, an L2 norm over all weights. A parameter group with a "rho" of
            its own ("sharpness_rho" where the base has a rho, as Adadelta does) is perturbed by that
            times ∇L/‖∇L‖, one norm over all groups; 0 leaves a group unperturbed and out of the norm.
        gamma: the weight γ of the perturbed gradient.
        total_steps: T, needed by schedules that vary. Beyond it p stays what it was at the end.
        model: the network. With it, BatchNorm running statistics are those of the clean pass, dropout masks
            are the same in both passes (on CPU, CUDA and XPU), and under DistributedDataParallel the clean
            pass does not communicate, so that each rank climbs along its own gradient. Networks with BatchNorm
            need it beside GradScaler, whose overflows would spoil the running statistics.
        seed: decides, with the step, how the coins fall; equal on all ranks and independent of torch's
            generators. A loaded checkpoint brings its own.
        freeze_batchnorm: False lets the perturbed pass update the running statistics too.
        repeat_dropout: False gives the perturbed pass dropout masks of its own.
        climb_locally: False synchronizes the clean gradient under DistributedDataParallel as well. With
            `static_graph`, the first step of a process does so in any case.
        batch_fraction: the share q of the batch that a sharpness-aware step climbs with. The loop over
            `passes(batch)` is then handed three parts: the first q·n examples S, S once more at perturbed
            weights, and the rest R. The gradient is q·g(S) + (1−q)·g(R) + γ(g⁺(S) − g(S)): unbiased for the
            regularizer of SAM with batches of q·n examples, at 1 + q gradients a step. It asks for losses that
            are means over examples, and for batches in random order. BatchNorm normalizes each part by its own
            statistics. Each part has an example, two where the model has BatchNorm; a batch too small for that
            is climbed with as a whole, and paid for so.
        keep_strength: climb with a part of share q by ρ√q. The gradient of a part is longer, by 1/√q where
            noise dominates it, and so is the regularization ρ·E‖g‖; this keeps it what ρ is for whole batches.
            False climbs by ρ.
        systematic: draw the steps by systematic sampling in place of a coin at each: still each with its probability
            p(t), but evenly spread, and as many as Σp(t) says.
        ascent: where to climb: a function of (weights, gradients, ρ) that returns ε, such as `ascent.asam` or
            `ascent.Friendly()`.
        only: the parameters to perturb, `ascent.normalization_parameters(model)` say; by default all.

    Raises:
        TypeError: `base` is no optimizer instance, or one that cannot be wrapped.
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        base: torch.optim.Optimizer,
        p: Probability = 0.5,
        rho: float = 0.05,
        gamma: float = 1.0,
        total_steps: int | None = None,
        model: nn.Module | None = None,
        seed: int = 0,
        *,
        freeze_batchnorm: bool = True,
        repeat_dropout: bool = True,
        climb_locally: bool = True,
        batch_fraction: float = 1.0,
        keep_strength: bool = True,
        systematic: bool = False,
        ascent: Ascent = sam,
        only: Iterable[Tensor] | None = None,
    ) -> None:
        check_base(base)
        self.schedule = schedule(p)
        if total_steps is None and self.schedule.needs_total_steps:
            raise ValueError(f"p = {self.schedule} varies over the run: give total_steps, the number of steps")
        if total_steps is not None:
            _check_whole("total_steps", total_steps)
            if total_steps < 1:
                raise ValueError(f"total_steps = {total_steps} is not a number of steps: give 1 or more")
        _check_whole("seed", seed)
        _check_not_negative("gamma", gamma)
        _check_not_negative("rho", rho)
        _check_not_negative("batch_fraction", batch_fraction)
        if not 0 < batch_fraction <= 1:
            raise ValueError(f"batch_fraction = {batch_fraction} is not a share of the batch: give a number in (0, 1]")
        rho_key = "sharpness_rho" if "rho" in base.defaults else "rho"  # Adadelta has a rho of its own
        for group in base.param_groups:
            _check_not_negative(f"{rho_key} of a parameter group", group.get(rho_key, rho))
        if not (model is None or isinstance(model, nn.Module)):
            raise TypeError(f"model is a {type(model).__name__}, not a network: give the torch.nn.Module")
        mine = {parameter for group in base.param_groups for parameter in group["params"]}
        if model is not None and mine.isdisjoint(model.parameters()):
            raise ValueError("model has no parameter in common with base: give the network that base trains")
        chosen = None if only is None else set(only)
        if chosen is not None and mine.isdisjoint(chosen):
            raise ValueError("only has no parameter in common with base: give parameters that base trains")
        if isinstance(ascent, type) or not callable(ascent):
            raise TypeError(f"ascent = {ascent!r} is not a function: give ascent.asam or ascent.Friendly(), say")
        if self.schedule.policy and systematic:
            raise ValueError(f"systematic = True spreads coins, and p = {self.schedule} tosses none: leave one out")

        kept: dict[str, Any] = {
            "coin_seed": int(seed),
            "coin_step": 0,
            "sharp_steps": 0,
            "passes": 0.0,
            "plain_passes": 0.0,
        }
        if self.schedule.policy:
            kept |= {"norm_mean": None, "norm_variance": 0.0}
        super().__init__(base, common=kept, each={rho_key: float(rho)})
        self._rho_key = rho_key
        self.gamma = float(gamma)
        self.total_steps = total_steps
        self.model = getattr(model, "_orig_mod", model)  # what torch.compile has wrapped
        self.freeze_batchnorm = freeze_batchnorm
        self.repeat_dropout = repeat_dropout
        self.climb_locally = climb_locally
        self.batch_fraction = float(batch_fraction)
        self.keep_strength = keep_strength
        self.systematic = systematic
        self.ascent = ascent
        self._only = chosen
        self._begin_memory()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group to `base`; it may bring a "rho" of its own."""
        _check_not_negative(f"{self._rho_key} of a parameter group", param_group.get(self._rho_key, 0.0))
        super().add_param_group(param_group)

    def __repr__(self) -> str:
        part = "" if self.batch_fraction == 1 else f", q = {self.batch_fraction:.4g}"
        return f"{type(self).__name__}(p = {self.schedule}{part}, γ = {self.gamma:.4g}) around {self.base!r}"


class GRST(RST):
    """G-RST: RST whose degree of sharpness regularization is set freely for any schedule.

    The expected degree of a step is p·γ, and SAM's is 1. With γ = degree / mean p, one constant for the
    run, the run has `degree` on average; with a constant p, at every step.

    >>> base = torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.1)
    >>> GRST(base, p=0.25).gamma
    4.0

    Args:
        base: see RST, as for every argument not named here.
        p: the probability of a sharpness-aware step.
        degree: the regularization degree; 1, SAM's, where neither it nor `gamma` is given.
        rho: the radius of the perturbation.
        gamma: γ itself, in place of a degree.
        gamma_cap: with it, γ = min(degree / p(t), gamma_cap) at step t, in place of one constant.
        total_steps: T, needed by schedules that vary.
        **options: the options of RST.

    Raises:
        ValueError: an argument is out of range, or `gamma` stands beside `degree` or `gamma_cap`.
    """

    def __init__(
        self,
        base: torch.optim.Optimizer,
        p: Probability = 0.5,
        *,
        degree: float | None = None,
        rho: float = 0.05,
        gamma: float | None = None,
        gamma_cap: float | None = None,
        total_steps: int | None = None,
        **options: Unpack[Options],
    ) -> None:
        if gamma is not None and not (degree is None and gamma_cap is None):
            given = "degree" if degree is not None else "gamma_cap"
            raise ValueError(f"gamma = {gamma} and {given} exclude each other: a degree is γ times mean p")
        p = schedule(p)
        self.degree = 1.0 if degree is None else float(degree)
        self.gamma_cap = gamma_cap
        _check_not_negative("degree", self.degree)
        if gamma_cap is not None:
            _check_not_negative("gamma_cap", gamma_cap)
        if gamma is None:
            gamma = self._gamma_for(p.mean())
            if gamma == math.inf:
                raise ValueError(f"p = {p} is too small for degree = {self.degree}: γ = degree / mean p overflows")
        super().__init__(base, p, rho, gamma, total_steps, **options)

    @classmethod
    def for_budget(
        cls,
        base: torch.optim.Optimizer,
        budget: float,
        *,
        batch_size: int,
        degree: float = 1.0,
        rho: float = 0.05,
        **options: Unpack[Options],
    ) -> Self:
        """Return G-RST with p, q and γ chosen so that the cost is `budget` (see `sharpless.cost.plan`, which says why).

        >>> base = torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.1)
        >>> GRST.for_budget(base, 1.1, batch_size=128).batch_fraction * 128
        13.0

        Args:
            base: the base optimizer.
            budget: gradients per step: above 1 (plain training), up to 2 (SAM).
            batch_size: examples that one pass would run on, on one device.
            degree: the regularization degree, SAM's being 1.
            rho: the radius of the perturbation, for whole batches.
            **options: the options of RST, without `batch_fraction`.

        Raises:
            ValueError: an argument is out of range.
        """
        given: dict[str, Any] = dict(options)
        for name in ("p", "gamma", "gamma_cap", "batch_fraction"):
            if name in given:
                raise ValueError(f"{name} = {given[name]} is what the budget decides: leave it out")
        chosen = plan(budget, batch_size, degree)
        opt = cls(base, chosen.p, gamma=chosen.gamma, rho=rho, batch_fraction=chosen.batch_fraction, **given)
        opt.degree = float(degree)
        return opt

    def _gamma_for(self, p: float) -> float:
        if self.degree == 0:
            return 0.0
        if p == 0:
            raise ValueError(f"p = 0 throughout cannot have degree = {self.degree}: give a positive p, or degree = 0")
        return self.degree / p

    def _gamma_at(self, p: float) -> float:
        return self.gamma if self.gamma_cap is None else min(self._gamma_for(p), self.gamma_cap)


class SAM(RST):
    """Sharpness-aware minimization (arXiv 2010.01412): RST with p = 1 and γ = 1, two passes at every step.

    >>> model = nn.Linear(2, 1)
    >>> opt = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05)
    >>> for x, y in opt.passes((torch.randn(8, 2), torch.randn(8, 1))):
    ...     nn.functional.mse_loss(model(x), y).backward()
    >>> opt.step()
    >>> opt.cost.ratio
    2.0

    Args:
        base: see RST, as for every argument.
        rho: the radius of the perturbation.
        **options: the options of RST.
    """

    def __init__(self, base: torch.optim.Optimizer, rho: float = 0.05, **options: Unpack[Options]) -> None:
        super().__init__(base, 1.0, rho, **options)


def _check_not_negative(name: str, value: Any) -> None:
    if not isinstance(value, Real):
        raise TypeError(f"{name} = {value!r} is not a number: give a finite number, 0 or more")
    if not 0.0 <= float(value) < math.inf:
        raise ValueError(f"{name} = {value} is out of range: give a finite number, 0 or more")


def _check_whole(name: str, value: Any) -> None:
    if not isinstance(value, Integral):
        raise TypeError(f"{name} = {value!r} is not a whole number: give one")
