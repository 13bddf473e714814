"""One run: train a recipe with one method and one seed.

All random numbers of a run are functions of the seed and of the step, the epoch or the example. So a resumed run equals
an uninterrupted one, and processes that share a batch agree.
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
from sharpless.lab.runs.stopping import stop_signals
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
from sharpless.lab.trials.flat import EXAMPLES
from sharpless.lab.trials.trial import Trial

__all__ = ["batches", "run_epoch", "train", "work"]

MEASURED_AT_ONCE = 125
"""Examples in a batch for flatness."""

CHOSEN_ON = 0.2
"""The share of the training examples for choosing hyperparameters, if the recipe has none."""


def train(trial: Trial, recipe: Recipe, setup: Setup | None = None, data: Data | None = None) -> None:
    """Train, test after every epoch, and set `trial.weights`.

    Args:
        trial: the run. Every follower has another object.
        recipe: the hyperparameters.
        setup: the machine.
        data: data in place of those of the recipe.

    Raises:
        Stopped: a signal stopped the process. A checkpoint was written after the step.
        ValueError: the arguments exclude each other.
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
    """Train as a follower of `train`."""
    trial = Trial(job["method"], job["seed"], job["hyperparameters"], choosing=job["choosing"], wrap=job["wrap"])
    with computing_with(job["threads"]):
        _train(trial, job["recipe"], job["setup"], team, job["data"])


def _train(trial: Trial, recipe: Recipe, setup: Setup, team: Team, data: Data | None) -> None:
    data = data or examples(recipe, setup, trial.seed, recipe.validation or CHOSEN_ON * trial.choosing)
    check_batches(recipe, setup, data)
    trial.facts["fingerprint"] = data.fingerprint
    options = {name: value for name, value in asdict(setup).items() if name not in {"data_dir", "accelerator"}}
    trial.setup |= {**options, "processes": team.size}
    train_set, test_set = data.train.to(team.device), data.test.to(team.device)
    per_epoch, epochs = len(data.train) // recipe.batch_size, trial.epochs(recipe.epochs)

    _seed_all(trial.seed, team.device)
    model = build(recipe.network, classes=data.classes, channels=data.channels, width=recipe.width)
    stepper = Stepper(trial, recipe, setup, team, model, epochs * per_epoch)
    saver = Saver(stepper, setup.checkpoint_every, {"recipe": asdict(recipe), "data": data.fingerprint})
    with blamed(recipe.network), stop_signals() as received, _without_skip_warning():
        step = saver.resume(per_epoch)
        for epoch in range(len(trial.curve["step"]), epochs):
            step = run_epoch(stepper, train_set, epoch, step, lambda step: saver.consider(step, received))
            _seed_all(_mixed(trial.seed, step, 1 + team.rank), team.device)
            loss = float(team.total(stepper.loss)) / (team.size * per_epoch)
            with trial.evaluating(stepper.module):
                trial.report(**{data.split: stepper.accuracy(test_set)}, loss=loss)
            stepper.loss.zero_()
    with trial.evaluating(stepper.module):
        trial.weights = saver.weights()
    loss_of = partial(cross_entropy, label_smoothing=recipe.label_smoothing)
    trial.flatness(stepper.module, loss_of, Sample(train_set, EXAMPLES, MEASURED_AT_ONCE))


def run_epoch(stepper: Stepper, train_set: Examples, epoch: int, step: int, after: Callable[[int], None]) -> int:
    """Train for the remaining steps of an epoch.

    Args:
        stepper: the network with its optimizer.
        train_set: the examples.
        epoch: the number of the epoch.
        step: the number of finished steps.
        after: called after every step with the number of finished steps.

    Returns:
        The number of finished steps.
    """
    trial, recipe, team = stepper.trial, stepper.recipe, stepper.team
    per_epoch = len(train_set) // recipe.batch_size
    coming = batches(train_set, recipe, team, trial.seed, epoch, step - epoch * per_epoch)
    while step < (epoch + 1) * per_epoch:
        before = perf_counter()
        parts = [next(coming) for _ in range(recipe.accumulate)]
        trial.data_seconds += perf_counter() - before
        _seed_all(_mixed(trial.seed, step, 1 + team.rank), team.device)
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
    """Return a seed for torch that practically always differs for different numbers."""
    seed = 0
    for number in numbers:
        seed = (seed * 0x9E3779B97F4A7C15 + number + 1) % 2**63
    return seed


def _seed_all(seed: int, device: torch.device) -> None:
    """Seed all global random number generators, which the user's network may use too."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":  # without a GPU, torch.manual_seed would store a traceback at every step
        torch.cuda.manual_seed(seed)


@contextmanager
def _without_skip_warning() -> Iterator[None]:
    """Silence torch's warning about the learning-rate scheduler if float16 overflows at the first step."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        yield
