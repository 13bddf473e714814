"""What options hold, and how they are typed."""

import argparse
from dataclasses import fields
from pathlib import Path

from sharpless.lab.tasks.images.recipe import Recipe
from sharpless.lab.tasks.images.setup import Setup

__all__ = ["place", "spellings", "whole"]


def spellings() -> dict[str, list[str]]:
    """Return the options of the images by their names, and of what the data call otherwise.

    >>> spellings()["held_out"]
    ['--validation']
    """
    names = [field.name for kind in (Recipe, Setup) for field in fields(kind)]
    return {name: ["--" + name.replace("_", "-")] for name in names} | {"held_out": ["--validation"]}


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
