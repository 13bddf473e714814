"""One loop over the passes of a (micro-)batch: the gradient of a sharpness-aware step, term by term.

With a part S of share q of the batch, and the rest R, that gradient is

    (q−γ)·g(S) + γ·g⁺(S) + (1−q)·g(R),

where g⁺ is the gradient at the displaced weights. With q = 1 it is the gradient of G-RST, and there is no R. Each term
is a pass, in this order. Each pass starts with an empty `.grad`, and its whole gradient is taken out, no matter how the
loop body put it there. Only the last pass starts with the gradients that were in `.grad` before the loop. So if the
body clears them, adds to them or overwrites them, the result is the same as in plain training.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from sharpless import batches, ddp, diagnosis, fsdp, gradients, misuse
from sharpless.gradients import Gradients, Sum
from sharpless.memory import Draw
from sharpless.scene import Scene

__all__ = ["Sharp", "plain"]


@dataclass(frozen=True)
class Term:
    """A pass, and the weight of its gradient in the sum."""

    batch: Any
    cost: float
    weight: float
    displaced: bool = False


def plain(batch: Any, draw: Draw, parameters: list[Tensor]) -> Iterator[Any]:
    """Yield the one pass of a plain step; it is counted if it gives a gradient."""
    draw.spend(1.0)
    before = gradients.marks(parameters)
    yield batch
    misuse.check_alone(draw, parameters)
    draw.empty = not gradients.changed(parameters, before)
    draw.spend(-float(draw.empty))


class Sharp:
    """The loop over the passes of a (micro-)batch on a step that is, or may become, sharpness-aware.

    If a pass gives no gradient, the step is not sharpness-aware. Without a clean gradient of S, S is run again as in a
    plain step. Without a gradient at the displaced weights, only the clean one is used, if it was kept (not for γ = q).
    Without a gradient of R, no gradient is left. So the step is a plain one or none, and never goes uphill.

    Args:
        batch: the (micro-)batch.
        batch_fraction: the share q of the batch that S is to have.
        parameters: the parameters that the base trains.
        draw: the decision on the step.
        scene: the weights, buffers and generators for the passes.
        climb: returns the weights to move and their ε, from the clean gradients of S and the share of S.
        decide: returns whether to climb, from the clean gradients of S; called if `draw` has not decided.
        locally: whether each rank under DistributedDataParallel climbs along its own gradient.
        again: whether S is run again if it gave no gradient.
    """

    def __init__(
        self,
        batch: Any,
        batch_fraction: float,
        parameters: list[Tensor],
        draw: Draw,
        scene: Scene,
        climb: Callable[[Gradients, float], tuple[list[Tensor], list[Tensor]]],
        decide: Callable[[Gradients], bool],
        *,
        locally: bool,
        again: bool,
    ) -> None:
        self.parameters, self.draw, self.scene = parameters, draw, scene
        self.part, self.share, self.rest = scene.split(batch, batch_fraction)
        self.climb, self.decide, self.again = climb, decide, again
        fsdp.reduce_each_pass(scene.model)
        # A rank can climb along its own gradient only if another pass certainly follows and is reduced.
        alone = locally and (draw.sharp is True or self.rest is not None)
        if alone and ddp.averages_each_pass(scene.model) and scene.memory.is_new("averaged passes"):
            misuse.warn_of_averaged_passes()
        self.ddp = ddp.to_climb_alone(scene.model, first=not scene.memory.reduced) if alone else None

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches to run forward and backward on; leave the gradient of the step in `.grad`."""
        draw, share = self.draw, self.share
        undecided, spent = draw.sharp is None, self.scene.memory.spent
        stale = {p for p, mark in spent.items() if mark.still_is(p.grad)} if undecided else set()
        kept = gradients.Kept(gradients.take(self.parameters))
        with self.scene.remembered(self.parameters), self._unreduced():
            clean, arrived = yield from self._pass(Term(batches.copied(self.part), share, share))
        if arrived and undecided:
            draw.sharp = self.decide(clean)
        gamma = draw.gamma if arrived and draw.sharp else 0.0
        weights, eps = self.climb(clean, share) if gamma else ([], [])
        sample = diagnosis.sample(clean) if weights and self.scene.memory.is_new("same gradient") else None
        total = Sum(self.parameters)
        # DistributedDataParallel needs a gradient, even a zero, for parameters that only the clean pass used.
        if arrived and (gamma != share or (self.ddp is not None and self.ddp.find_unused_parameters)):
            total.add(clean, share - gamma)
        del clean  # the last reference to a gradient that SAM does not need any more

        climbed = False
        terms = self._after_clean(gamma, arrived)
        for term in terms:
            last = term is terms[-1]
            # Without a gradient of S, R counts as the whole batch.
            weight = 1.0 if term.batch is self.rest and total.is_empty() and not climbed else term.weight
            # Each rank's sum so far waits in `.grad` for the one all-reduce, divided by the last pass's weight.
            waiting = last and self.ddp is not None and not total.is_empty()
            if waiting:
                total.scale(1.0 / weight)
            before = kept.in_units_of(weight) if last else None
            try:
                with self._scene(term, weights, eps), nullcontext() if last else self._unreduced():
                    grads, came = yield from self._pass(term, before, total.gradients if waiting else None)
            except BaseException:
                kept.find([None] * len(self.parameters))
                raise
            if waiting:
                total.clear() if came else total.scale(weight)
            if not came:
                # A gradient that was not reduced differs between ranks.
                keeps = term.displaced and share != gamma and self.ddp is None
                total.scale(share / (share - gamma)) if keeps else total.clear()
            if came and sample is not None and "unmoved weights" not in self.scene.memory.checked:
                diagnosis.warn_of_same(sample, grads, displaced=term.displaced)
            climbed, arrived = came and (climbed or term.displaced), arrived or came
            total.add(grads, weight)
            if last:
                kept.find(grads)
            del grads, before
        if not terms:  # the body may or may not clear gradients; it should clear those that a step has used
            fresh = [None if p in stale else grad for p, grad in zip(self.parameters, kept.gradients, strict=True)]
            total.add(fresh, 1.0)
        gradients.put(kept.filled_with(total.gradients), self.parameters)
        draw.climbed = draw.climbed or climbed
        draw.empty = not arrived

    def _after_clean(self, gamma: float, arrived: bool) -> list[Term]:
        """Return the terms after the clean one."""
        terms = []
        if gamma:
            terms.append(Term(self.part, self.share, gamma, displaced=True))
        if self.rest is not None:
            terms.append(Term(self.rest, 1.0 - self.share, 1.0 - self.share))
        elif not arrived and self.again:
            terms.append(Term(self.part, 1.0, 1.0))
        return terms

    def _pass(
        self, term: Term, there: Gradients | None = None, waiting: Gradients | None = None
    ) -> Generator[Any, None, tuple[Gradients, bool]]:
        """Yield a pass.

        Args:
            term: the pass.
            there: the gradients in `.grad` at its start; by default none.
            waiting: the gradients to add to `.grad` when the first gradient arrives.

        Returns:
            The gradients that the body has left in `.grad`, and whether the pass gave any.

        Raises:
            RuntimeError: gradients were assigned that DistributedDataParallel has to reduce.
        """
        parameters = self.parameters
        before = there or [None] * len(parameters)
        watched: list[Tensor] = []
        if waiting or (there and any(grad is not None for grad in there)):
            gradients.put(before, parameters)
            watched = parameters
        marks = gradients.marks(watched)
        self.draw.spend(term.cost)
        join = partial(gradients.add_to_grad, waiting, parameters) if waiting else None
        with gradients.arrival(watched, join) as arrived:
            yield term.batch
        misuse.check_alone(self.draw, parameters)
        grads = [parameter.grad for parameter in parameters]
        new = [grad for grad, old in zip(grads, before, strict=True) if grad is not None and grad is not old]
        came = bool(arrived or new)
        if waiting and new and not arrived:
            raise RuntimeError(
                "the gradients of a pass were assigned without backward(), so DistributedDataParallel cannot reduce "
                "those of earlier passes: call backward() in the loop, or set climb_locally=False"
            )
        if not came:  # the earlier gradients may have been cleared or added to: look at their values
            written = [grad for grad, mark in zip(grads, marks, strict=False) if not mark.still_is(grad)]
            came = any(bool(grad.any()) for grad in written if grad is not None)
        if not came:
            self.draw.spend(-term.cost)
        self.draw.has_graph = self.draw.has_graph or any(grad.requires_grad for grad in new)
        return gradients.take(parameters), came

    def _scene(self, term: Term, weights: list[Tensor], eps: list[Tensor]) -> AbstractContextManager[None]:
        return self.scene.displaced(weights, eps) if term.displaced else nullcontext()

    def _unreduced(self) -> AbstractContextManager[None]:
        return nullcontext() if self.ddp is None else self.ddp.no_sync()
