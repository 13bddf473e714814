"""Checks of options, methods and data before any work."""

from collections.abc import Sequence

import torch

from sharpless.lab.faults import culprit, is_out_of_memory, reason
from sharpless.lab.methods.method import Method
from sharpless.lab.tasks.images import networks
from sharpless.lab.tasks.images.data import Data, load
from sharpless.lab.tasks.images.recipe import Recipe
from sharpless.lab.tasks.images.setup import Setup
from sharpless.lab.tasks.images.step import base_optimizer
from sharpless.lab.trials.trial import Trial

__all__ = ["check", "check_batches", "check_method", "examples"]


def examples(recipe: Recipe, setup: Setup, seed: int, held_out: float) -> Data:
    """Return the data of a run."""
    return load(
        recipe.data,
        noise=recipe.noise,
        seed=seed,
        held_out=held_out,
        examples=recipe.examples,
        image_size=recipe.image_size,
        data_dir=setup.data_dir or None,
        workers=setup.workers,
    )


def check(recipe: Recipe, setup: Setup, methods: Sequence[Method]) -> Data:
    """Check options, methods and data before the runs.

    Returns:
        The data of a run.

    Raises:
        ValueError: recipe, setup and methods exclude each other, or the data cannot be read.
        ModuleNotFoundError: a package that a method, the network or the data need is not installed.
    """
    networks.check(recipe.network)
    for method in methods:
        check_method(recipe, setup, method)
    data = examples(recipe, setup, 0, recipe.validation)
    check_batches(recipe, setup, data)
    _check_network(recipe, methods, data)
    return data


def check_batches(recipe: Recipe, setup: Setup, data: Data) -> None:
    """Check that there are enough examples for a batch, and that the processes can share it evenly.

    Raises:
        ValueError: there are too few, or they cannot.
    """
    if recipe.batch_size > len(data.train):
        raise ValueError(
            f"batch_size = {recipe.batch_size} is out of range: give 2 to {len(data.train)}, the number of training "
            "examples"
        )
    parts = setup.world_size * recipe.accumulate
    if recipe.batch_size % parts:
        raise ValueError(
            f"batch_size = {recipe.batch_size} cannot be shared evenly: give a multiple of {parts}, devices × "
            "nodes × accumulate"
        )


def check_method(recipe: Recipe, setup: Setup, method: Method) -> None:
    """Check that a method works with recipe and setup.

    Raises:
        ValueError: it does not.
    """
    sharded = setup.strategy == "fsdp2"
    friendly = method.own.get("ascent") == "friendly"
    if recipe.l2 and sharded:
        raise ValueError(f"l2 = {recipe.l2} needs whole weights: leave it out, or take strategy ddp")
    if method.own["average"] and sharded:
        raise ValueError(f"method {method.name} averages whole weights: leave the average out, or take strategy ddp")
    if friendly and setup.world_size > 1 and not recipe.climb_together:
        raise ValueError(
            f"method {method.name} remembers one gradient, and here each device has its own: let the devices climb "
            "together"
        )
    if recipe.precision == "16" and (friendly or method.settings(64).schedule.policy):
        raise ValueError(
            f"precision = 16 scales the gradients, whose size from step to step method {method.name} compares: give "
            "bf16 or 32"
        )
    if method.kind.package and (setup.world_size > 1 or recipe.precision != "32" or recipe.accumulate > 1):
        raise ValueError(
            f"method {method.name} runs on one device, in precision 32 and without accumulation: leave it out"
        )


def _check_network(recipe: Recipe, methods: Sequence[Method], data: Data) -> None:
    """Check that the network fits the images, and the methods the network.

    Raises:
        ValueError: they do not fit.
    """
    model = networks.build(recipe.network, classes=data.classes, channels=data.channels, width=recipe.width)
    for method in methods:
        Trial(method).optimizer(
            base_optimizer(recipe, model),
            model=model,
            total_steps=1,
            batch_size=recipe.batch_size // recipe.accumulate,
            rho=recipe.rho,
        )
    x, _ = next(data.test.batches([torch.arange(1)]))
    try:
        with torch.no_grad():
            logits = model.eval()(x)
    except Exception as error:  # of torch, or of the user's forward
        if is_out_of_memory(error):
            raise
        where = culprit(error, recipe.network)
        raise ValueError(
            f"network = {recipe.network} does not take images of {data.channels} channels and {x.shape[2]} × "
            f"{x.shape[3]} pixels ({reason(error)}{'' if where is None else f', in {where}'}): "
            + ("give its arguments, or images of another size" if where is None else "fix it there")
        ) from error
    given = tuple(logits.shape) if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
    if given != (1, data.classes):
        raise ValueError(f"network = {recipe.network} gives {given} for one image: give one number per class")
