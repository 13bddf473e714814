"""The laboratory: the data, a run, and its record."""

import json

import numpy as np
import pytest
import torch

from sharpless.lab.data import digits
from sharpless.lab.recipes import METHODS, Recipe
from sharpless.lab.train import train

SHORT = Recipe(epochs=2)


def test_noise():
    """Sees noise in the test labels, another share than asked for, or the same noise for every seed."""
    clean, noisy, other = digits(0.0, 0), digits(0.3, 0), digits(0.3, 1)
    assert torch.equal(clean.test_y, noisy.test_y)
    assert torch.equal(clean.train_x, other.train_x)
    changed = clean.train_y != noisy.train_y
    # A replaced label is drawn from all ten classes: nine tenths of 30 % become wrong.
    assert float(changed.float().mean()) == pytest.approx(0.27, abs=0.02)
    assert not torch.equal(noisy.train_y, other.train_y)
    assert torch.bincount(noisy.train_y[changed], minlength=10).min() > 10
    assert not set(map(bytes, clean.train_x.numpy())) & set(map(bytes, clean.test_x.numpy()))


@pytest.mark.parametrize("method", METHODS)
def test_a_record(method):
    """Sees a record that lacks something, does not add up, or cannot be written as JSON."""
    record = train(SHORT, method, seed=1)
    assert record["epochs"] == len(record["train_loss"]) == len(record["test_accuracy"])
    assert record["epochs"] == (3 if method == "sgd-long" else 2)
    assert record["steps"] == 20 * record["epochs"]
    assert record["passes"] == record["steps"] + len(record["sharp_steps"])
    assert record["plain_passes"] == 40
    expected = {"sgd": 0, "sgd-long": 0, "sam": 40}.get(method)
    assert expected in {None, len(record["sharp_steps"])}
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert np.isfinite(record["train_loss"]).all()
    assert record["seconds"] > 0
    assert record["versions"]["torch"] == torch.__version__


def test_pairs_by_seed():
    """Sees methods compared on other data, weights or batches than one another: up to the first coin they agree."""
    plain, rst = train(SHORT, "sgd", 3), train(Recipe(epochs=2, p="piecewise:0,1@0.5"), "rst", 3)
    assert rst["sharp_steps"] == list(range(21, 40))
    assert rst["train_loss"][0] == plain["train_loss"][0]
    assert rst["train_loss"][1] != plain["train_loss"][1]
    assert train(SHORT, "sgd", 4)["train_loss"][0] != plain["train_loss"][0]


def test_sgd_long_gets_what_g_rst_spends():
    """Sees SGD given other gradients than G-RST takes, which without γ or ρ are those of plain training."""
    assert Recipe(p="0.25").epochs_of("sgd-long") == 38
    assert Recipe(gamma=0.0).epochs_of("sgd-long") == Recipe(rho=0.0).epochs_of("sgd-long") == 30


def test_runs_repeat():
    """Sees a run that depends on what the process did before."""
    once = train(SHORT, "g-rst", 0)
    torch.rand(7)
    again = train(SHORT, "g-rst", 0)
    assert once["train_loss"] == again["train_loss"]
    assert once["sharp_steps"] == again["sharp_steps"]


def test_g_rst_and_rst_toss_the_same_coin():
    """Sees γ left out: G-RST takes RST's sharpness-aware steps, with another gradient."""
    rst, g_rst = train(SHORT, "rst", 0), train(SHORT, "g-rst", 0)
    assert rst["sharp_steps"] == g_rst["sharp_steps"]
    assert (rst["gamma"], g_rst["gamma"]) == (1.0, 2.0)
    assert rst["train_loss"] != g_rst["train_loss"]
    assert train(Recipe(epochs=2, gamma=1.0), "g-rst", 0)["train_loss"] == rst["train_loss"]
    assert train(Recipe(epochs=2, degree=0.5), "g-rst", 0)["train_loss"] == rst["train_loss"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": 1.5}, "noise = 1.5 is out of range"),
        ({"rho": -0.1}, "rho = -0.1 is out of range"),
        ({"rho": float("nan")}, "rho = nan is out of range"),
        ({"epochs": 0}, "epochs = 0 is out of range"),
        ({"batch_size": 1}, "batch_size = 1 is out of range"),
        ({"lr": 0.0}, "lr = 0.0 is out of range"),
        ({"lr": float("inf")}, "lr = inf is out of range"),
        ({"momentum": float("inf")}, "momentum = inf is out of range"),
        ({"p": "1e-320"}, "p = 1e-320 is too small"),
        ({"gamma": 2.0, "degree": 1.0}, "gamma = 2.0 and degree = 1.0 exclude each other"),
        ({"p": "1.5"}, "p = 1.5 is not a probability"),
        ({"p": "often"}, "schedule 'often' cannot be read"),
        ({"p": "0"}, "p = 0 gives G-RST no sharpness-aware step"),
        ({"task": "mnist"}, "task = mnist is unknown"),
        ({"width": 0}, "width = 0 is out of range"),
        ({"batch_size": 1298}, "batch_size = 1298 is out of range: give 2 to 1297"),
    ],
)
def test_bad_recipes(options, message):
    """Sees a recipe accepted that cannot be trained."""
    with pytest.raises(ValueError, match="^" + message):
        Recipe(**options)
