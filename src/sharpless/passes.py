"""One step, from the coin to the mixed gradient: draw, climb, mix."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from sharpless import batches, gradients
from sharpless.ascent import Ascent, sam
from sharpless.coin import evenly, uniform
from sharpless.cost import Cost
from sharpless.schedules import Schedule
from sharpless.weights import Excursion, Noise, global_norm, local, placed_as
from sharpless.wrapper import Wrapper

__all__ = ["Passes"]


@dataclass
class _Draw:
    """The decision on the step under way, and what its passes have spent."""

    gamma: float
    sharp: bool | None  # None until the first gradient of the step decides
    passes: float = 0.0
    plain_passes: float = 0.0
    moments: tuple[float | None, float] | None = None


class Passes(Wrapper):
    """The loop over `passes`, `step` and the ledger of an optimizer that says when, where and how strongly to climb."""

    # RST explains these, and its constructor sets them.
    schedule: Schedule
    gamma: float
    total_steps: int | None
    model: nn.Module | None
    freeze_batchnorm: bool
    repeat_dropout: bool
    climb_locally: bool
    batch_fraction: float
    keep_strength: bool
    systematic: bool
    ascent: Ascent
    _rho_key: str
    _only: set[Tensor] | None

    perturbed = False
    """Whether the weights are displaced just now: the loss of such a pass is not the clean one."""

    def __init__(self, base: Optimizer, common: dict[str, Any], each: dict[str, Any]) -> None:
        super().__init__(base, common, each)
        self._draw: _Draw | None = None
        self._running = False
        self._reduced = False
        self._scaled = False
        self._bare_steps = 0
        self._memory: dict[Tensor, dict[str, Tensor]] = {}
        self._sum_of_p = (0, 0.0)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned, or a checkpoint of the base optimizer alone."""
        self._draw = None
        self._memory.clear()
        super().load_state_dict(state_dict)

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
            batch: the (micro-)batch: any nest of tensors in tuples, lists and dicts; with a `batch_fraction` with
                examples along the first dimension.

        Returns:
            An iterator over `batch`.

        Raises:
            ValueError: with a `batch_fraction`, the tensors of `batch` disagree in length, or have none.
        """
        if self.batch_fraction < 1 and batches.length(batch) is None:
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
        if getattr(self.ascent, "slots", ()):  # from the first step on: distributed checkpoints load what is there
            for parameter, _, _ in self._to_climb([p.grad for p in self._parameters()]):
                self._memory_of(parameter)
        met = [parameter for parameter in self._memory if parameter.grad is not None]
        self.base.step()
        for parameter in met:
            self.state[parameter].update(self._memory.pop(parameter))
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

    def _gamma_at(self, p: float) -> float:
        return self.gamma

    def _open_draw(self) -> _Draw:
        self._complete_groups()
        kept = self.param_groups[0]
        step, seed = kept["coin_step"], kept["coin_seed"]
        p = self.schedule.at(step, self.total_steps)
        gamma = self._gamma_at(p) if p > 0 else 0.0
        # Without γ or ρ a sharpness-aware step is a plain one: it need not be paid for.
        if gamma == 0 or not any(True for _ in self._to_climb(self._parameters())):
            return _Draw(0.0, sharp=False)
        if self.schedule.policy:
            return _Draw(gamma, sharp=None)
        if self.systematic:
            return _Draw(gamma, sharp=evenly(seed, self._p_before(step), p))
        return _Draw(gamma, sharp=uniform(seed, step) < p)

    def _p_before(self, step: int) -> float:
        """Return Σp over the steps before `step`, always added up in the same order: a resumed run finds the same."""
        start, total = self._sum_of_p if self._sum_of_p[0] <= step else (0, 0.0)
        for earlier in range(start, step):
            total += self.schedule.at(earlier, self.total_steps)
        self._sum_of_p = (step, total)
        return total

    def _close_draw(self) -> None:
        if self._draw is None:
            return
        for group in self.param_groups:
            group["coin_step"] += 1
            group["sharp_steps"] += int(bool(self._draw.sharp))
            group["passes"] += self._draw.passes
            group["plain_passes"] += self._draw.plain_passes
            if self._draw.moments is not None:
                group["norm_mean"], group["norm_variance"] = self._draw.moments
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
            if draw.sharp is False:
                draw.passes += 1.0
                yield batch
            else:
                yield from self._climb(batch, draw)
        except BaseException:
            gradients.take(self._parameters())
            raise
        finally:
            self._running = False
        self._reduced = True

    def _climb(self, batch: Any, draw: _Draw) -> Iterator[Any]:
        """Yield the part S to climb with, S again at the perturbed weights, and the rest R, if any.

        The gradient is q·g(S) + (1−q)·g(R) + γ(g⁺(S) − g(S)), with q = 1 the one of G-RST. Where the gradient of S
        decides against climbing, S is not run again, and what remains is the plain gradient.

        Raises:
            RuntimeError: gradients were cleared that DistributedDataParallel has to reduce.
        """
        parameters = self._parameters()
        part, share, rest = self._split(batch)
        ddp = self._ddp_to_climb_alone(certain=draw.sharp is True or rest is not None)
        noise = self._noise(parameters)
        kept = gradients.own(gradients.take(parameters))  # of earlier micro-batches
        watch = gradients.ClearingWatch(parameters)
        try:
            with nullcontext() if ddp is None else ddp.no_sync():
                draw.passes += share
                yield part
        finally:
            cleared = watch.end()

        # The clean gradient stays where the next one is added to it, so no second buffer is needed and the one
        # all-reduce of DistributedDataParallel sees the mixture. Where gradients are cleared before every
        # backward, it is set aside instead.
        clean = gradients.take(parameters)
        if draw.sharp is None:
            draw.sharp = self._decide(clean, draw)
        gamma = draw.gamma if draw.sharp else 0.0
        weights, eps = self._perturbation(clean, share) if draw.sharp else ([], [])
        if cleared:  # by the loop body or the closure: what stood there was left from the step before
            kept, clean = [None] * len(parameters), gradients.own(clean)
        mixture = gradients.Mixture(parameters, kept, aside=cleared)
        mixture.expect(gamma or (1.0 if rest is None else 1.0 - share))
        # DistributedDataParallel wants a gradient, if a zero, of parameters that only the clean pass went through.
        if gamma != share or (ddp is not None and ddp.find_unused_parameters):
            mixture.add(clean, share - gamma)
        if ddp is not None and (mixture.is_aside() or (cleared and rest is not None)):
            raise RuntimeError(
                "the gradients were cleared within passes() or step(closure), where the clean gradient waits "
                "to be reduced by DistributedDataParallel: clear them outside, or set climb_locally=False"
            )
        del kept, clean  # and with them the last references to gradients that are not needed any more

        if draw.sharp:
            mixture.release()
            excursion = Excursion(weights, eps, self.model if self.freeze_batchnorm else None, noise)
            with self._away(excursion), nullcontext() if ddp is None or rest is None else ddp.no_sync():
                draw.passes += share
                yield part
            del excursion
            mixture.collect()

        if rest is not None:
            mixture.expect(1.0 - share)
            mixture.release()
            draw.passes += 1.0 - share
            yield rest
            mixture.collect()
        mixture.finish()

    @contextmanager
    def _away(self, excursion: Excursion) -> Iterator[None]:
        try:
            excursion.begin()
            self.perturbed = True
            yield
        finally:
            self.perturbed = False
            try:
                excursion.end()
            except BaseException:  # a Ctrl-C that arrives just here
                excursion.end()
                raise

    def _split(self, batch: Any) -> tuple[Any, float, Any]:
        """Return the part of the batch to climb with, its share, and the rest, None where the part is all."""
        examples = None if self.batch_fraction == 1 else batches.length(batch)
        if examples is None:
            return batch, 1.0, None
        few = 2 if self.model is not None and any(isinstance(m, _BatchNorm) for m in self.model.modules()) else 1
        size = max(round(self.batch_fraction * examples), few)
        if examples - size < few:
            return batch, 1.0, None
        return batches.part(batch, 0, size), size / examples, batches.part(batch, size, examples)

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def _to_climb(self, grads: Sequence[Tensor | None]) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Yield the parameters that are perturbed, with gradient and ρ."""
        radii = ((group[self._rho_key], parameter) for group in self.param_groups for parameter in group["params"])
        for (radius, parameter), grad in zip(radii, grads, strict=True):
            if radius > 0 and grad is not None and (self._only is None or parameter in self._only):
                yield parameter, grad, radius

    @torch.no_grad()
    def _perturbation(self, clean: gradients.Gradients, share: float) -> tuple[list[Tensor], list[Tensor]]:
        """Return the weights to move, and by what.

        Raises:
            ValueError: the ascent returned too few or too many perturbations.
        """
        climbing = list(self._to_climb(clean))
        if not climbing:
            return [], []
        shrink = math.sqrt(share) if self.keep_strength else 1.0
        weights = [local(parameter) for parameter, _, _ in climbing]
        grads = [placed_as(parameter, grad) for parameter, grad, _ in climbing]
        rho = [shrink * radius for _, _, radius in climbing]
        slots = getattr(self.ascent, "slots", ())
        memory = [[self._memory_of(parameter) for parameter, _, _ in climbing]] if slots else []
        eps = self.ascent(weights, grads, rho, *memory)
        if self.ascent is not sam:  # a gradient that is returned as it is will be scaled before the weights are moved
            theirs = {local(grad).data_ptr() for grad in grads}
            eps = [e.clone() if e.data_ptr() in theirs else e for e in eps]
        if len(eps) != len(weights):
            raise ValueError(f"ascent returned {len(eps)} perturbations for {len(weights)} weights: give one for each")
        return weights, eps

    def _begin_memory(self) -> None:
        """Give the ascent its slots where the base has a state already; elsewhere they come after that."""
        for parameter, _, _ in self._to_climb(self._parameters()):
            if self.state.get(parameter):
                self._memory_of(parameter)

    def _memory_of(self, parameter: Tensor) -> dict[str, Tensor]:
        """Return what the ascent remembers of a parameter: its state, or what will join that after the base's step.

        Optimizers take a parameter with state for one that they have met, so theirs has to come first.
        """
        state: dict[str, Tensor] = self.state.get(parameter) or self._memory.setdefault(parameter, {})
        for slot in getattr(self.ascent, "slots", ()):
            if slot not in state:
                state[slot] = torch.zeros_like(parameter)
        return state

    @torch.no_grad()
    def _decide(self, clean: gradients.Gradients, draw: _Draw) -> bool:
        """Return whether the policy takes this step, by the size of the gradient; this waits for the device."""
        policy, kept = self.schedule.policy, self.param_groups[0]
        grads = [placed_as(parameter, grad) for parameter, grad, _ in self._to_climb(clean)]
        ddp = self.model if isinstance(self.model, DistributedDataParallel) else None
        if policy is None or not (grads or ddp):
            return False
        norm = global_norm(grads) if grads else torch.zeros((), device=self._parameters()[0].device)
        square = norm.double().square()
        if ddp is not None:  # the ranks must agree, and under no_sync() each has a gradient of its own
            torch.distributed.all_reduce(square, group=ddp.process_group)
            square /= torch.distributed.get_world_size(ddp.process_group)
        moments = (kept["norm_mean"], kept["norm_variance"])
        taken, draw.moments = policy.takes(kept["coin_step"], self.total_steps, float(square), *moments)
        return taken

    def _ddp_to_climb_alone(self, *, certain: bool) -> DistributedDataParallel | None:
        """Return the DistributedDataParallel whose ranks climb each along its own gradient, or None.

        They can where it is `certain` that another pass follows, which will be reduced.
        """
        if not (certain and self.climb_locally and isinstance(self.model, DistributedDataParallel)):
            return None
        # A static graph is learned in the first backward, which therefore has to be a reduced one.
        return None if self.model.static_graph and not self._reduced else self.model

    def _noise(self, parameters: list[Tensor]) -> Noise | None:
        if self.model is None or not self.repeat_dropout:
            return None
        return Noise({parameter.device for parameter in parameters})
