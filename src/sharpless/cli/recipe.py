"""The options of a recipe and of a setup, made from the dataclasses."""

import argparse
from dataclasses import MISSING, fields, replace
from typing import Any

from sharpless.lab.papers import PAPERS, usual
from sharpless.lab.recipes import Recipe
from sharpless.lab.setup import Setup

__all__ = ["add", "recipe", "setup"]


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


def _given(options: argparse.Namespace, kind: type) -> dict[str, Any]:
    return {field.name: getattr(options, field.name) for field in fields(kind) if hasattr(options, field.name)}


def _add_fields(group: Any, kind: type) -> None:
    for field in fields(kind):
        assert field.default is not MISSING
        names = ["--" + name.replace("_", "-") for name in (field.name, *field.metadata["aliases"])]
        told = field.metadata["help"].replace("%", "%%")
        common = {"dest": field.name, "default": argparse.SUPPRESS}
        if field.type is bool:
            group.add_argument(*names, action=argparse.BooleanOptionalAction, help=told, **common)
            continue
        default = "" if field.default in {None, ""} else f" (default: {field.default})"
        kind_of_value = field.type if field.type in {str, int} else float
        metavar = "NAME" if kind_of_value is str else "N" if kind_of_value is int else "X"
        group.add_argument(*names, type=kind_of_value, metavar=metavar, help=told + default, **common)
