"""Base optimizers from elsewhere: schedule-free, Muon-like, 8-bit."""

import copy

import pytest
import schedulefree
import torch
from torch.nn.functional import mse_loss

import oracle
from problems import batches, distance, identical, network, snapshot, train
from sharpless import RST
from sharpless.coin import uniform

STEPS = 10
COINS = [uniform(3, step) < 0.6 for step in range(STEPS)]


@pytest.mark.parametrize(
    "make",
    [
        lambda p: schedulefree.SGDScheduleFree(p, lr=0.05, warmup_steps=3),
        lambda p: schedulefree.AdamWScheduleFree(p, lr=0.01, weight_decay=0.1),
        lambda p: schedulefree.RAdamScheduleFree(p, lr=0.01),
    ],
    ids=["SGD", "AdamW", "RAdam"],
)
def test_schedule_free(make):
    """Sees a climb from another point than the one at which the base wants its gradients, or modes that break."""
    ours, theirs = network(), network()
    base, reference = make(ours.parameters()), make(theirs.parameters())
    opt = RST(base, p=0.6, rho=0.1, gamma=2.0, seed=3)
    base.train()
    reference.train()
    train(ours, opt, batches(STEPS))
    oracle.train(theirs, mse_loss, batches(STEPS), reference, COINS, 0.1, 2.0)
    assert distance(ours, theirs) < 1e-12
    base.eval()
    reference.eval()
    assert distance(ours, theirs) < 1e-12


def test_eight_bits():
    """Sees a base with quantized state, and a state dict of its own making, fail to train or to resume."""

    def make(model):
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit(model.parameters(), lr=0.01, min_8bit_size=1)

    ours, theirs = network(dtype=torch.float32), network(dtype=torch.float32)
    options = {"p": 0.6, "rho": 0.1, "gamma": 2.0}
    opt = RST(make(ours), **options, seed=3)
    steps = batches(STEPS, dtype=torch.float32)
    train(ours, opt, steps)
    assert opt.state[ours[0].weight]["state1"].dtype == torch.uint8
    oracle.train(theirs, mse_loss, steps, make(theirs), COINS, 0.1, 2.0)
    assert distance(ours, theirs) < 1e-3

    half, resumed = network(dtype=torch.float32), network(dtype=torch.float32, seed=1)
    first, second = RST(make(half), **options, seed=3), RST(make(resumed), **options)
    train(half, first, steps[:4])
    resumed.load_state_dict(half.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(resumed, second, steps[4:])
    assert identical(snapshot(ours), snapshot(resumed))
