"""The laboratory: compare the results and the costs of several methods on a task.

A task is a function of a trial. `compare` runs it with every method and seed and returns the summary.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sharpless.lab.studies.comparison import compare
    from sharpless.lab.trials.definition import task
    from sharpless.lab.trials.trial import Trial

__all__ = ["Trial", "compare", "task"]

PLACES = {"Trial": "trials.trial", "compare": "studies.comparison", "task": "trials.definition"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that the command line can show its help without torch.

    Returns:
        The object of this name.

    Raises:
        AttributeError: there is nothing of this name.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(f"{__name__}.{PLACES[name]}"), name)
