"""The arguments of the optimizers, and their checks."""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from sharpless.ascent import Ascent
from sharpless.bases import parameters_of
from sharpless.schedules import Schedule
from sharpless.schedules.reading import Probability
from sharpless.wrapper import as_one, keyed_groups

__all__ = [
    "Base",
    "Options",
    "Probability",
    "check",
    "check_change",
    "check_group",
    "check_model",
    "check_names",
    "check_network",
    "check_number",
    "check_radii",
    "check_step",
    "check_whole",
    "chosen",
]

_NEW = "make a new optimizer, and load the state dict of this one"
_FIXED = {
    "p": 'a p that changes is a schedule, as in p = "linear:0,1"',
    "rho": 'set group["rho"] for each group in opt.param_groups',
    "seed": "make a new optimizer",
    "degree": "set opt.gamma",
    "only": 'set group["rho"] = 0 for the other groups in opt.param_groups',
    **dict.fromkeys(("ascent", "schedule", "systematic", "total_steps"), _NEW),
}
"""Arguments that an optimizer has used up when it is made, and what to do in place of setting an attribute."""

Base = torch.optim.Optimizer | Sequence[torch.optim.Optimizer]


class Options(TypedDict, total=False):
    """The options that RST, GRST and SAM share; RST explains them."""

    model: nn.Module | None
    seed: int
    freeze_batchnorm: bool
    repeat_dropout: bool
    climb_locally: bool
    batch_fraction: float
    keep_strength: bool
    systematic: bool
    ascent: Ascent
    only: Iterable[Tensor] | None


def chosen(only: Any) -> set[Tensor] | None:
    """Return the parameters to perturb, None for all.

    Raises:
        TypeError: `only` is not a list of parameters.
        ValueError: it has a tensor that is computed from parameters.
    """
    if only is None:
        return None
    members: list[Any] = list(only) if isinstance(only, Iterable) and not isinstance(only, Tensor) else [None]
    if not all(isinstance(member, Tensor) for member in members):
        raise TypeError(
            f"only is a {type(only).__name__}, not a list of parameters: give model.head.parameters(), for example"
        )
    if not all(member.is_leaf for member in members):
        raise ValueError(
            "only has a tensor that is computed from parameters, such as the weight of a parametrized layer: give the "
            "parameters, as in only = layer.parameters()"
        )
    return set(members)


def check_names(kind: str, base: Any, given: Mapping[str, Any]) -> None:
    """Check that `given` are options of the optimizer called `kind`.

    Raises:
        TypeError: one is not, or `base` is no optimizer.
    """
    for name, value in given.items():
        if name not in Options.__annotations__:
            as_one(base)  # in SAM(torch.optim.SGD, lr=0.1), the base is what is wrong
            known = name in {"p", "gamma", "total_steps", "degree", "gamma_cap"}
            remedy = "use GRST" if known else f"give it to base, as in torch.optim.SGD(…, {name}=…), or leave it out"
            raise TypeError(f"{name} = {_shown(value)} is no argument of {kind}: {remedy}")


def check(
    base: torch.optim.Optimizer,
    p: Schedule,
    rho: Any,
    gamma: Any,
    total_steps: Any,
    model: Any,
    seed: Any,
    batch_fraction: Any,
    ascent: Any,
    only: set[Tensor] | None,
) -> None:
    """Check the arguments of RST.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: an argument is out of range, or does not fit `base` or `p`.
    """
    if total_steps is None and p.needs_total_steps:
        raise ValueError(f"p = {p} varies over the run: give total_steps, the number of steps")
    if total_steps is not None:
        check_whole("total_steps", total_steps)
        if total_steps < 1:
            raise ValueError(f"total_steps = {total_steps} is not a number of steps: give 1 or more")
    check_whole("seed", seed)
    check_number("rho", rho)
    check_number("gamma", gamma)
    _check_share(batch_fraction)
    check_radii(base, rho)
    check_model(model, base)
    if only is not None and only.isdisjoint(parameters_of(base)):
        raise ValueError("only has no parameter in common with base: give parameters that base trains")
    if isinstance(ascent, type) or not callable(ascent):
        raise TypeError(f"ascent = {ascent!r} is not a function: give ascent.asam or ascent.Friendly(), for example")


