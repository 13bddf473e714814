"""Tasks: a function of a trial, in a file, in a module or in a notebook, and its metric."""

import inspect
import os
import pickle
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Never, TypeVar

from sharpless.lab.faults import reason
from sharpless.lab.store import plain
from sharpless.lab.trials.imports import imported

__all__ = ["BUILT_IN", "Measure", "Task", "inner", "task"]

BUILT_IN = {"digits": "sharpless.lab.tasks.digits:train", "images": "sharpless.lab.tasks.images:train"}
"""The tasks with a short name."""

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Measure:
    """The metric of a task.

    Raises:
        TypeError: name or unit are not texts.
        ValueError: the goal is neither min nor max, or name or unit do not fit into a table.
    """

    name: str = "metric"
    unit: str = ""
    goal: str = "max"

    def __post_init__(self) -> None:
        if self.goal not in {"min", "max"}:
            raise ValueError(f"goal = {self.goal} is unknown: give min or max")
        for name, text, least, most in (("metric", self.name, 1, 60), ("unit", self.unit, 0, 20)):
            if not isinstance(text, str):
                raise TypeError(f"{name} = {text!r} is not a text: give one")
            if not least <= len(text) <= most:
                raise ValueError(f"{name} = {text!r} has {len(text)} characters: give {least} to {most}")


def task(*_unnamed: Never, metric: str = "metric", unit: str = "", goal: str = "max") -> Callable[[Function], Function]:
    """Return a decorator that sets the metric of a task. Without it, the options of a comparison set the metric.

    >>> @task(metric="MSE", goal="min")
    ... def train(trial): ...

    Args:
        metric: its name, for tables and figures.
        unit: its unit; "%" for accuracies.
        goal: `max` if higher is better, `min` if lower is.

    Raises:
        TypeError: it is used without parentheses, or an argument has a wrong type.
        ValueError: the goal is neither min nor max.
    """
    if _unnamed:
        given = getattr(_unnamed[0], "__name__", repr(_unnamed[0]))
        raise TypeError(
            f'@task got {given}, and takes its arguments by name: write @task(metric="MSE", goal="min"), or @task()'
        )
    measure = Measure(metric, unit, goal)

    def decorate(function: Function) -> Function:
        function.measure = measure  # type: ignore[attr-defined]
        return function

    return decorate


