"""An optimizer around another one, with the groups, state, hooks and checkpoints of the base."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary, ref

from torch.optim import Optimizer

from sharpless.bases import Several, all_of, check

__all__ = ["Wrapper", "as_one", "keyed_groups"]


_WRITTEN: WeakKeyDictionary[Optimizer, list[tuple[dict[str, Any], str]]] = WeakKeyDictionary()
"""What the last wrapper of an optimizer has written into groups: the group, and the name of the number."""


class Wrapper(Optimizer):
    """An optimizer that shares `param_groups` and `state` with its base: a change on one is a change on both.

    Other values for the checkpoint are plain numbers in the groups, since distributed checkpoints keep nothing else
    besides the state.

    Args:
        base: the optimizer to wrap, or several.
        common: numbers of the whole optimizer, the same in every group.
        rho: the radius of groups that set none.

    Raises:
        TypeError: `base` cannot be wrapped.
    """

    base: Optimizer
    """The wrapped optimizer, or several wrapped ones as one."""

    def __init__(self, base: Optimizer | Sequence[Optimizer], common: dict[str, Any], rho: float) -> None:
        # Optimizer.__init__ would create new groups and state; __setstate__ sets up the rest.
        base = as_one(base)
        self._written: list[tuple[dict[str, Any], str]] = []
        for one in all_of(base):  # numbers of the user or of a checkpoint stay, those of an earlier wrapper do not
            for group, name in _WRITTEN.get(one, []):
                group.pop(name, None)
            _WRITTEN[one] = self._written
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
        """Return the result of `step`, called between the hooks that were registered on this optimizer."""
        args: tuple[Any, ...] = (self,) if closure is None else (self, closure)
        kwargs: dict[str, Any] = {}
        for before in self._optimizer_step_pre_hooks.values():
            args, kwargs = before(self, args, kwargs) or (args, kwargs)
        loss = step(*args[1:], **kwargs)
        for after in self._optimizer_step_post_hooks.values():
            after(self, args, kwargs)
        return loss

    def train(self) -> None:
        """Call `train` of the bases that have it, such as schedule-free optimizers."""
        self._call_on_bases("train")

    def eval(self) -> None:
        """Call `eval` of the bases that have it."""
        self._call_on_bases("eval")

    def _call_on_bases(self, method: str) -> None:
        for base in all_of(self.base):
            getattr(base, method, lambda: None)()

    def _complete_groups(self) -> None:
        """Add the numbers to groups without them: new groups, and those of a checkpoint of only the base.

        Raises:
            RuntimeError: another wrapper was put around the base, whose numbers are in the groups.
        """
        # A copy of the optimizer is not yet known as the wrapper of its base.
        if any(_WRITTEN.setdefault(one, self._written) is not self._written for one in all_of(self.base)):
            raise RuntimeError(
                f"base was wrapped again after this {type(self).__name__}, and has the rho and seed of the other one: "
                "make an optimizer when the one before it is no longer used, or give each a base of its own"
            )
        names, groups = self._common.keys(), self.param_groups
        known = next((group for group in groups if names <= group.keys()), self._common)
        for _, key, group in keyed_groups(self.base):
            if key in group and names <= group.keys():
                continue
            own = {**{name: known[name] for name in names}, key: self._rho}
            missing = [name for name in own if name not in group]
            group.update({name: own[name] for name in missing})
            self._written.extend((group, name) for name in missing)

    def state_dict(self) -> dict[str, Any]:
        """Return the base's state dict."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        state_dict: dict[str, Any] = self.base.state_dict()
        for after in self._optimizer_state_dict_post_hooks.values():
            state_dict = after(self, state_dict) or state_dict
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the result of `state_dict`, or a checkpoint of only the base optimizer."""
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = before(self, state_dict) or state_dict
        earlier = [(group, group[key]) for _, key, group in keyed_groups(self.base)]
        self.base.load_state_dict(state_dict)  # makes new groups
        written, self._written[:] = self._written[:], []
        for (_, key, group), (old, radius) in zip(keyed_groups(self.base), earlier, strict=True):
            group.setdefault(key, radius)
            self._written.extend((group, name) for known, name in written if known is old)
        self._complete_groups()
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def _listen(self) -> None:
        """Register hooks on the bases, so that a step that a framework takes directly on a base ends the step too.

        A copy of the optimizer must register them again, since torch does not copy hooks.
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
        """Run before each step of a base, no matter who calls it."""

    def _after_step_of(self, base: Optimizer) -> None:
        """Run after each step of a base, no matter who calls it."""

    def __getstate__(self) -> dict[str, Any]:
        # Hooks are not copied, as in torch. The `step` that a scheduler sets on the instance is not copied either,
        # since it belongs to this object.
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

    The name is "rho", but "sharpness_rho" if the optimizer already has a "rho", such as Adadelta.
    """
    for one in all_of(base):
        key = "sharpness_rho" if "rho" in one.defaults else "rho"
        for group in one.param_groups:
            yield one, key, group