def check_model(model: Any, base: torch.optim.Optimizer) -> None:
    """Check that `model` is the network that `base` trains, and that its ranks know the norm of the gradient.

    Raises:
        TypeError: it is not a network.
        ValueError: `base` trains another one, or it is sharded by FullyShardedDataParallel.
    """
    if model is None:
        return
    check_network(model)
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        raise ValueError(
            "model is sharded by FullyShardedDataParallel, under which no rank knows the norm of the gradient: "
            "shard it with torch.distributed.fsdp.fully_shard"
        )
    if set(parameters_of(base)).isdisjoint(model.parameters()):
        raise ValueError("model has no parameter in common with base: give the network that base trains")


def check_network(model: Any) -> None:
    """Check that `model` is a network.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}, not a network: give the torch.nn.Module")


def check_change(opt: Any, name: str, value: Any) -> None:
    """Check that `value` may become the attribute `name` of the optimizer `opt`.

    Raises:
        AttributeError: it would change nothing.
        TypeError: it has a wrong type.
        ValueError: it is out of range.
    """
    has = vars(opt)
    if name in _FIXED and (name in has or name not in {"schedule", "total_steps"}):
        raise AttributeError(f"opt.{name} = {value} would change nothing: {_FIXED[name]}")
    if name == "gamma" and name in has and has.get("gamma_cap") is not None:
        raise AttributeError(f"opt.gamma = {value} would change nothing: set opt.gamma_cap, or set it to None first")
    if name == "gamma" or (name == "gamma_cap" and value is not None):
        check_number(name, value)
    if name == "batch_fraction":
        _check_share(value)
    if name == "model":
        check_model(value, opt.base)


def _check_share(value: Any) -> None:
    check_number("batch_fraction", value)
    if not 0 < value <= 1:
        raise ValueError(f"batch_fraction = {value} is not a share of the batch: give a number in (0, 1]")


def check_group(group: Any, base: torch.optim.Optimizer) -> None:
    """Check the radius of a parameter group that `base` is to get, if the group has one.

    Raises:
        TypeError: it is not a number.
        ValueError: it is negative or not finite.
    """
    for key in ("rho", "sharpness_rho"):
        if isinstance(group, dict) and key in group and key not in base.defaults:
            check_number(f"{key} of a parameter group", group[key])


def check_radii(base: torch.optim.Optimizer, default: float = 0.0) -> None:
    """Check the radius of each parameter group of `base`, which is `default` if it has none.

    Raises:
        TypeError: one is not a number.
        ValueError: one is negative or not finite.
    """
    for _, key, group in keyed_groups(base):
        value = group.get(key, default)
        if type(value) is not float or not 0.0 <= value < math.inf:  # the text of a message takes time in each step
            check_number(f"{key} of a parameter group", value)


def check_step(base: torch.optim.Optimizer, p: Schedule, step: int, total_steps: int | None) -> None:
    """Check the radii at the start of a step, and warn if the run has twice as many steps as it was said to have.

    Raises:
        TypeError: a radius is not a number.
        ValueError: a radius is negative or not finite.
    """
    check_radii(base)
    if total_steps is not None and step == 2 * total_steps and p.needs_total_steps:
        warnings.warn(
            f"total_steps = {total_steps}, and {step} steps are done: p = {p} has reached its last value; give the "
            "number of optimizer steps, such as epochs · len(loader), not of epochs",
            stacklevel=2,
        )


def check_number(name: str, value: Any) -> None:
    """Check that `value`, an argument called `name`, is a finite number, 0 or more.

    Raises:
        TypeError: it is not a number.
        ValueError: it is negative or not finite.
    """
    if not isinstance(value, Real):
        raise TypeError(f"{name} = {_shown(value)} is not a number: give a finite number, 0 or more")
    if not 0.0 <= float(value) < math.inf:
        raise ValueError(f"{name} = {value} is out of range: give a finite number, 0 or more")


def check_whole(name: str, value: Any) -> None:
    """Check that `value`, an argument called `name`, is a whole number.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(value, Integral):
        raise TypeError(f"{name} = {value!r} is not a whole number: give one")


def _shown(value: Any) -> str:
    """Return a value for a sentence: a network would fill many lines."""
    text = repr(value)
    return text if len(text) < 60 else f"a {type(value).__name__}"
