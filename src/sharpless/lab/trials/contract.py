"""The rules for a task, and the errors for a task that breaks them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from sharpless.lab.methods.method import Method
    from sharpless.lab.trials.trial import Trial

__all__ = ["TaskError", "check_ended", "counted", "needed", "refused", "reported"]


class TaskError(ValueError):
    """A task broke a rule. The message names the fault and the remedy."""


def needed(model: "nn.Module | None", why: str) -> "nn.Module":
    """Return the network that a task gave to `trial.optimizer`.

    Raises:
        TaskError: the task gave none.
    """
    if model is None:
        raise TaskError(f"{why}: give trial.optimizer(…, model=…)")
    return model


@contextmanager
def refused() -> Iterator[None]:
    """Turn a ValueError within the block into an error of the task.

    Raises:
        TaskError: the arguments of the task are invalid.
    """
    try:
        yield
    except ValueError as error:
        raise TaskError(str(error)) from error


def counted(epochs: Any, method: "Method") -> int:
    """Return the number of epochs of plain training that a task gives.

    Raises:
        TaskError: it is not 1 or more, or too small for the longer training of the method.
    """
    if not isinstance(epochs, Real) or epochs % 1 or epochs < 1:
        raise TaskError(f"epochs = {epochs} is out of range: give trial.epochs a whole number from 1 on")
    whole = int(float(epochs))
    if method.is_longer and method.epochs(whole) == whole:
        raise TaskError(f"method {method.name} is no longer than {whole} epochs of the base: give a larger cost")
    return whole


def _number(name: str, value: Any) -> float:
    """Return a reported value as a number, which may be infinite or NaN.

    Raises:
        TaskError: the value is not a number.
    """
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise TaskError(f"trial.report: {name} = {str(value)[:60]} is not one number") from None


def reported(trial: "Trial", given: Mapping[str, Any], *bare: Any) -> dict[str, float]:
    """Return the values that a task reports, as numbers.

    Args:
        trial: the trial.
        given: the values by name.
        *bare: values without a name.

    Raises:
        TaskError: the values are not a valid point of the curve.
    """
    if bare:
        value = str(bare[0])[:60]
        raise TaskError(f"trial.report got {value} without a name: give trial.report(test=…) or validation=…")
    values = {name: _number(name, value) for name, value in given.items() if value is not None}
    if values.keys() <= {"loss"}:
        raise TaskError("trial.report got neither validation nor test: give at least one of them")
    if trial.choosing and "validation" not in values:
        raise TaskError(
            "hyperparameters are chosen on validation data, and the task reported none: give trial.report(validation=…)"
        )
    if trial.average is not None and not trial.is_evaluating:
        raise TaskError(
            f"method {trial.method.name} is tested with averaged weights: report within `with trial.evaluating(model):`"
        )
    if trial.curve["step"] and (before := trial.curve.keys() - {"step", "passes", "seconds"}) != values.keys():
        raise TaskError(f"trial.report got {_listed(values)}, and {_listed(before)} before: report the same each time")
    return values


def check_ended(trial: "Trial") -> None:
    """Check, at the end of a run, that the task followed the rules.

    Raises:
        TaskError: it did not.
    """
    cost = trial.cost
    if trial.opt is None:
        raise TaskError("the task did not use trial.optimizer: every method would train like the base")
    if cost.passes == 0:
        raise TaskError(
            "the task took no gradients through trial.optimizer: run forward and backward in `for … in "
            "opt.passes(batch)`, and call opt.step()"
        )
    if trial.total_steps is not None and cost.steps != trial.total_steps:
        raise TaskError(
            f"the task took {cost.steps} steps, and gave total_steps = {trial.total_steps}: give trial.optimizer "
            "the number of steps of the run"
        )
    if trial.planned_epochs is None and trial.method.is_longer:
        raise TaskError(
            f"method {trial.method.name} trains longer: take the number of epochs from trial.epochs, as in `for "
            "epoch in range(trial.epochs(10))`"
        )
    if not trial.curve["step"]:
        raise TaskError("the task reported nothing: call trial.report(test=…) at least at its end")
    if trial.measures_flatness and trial.flat is None:
        raise TaskError(
            "the comparison measures flatness, and the task did not call trial.flatness: call "
            "trial.flatness(model, loss, batches) at its end"
        )


def _listed(names: Any) -> str:
    return " and ".join(sorted(names))
