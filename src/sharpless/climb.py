"""The perturbation of one optimizer's weights: which are displaced, and by which ε."""

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
        """The gradient of the minimized function: maximizing f is minimizing −f."""
        grad = placed_as(self.parameter, self.grad)
        return -grad if self.maximized else grad


class Climb:
    """The perturbation ε, and the state of the ascent for each parameter.

    Args:
        ascent: the function that returns ε.
        only: the parameters that may be displaced; None for all.
    """

    def __init__(self, ascent: Ascent, only: set[Tensor] | None) -> None:
        self._ascent, self._only = ascent, only
        self._slots: tuple[str, ...] = getattr(ascent, "slots", ())
        self._early: dict[Tensor, dict[str, Tensor]] = {}
        self._expected: list[_Climber] = []

    def can_perturb(self, base: Optimizer) -> bool:
        """Return whether a parameter of `base` may be displaced.

        Raises:
            RuntimeError: `base` no longer has any parameter of `only`.
        """
        only = self._only
        if any(
            group[key] > 0 and (only is None or not only.isdisjoint(group["params"]))
            for _, key, group in keyed_groups(base)
        ):
            return True
        if only is not None and only.isdisjoint(parameters_of(base)):
            raise RuntimeError(
                "base no longer has any of the parameters in only, because sharding the model replaced them: "
                "wrap base after sharding, or set a rho in each parameter group in place of only"
            )
        return False

    @torch.no_grad()
    def displacement(
        self, base: Optimizer, clean: Gradients, share: float = 1.0, *, keep_strength: bool = True
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the weights to move (for DTensors, the shards on this rank), and their ε.

        Args:
            base: the optimizer whose parameters are perturbed.
            clean: the gradients of its parameters.
            share: the share q of the batch that these gradients are computed on.
            keep_strength: whether the radius is ρ√q, or ρ.

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
        """Return ‖g‖² over the parameters that are displaced, as a 0-dim tensor; None if none has a gradient."""
        grads = [climber.uphill for climber in self._climbers(base, clean)]
        return global_norm(grads).double().square() if grads else None

    def _climbers(self, base: Optimizer, grads: Sequence[Tensor | None]) -> Iterator[_Climber]:
        # By id, since hashing a tensor calls a Python function, which is slow; a parameter may stand in a group twice.
        remaining = dict(zip(map(id, parameters_of(base)), grads, strict=True))
        for optimizer, key, group in keyed_groups(base):
            maximized = bool(group.get("maximize", getattr(optimizer, "maximize", False)))
            for parameter in group["params"]:
                grad = remaining.pop(id(parameter), None)
                if grad is not None and group[key] > 0 and (self._only is None or parameter in self._only):
                    yield _Climber(optimizer, parameter, grad, group[key], maximized)

    def begin_memory(self, base: Optimizer) -> None:
        """Create the ascent's slots for parameters that already have a state; others get them later."""
        if self._slots:
            for climber in self._climbers(base, parameters_of(base)):
                if climber.optimizer.state.get(climber.parameter):
                    self._memory_of(climber)

    def expect_memory(self, base: Optimizer) -> None:
        """Create the ascent's slots for all parameters that get a state in the next step of `base`.

        They exist from the first step on, since distributed checkpoints load only into existing state.
        """
        self._expected = []
        if self._slots:
            self._expected = list(self._climbers(base, [parameter.grad for parameter in parameters_of(base)]))
        for climber in self._expected:
            self._memory_of(climber)

    def settle_memory(self) -> None:
        """Move the ascent's slots into the state that the base created in its step."""
        expected, self._expected = self._expected, []
        for climber in expected:
            climber.optimizer.state[climber.parameter].update(self._early.pop(climber.parameter, {}))

    def forget(self) -> None:
        """Discard slots that are not yet in the state of the base."""
        self._early.clear()

    def _memory_of(self, climber: _Climber) -> dict[str, Tensor]:
        """Return the dict with the ascent's slots: the parameter's state, or a dict that joins it after a step.

        Optimizers only initialize an empty state, so the base must create its entries first.
        """
        parameter = climber.parameter
        state: dict[str, Tensor] = climber.optimizer.state.get(parameter) or self._early.setdefault(parameter, {})
        for slot in self._slots:
            if slot not in state:
                state[slot] = torch.zeros_like(parameter)
        return state
