"""An optimizer around another one: groups, state and checkpoints are the base's own."""

import inspect
from typing import Any

from torch.optim import Optimizer

__all__ = ["Wrapper", "check_base"]


class Wrapper(Optimizer):
    """An optimizer that shares `param_groups` and `state` with its base, whichever of the two they are changed on.

    What a checkpoint must hold beside them stands in the groups, as plain numbers: that is all that distributed
    checkpoints keep of an optimizer beside its state.

    Args:
        base: the optimizer to wrap, see `check_base`.
        common: numbers of the whole optimizer, the same in every group.
        each: numbers that a group may have a value of its own for.
    """

    base: Optimizer
    """The wrapped optimizer."""

    def __init__(self, base: Optimizer, common: dict[str, Any], each: dict[str, Any]) -> None:
        # Optimizer.__init__ would make groups and state of its own; __setstate__ sets up the rest.
        self.__setstate__({"base": base, "defaults": dict(base.defaults)})
        self._common, self._each = common, each
        self._complete_groups()

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The parameter groups of `base`."""
        groups: list[dict[str, Any]] = self.base.param_groups
        return groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.base.param_groups = groups

    @property
    def state(self) -> Any:
        """The state of `base`."""
        return self.base.state

    @state.setter
    def state(self, state: Any) -> None:
        self.base.state = state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group to `base`."""
        self.base.add_param_group(param_group)
        self._complete_groups()

    def _complete_groups(self) -> None:
        """Give the numbers to groups that lack them: new ones, and those of a checkpoint of the base alone."""
        known = next((group for group in self.param_groups if self._common.keys() <= group.keys()), self._common)
        for group in self.param_groups:
            for name in self._common:
                group.setdefault(name, known[name])
            for name, value in self._each.items():
                group.setdefault(name, value)

    def state_dict(self) -> dict[str, Any]:
        """Return the base's state dict."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        state_dict: dict[str, Any] = self.base.state_dict()
        for after in self._optimizer_state_dict_post_hooks.values():
            state_dict = after(self, state_dict) or state_dict
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned, or a checkpoint of the base optimizer alone."""
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = before(self, state_dict) or state_dict
        self.base.load_state_dict(state_dict)
        self._complete_groups()
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def __getstate__(self) -> dict[str, Any]:
        # Hooks stay behind, as torch's own do, and so does the `step` that a scheduler puts on the instance,
        # which belongs to this object and not to its copy.
        return {name: value for name, value in self.__dict__.items() if name != "step" and "_hooks" not in name}


def check_base(base: Optimizer) -> None:
    """Check that `base` can be wrapped.

    Raises:
        TypeError: it is no optimizer instance, is wrapped already, or calls a closure of its own.
    """
    if not isinstance(base, Optimizer):
        given = base.__name__ if isinstance(base, type) else f"an object of type {type(base).__name__}"
        raise TypeError(f"base = {given} is not an optimizer instance: give torch.optim.SGD(…), say")
    if isinstance(base, Wrapper):
        raise TypeError("base is sharpness-aware already: wrap the plain optimizer")
    closure = inspect.signature(base.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise TypeError(f"{type(base).__name__} calls a closure of its own many times a step: choose another base")
