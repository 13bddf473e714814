"""The state of an optimizer within a step and between steps, which proxies of frameworks share."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import local
from typing import Any
from weakref import WeakSet

from torch import Tensor, nn

from sharpless import ddp
from sharpless.displaced import Buffers
from sharpless.gradients import Mark, any_of, changed, marks, take
from sharpless.rng import RepeatedRng

__all__ = ["Draw", "Memory"]


class _Open(local):
    """The memories of the optimizers of this thread that are in the middle of a step."""

    def __init__(self) -> None:
        self.memories: WeakSet[Memory] = WeakSet()


_OPEN = _Open()


@dataclass
class Draw:
    """The decision on the current step, and its passes so far."""

    gamma: float
    sharp: bool | None
    """None until the first gradient of the step decides."""
    kept: dict[str, Any]
    """The numbers that a checkpoint will hold after the step."""
    climbed: bool = False
    """Whether a gradient at displaced weights is in the gradient of the step."""
    left_gradients: bool = False
    """Whether the loops so far have left gradients in `.grad`."""
    left: list[Mark] | None = None
    """The gradients in `.grad` after a sharpness-aware loop that has left none of its own."""
    empty: bool = False
    """Whether no pass of the last loop gave a gradient."""
    has_graph: bool = False
    """Whether a gradient had an autograd graph, which the sum does not have."""
    left_early: bool = False
    """Whether the last loop was left early, which has discarded the gradients of the step."""
    mixed: list[Mark] | None = None
    """The gradients in `.grad` after the loop of another optimizer has added those of its passes to them."""

    @property
    def is_plain(self) -> bool:
        """Whether the step certainly has one pass."""
        return self.sharp is False

    def spend(self, passes: float) -> None:
        """Count passes."""
        self.kept["passes"] += passes

    def end_loop(self, parameters: list[Tensor]) -> None:
        """Record the gradients that a loop over passes has left in the `.grad` of `parameters`."""
        self.kept["plain_passes"] -= float(self.empty)
        self.left_gradients = any_of(parameters)
        self.left = marks(parameters) if self.empty and not self.is_plain else None
        self.left_early = False


@dataclass(eq=False)
class Memory:
    """The state of an optimizer within a step and between steps, in one object that proxies of frameworks share.

    The numbers for checkpoints are in the parameter groups instead.
    """

    draw: Draw | None = None
    running: bool = False
    perturbed: bool = False
    reduced: bool = False
    """Whether a backward of this process was reduced by DistributedDataParallel."""
    has_worked: bool = False
    """Whether a loop over passes has given a gradient."""
    spent: dict[Tensor, Mark] = field(default_factory=dict)
    """The gradients that the last step has used, if gradients decide on steps."""
    bare_steps: int = 0
    """Steps without passes, since the last one with passes."""
    idle_steps: int = 0
    """Steps without a gradient, since the last one with gradients."""
    closure_has_passes: bool = False
    """Whether the closures that a framework passes to `step` loop over the passes themselves."""
    around: tuple[nn.Module, nn.Module] | None = None
    """The model, and the DistributedDataParallel or engine of DeepSpeed that wraps it, or the model again."""
    checked: set[str] = field(default_factory=set)
    """The names of the checks that a run makes once, and has made."""
    parameters: list[Tensor] = field(default_factory=list)
    """The parameters of the last loop."""
    buffers: Buffers = field(default_factory=Buffers)
    rng: RepeatedRng = field(default_factory=RepeatedRng)

    def __getstate__(self) -> dict[str, Any]:
        # Gradients are recognized by identity, and no DistributedDataParallel wraps a copy of the model yet.
        draw = self.draw and replace(self.draw, left=None, mixed=None)
        return {**self.__dict__, "draw": draw, "spent": {}, "around": None, "parameters": []}

    def is_new(self, check: str) -> bool:
        """Return whether the run has not made this check yet, and record that it makes it now."""
        new = check not in self.checked
        self.checked.add(check)
        return new

    def is_cleared(self, parameters: list[Tensor]) -> bool:
        """Return whether the gradients of the current step were cleared without a step."""
        return self.draw is not None and self.draw.left_gradients and not any_of(parameters)

    def close(self, groups: list[dict[str, Any]], used: list[Tensor]) -> None:
        """End the current step, and count it.

        Args:
            groups: the parameter groups, which hold the counts.
            used: the parameters whose gradients decide on steps.
        """
        draw, self.draw = self.draw, None
        _OPEN.memories.discard(self)
        self.spent = {parameter: Mark(parameter.grad) for parameter in used}
        if draw is None:
            return
        draw.kept["coin_step"] += 1
        draw.kept["sharp_steps"] += int(draw.climbed)
        for group in groups:
            group.update(draw.kept)

    @contextmanager
    def loop(self, parameters: list[Tensor]) -> Iterator[None]:
        """Mark a loop over passes as running; discard its gradients if it fails or is left early."""
        self.running, self.parameters = True, parameters
        _OPEN.memories.add(self)
        others = [(other, marks(other.parameters)) for other in _OPEN.memories if other is not self and other.draw]
        try:
            yield
        except BaseException as error:
            take(parameters)
            if isinstance(error, GeneratorExit) and self.draw is not None:
                self.draw.left_early = True  # next(iter(passes())) ends here, before its backward
                self.draw.left = None if self.draw.is_plain else []
            raise
        finally:
            self.running = False
        self.reduced = True
        self.has_worked = self.has_worked or (self.draw is not None and not self.draw.empty)
        for other, before in others:
            self._mark_mixed(other, before)

    def _mark_mixed(self, other: "Memory", before: list[Mark]) -> None:
        """Mark the gradients of `other` if the loop that ends has added those of several passes to them."""
        if self.draw is None or other.draw is None:
            return
        several = not self.draw.is_plain or (other.running and not other.draw.is_plain)
        if several and changed(other.parameters, before):
            other.draw.mixed = marks(other.parameters)

    def check_ended(self, call: str) -> None:
        """Check that no loop over passes is running when `call` is called.

        Raises:
            RuntimeError: one is running.
        """
        if self.running:
            raise RuntimeError(
                f"{call}() was called in the middle of passes(): call it after the loop has ended, "
                "and keep no reference to the iterator when you leave the loop"
            )

    def model_as_called(self, model: nn.Module | None) -> nn.Module | None:
        """Return `model`, or the DistributedDataParallel or engine of DeepSpeed that wraps it; searched for once."""
        if model is None:
            return None
        if self.around is None or self.around[0] is not model:
            self.around = model, ddp.around(model)
        return self.around[1]

    def is_bare(self, groups: list[dict[str, Any]], steps: int) -> bool:
        """Return whether this step without passes deserves a warning.

        The first step of a run is allowed: frameworks often take it, and distributed checkpoints take one with a
        learning rate of 0. Frameworks whose closures loop over passes take others when they do not train.

        Args:
            groups: the parameter groups.
            steps: the number of steps with passes in this run.
        """
        if self.draw is not None or self.closure_has_passes:
            self.bare_steps = 0
        elif any(float(group.get("lr", 1.0)) != 0 for group in groups):
            self.bare_steps += 1
        return self.bare_steps == (1 if steps else 2) and self.draw is None
