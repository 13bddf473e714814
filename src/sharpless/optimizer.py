"""RST around any optimizer: the loop over passes, and the step."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sharpless import bases, batches, ddp, gradients, misuse
from sharpless.ascent import Ascent, sam
from sharpless.climb import Climb
from sharpless.cost import Cost
from sharpless.memory import Draw, Memory
from sharpless.options import Base, Probability, check_model, check_number, check_whole
from sharpless.passes import Scene, Sharp
from sharpless.schedules import schedule
from sharpless.when import when
from sharpless.wrapper import Wrapper, as_one, keyed_groups

__all__ = ["RST"]


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
        base: an instance of any optimizer that takes dense gradients and calls no closure itself, or a list of them.
            The optimizers of a list hold different parameters, and share coin, norm and cost. Groups with `maximize`
            are perturbed the other way.
        p: the probability of a sharpness-aware step: a number, a schedule (also as text, "linear:0,1"), or a
            function of progress. `schedules.Adaptive` looks at the gradient of each step instead, and the host waits
            for the device there. Under DistributedDataParallel it takes the mean of the squared norms of the ranks.
        rho: the radius ρ of the perturbation: its L2 norm over all weights. A parameter group may have a "rho" of its
            own ("sharpness_rho" where the base has a rho, as Adadelta does). Its weights are perturbed by that times
            ∇L/‖∇L‖, with one norm over all groups; 0 leaves a group unperturbed and out of the norm.
        gamma: the weight γ of the perturbed gradient.
        total_steps: T, needed by schedules that vary. Beyond it p stays what it was at the end.
        model: the network. With it, the perturbed pass finds all buffers as the clean pass found them, and leaves
            them as the clean pass left them: running statistics of BatchNorm, codebooks, queues, observers. Both
            passes draw the same numbers from the global generators of torch (on CPU, CUDA and XPU), Python and NumPy,
            for dropout masks and for augmentation in the loop body. Other generators, and state that is in no buffer,
            are up to the loop: `perturbed` says when to leave them alone. Under DistributedDataParallel, in which the
            model may be wrapped later, the clean pass does not communicate, and each rank is perturbed along its own
            gradient. Networks with BatchNorm need `model` beside GradScaler, because a pass that overflows would spoil
            the running statistics.
        seed: decides, together with the step, how the coins fall. All ranks toss the same coins, independently of
            torch's generators. A loaded checkpoint brings its own seed.
        freeze_batchnorm: False lets the perturbed pass update the buffers too.
        repeat_dropout: False gives the perturbed pass random numbers of its own.
        climb_locally: False synchronizes the clean gradient under DistributedDataParallel as well. With
            `static_graph`, the first step of a process does so in any case.
        batch_fraction: the share q of the batch that the sharpness term is estimated on (m-sharpness with q·n
            examples). On a sharpness-aware step, the loop over `passes(batch)` gets three parts: the first q·n
            examples S, then S again at perturbed weights, then the rest R. The gradient is
            q·g(S) + (1−q)·g(R) + γ(g⁺(S) − g(S)), at the cost of 1 + q gradients. It is unbiased if losses are means
            over examples and batches are in random order. BatchNorm normalizes each part by its own statistics, and
            parts below about 32 examples can break such a network (docs/how-to/budget.md). A part has at least one
            example, or two where the model has BatchNorm. A smaller batch is used as a whole, for two gradients.
        keep_strength: perturb by ρ√q where only a share q of the batch is used. The gradient of a part is longer than
            that of the batch, by up to 1/√q, and regularizes more. The factor √q makes up for this, so that a ρ that
            was chosen for whole batches can stay. False perturbs by ρ.
        systematic: choose the steps by systematic sampling instead of a coin. Each step still has its probability
            p(t), but the sharpness-aware steps are evenly spread, and their number is Σp(t), rounded up or down.
        ascent: the direction of the perturbation: a function of (weights, gradients, ρ) that returns ε, such as
            `ascent.asam` or `ascent.Friendly()`.
        only: the parameters to perturb, for example `ascent.normalization_parameters(model)`; by default all.

    Raises:
        TypeError: `base` is no optimizer instance, or one that cannot be wrapped.
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
        if total_steps is None and self.schedule.needs_total_steps:
            raise ValueError(f"p = {self.schedule} varies over the run: give total_steps, the number of steps")
        if total_steps is not None:
            check_whole("total_steps", total_steps)
            if total_steps < 1:
                raise ValueError(f"total_steps = {total_steps} is not a number of steps: give 1 or more")
        check_whole("seed", seed)
        check_number("gamma", gamma)
        check_number("rho", rho)
        check_number("batch_fraction", batch_fraction)
        if not 0 < batch_fraction <= 1:
            raise ValueError(f"batch_fraction = {batch_fraction} is not a share of the batch: give a number in (0, 1]")
        for _, key, group in keyed_groups(one):
            check_number(f"{key} of a parameter group", group.get(key, rho))
        check_model(model, one)
        chosen = None if only is None else set(only)
        if chosen is not None and chosen.isdisjoint(bases.parameters_of(one)):
            raise ValueError("only has no parameter in common with base: give parameters that base trains")
        if isinstance(ascent, type) or not callable(ascent):
            raise TypeError(
                f"ascent = {ascent!r} is not a function: give ascent.asam or ascent.Friendly(), for example"
            )
        self._when = when(self.schedule, total_steps, int(seed), systematic=systematic)

        ledger = {"coin_step": 0, "sharp_steps": 0, "passes": 0.0, "plain_passes": 0.0}
        super().__init__(one, common=self._when.kept | ledger, rho=float(rho))
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
        self._climb = Climb(ascent, chosen)
        self._climb.begin_memory(one)
        self._memory = Memory()
        self._listen()

    @property
    def perturbed(self) -> bool:
        """Whether the weights are displaced just now: the loss of such a pass is not the clean one."""
        return self._memory.perturbed

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

        Run the forward inside the loop: torch refuses a second backward through a forward outside it. A body may fill
        `.grad` and clear it as it likes. A pass that brings no gradient at all (`continue` at a loss
        that is not finite) makes the step a plain one, or leaves no gradient: see `sharpless.passes.Sharp`. A body may
        also change the batch in place: each pass but the last is handed copies of its tensors.

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
                f"batch_fraction = {self.batch_fraction:g} splits the batch, and this one has no tensor with a length: "
                "hand over tensors, as in passes((x, y))"
            )
        return self._passes(batch)

    def _passes(self, batch: Any, *, again: bool = True) -> Iterator[Any]:
        """Yield the passes; `again` lets one be repeated that brought no gradient where one was needed to climb.

        Raises:
            RuntimeError: a loop is under way.
        """
        memory, parameters = self._memory, self._parameters()
        if memory.running:
            raise RuntimeError("passes() was called within passes(): let the loop under way end first")
        misuse.check_inside(memory.draw, parameters)
        draw = memory.draw
        if draw is not None and draw.left_gradients and not gradients.any_of(parameters):
            self._close_draw()  # its gradients were cleared without a step
        draw = memory.draw = memory.draw or self._open_draw()
        outsiders = self._outsiders() if draw.sharp is not False else None
        draw.kept["plain_passes"] += 1.0
        memory.running = True
        try:
            if draw.sharp is False:
                draw.spend(1.0)
                before = gradients.marks(parameters)
                yield batch
                draw.empty = not gradients.changed(parameters, before)
                draw.spend(-float(draw.empty))
            else:
                yield from self._sharp(batch, draw, again=again)
        except BaseException:
            gradients.take(parameters)
            raise
        finally:
            memory.running = False
        draw.kept["plain_passes"] -= float(draw.empty)
        memory.reduced = True
        draw.left_gradients = gradients.any_of(parameters)
        draw.left = gradients.marks(parameters) if draw.empty and draw.sharp is not False else None
        if outsiders is not None:
            outsiders.warn()

    def _sharp(self, batch: Any, draw: Draw, *, again: bool) -> Iterator[Any]:
        memory = self._memory
        part, share, rest = self._split(batch)
        shrink = math.sqrt(share) if self.keep_strength else 1.0
        model = self._model_as_called()
        # Ranks can climb alone only where it is certain that another pass follows, which will be reduced.
        alone = self.climb_locally and (draw.sharp is True or rest is not None)
        loop = Sharp(
            self._parameters(),
            (part, share, rest),
            draw,
            Scene(memory, model, self.freeze_batchnorm, self.repeat_dropout),
            climb=lambda clean: self._climb.displacement(self.base, clean, shrink),
            decide=lambda clean: self._decide(clean, draw),
            ddp=ddp.to_climb_alone(model, first=not memory.reduced) if alone else None,
            again=again,
        )
        yield from loop

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Let the base take its step with the gradients that stand in `.grad`.

        Args:
            closure: clears the gradients, computes the loss, calls `backward` and returns the loss. It is
                called once or, on a sharpness-aware step, twice. After a loop over `passes`, which has done
                this, it is called once, finds the gradient of the step in `.grad`, and may clip or log it. Without a
                closure and without `passes`, this is a step of the base and draws nothing.

        Returns:
            The loss at the unperturbed weights, or None without a closure.

        Raises:
            RuntimeError: the loop over `passes` has not ended, or the closure adds gradients to those of one.
        """
        args: tuple[Any, ...] = (self,) if closure is None else (self, closure)
        kwargs: dict[str, Any] = {}
        for before in self._optimizer_step_pre_hooks.values():
            args, kwargs = before(self, args, kwargs) or (args, kwargs)
        loss = self._step(*args[1:], **kwargs)
        for after in self._optimizer_step_post_hooks.values():
            after(self, args, kwargs)
        return loss

    # The base's step is the one that torch's global hooks and its profiler see.
    step.hooked = True  # type: ignore[attr-defined]

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        memory = self._memory
        self._check_ended()
        if closure is not None and misuse.is_called_by_grad_scaler():
            raise RuntimeError(
                "GradScaler.step(opt, closure) cannot unscale what the closure computes: "
                "run forward and backward in passes(), and call GradScaler.step(opt)"
            )
        misuse.check_inside(memory.draw, self._parameters())
        loss = None if closure is None else self._evaluate(closure)
        if memory.is_bare(self.param_groups, self.cost.steps) and self.schedule.mean() > 0:
            misuse.warn_of_plain_steps()
        try:
            bases.step(self.base, loss)
        except RuntimeError as error:
            if memory.draw is not None and memory.draw.has_graph and "does not require grad" in str(error):
                raise RuntimeError(
                    f"{type(self.base).__name__} differentiates the gradient, and that of a sharpness-aware step has "
                    "no graph: choose another base, or p = 0"
                ) from error
            raise
        self._close_draw()
        return loss

    def _check_ended(self) -> None:
        if self._memory.running:
            raise RuntimeError(
                "step() was called in the middle of passes(): call it after the loop has ended, "
                "and keep no reference to the iterator when you leave the loop"
            )

    def _evaluate(self, closure: Callable[[], Any]) -> Any:
        """Return the clean loss of `closure`, and leave the gradient of the step in `.grad`.

        Raises:
            RuntimeError: a part of the batch was asked for, or gradients arrive after those of passes.
        """
        memory = self._memory
        # Hosts hand over closures that clip, log or do nothing after passes(), or that loop over them.
        if memory.closure_has_passes:
            with torch.enable_grad():
                return closure()
        if memory.draw is not None and memory.draw.left_gradients:
            with torch.enable_grad(), gradients.arrival(self._parameters()) as arrived:
                loss = closure()
            if arrived:
                gradients.take(self._parameters())
                raise RuntimeError(
                    "the closure of step() computed gradients, after passes() had: run all micro-batches of a step in "
                    "loops over passes(), or all in closures"
                )
            return loss
        again = memory.draw is None
        if again and self.batch_fraction < 1:
            raise RuntimeError(
                f"batch_fraction = {self.batch_fraction:g} needs the batch, which step(closure) does not see: run "
                "forward and backward in `for x, y in opt.passes((x, y))`, and call step()"
            )
        if again:
            self._look_at_closure()
        losses = []
        for _ in self._passes(None, again=again):
            with torch.enable_grad():
                losses.append(closure())
        return losses[0]

    def _look_at_closure(self) -> None:
        """Warn of a host whose closures clip, log and accumulate in each pass; once, since looking takes a walk."""
        if not self._memory.looked_at_closure and self.schedule.mean() > 0:
            self._memory.looked_at_closure = True
            misuse.warn_of_closure()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients; passes that no `step` followed (after an overflow, for example) are closed."""
        self.base.zero_grad(set_to_none)
        if not self._memory.running:
            self._close_draw()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned, or a checkpoint of the base optimizer alone."""
        self._memory.draw = None
        self._climb.forget()
        super().load_state_dict(state_dict)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group to `base`; it may bring a "rho" of its own.

        Raises:
            RuntimeError: the loop over `passes` has not ended.
        """
        if self._memory.running:
            raise RuntimeError(
                "add_param_group() was called in the middle of passes(): call it after the loop has ended"
            )
        for key in ("rho", "sharpness_rho"):
            if isinstance(param_group, dict) and key in param_group and key not in self.base.defaults:
                check_number(f"{key} of a parameter group", param_group[key])
        super().add_param_group(param_group)

    def _gamma_at(self, p: float) -> float:
        return self.gamma

    def _open_draw(self) -> Draw:
        if getattr(self, "_listening", None) is None:
            self._listen()
        self._complete_groups()
        group = self.param_groups[0]
        kept = {name: group[name] for name in self._common}
        p = self.schedule.at(kept["coin_step"], self.total_steps)
        gamma = self._gamma_at(p) if p > 0 else 0.0
        # Without γ or ρ a sharpness-aware step is a plain one: it need not be paid for.
        if gamma == 0 or not self._climb.goes_anywhere(self.base):
            return Draw(0.0, False, kept)
        return Draw(gamma, self._when.takes(p, kept), kept)

    def _before_step_of(self, base: torch.optim.Optimizer) -> None:
        self._check_ended()
        self._climb.expect_memory(base)

    def _after_step_of(self, base: torch.optim.Optimizer) -> None:
        self._climb.settle_memory()
        if base is bases.all_of(self.base)[-1]:
            self._close_draw()

    def _close_draw(self) -> None:
        draw, self._memory.draw = self._memory.draw, None
        if self.schedule.policy is not None:
            self._memory.spent = {parameter: gradients.Mark(parameter.grad) for parameter in self._parameters()}
        if draw is None:
            return
        draw.kept["coin_step"] += 1
        draw.kept["sharp_steps"] += int(draw.climbed)
        for group in self.param_groups:
            group.update(draw.kept)

    def _split(self, batch: Any) -> tuple[Any, float, Any]:
        """Return the part of the batch to climb with, its share, and the rest, None where the part is all."""
        if self.batch_fraction == 1:
            return batch, 1.0, None
        together = self.model is not None and misuse.has_batch_statistics(self.model)
        part, share, rest = batches.split(batch, self.batch_fraction, fewest=2 if together else 1)
        if together and rest is not None and not self._memory.warned_of_part:
            self._memory.warned_of_part = misuse.warn_of_small_part(batches.length(part), self.batch_fraction)
        return part, share, rest

    def _decide(self, clean: gradients.Gradients, draw: Draw) -> bool:
        """Return whether the step is taken, by the size of its first gradient; this waits for the device."""
        square = ddp.mean_over_ranks(self._climb.square(self.base, clean), self._model_as_called())
        p = self.schedule.at(draw.kept["coin_step"], self.total_steps)
        return bool(self._when.takes(p, draw.kept, float(square)))

    def _outsiders(self) -> misuse.Outsiders | None:
        """Return the parameters of the model that no base holds; once, since looking takes a walk through it."""
        if self.model is None or self._memory.looked_outside:
            return None
        self._memory.looked_outside = True
        return misuse.Outsiders(self.model, self._parameters())

    def _model_as_called(self) -> nn.Module | None:
        """Return the model, or the DistributedDataParallel that a host has put around it since; looked for once."""
        if self.model is None:
            return None
        if self._memory.around is None or self._memory.around[0] is not self.model:
            self._memory.around = self.model, ddp.around(self.model)
        return self._memory.around[1]

    def _parameters(self) -> list[Tensor]:
        return bases.parameters_of(self.base)

    def __repr__(self) -> str:
        part = "" if self.batch_fraction == 1 else f", q = {self.batch_fraction:.4g}"
        return f"{type(self).__name__}(p = {self.schedule}{part}, γ = {self.gamma:.4g}) around {self.base!r}"
