"""The laboratory: the data, a run, and its record."""

import json

import numpy as np
import pytest
import pytorch_optimizer
import torch

from sharpless.grst import SAM
from sharpless.lab.peers import Peer
from sharpless.lab.tasks.images.recipe import METHODS, PEERS, Recipe
from sharpless.lab.train import train
from sharpless.schedules import Constant, Periodic

SHORT = Recipe(epochs=2)


@pytest.mark.parametrize("method", METHODS + PEERS)
def test_a_record(method):
    """Sees a record that lacks something, does not add up, or cannot be written as JSON."""
    record = train(SHORT, method, seed=1)
    assert record["epochs"] == len(record["train_loss"]) == len(record["test_accuracy"])
    assert record["epochs"] == (3 if method == "sgd-long" else 2)
    assert record["steps"] == 20 * record["epochs"]
    assert record["batch_fraction"] == (7 / 64 if method == "thrifty" else 1.0)  # a tenth of 64 is 6.4 examples
    assert record["passes"] == pytest.approx(record["steps"] + record["batch_fraction"] * len(record["sharp_steps"]))
    assert record["plain_passes"] == 40
    expected = {"sgd": 0, "sgd-long": 0, "sam": 40, "peer-sam": 40, "peer-looksam": 4}.get(method)
    assert expected in {None, len(record["sharp_steps"])}
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert np.isfinite(record["train_loss"]).all()
    assert 0 < record["data_seconds"] < record["seconds"] == record["epoch_seconds"][-1]
    assert record["epoch_passes"][-1] == record["passes"]
    assert (record["split"], record["setup"]["processes"]) == ("test", 1)
    assert record["versions"]["torch"] == torch.__version__
    assert ("pytorch_optimizer" in record["versions"]) == (method in PEERS)


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
        ({"p": "often"}, "p = often cannot be read"),
        ({"p": "linear:0,2"}, "p = linear:0,2: end = 2.0 is not a probability"),
        ({"p": "0"}, "p = 0 gives G-RST no sharpness-aware step"),
        ({"augment": "flip+blur"}, "augment = blur is unknown: choose from flip, crop"),
        ({"augment": "flip+autoaugment"}, "autoaugment knows images of 256 levels"),
        ({"batch_size": 64, "accumulate": 3}, "batch_size = 64 is no multiple of accumulate = 3"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov is a kind of momentum of SGD"),
        ({"precision": "16", "p": "adaptive:1,-1"}, "precision = 16 scales the gradients"),
        ({"precision": "64"}, "precision = 64 is unknown: give 32 or bf16 or 16"),
        ({"ema": 1.0}, "ema = 1.0 is out of range"),
        ({"width": 0}, "width = 0 is out of range"),
    ],
)
def test_bad_recipes(options, message):
    """Sees a recipe accepted that cannot be trained."""
    with pytest.raises(ValueError, match="^" + message):
        Recipe(**options)


# Peers


class Counted(torch.nn.Sequential):
    """A small smooth network in float64 that counts how often it runs."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        self.double()
        self.runs = 0

    def forward(self, x):
        self.runs += 1
        return super().forward(x)


BATCHES = torch.randn(11, 6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def loss_of(model, x):
    return torch.nn.functional.mse_loss(model(x), x.prod(1, keepdim=True))


def trained(wrap):
    """The weights after one step for each batch by the loop of the laboratory, with a falling learning rate."""
    model = Counted()
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    opt = wrap(base, model)
    scheduler = torch.optim.lr_scheduler.LinearLR(base, 1.0, 0.1, len(BATCHES))
    for batch in BATCHES:
        for x in opt.passes(batch):
            loss_of(model, x).backward()
        opt.step()
        opt.zero_grad()
        scheduler.step()
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach(), model, opt


def test_peer_sam_is_sam():
    """Sees a peer that is driven wrongly: a half-step left out, weights not put back, a learning rate that stays."""
    theirs, model, opt = trained(lambda base, model: Peer("peer-sam", base, model, 0.3, Constant(1.0)))
    ours, _, sam = trained(lambda base, model: SAM(base, rho=0.3, model=model))
    plain, _, _ = trained(lambda base, model: SAM(base, rho=0.0, model=model))
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-7)  # their norm is in float32
    assert (ours - plain).abs().max() > 1e-3
    assert opt.cost == sam.cost
    assert model.runs == opt.cost.passes == 22


@pytest.mark.parametrize("k", [1, 4])
def test_peer_looksam_is_what_its_closure_does(k):
    """Sees a saved gradient that is missed, one that is computed but not booked, or the reused correction left out."""
    theirs, model, opt = trained(lambda base, model: Peer("peer-looksam", base, model, 0.3, Periodic(k)))
    other = Counted()
    base = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
    looksam = pytorch_optimizer.LookSAM(base.param_groups, lambda *_: base, rho=0.3, k=k)
    scheduler = torch.optim.lr_scheduler.LinearLR(base, 1.0, 0.1, len(BATCHES))
    for batch in BATCHES:

        def closure(batch=batch):
            looksam.zero_grad()
            loss_of(other, batch).backward()

        closure()
        looksam.step(closure)
        scheduler.step()
    assert torch.equal(theirs, torch.nn.utils.parameters_to_vector(other.parameters()).detach())
    sharp = -(-len(BATCHES) // k)  # the steps 0, k, 2k, …
    assert (opt.cost.steps, opt.cost.sharp_steps) == (11, sharp)
    assert model.runs == opt.cost.passes == 11 + sharp
    assert opt.cost.plain_passes == 11


def test_peer_keeps_batchnorm_still():
    """Sees running statistics that the perturbed pass of a peer has changed."""
    x = torch.randn(8, 3)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    opt = Peer("peer-sam", torch.optim.SGD(model.parameters(), lr=0.1), model, 0.3, Constant(1.0))
    means = []
    for part in opt.passes(x):
        (model(part) ** 3).sum().backward()
        means.append(model[1].running_mean.clone())
    assert torch.equal(*means)
    assert model[1].momentum == 0.1


@pytest.mark.parametrize(("budget", "k"), [(1.1, 10), (1.5, 2), (1.3, 3), (2.0, 1)])
def test_looksam_gets_the_budget(budget, k):
    """Sees a k of LookSAM that is not the one whose cost is the budget, or another one in the label."""
    recipe = Recipe(budget=budget)
    assert recipe.settings("peer-looksam").schedule == Periodic(k)
    assert recipe.describe("peer-looksam") == f"peer LookSAM, k={k}"
