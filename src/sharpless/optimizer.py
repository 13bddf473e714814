"""RST around any optimizer: the loop over passes, and the step."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Never

import torch
from torch import Tensor, nn

from sharpless import bases, batchnorm, closures, ddp, gradients, misuse, options
from sharpless.ascent import Ascent, sam
from sharpless.climb import Climb
from sharpless.cost import Cost
from sharpless.memory import Draw, Memory
from sharpless.options import Base, Probability
from sharpless.passes import Sharp, plain
from sharpless.scene import Scene
from sharpless.schedules import schedule
from sharpless.when import when
from sharpless.wrapper import Wrapper, as_one

__all__ = ["RST"]


class RST(Wrapper):
    """Randomized sharpness-aware training (arXiv 2203.09962) around any optimizer.

    At step t of T a coin with probability p(t/T) chooses between the base optimizer's own step and a
    sharpness-aware one, whose gradient is (1−γ)∇L(θ) + γ∇L(θ + ρ∇L(θ)/‖∇L(θ)‖). With p = 1 and γ = 1 this
    is SAM; p = 0, ρ = 0 or γ = 0 is the base optimizer bit for bit.

    The wrapper shares `param_groups` and `state` with `base`, so that schedulers and checkpoints work on either:

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

    Several `passes` before one `step` accumulate gradients. Clip and log between the loop over `passes` and `step`.

    Args:
        base: any optimizer that takes dense gradients and needs no closure, or a list of such optimizers, which share
            coin, norm and cost. Groups with `maximize` are perturbed in the opposite direction.
        p: the probability of a sharpness-aware step: a number, a schedule ("linear:0,1"), or a function of progress.
        rho: the radius ρ of the perturbation: its L2 norm over all weights. A parameter group may set its own "rho"
            ("sharpness_rho" with Adadelta); 0 excludes the group from the perturbation and the norm.
        gamma: the weight γ of the perturbed gradient.
        total_steps: T, needed by schedules that vary. After T steps, p keeps its last value.
        model: the network. With it, the perturbed pass changes no buffers, such as BatchNorm's statistics, and draws
            the same random numbers as the clean pass (docs/how-to/state.md). Under DistributedDataParallel each rank is
            perturbed along its own gradient.
        seed: the seed of the coins, the same on all ranks. Loading a checkpoint restores its seed.
        freeze_batchnorm: False lets the perturbed pass update the buffers too.
        repeat_dropout: False lets the perturbed pass draw new random numbers.
        climb_locally: False synchronizes the clean gradient under DistributedDataParallel as well.
        batch_fraction: the share q of the batch on which the sharpness term is estimated; a sharpness-aware step costs
            1 + q gradients. The loop over `passes` gets the first q·n examples S, S again at perturbed weights, and the
            rest R, and mixes q·g(S) + (1−q)·g(R) + γ(g⁺(S) − g(S)). BatchNorm normalizes each part by its own
            statistics, and training may fail with small parts (docs/how-to/budget.md).
        keep_strength: use the radius ρ√q, so that a ρ chosen for whole batches also fits q < 1. False uses ρ.
        systematic: spread the sharpness-aware steps evenly, in place of a coin: Σp(t) of them, rounded up or down.
        ascent: the direction of the perturbation: a function of (weights, gradients, ρ) that returns ε, such as
            `ascent.asam` or `ascent.Friendly()`.
        only: the parameters to perturb, for example `ascent.normalization_parameters(model)`; by default all.

    Raises:
        TypeError: `base` is not an optimizer instance, or cannot be wrapped.
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        base: Base,
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
        one = as_one(base)
        self.schedule = schedule(p)
        chosen = options.chosen(only)
        options.check(one, self.schedule, rho, gamma, total_steps, model, seed, batch_fraction, ascent, chosen)
        self._when = when(self.schedule, total_steps, int(seed), systematic=systematic)

        ledger = {"coin_step": 0, "sharp_steps": 0, "passes": 0.0, "plain_passes": 0.0}
        super().__init__(one, common=self._when.kept | ledger, rho=float(rho))
        self.gamma, self.batch_fraction, self.total_steps = float(gamma), float(batch_fraction), total_steps
        self.model, self.keep_strength = model, keep_strength
        self.freeze_batchnorm, self.repeat_dropout, self.climb_locally = freeze_batchnorm, repeat_dropout, climb_locally
        self._climb = Climb(ascent, chosen)
        self._climb.begin_memory(one)
        self._memory = Memory()
        self._listen()

    def __setattr__(self, name: str, value: Any) -> None:
        options.check_change(self, name, value)
        # Of a network in torch.compile, the one inside.
        super().__setattr__(name, getattr(value, "_orig_mod", value) if name == "model" else value)

    @property
    def perturbed(self) -> bool:
        """Whether the weights are displaced now; the loss of such a pass is not the clean loss."""
        return self._memory.perturbed

    @property
    def cost(self) -> Cost:
        """The cost up to the last `step`; steps without passes are not counted."""
        self._complete_groups()
        kept = self.param_groups[0]
        return Cost(kept["coin_step"], kept["sharp_steps"], kept["passes"], kept["plain_passes"])

    def passes(self, batch: Any = None, *_more: Never) -> Iterator[Any]:
        """Yield the batch to run forward and backward on: once on a plain step, twice on a sharpness-aware step.

        The second time the weights are displaced. They are restored when the loop ends. `break` and exceptions also
        restore them, and discard the gradients of the step. A pass without a gradient (for example `continue` if the
        loss is not finite) makes the step a plain one, or leaves no gradient. Take the data before the loop.

        Args:
            batch: the (micro-)batch: any nest of tensors, with examples along the first dimension.

        Returns:
            An iterator over `batch`.

        Raises:
            TypeError: `batch` is not one batch.
            ValueError: `batch_fraction` is below 1, and the tensors of `batch` have different lengths, or none, or are
                single examples in a list.
        """
        misuse.check_batch(batch, *_more, batch_fraction=self.batch_fraction, memory=self._memory)
        return self._passes(batch)

    def _passes(self, batch: Any, *, again: bool = True) -> Iterator[Any]:
        """Yield the passes; with `again`, the clean pass is repeated if it gave no gradient to climb along.

        Raises:
            RuntimeError: a loop is running.
        """
        memory, parameters = self._memory, self._parameters()
        if memory.running:
            raise RuntimeError("passes() was called within passes(): end the running loop first")
        misuse.check_inside(memory, parameters)
        if memory.is_cleared(parameters):
            self._close_draw()
        self._complete_groups()
        draw = memory.draw = memory.draw or self._open_draw()
        outsiders = None if draw.is_plain else misuse.outsiders(memory, self.model, parameters)
        draw.kept["plain_passes"] += 1.0
        with memory.loop(parameters):
            if draw.is_plain:
                yield from plain(batch, draw, parameters)
            else:
                scene = Scene(memory, self._model_as_called(), self.freeze_batchnorm, self.repeat_dropout)
                climb = partial(self._climb.displacement, self.base, keep_strength=self.keep_strength)
                decide, locally = partial(self._decide, draw), self.climb_locally
                yield from Sharp(
                    batch, self.batch_fraction, parameters, draw, scene, climb, decide, locally=locally, again=again
                )
        draw.end_loop(parameters)
        if outsiders is not None:
            outsiders.warn()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step of the base with the gradients in `.grad`.

        Args:
            closure: a function that clears the gradients, computes the loss, calls `backward` and returns the loss; it
                runs in each pass. After a loop over `passes` it is called once, and may clip or log the gradient of the
                step in `.grad`. Without closure and passes, this is a plain step of the base.

        Returns:
            The loss at the unperturbed weights, or None without a closure.

        Raises:
            RuntimeError: the loop over `passes` has not ended, or the closure computes gradients after one.
        """
        return self._hooked(self._step, closure)

    # The base's step is the one that torch's global hooks and its profiler see.
    step.hooked = True  # type: ignore[attr-defined]

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        memory, parameters = self._memory, self._parameters()
        memory.check_ended("step")
        misuse.check_alone(memory.draw, parameters)
        misuse.check_inside(memory, parameters)
        loss = None
        if closure is not None:
            loss = closures.evaluate(closure, memory, parameters, self._passes, self.schedule, self.batch_fraction)
        if memory.is_bare(self.param_groups, self.cost.steps) and self.schedule.mean() > 0:
            misuse.warn_of_plain_steps()
        misuse.warn_of_no_gradients(memory, parameters)
        bases.step(self.base, loss, lost_graph=memory.draw is not None and memory.draw.has_graph)
        self._close_draw()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients; also end a step whose passes no `step` followed, for example after an overflow."""
        self.base.zero_grad(set_to_none)
        if not self._memory.running:
            self._close_draw()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the result of `state_dict`, or a checkpoint of only the base optimizer."""
        self._memory.draw = None
        self._climb.forget()
        super().load_state_dict(state_dict)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group to `base`, between steps; it may set its own "rho"."""
        self._memory.check_ended("add_param_group")
        options.check_group(param_group, self.base)
        super().add_param_group(param_group)

    def _gamma_at(self, p: float) -> float:
        return self.gamma

    def _open_draw(self) -> Draw:
        self._listen()
        kept = {name: self.param_groups[0][name] for name in self._common}
        options.check_step(self.base, self.schedule, kept["coin_step"], self.total_steps)
        batchnorm.warn_of_fine_tuning(self._memory, self.model, self.gamma, kept["coin_step"])
        p = self.schedule.at(kept["coin_step"], self.total_steps)
        gamma = self._gamma_at(p) if p > 0 else 0.0
        # With γ = 0 or ρ = 0 a sharpness-aware step is a plain one: one pass is enough.
        if gamma == 0 or not self._climb.can_perturb(self.base):
            return Draw(0.0, False, kept)
        return Draw(gamma, self._when.takes(p, kept), kept)

    def _before_step_of(self, base: torch.optim.Optimizer) -> None:
        self._memory.check_ended("step")
        self._climb.expect_memory(base)

    def _after_step_of(self, base: torch.optim.Optimizer) -> None:
        self._climb.settle_memory()
        if base is bases.all_of(self.base)[-1]:
            self._close_draw()

    def _close_draw(self) -> None:
        self._memory.close(self.param_groups, [] if self.schedule.policy is None else self._parameters())

    def _decide(self, draw: Draw, clean: gradients.Gradients) -> bool:
        """Return whether the step is sharpness-aware, by the norm of its first gradient; this waits for the device."""
        square = ddp.mean_over_ranks(self._climb.square(self.base, clean), self._model_as_called())
        p = self.schedule.at(draw.kept["coin_step"], self.total_steps)
        return bool(self._when.takes(p, draw.kept, float(square)))

    def _model_as_called(self) -> nn.Module | None:
        return self._memory.model_as_called(self.model)

    def _parameters(self) -> list[Tensor]:
        return bases.parameters_of(self.base)

    def __repr__(self) -> str:
        part = "" if self.batch_fraction == 1 else f", q = {self.batch_fraction:.4g}"
        return f"{type(self).__name__}(p = {self.schedule}{part}, γ = {self.gamma:.4g}) around {self.base!r}"
