"""The options of a task, made from its signature."""

import argparse
import inspect
import re
import types
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from sharpless.cli.arguments import place, whole
from sharpless.lab.studies.choice import AXES
from sharpless.lab.trials.definition import inner

__all__ = ["add", "named", "parsed", "read"]


def named(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the task that follows the name of the command, and the arguments without it.

    >>> named(["compare", "my_task.py:train", "--seeds", "3"])
    ('my_task.py:train', ['compare', '--seeds', '3'])
    """
    if arguments[:1] == ["compare"] and len(arguments) > 1 and not arguments[1].startswith("-"):
        return arguments[1], [arguments[0], *arguments[2:]]
    return None, list(arguments)


def add(group: Any, function: Callable[..., Any], taken: Container[str]) -> None:
    """Add an option for every keyword parameter of a task, with its text in the docstring.

    Args:
        group: the group of options.
        function: the task.
        taken: the options of the command itself. Those of the hyperparameters that it varies stand for the task's too.

    Raises:
        ValueError: the task has an option with the name of another one of the command.
    """
    texts = _described(function)
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            continue
        hint = _hint(function, parameter)
        help_text = texts.get(parameter.name, "")
        if get_origin(hint) is Annotated:
            hint, help_text = get_args(hint)
        name = "--" + parameter.name.replace("_", "-")
        if name in taken:
            if parameter.name in AXES:
                continue
            raise ValueError(f"{name} is an option of compare itself: rename this parameter of the task")
        if parameter.default is not inspect.Parameter.empty and parameter.default not in (None, ""):
            help_text += f" (default: {parameter.default})"
        common = {"dest": parameter.name, "default": argparse.SUPPRESS, "help": help_text.replace("%", "%%")}
        group.add_argument(name, **_reading(_plain(hint, parameter.default), parameter.default), **common)


def parsed(
    rest: Sequence[str], name: str, function: Callable[..., Any], parser: argparse.ArgumentParser
) -> dict[str, Any]:
    """Return the options of a task from the arguments that are not options of the command.

    Args:
        rest: these arguments.
        name: the task.
        function: its function.
        parser: the parser of the command, which reports the errors.
    """
    own = type(parser)(prog=f"{parser.prog} {name}", allow_abbrev=False, add_help=False)
    add(own, function, parser._option_string_actions)
    found, unknown = own.parse_known_args(rest)
    if unknown:
        known = ", ".join(action.option_strings[0] for action in own._actions) or "none"
        other = "; for images use their task: sharpless compare images --data …" if "--data" in unknown else ""
        parser.error(f"unrecognized arguments: {' '.join(unknown)}; options of {name}: {known}{other}")
    return vars(found)


def read(text: str) -> float | str:
    """Return a number, or the word auto.

    Raises:
        ArgumentTypeError: it is neither.
    """
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:24]!r} is not a number") from None


KINDS = {str: (str, "TEXT"), int: (whole, "N"), float: (float, "X"), Path: (place, "VALUE")}
"""The types that can be read from one argument, with their readers and how help shows them."""


def _hint(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """Return the annotation of a parameter by itself: that of the trial may have a name for type checkers only."""
    alone = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        return get_type_hints(alone, getattr(inner(function), "__globals__", {}), include_extras=True)[parameter.name]
    except (AttributeError, NameError):
        return inspect.Parameter.empty


def _plain(hint: Any, default: Any) -> Any:
    """Return the type of an option, without None."""
    if get_origin(hint) in {Union, types.UnionType}:
        hint = next(part for part in get_args(hint) if part is not type(None))
    if hint in {inspect.Parameter.empty, Any}:
        hint = str if default is inspect.Parameter.empty or default is None else type(default)
    return hint


def _reading(hint: Any, default: Any) -> dict[str, Any]:
    """Return how the parser reads an option of the type `hint`."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if origin is Literal:
        return {"type": _plain(inspect.Parameter.empty, parts[0]), "choices": parts}
    if (origin or hint) in {list, tuple, Sequence}:
        first = next(iter(default), None) if isinstance(default, list | tuple) else None
        inner = _plain(parts[0] if parts else inspect.Parameter.empty, first)
        if inner is not bool:
            return {**_reading(inner, first), "nargs": "+"}
    if hint in KINDS:
        return dict(zip(("type", "metavar"), KINDS[hint], strict=True))

    def refuse(text: str) -> NoReturn:
        raise argparse.ArgumentTypeError(
            f"{text[:24]!r} cannot be read as {inspect.formatannotation(hint)}: give it in Python, compare(options=…)"
        )

    return {"type": refuse, "metavar": "VALUE"}


def _described(function: Callable[..., Any]) -> dict[str, str]:
    """Return the text of each parameter in the section Args of a Google docstring."""
    text = inspect.getdoc(function) or ""
    section = text.partition("Args:\n")[2].partition("\n\n")[0]
    entries = re.split(r"\n(?= {0,4}\w+(?: \([^)]*\))?: )", "\n" + section)
    pairs = (entry.strip().partition(":") for entry in entries if ":" in entry)
    return {name.split(" ")[0]: " ".join(text.split()).rstrip(".") for name, _, text in pairs}
