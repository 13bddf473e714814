"""The options of a recipe and of a setup, made from the dataclasses."""

import argparse
from dataclasses import MISSING, Field, fields, replace
from pathlib import Path
from typing import Any

from sharpless.lab.papers import PAPERS, usual
from sharpless.lab.recipes import Recipe
from sharpless.lab.setup import Setup

__all__ = ["add", "place", "recipe", "setup", "spellings", "whole"]


def add(command: argparse.ArgumentParser) -> None:
    """Add an option for every field, and one for a whole recipe."""
    group = command.add_argument_group("the recipe")
    group.add_argument(
        "--recipe",
        choices=PAPERS,
        help=f"where the defaults come from: {', '.join(PAPERS)} (default: digits, whose defaults are shown here; for "
        "imagenet imagenet-resnet50, and resnet18 for all other data)",
        metavar="NAME",
    )
    _add_fields(group, Recipe)
    _add_fields(command.add_argument_group("the machine"), Setup)


def recipe(options: argparse.Namespace) -> Recipe:
    """Return the recipe that was named, with the fields that were given in place of its own."""
    given = _given(options, Recipe)
    name = options.recipe or usual(given.get("data", "digits"))
    return replace(PAPERS[name](), **given)


def setup(options: argparse.Namespace) -> Setup:
    """Return the setup of the fields that were given."""
    return Setup(**_given(options, Setup))


def spellings() -> dict[str, list[str]]:
    """Return the options of each field, by its name, and of what the data call otherwise.

    >>> spellings()["p"]
    ['--p', '--schedule']
    """
    options = {field.name: _options(field) for kind in (Recipe, Setup) for field in fields(kind)}
    return options | {"held_out": options["validation"]}


def whole(text: str) -> int:
    """Return a whole number that fits the 64 bits in which torch and the files hold it.

    Raises:
        ArgumentTypeError: it is none, or does not.
    """
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:24]!r} is no whole number") from None
    if abs(number) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text[:24]}… is out of range: give a number of at most 18 digits")
    return number


def place(text: str) -> Path:
    """Return a path; an empty one would be this folder, and is rather a variable of the shell that is not set.

    Raises:
        ArgumentTypeError: it is empty.
    """
    if not text:
        raise argparse.ArgumentTypeError("the path is empty: give one, . for this folder")
    return Path(text)


def _options(field: "Field[Any]") -> list[str]:
    return ["--" + name.replace("_", "-") for name in (field.name, *field.metadata["aliases"])]


def _given(options: argparse.Namespace, kind: type) -> dict[str, Any]:
    return {field.name: getattr(options, field.name) for field in fields(kind) if hasattr(options, field.name)}


def _add_fields(group: Any, kind: type) -> None:
    for field in fields(kind):
        assert field.default is not MISSING
        names = _options(field)
        told = field.metadata["help"].replace("%", "%%")
        common = {"dest": field.name, "default": argparse.SUPPRESS}
        if field.type is bool:
            group.add_argument(*names, action=argparse.BooleanOptionalAction, help=told, **common)
            continue
        default = "" if field.default in {None, ""} else f" (default: {field.default})"
        kinds: dict[Any, tuple[Any, str]] = {str: (str, "NAME"), int: (whole, "N")}
        read, metavar = kinds.get(field.type, (float, "X"))
        group.add_argument(*names, type=read, metavar=metavar, help=told + default, **common)
