"""The base optimizers: checks that they can be wrapped, and several of them as one."""

import inspect
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

__all__ = ["Several", "all_of", "check", "parameters_of", "step"]


def step(base: Optimizer, loss: Any = None, *, lost_graph: bool = False) -> None:
    """Take a step of `base`, and give it `loss` if its `step` takes a closure.

    Args:
        base: the optimizer.
        loss: the loss that a closure returned, or None.
        lost_graph: whether gradients had an autograd graph, which the sum in `.grad` has lost.

    Raises:
        RuntimeError: `base` needs that graph.
    """
    try:
        if loss is not None and "closure" in inspect.signature(base.step).parameters:
            base.step(closure=lambda: loss)
        else:
            base.step()
    except RuntimeError as error:
        if lost_graph and "does not require grad" in str(error):
            raise RuntimeError(
                f"{type(base).__name__} differentiates the gradient, but the gradient of a sharpness-aware "
                "step has no graph: choose another base, or p = 0"
            ) from error
        raise


def check(base: Any, name: str = "base") -> None:
    """Check that `base`, an argument called `name`, can be wrapped.

    Raises:
        TypeError: it is not an optimizer instance, is already wrapped, or requires a closure.
        ValueError: its parameters belong to FullyShardedDataParallel.
    """
    if not isinstance(base, Optimizer):
        given = base.__name__ if isinstance(base, type) else f"an object of type {type(base).__name__}"
        raise TypeError(f"{name} = {given} is not an optimizer instance: give torch.optim.SGD(…), for example")
    if hasattr(base, "passes"):
        raise TypeError(f"{name} is sharpness-aware already: wrap the plain optimizer")
    if not hasattr(base, "_optimizer_step_pre_hooks"):  # it has not called Optimizer.__init__
        Optimizer.__setstate__(base, {})
    closure = inspect.signature(base.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise TypeError(
            f"{type(base).__name__} requires a closure, which it calls many times in a step: choose another base"
        )
    if any(getattr(parameter, "_fsdp_flattened", False) for parameter in parameters_of(base)):
        raise ValueError(
            f"{name} trains parameters of FullyShardedDataParallel, whose norm no rank knows: shard the model with "
            "torch.distributed.fsdp.fully_shard"
        )


def parameters_of(base: Optimizer) -> list[Tensor]:
    """Return the parameters that `base` trains, each once."""
    # By id, since hashing a tensor calls a Python function, which is slow.
    return list({id(parameter): parameter for group in base.param_groups for parameter in group["params"]}.values())


class Several(Optimizer):
    """Several optimizers of different parameters, which take their steps together.

    Groups, state and state dict look like those of one optimizer: first the groups of the first, then those of the
    second, and so on. A learning-rate scheduler can be built on each of them or on all together.

    Args:
        bases: the optimizers.

    Raises:
        TypeError: one of them cannot be wrapped.
        ValueError: the list is empty, or two of them train the same parameter.
    """

    def __init__(self, bases: Sequence[Optimizer]) -> None:
        if not bases:
            raise ValueError("base is an empty list: give one optimizer or more")
        for i, base in enumerate(bases):
            check(base, f"base[{i}]")
        parameters = [parameter for base in bases for parameter in parameters_of(base)]
        if len(set(parameters)) < len(parameters):
            raise ValueError("base is a list in which two optimizers train the same parameter: leave it to one of them")
        self.__setstate__({"bases": tuple(bases), "defaults": {}})

    bases: tuple[Optimizer, ...]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The parameter groups of all optimizers."""
        return [group for base in self.bases for group in base.param_groups]

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        for base, part in zip(self.bases, self._shares(groups), strict=True):
            base.param_groups = part

    @property
    def state(self) -> Any:
        """The state of all optimizers, by parameter; read-only."""
        return {key: value for base in self.bases for key, value in base.state.items()}

    @state.setter
    def state(self, state: Any) -> None:
        for base in self.bases:
            own = set(parameters_of(base))
            base.state = defaultdict(dict, {key: value for key, value in state.items() if key in own})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse a group that could belong to any of the optimizers.

        Raises:
            TypeError: always.
        """
        raise TypeError("add_param_group: there are several optimizers: call it on the one that is to train the group")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of all optimizers."""
        for base in self.bases:
            base.zero_grad(set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step of each optimizer.

        Args:
            closure: computes the gradients and the loss, which each optimizer gets.

        Returns:
            The loss, or None without a closure.
        """
        loss = None if closure is None else closure()
        for base in self.bases:
            step(base, loss)
        return loss

    step.hooked = True  # type: ignore[attr-defined]  # torch's global step hooks see the steps of the bases

    def state_dict(self) -> dict[str, Any]:
        """Return the state dict of one optimizer that has all groups."""
        whole: dict[str, Any] = {"state": {}, "param_groups": []}
        first = 0
        for base in self.bases:
            own = base.state_dict()
            whole["state"] |= {first + key if isinstance(key, int) else key: own["state"][key] for key in own["state"]}
            for group in own["param_groups"]:
                whole["param_groups"].append({**group, "params": [first + index for index in group["params"]]})
            first += len(parameters_of(base))
        return whole

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned.

        Raises:
            ValueError: it does not fit these optimizers.
        """
        groups = state_dict["param_groups"]
        if len(groups) != len(self.param_groups):
            raise ValueError(
                f"the state dict has {len(groups)} parameter groups and the optimizers have {len(self.param_groups)}: "
                "give the optimizers in the order in which they were saved"
            )
        shares = self._shares(groups)
        for i, (base, part) in enumerate(zip(self.bases, shares, strict=True)):
            lacking = base.defaults.keys() - part[0].keys()
            if lacking and part[0].keys() - base.param_groups[0].keys():
                raise ValueError(
                    f"the state dict has no {' and '.join(sorted(lacking))} for base[{i}], {type(base).__name__}: "
                    "give the optimizers in the order in which they were saved"
                )
        for base, part in zip(self.bases, shares, strict=True):
            indices = set(chain.from_iterable(group["params"] for group in part))
            state = {index: value for index, value in state_dict["state"].items() if index in indices}
            base.load_state_dict({"state": state, "param_groups": part})

    def _shares(self, groups: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
        """Return the groups of each optimizer."""
        remaining = iter(groups)
        return [[next(remaining) for _ in base.param_groups] for base in self.bases]

    def __getstate__(self) -> dict[str, Any]:
        return {"bases": self.bases, "defaults": self.defaults}

    def __repr__(self) -> str:
        return " and ".join(map(repr, self.bases))


def all_of(base: Optimizer) -> tuple[Optimizer, ...]:
    """Return the optimizers that `base` consists of."""
    return base.bases if isinstance(base, Several) else (base,)