@dataclass(frozen=True)
class Task:
    """A task with its options, which can be sent to another process.

    Args:
        name: `FILE.py:function`, `package.module:function`, or the name of a task that is built in.
        options: the keyword arguments of the function.
        measure: the metric, in place of that of the function.
        pickled: the function itself, if it cannot be imported by its name.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    measure: Measure = Measure()
    pickled: bytes | None = None
    folder: str = field(default_factory=os.getcwd)
    """The folder of the file or module."""
    session: Mapping[str, Any] = field(default_factory=dict)
    """Torch's settings in the session of the function, if it cannot be imported by its name."""

    @classmethod
    def of(
        cls,
        source: "str | Callable[..., Any]",
        options: Mapping[str, Any] | None = None,
        *,
        metric: str | None = None,
        unit: str | None = None,
        goal: str | None = None,
    ) -> "Task":
        """Return the task of a name or a function, after checks, with all its options.

        Raises:
            TypeError: the options are not a mapping.
            ValueError: there is no such function, it is not a function of a trial, or it has no such option.
        """
        if isinstance(source, str):
            found = cls(source)
        else:
            _check(source, repr(source)[:60])
            from sharpless.lab.trials.session import settings  # noqa: PLC0415  (imports torch)

            found = cls(_name(source), pickled=_pickled(source), session=settings())
        if not isinstance(options or {}, Mapping):
            raise TypeError(f'options = {options!r} are not the task\'s options by name: give {{"name": value}}')
        function = found.function
        known = dict(parameters(function))
        for name in options or {}:
            if name not in known:
                raise ValueError(
                    f"{name} is no option of {found.name}: it has {', '.join(known) or 'none'}, the keyword parameters "
                    "of the function"
                )
        own = getattr(inner(function), "measure", Measure())
        given = {"name": metric, "unit": unit, "goal": goal}
        measure = replace(own, **{name: value for name, value in given.items() if value is not None})
        resolve = getattr(function, "resolve", None)  # for defaults that depend on other options
        given = dict(options or {})
        complete = resolve(given) if resolve else {name: one.default for name, one in known.items()} | given
        for name, value in complete.items():
            if value is inspect.Parameter.empty:
                raise ValueError(f"{name} is missing: {found.name} needs it, give --{name.replace('_', '-')}")
            if " at 0x" in str(plain(value)):
                raise ValueError(
                    f"{name} = {value!r} has no lasting name, by which a study could be continued: give a number or a "
                    "text, and make the object inside the function"
                )
        return replace(found, options=complete, measure=measure)

    @cached_property
    def function(self) -> Callable[..., Any]:
        """The function.

        Raises:
            ValueError: it cannot be found, or its module raises an error on import.
        """
        if self.pickled is not None:
            import cloudpickle  # noqa: PLC0415

            return cloudpickle.loads(self.pickled)  # type: ignore[no-any-return]
        if self.folder not in sys.path:
            sys.path.append(self.folder)
        function = imported(BUILT_IN.get(self.name, self.name), Path(self.folder), f"task = {self.name}", [*BUILT_IN])
        _check(function, self.name)
        return function

    @property
    def identity(self) -> dict[str, Any]:
        """The options that define the training, without those of the machine, as JSON has them."""
        places = getattr(self.function, "places", ())
        own: dict[str, Any] = plain({name: value for name, value in self.options.items() if name not in places})
        return own

    @property
    def fingerprint(self) -> str:
        """A hash of the code: of the file, or of a function that cannot be imported by its name; "" if unknown."""
        if self.name in BUILT_IN:
            return ""  # the version of the library tells
        function = inner(self.function)
        code: Any = function if self.pickled is not None else inspect.getmodule(function)
        try:
            text = inspect.getsource(code)
        except (OSError, TypeError):
            return ""
        return blake2b(text.encode(errors="replace"), digest_size=8).hexdigest()

    @property
    def in_process(self) -> bool:
        """Whether the runs are executed in this process, one after another, since each uses several devices."""
        shared = getattr(self.function, "in_process", None)
        return False if shared is None else bool(shared(self.options))

    def __call__(self, trial: Any) -> Any:
        """Return the result of the function, which trains."""
        from sharpless.lab.trials.session import restored  # noqa: PLC0415

        function = self.function  # its module may set the defaults of torch, once
        with restored(self.session):
            return function(trial, **self.options)

    def __getstate__(self) -> dict[str, Any]:
        import cloudpickle  # noqa: PLC0415

        kept = {name: value for name, value in self.__dict__.items() if name != "function"}
        return {**kept, "options": cloudpickle.dumps(self.options)}  # they may be of classes of a notebook

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({**state, "options": pickle.loads(state["options"])})


def inner(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function inside a `functools.partial`, which has none of its attributes; any other as it is."""
    return function.func if isinstance(function, partial) else function


def parameters(function: Callable[..., Any]) -> list[tuple[str, inspect.Parameter]]:
    """Return the options of a task: all parameters but the trial."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [(name, one) for name, one in list(inspect.signature(function).parameters.items())[1:] if one.kind in kinds]


def _check(function: Any, name: str) -> None:
    if not callable(function) or isinstance(function, type):
        raise ValueError(  # noqa: TRY004 - for a command line, it is a value
            f"task = {name} is not a function: give a function of a trial, `def train(trial): …`"
        )
    try:
        first = next(iter(inspect.signature(function).parameters.values()), None)
    except (TypeError, ValueError):
        first = None
    if first is None or first.kind not in {first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD, first.VAR_POSITIONAL}:
        raise ValueError(f"task = {name} takes no trial: give a function of a trial, `def train(trial): …`")


def _name(function: Any) -> str:
    function = inner(function)
    return f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', type(function).__name__)}"


def _pickled(function: Any) -> bytes:
    import cloudpickle  # noqa: PLC0415

    try:
        return cloudpickle.dumps(function)  # type: ignore[no-any-return]
    except Exception as error:
        raise ValueError(
            f"task = {_name(function)} cannot be sent to another process ({reason(error)}): make data and models "
            "inside the function"
        ) from error
