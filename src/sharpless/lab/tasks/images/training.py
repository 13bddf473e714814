"""One run: train a recipe with one method and one seed.

All that is random in a run is a function of the seed and of the step, the epoch or the example: a run that goes on
from a checkpoint is the one that was never stopped, and processes that share a batch agree on it.
"""

import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sharpless.lab.faults import blamed
from sharpless.lab.flat import EXAMPLES
from sharpless.lab.stopping import told_to_stop
from sharpless.lab.tasks.images.checks import check_batches, examples
from sharpless.lab.tasks.images.data import Data
from sharpless.lab.tasks.images.examples import Examples
from sharpless.lab.tasks.images.networks import build
from sharpless.lab.tasks.images.ranks import Team, gathered
from sharpless.lab.tasks.images.recipe import Recipe
from sharpless.lab.tasks.images.sample import Sample
from sharpless.lab.tasks.images.saver import Saver
from sharpless.lab.tasks.images.setup import Setup
from sharpless.lab.tasks.images.step import Stepper
from sharpless.lab.threads import computing_with
from sharpless.lab.trial import Trial

__all__ = ["batches", "run_epoch", "train", "work"]

MEASURED_AT_ONCE = 125
"""Examples in a batch of what flatness is measured on."""

CHOSEN_ON = 0.2
"""The share of the training examples by which hyperparameters are chosen, where the recipe names none."""


def train(trial: Trial, recipe: Recipe, setup: Setup | None = None, data: Data | None = None) -> None:
    """Train, test after every epoch, and leave the weights in `trial.weights`.

    Args:
        trial: the run; a rank that follows has one of its own.
        recipe: the hyperparameters.
        setup: where the run is executed.
        data: what it trains on, in place of the recipe's data.

    Raises:
        Stopped: the process was told to stop; a checkpoint was written after the step.
        ValueError: the arguments do not go together.
    """
    setup = setup or Setup()
    job = {
        **{"recipe": recipe, "setup": setup, "data": data},
        **{"method": trial.method, "seed": trial.seed, "choosing": trial.choosing, "wrap": trial.wrap},
        **{"hyperparameters": dict(trial.hyperparameters), "threads": torch.get_num_threads()},
    }
    with gathered(setup, job) as team:
        _train(trial, recipe, setup, team, data)


def work(team: Team, job: Mapping[str, Any]) -> None:
    """Train as one of a team that `train` leads."""
    trial = Trial(job["method"], job["seed"], job["hyperparameters"], choosing=job["choosing"], wrap=job["wrap"])
    with computing_with(job["threads"]):
        _train(trial, job["recipe"], job["setup"], team, job["data"])


def _train(trial: Trial, recipe: Recipe, setup: Setup, team: Team, data: Data | None) -> None:
    data = data or examples(recipe, setup, trial.seed, recipe.validation or CHOSEN_ON * trial.choosing)
    check_batches(recipe, setup, data)
    trial.facts["fingerprint"] = data.fingerprint
    told_of = {name: value for name, value in asdict(setup).items() if name not in {"data_dir", "accelerator"}}
    trial.setup |= {**told_of, "processes": team.size}
    train_set, test_set = data.train.to(team.device), data.test.to(team.device)
    per_epoch, epochs = len(data.train) // recipe.batch_size, trial.epochs(recipe.epochs)

    _sow(trial.seed, team.device)
    model = build(recipe.network, classes=data.classes, channels=data.channels, width=recipe.width)
    stepper = Stepper(trial, recipe, setup, team, model, epochs * per_epoch)
    saver = Saver(stepper, setup.checkpoint_every, {"recipe": asdict(recipe), "data": data.fingerprint})
    with blamed(recipe.network), told_to_stop() as told, _nothing_said_of_skipped_steps():
        step = saver.resume(per_epoch)
        for epoch in range(len(trial.curve["step"]), epochs):
            step = run_epoch(stepper, train_set, epoch, step, lambda step: saver.consider(step, told))
            _sow(_mixed(trial.seed, step, 1 + team.rank), team.device)
            loss = float(team.total(stepper.loss)) / (team.size * per_epoch)
            with trial.evaluating(stepper.module):
                trial.report(**{data.split: stepper.accuracy(test_set)}, loss=loss)
            stepper.loss.zero_()
    with trial.evaluating(stepper.module):
        trial.weights = saver.weights()
    loss_of = partial(cross_entropy, label_smoothing=recipe.label_smoothing)
    trial.flatness(stepper.module, loss_of, Sample(train_set, EXAMPLES, MEASURED_AT_ONCE))


def run_epoch(stepper: Stepper, train_set: Examples, epoch: int, step: int, after: Callable[[int], None]) -> int:
    """Train for what is missing of an epoch.

    Args:
        stepper: what takes the steps.
        train_set: the examples.
        epoch: which epoch.
        step: the steps that are done.
        after: is called after every step with the steps that are done by then.

    Returns:
        The steps that are done.
    """
    trial, recipe, team = stepper.trial, stepper.recipe, stepper.team
    per_epoch = len(train_set) // recipe.batch_size
    coming = batches(train_set, recipe, team, trial.seed, epoch, step - epoch * per_epoch)
    while step < (epoch + 1) * per_epoch:
        before = perf_counter()
        parts = [next(coming) for _ in range(recipe.accumulate)]
        trial.data_seconds += perf_counter() - before
        _sow(_mixed(trial.seed, step, 1 + team.rank), team.device)
        stepper.take(parts)
        step += 1
        after(step)
    return step


def batches(
    train_set: Examples, recipe: Recipe, team: Team, seed: int, epoch: int, first: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Return this rank's parts of the batches of an epoch, from the step `first` on."""
    generator = torch.Generator().manual_seed(_mixed(seed, epoch))
    order = torch.randperm(len(train_set), generator=generator)
    size, per_epoch = recipe.batch_size, len(train_set) // recipe.batch_size
    rows = order[: per_epoch * size].view(-1, size)[first:, team.rank :: team.size]
    parts = rows.reshape(-1, rows.shape[1] // recipe.accumulate)
    return train_set.batches(list(parts), seed, epoch, recipe.augmentations)


def _mixed(*numbers: int) -> int:
    """Return a seed for torch that differs wherever the numbers do, for all practical purposes."""
    seed = 0
    for number in numbers:
        seed = (seed * 0x9E3779B97F4A7C15 + number + 1) % 2**63
    return seed


def _sow(seed: int, device: torch.device) -> None:
    """Let all that draws from global generators follow from `seed`, a network of the user's own included."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":  # torch.manual_seed notes where it was called, on a machine without a GPU
        torch.cuda.manual_seed(seed)


@contextmanager
def _nothing_said_of_skipped_steps() -> Iterator[None]:
    """Silence what torch says of a schedule where float16 has overflown at the first step."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        yield
