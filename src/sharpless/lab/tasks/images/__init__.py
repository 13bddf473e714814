"""Image classification: any data, any network, any machine.

This module does not import torch, so that the command line shows the options without delay.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Annotated, Any

from sharpless.lab.tasks.images.papers import PAPERS, usual
from sharpless.lab.tasks.images.recipe import Recipe
from sharpless.lab.tasks.images.setup import Setup
from sharpless.lab.trials.definition import task

if TYPE_CHECKING:
    from sharpless.lab.methods.method import Method

__all__ = ["parts", "resolve", "train"]

KINDS = (Recipe, Setup)


@task(metric="accuracy", unit="%", goal="max")
def train(trial: Any, **options: Any) -> None:
    """Train a network on images with labels, and test it after every epoch.

    Args:
        trial: one run of a comparison.
        options: the fields of `Recipe` and `Setup`.

    Raises:
        Stopped: a signal stopped the process, which wrote a checkpoint.
        ValueError: the options exclude each other.
    """
    from sharpless.lab.tasks.images import training  # noqa: PLC0415

    training.train(trial, *parts(options))


def parts(options: Mapping[str, Any]) -> tuple[Recipe, Setup]:
    """Return recipe and setup for the options, with the defaults of the named recipe.

    >>> parts({"recipe": "vit-s", "epochs": 3, "devices": 2})[0].optimizer
    'adamw'

    Raises:
        ValueError: there is no such recipe, or an option is out of range.
    """
    name = options.get("recipe") or usual(options.get("data", Recipe.data))
    if name not in PAPERS:
        raise ValueError(f"recipe = {name} is unknown: give {', '.join(PAPERS)}")
    own, machine = ({f.name: options[f.name] for f in fields(kind) if f.name in options} for kind in KINDS)
    return replace(PAPERS[name](), **own), Setup(**machine)


def resolve(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options, with the defaults of the named recipe."""
    recipe, setup = parts(options)
    return {**asdict(recipe), **asdict(setup)}


def check(options: Mapping[str, Any], methods: "Sequence[Method]") -> dict[str, str]:
    """Check options, methods and data before any work.

    Returns:
        The fingerprint of the data.

    Raises:
        ValueError: options and methods exclude each other, or the data cannot be read.
        ModuleNotFoundError: a required package is not installed.
    """
    from sharpless.lab.tasks.images import checks  # noqa: PLC0415

    return {"fingerprint": checks.check(*parts(options), methods).fingerprint}


def _signature() -> inspect.Signature:
    recipes = (
        f"set of defaults: {', '.join(PAPERS)} (default: digits, whose values are shown here; imagenet-resnet50 for "
        "imagenet, and resnet18 for other data)"
    )
    only = inspect.Parameter.KEYWORD_ONLY
    options = [inspect.Parameter("recipe", only, default="", annotation=Annotated[str, recipes])]
    for field in (field for kind in KINDS for field in fields(kind)):
        annotation: Any = Annotated[field.type, field.metadata["help"]]
        options.append(inspect.Parameter(field.name, only, default=field.default, annotation=annotation))
    return inspect.Signature([inspect.Parameter("trial", inspect.Parameter.POSITIONAL_OR_KEYWORD), *options])


train.__signature__ = _signature()  # type: ignore[attr-defined]
train.places = tuple(field.name for field in fields(Setup))  # type: ignore[attr-defined]
train.in_process = lambda options: parts(options)[1].world_size > 1  # type: ignore[attr-defined]
train.resolve, train.check = resolve, check  # type: ignore[attr-defined]
