"""RST, G-RST and SAM around any optimizer: draw, climb, mix, and let the base take the step."""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from sharpless import ascent, batches, gradients
from sharpless.coin import uniform
from sharpless.cost import Cost
from sharpless.schedules import Schedule, schedule
from sharpless.weights import Excursion, Noise, local, placed_as
from sharpless.wrapper import Wrapper, check_base

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


@dataclass
class _Draw:
    """The coin of the step under way, and what its passes have spent."""

    gamma: float
    sharp: bool
    passes: float = 0.0
    plain_passes: float = 0.0


class RST(Wrapper):
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
            function of progress.
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

    Raises:
        TypeError: `base` is no optimizer instance, or one that cannot be wrapped.
        ValueError: an argument is out of range.
    """

    perturbed: bool
    """Whether the weights are displaced just now: the loss of such a pass is not the clean one."""

    def __init__(
        self,
        base: Optimizer,
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
        mine = {id(parameter) for group in base.param_groups for parameter in group["params"]}
        if model is not None and not any(id(parameter) in mine for parameter in model.parameters()):
            raise ValueError("model has no parameter in common with base: give the network that base trains")

        kept = {"coin_seed": int(seed), "coin_step": 0, "sharp_steps": 0, "passes": 0.0, "plain_passes": 0.0}
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
        self._draw: _Draw | None = None
        self.perturbed = False
        self._running = False
        self._reduced = False
        self._scaled = False
        self._bare_steps = 0

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group to `base`; it may bring a "rho" of its own."""
        _check_not_negative(f"{self._rho_key} of a parameter group", param_group.get(self._rho_key, 0.0))
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned, or a checkpoint of the base optimizer alone."""
        self._draw = None
        super().load_state_dict(state_dict)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(p = {self.schedule}, γ = {self.gamma:g}) around {self.base!r}"

    @property
    def cost(self) -> Cost:
        """What has been spent up to the last `step`; a bare `step()` without passes is not counted."""
        self._complete_groups()
        kept = self.param_groups[0]
        return Cost(kept["coin_step"], kept["sharp_steps"], kept["passes"], kept["plain_passes"])

    def passes(self, batch: Any = None) -> Iterator[Any]:
        """Yield what to run forward and backward on: once on a plain step, twice on a sharpness-aware one.

        The second time the weights are displaced. They are put back when the loop ends, also when it
        ends by `break` or by an exception; the gradients of the step are then discarded.

        Args:
            batch: the (micro-)batch: any nest of tensors in tuples, lists and dicts, of one length.

        Returns:
            An iterator over `batch`.

        Raises:
            ValueError: the tensors of `batch` disagree in length.
        """
        if batches.length(batch) is None and self.batch_fraction < 1:
            raise ValueError(
                f"batch_fraction = {self.batch_fraction:g} splits the batch, and here is none with a length: iterate "
                "over passes((x, y)), say"
            )
        return self._passes(batch)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Let the base take its step with the gradients that stand in `.grad`.

        Args:
            closure: clears the gradients, computes the loss, calls `backward` and returns the loss. It is
                called once or, on a sharpness-aware step, twice. Without it, the loop over `passes` has
                done this; a bare `step()` is a step of the base and draws nothing.

        Returns:
            The loss at the unperturbed weights, or None without a closure.

        Raises:
            RuntimeError: the loop over `passes` has not ended.
        """
        if self._running:
            raise RuntimeError(
                "step() was called in the middle of passes(): call it after the loop has ended, "
                "and keep no reference to the iterator when you leave the loop"
            )
        scaled, self._scaled = self._scaled, False
        if scaled and closure is not None:
            raise RuntimeError(
                "GradScaler.step(opt, closure) cannot unscale what the closure computes: "
                "run forward and backward in passes(), and call GradScaler.step(opt)"
            )
        loss = None if closure is None else self._evaluate(closure)
        if self._draw is None:
            self._warn_of_bare_steps()
        self.base.step()
        self._close_draw()
        return loss

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """What GradScaler.step asks for before it calls `step`: no, but now we know who calls."""
        self._scaled = True
        return False

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients; passes that no `step` followed (after an overflow, say) are closed."""
        self.base.zero_grad(set_to_none)
        if not self._running:
            self._close_draw()

    def _warn_of_bare_steps(self) -> None:
        """Say once that nothing sharpness-aware happens: one bare step is a host's, a second one is a loop's."""
        self._bare_steps += 1
        if self._bare_steps == 2 and self.cost.steps == 0 and self.schedule.mean() > 0:
            warnings.warn(
                "step() was called without passes(), twice: these are plain steps of the base optimizer; "
                "run forward and backward in `for x, y in opt.passes((x, y))`",
                stacklevel=4,
            )

    # One step, from the coin to the mixed gradient.

    def _gamma_at(self, p: float) -> float:
        return self.gamma

    def _open_draw(self) -> _Draw:
        self._complete_groups()
        kept = self.param_groups[0]
        p = self.schedule.at(kept["coin_step"], self.total_steps)
        sharp = uniform(kept["coin_seed"], kept["coin_step"]) < p
        gamma = self._gamma_at(p) if sharp else 0.0
        # Without γ or ρ a sharpness-aware step is a plain one: it need not be paid for.
        return _Draw(gamma, sharp=gamma > 0 and any(group[self._rho_key] > 0 for group in self.param_groups))

    def _close_draw(self) -> None:
        if self._draw is None:
            return
        for group in self.param_groups:
            group["coin_step"] += 1
            group["sharp_steps"] += int(self._draw.sharp)
            group["passes"] += self._draw.passes
            group["plain_passes"] += self._draw.plain_passes
        self._draw = None

    def _evaluate(self, closure: Callable[[], Any]) -> Any:
        if self.batch_fraction < 1:
            raise RuntimeError(
                f"batch_fraction = {self.batch_fraction:g} needs the batch, which step(closure) does not see: run "
                "forward and backward in `for x, y in opt.passes((x, y))`, and call step()"
            )
        losses = []
        for _ in self._passes(None):
            with torch.enable_grad():
                losses.append(closure())
        return losses[0]

    def _passes(self, batch: Any) -> Iterator[Any]:
        if self._running:
            raise RuntimeError("passes() was called within passes(): let the loop under way end first")
        if self._draw is not None and all(p.grad is None for p in self._parameters()):
            self._close_draw()  # its gradients were cleared without a step
        draw = self._draw = self._draw or self._open_draw()
        draw.plain_passes += 1.0
        self._running = True
        try:
            if draw.sharp:
                yield from self._sharp_passes(batch, draw)
            else:
                draw.passes += 1.0
                yield batch
        except BaseException:
            gradients.take(self._parameters())
            raise
        finally:
            self._running = False
        self._reduced = True

    def _sharp_passes(self, batch: Any, draw: _Draw) -> Iterator[Any]:
        """Yield the part S to climb with, S again at the perturbed weights, and the rest R, if any.

        The gradient is q·g(S) + (1−q)·g(R) + γ(g⁺(S) − g(S)), with q = 1 the one of G-RST.

        Raises:
            RuntimeError: gradients were cleared that DistributedDataParallel has to reduce.
        """
        gamma, parameters, ddp = draw.gamma, self._parameters(), self._ddp_to_climb_alone()
        part, share, rest = self._split(batch)
        still = self.model if self.freeze_batchnorm else None
        noise = self._noise(parameters)
        kept = gradients.own(gradients.take(parameters))  # of earlier micro-batches
        watch = gradients.ClearingWatch(parameters)
        try:
            with nullcontext() if ddp is None else ddp.no_sync():
                draw.passes += share
                yield part
        finally:
            cleared = watch.end()

        clean = gradients.take(parameters)
        weights, eps = self._perturbation(clean, share)
        excursion = Excursion(weights, eps, still, noise)
        if cleared:  # by the loop body or the closure: what stood there was left from the step before
            kept, clean = [None] * len(parameters), gradients.own(clean)
        mixture = gradients.Mixture(parameters, kept, aside=cleared)
        mixture.expect(gamma)
        # DistributedDataParallel wants a gradient, if a zero, of parameters that only the clean pass went through.
        if gamma != share or (ddp is not None and ddp.find_unused_parameters):
            mixture.add(clean, share - gamma)
        if mixture.is_aside() and ddp is not None:
            raise RuntimeError(
                "the gradients were cleared within passes() or step(closure), where the clean gradient waits "
                "to be reduced by DistributedDataParallel: clear them outside, or set climb_locally=False"
            )
        mixture.release()
        del kept, clean  # and with them the last references to gradients that are not needed any more

        try:
            excursion.begin()
            self.perturbed = True
            with nullcontext() if ddp is None or rest is None else ddp.no_sync():
                draw.passes += share
                yield part
        finally:
            self.perturbed = False
            try:
                excursion.end()
            except BaseException:  # a Ctrl-C that arrives just here
                excursion.end()
                raise
        mixture.collect()

        if rest is not None:
            mixture.expect(1.0 - share)
            mixture.release()
            draw.passes += 1.0 - share
            yield rest
            mixture.collect()
        mixture.finish()

    def _split(self, batch: Any) -> tuple[Any, float, Any]:
        """Return the part of the batch to climb with, its share, and the rest, None where the part is all."""
        examples = batches.length(batch)
        if self.batch_fraction == 1 or examples is None:
            return batch, 1.0, None
        few = 2 if self.model is not None and any(isinstance(m, _BatchNorm) for m in self.model.modules()) else 1
        size = max(round(self.batch_fraction * examples), few)
        if examples - size < few:
            return batch, 1.0, None
        return batches.part(batch, 0, size), size / examples, batches.part(batch, size, examples)

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    @torch.no_grad()
    def _perturbation(self, clean: gradients.Gradients, share: float) -> tuple[list[Tensor], list[Tensor]]:
        weights, grads, rho = [], [], []
        shrink = math.sqrt(share) if self.keep_strength else 1.0
        radii = ((group[self._rho_key], parameter) for group in self.param_groups for parameter in group["params"])
        for (radius, parameter), grad in zip(radii, clean, strict=True):
            if radius > 0 and grad is not None:
                weights.append(local(parameter))
                grads.append(placed_as(parameter, grad))
                rho.append(radius * shrink)
        return weights, ascent.sam(weights, grads, rho) if weights else []

    def _ddp_to_climb_alone(self) -> DistributedDataParallel | None:
        """Return the DistributedDataParallel whose ranks climb each along its own gradient, or None."""
        if not (self.climb_locally and isinstance(self.model, DistributedDataParallel)):
            return None
        # A static graph is learned in the first backward, which therefore has to be a reduced one.
        return None if self.model.static_graph and not self._reduced else self.model

    def _noise(self, parameters: list[Tensor]) -> Noise | None:
        if self.model is None or not self.repeat_dropout:
            return None
        return Noise({parameter.device for parameter in parameters})


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
        base: Optimizer,
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

    def __init__(self, base: Optimizer, rho: float = 0.05, **options: Unpack[Options]) -> None:
        super().__init__(base, 1.0, rho, **options)


def _check_not_negative(name: str, value: Any) -> None:
    if not isinstance(value, Real):
        raise TypeError(f"{name} = {value!r} is not a number: give a finite number, 0 or more")
    if not 0.0 <= float(value) < math.inf:
        raise ValueError(f"{name} = {value} is out of range: give a finite number, 0 or more")


def _check_whole(name: str, value: Any) -> None:
    if not isinstance(value, Integral):
        raise TypeError(f"{name} = {value!r} is not a whole number: give one")
