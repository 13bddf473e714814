"""Set the hyperparameters of the base optimizer that a comparison varies."""

from collections.abc import Mapping

from torch.optim import Optimizer

from sharpless.bases import all_of
from sharpless.lab.trials.contract import TaskError

__all__ = ["vary"]


def vary(base: Optimizer, hyperparameters: Mapping[str, float]) -> None:
    """Set learning rate and weight decay, if they are given.

    The first of the bases gets the values, and all groups are scaled in proportion. If its groups differ, the value is
    that of its default, or of its first group that is not 0 if no group has the default.

    Raises:
        TaskError: a group has no such hyperparameter, or a scheduler exists already.
    """
    for name in hyperparameters.keys() & {"lr", "weight_decay"}:
        value, first = hyperparameters[name], all_of(base)[0]
        theirs = [group[name] for group in first.param_groups if group.get(name)]
        own = first.defaults.get(name)
        if own not in theirs:  # a default that no group uses, such as torch's
            own = theirs[0] if theirs else 0.0
        for group in base.param_groups:
            if name not in group:
                raise TaskError(f"{name} = {value} is varied, and {type(base).__name__} has none: leave it out")
            if name == "lr" and "initial_lr" in group:
                raise TaskError("lr is varied here: make learning-rate schedulers after trial.optimizer, not before")
            group[name] = group[name] * (value / own) if own else value
