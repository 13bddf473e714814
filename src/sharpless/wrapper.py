"""An optimizer around another one: groups, state, hooks and checkpoints are the base's own."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import ref

from torch.optim import Optimizer

from sharpless.bases import Several, all_of, check

__all__ = ["Wrapper", "as_one", "keyed_groups"]


class Wrapper(Optimizer):
    """An optimizer that shares `param_groups` and `state` with its base, whichever of the two they are changed on.

    What a checkpoint must hold beside them stands in the groups, as plain numbers: that is all that distributed
    checkpoints keep of an optimizer beside its state.

    Args:
        base: the optimizer to wrap, or several.
        common: numbers of the whole optimizer, the same in every group.
        rho: the radius of groups that have none of their own.

    Raises:
        TypeError: `base` cannot be wrapped.
    """

    base: Optimizer
    """The wrapped optimizer; of several, all of them as one."""

    def __init__(self, base: Optimizer | Sequence[Optimizer], common: dict[str, Any], rho: float) -> None:
        # Optimizer.__init__ would make groups and state of its own; __setstate__ sets up the rest.
        base = as_one(base)
        self.__setstate__({"base": base, "defaults": dict(base.defaults)})
        self._common, self._rho = common, rho
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

    def _hooked(self, step: Callable[..., Any], closure: Callable[[], Any] | None) -> Any:
        """Return what `step` returns, called between the hooks that were registered on this optimizer."""
        args: tuple[Any, ...] = (self,) if closure is None else (self, closure)
        kwargs: dict[str, Any] = {}
        for before in self._optimizer_step_pre_hooks.values():
            args, kwargs = before(self, args, kwargs) or (args, kwargs)
        loss = step(*args[1:], **kwargs)
        for after in self._optimizer_step_post_hooks.values():
            after(self, args, kwargs)
        return loss

    def train(self) -> None:
        """Hand `train` on to the bases that have it, as schedule-free ones do."""
        self._hand_on("train")

    def eval(self) -> None:
        """Hand `eval` on to the bases that have it."""
        self._hand_on("eval")

    def _hand_on(self, method: str) -> None:
        for base in all_of(self.base):
            getattr(base, method, lambda: None)()

    def _complete_groups(self) -> None:
        """Give the numbers to groups that lack them: new ones, and those of a checkpoint of the base alone."""
        groups = self.param_groups
        known = next((group for group in groups if self._common.keys() <= group.keys()), self._common)
        for _, key, group in keyed_groups(self.base):
            for name in self._common:
                group.setdefault(name, known[name])
            group.setdefault(key, self._rho)

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
        radii = [group[key] for _, key, group in keyed_groups(self.base)]
        self.base.load_state_dict(state_dict)
        for (_, key, group), radius in zip(keyed_groups(self.base), radii, strict=True):
            group.setdefault(key, radius)
        self._complete_groups()
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def _listen(self) -> None:
        """Hear of the steps of the bases: those that a host takes on a base itself end the step too.

        Copies of the optimizer have to listen anew, since torch leaves hooks behind.
        """
        if getattr(self, "_listening", None) is not None:
            return
        handles: list[Any] = []

        def stop(_: Any) -> None:  # a base may outlive many wrappers
            for handle in handles:
                handle.remove()

        wrapper = ref(self, stop)

        def before_step(base: Optimizer, *_: Any) -> None:
            opt = wrapper()
            if opt is not None:
                opt._before_step_of(base)

        def after_step(base: Optimizer, *_: Any) -> None:
            opt = wrapper()
            if opt is not None:
                opt._after_step_of(base)

        for base in all_of(self.base):
            handles.append(base.register_step_pre_hook(before_step))
            handles.append(base.register_step_post_hook(after_step))
        self._listening = handles

    def _before_step_of(self, base: Optimizer) -> None:
        """Do what comes before a step of one of the bases, whoever takes it."""

    def _after_step_of(self, base: Optimizer) -> None:
        """Do what comes after it."""

    def __getstate__(self) -> dict[str, Any]:
        # Hooks stay behind, as torch's own do, and so does the `step` that a scheduler puts on the instance,
        # which belongs to this object and not to its copy.
        left = {"step", "_listening"}
        return {name: value for name, value in self.__dict__.items() if name not in left and "_hooks" not in name}


def as_one(base: Any) -> Optimizer:
    """Return `base`, an optimizer or a list of them, as one optimizer that can be wrapped.

    Raises:
        TypeError: it cannot be wrapped.
    """
    if isinstance(base, (list, tuple)):
        return Several(base) if len(base) != 1 else as_one(base[0])
    check(base)
    one: Optimizer = base
    return one


def keyed_groups(base: Optimizer) -> Iterator[tuple[Optimizer, str, dict[str, Any]]]:
    """Yield optimizer, name of the radius and group, for each parameter group.

    The name is "rho", but "sharpness_rho" where the optimizer has a rho of its own, as Adadelta does.
    """
    for one in all_of(base):
        key = "sharpness_rho" if "rho" in one.defaults else "rho"
        for group in one.param_groups:
            yield one, key, group
