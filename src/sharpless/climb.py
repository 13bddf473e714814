"""The climb of one optimizer: which weights are displaced, and by what."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from sharpless.ascent import Ascent
from sharpless.bases import parameters_of
from sharpless.gradients import Gradients
from sharpless.tensors import global_norm, local, placed_as
from sharpless.wrapper import keyed_groups

__all__ = ["Climb"]


class _Climber(NamedTuple):
    """A parameter that is displaced."""

    optimizer: Optimizer
    parameter: Tensor
    grad: Tensor
    rho: float
    maximized: bool

    @property
    def uphill(self) -> Tensor:
        """The gradient of what is minimized: maximizing f is minimizing −f."""
        grad = placed_as(self.parameter, self.grad)
        return -grad if self.maximized else grad


class Climb:
    """Where to climb, and what the ascent remembers of each parameter.

    Args:
        ascent: the function that returns ε.
        only: the parameters that may be displaced; None for all.
    """

    def __init__(self, ascent: Ascent, only: set[Tensor] | None) -> None:
        self._ascent, self._only = ascent, only
        self._slots: tuple[str, ...] = getattr(ascent, "slots", ())
        self._early: dict[Tensor, dict[str, Tensor]] = {}
        self._met: list[_Climber] = []

    def goes_anywhere(self, base: Optimizer) -> bool:
        """Return whether a parameter of `base` may be displaced.

        Raises:
            RuntimeError: all that may be have left `base`.
        """
        only = self._only
        if any(
            group[key] > 0 and (only is None or not only.isdisjoint(group["params"]))
            for _, key, group in keyed_groups(base)
        ):
            return True
        if only is not None and only.isdisjoint(parameters_of(base)):
            raise RuntimeError(
                "base has none of the parameters of only any more, which were replaced when the model was sharded: "
                "wrap base after that, or scale groups by a rho of their own in place of only"
            )
        return False

    @torch.no_grad()
    def displacement(
        self, base: Optimizer, clean: Gradients, share: float = 1.0, *, keep_strength: bool = True
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the weights to move, of DTensors the shards on this rank, and by what.

        Args:
            base: the optimizer whose parameters climb.
            clean: the gradients of its parameters.
            share: the share q of the batch that they are of.
            keep_strength: whether to climb by ρ√q, or by ρ.

        Raises:
            ValueError: the ascent returned too few or too many perturbations.
        """
        climbers = list(self._climbers(base, clean))
        if not climbers:
            return [], []
        shrink = math.sqrt(share) if keep_strength else 1.0
        weights = [local(climber.parameter) for climber in climbers]
        memory = [[self._memory_of(climber) for climber in climbers]] if self._slots else []
        grads, rho = [climber.uphill for climber in climbers], [shrink * climber.rho for climber in climbers]
        eps = list(self._ascent(weights, grads, rho, *memory))
        if len(eps) != len(weights):
            raise ValueError(f"ascent returned {len(eps)} perturbations for {len(weights)} weights: give one for each")
        return weights, eps

    @torch.no_grad()
    def square(self, base: Optimizer, clean: Gradients) -> Tensor | None:
        """Return ‖g‖² over the parameters that are displaced, as a 0-dim tensor; None where none has a gradient."""
        grads = [climber.uphill for climber in self._climbers(base, clean)]
        return global_norm(grads).double().square() if grads else None

    def _climbers(self, base: Optimizer, grads: Sequence[Tensor | None]) -> Iterator[_Climber]:
        # By id, since hashing a tensor is a call of Python's; a parameter may stand in a group twice.
        remaining = dict(zip(map(id, parameters_of(base)), grads, strict=True))
        for optimizer, key, group in keyed_groups(base):
            maximized = bool(group.get("maximize", getattr(optimizer, "maximize", False)))
            for parameter in group["params"]:
                grad = remaining.pop(id(parameter), None)
                if grad is not None and group[key] > 0 and (self._only is None or parameter in self._only):
                    yield _Climber(optimizer, parameter, grad, group[key], maximized)

    def begin_memory(self, base: Optimizer) -> None:
        """Give the ascent its slots where `base` has a state already; elsewhere they come after that."""
        if self._slots:
            for climber in self._climbers(base, parameters_of(base)):
                if climber.optimizer.state.get(climber.parameter):
                    self._memory_of(climber)

    def expect_memory(self, base: Optimizer) -> None:
        """Give the ascent its slots for all parameters that the coming step of `base` gives a state.

        From the first step on: distributed checkpoints load what is there.
        """
        self._met = []
        if self._slots:
            self._met = list(self._climbers(base, [parameter.grad for parameter in parameters_of(base)]))
        for climber in self._met:
            self._memory_of(climber)

    def settle_memory(self) -> None:
        """Move the memory of parameters that the base has met in its step into its state."""
        met, self._met = self._met, []
        for climber in met:
            climber.optimizer.state[climber.parameter].update(self._early.pop(climber.parameter, {}))

    def forget(self) -> None:
        """Forget what is not yet in the state of the base."""
        self._early.clear()

    def _memory_of(self, climber: _Climber) -> dict[str, Tensor]:
        """Return what the ascent remembers of a parameter: its state, or what will join that after the base's step.

        Optimizers take a parameter with state for one that they have met, so theirs has to come first.
        """
        parameter = climber.parameter
        state: dict[str, Tensor] = climber.optimizer.state.get(parameter) or self._early.setdefault(parameter, {})
        for slot in self._slots:
            if slot not in state:
                state[slot] = torch.zeros_like(parameter)
        return state
