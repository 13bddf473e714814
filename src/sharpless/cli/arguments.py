"""The values of options, and their spelling on the command line."""

import argparse
from dataclasses import fields
from pathlib import Path

from sharpless.lab.tasks.images.recipe import Recipe
from sharpless.lab.tasks.images.setup import Setup

__all__ = ["place", "spellings", "whole"]


def spellings() -> dict[str, list[str]]:
    """Return the spelling of the images' options by their names, and of the names that functions use.

    >>> spellings()["held_out"]
    ['--validation']
    """
    names = [field.name for kind in (Recipe, Setup) for field in fields(kind)]
    others = {"held_out": ["--validation"], "seconds": ["--step-seconds"]}
    return {name: ["--" + name.replace("_", "-")] for name in names} | others


def whole(text: str) -> int:
    """Return a whole number that fits into the 64 bits of torch and the files.

    Raises:
        ArgumentTypeError: it is not a whole number, or does not fit.
    """
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:24]!r} is not a whole number") from None
    if abs(number) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text[:24]}… is out of range: give a number of at most 18 digits")
    return number


def place(text: str) -> Path:
    """Return a path. An empty one is probably an unset variable of the shell.

    Raises:
        ArgumentTypeError: it is empty.
    """
    if not text:
        raise argparse.ArgumentTypeError("the path is empty: give one, . for this folder")
    return Path(text)
