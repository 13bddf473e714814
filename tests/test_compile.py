"""torch.compile around the model, the loss and the base's step."""

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from problems import batches, distance, identical, network, noisy_network, snapshot, train
from sharpless import RST


class Counting:
    """A backend that compiles nothing and counts how often it was asked to."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph.forward


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_both_kinds_of_pass_share_a_graph():
    """Sees a perturbed pass that the compiler takes for another program, by its buffers or its flags."""
    backend = Counting()
    compiled, eager = noisy_network(), noisy_network()

    def loss_of(model):
        return lambda x, y: mse_loss(model(x), y)

    for model, loss in ((eager, loss_of(eager)), (compiled, torch.compile(loss_of(compiled), backend=backend))):
        opt = RST(torch.optim.SGD(model.parameters(), lr=0.05), p=0.5, rho=0.1, gamma=2.0, seed=3, model=model)
        torch.manual_seed(0)
        for (batch,) in batches(12, dtype=torch.float32):
            for x, y in opt.passes(batch):
                loss(x, y).backward()
            opt.step()
            opt.zero_grad()
        assert 3 < opt.cost.sharp_steps < 9
    assert backend.graphs == 1
    assert distance(compiled, eager) < 1e-6


def test_without_statistics_one_graph_does():
    """Sees a perturbation that new storage, or a new Python object, makes visible to the compiler."""
    backend = Counting()
    model = network()
    compiled = torch.compile(model, backend=backend)
    opt = RST(torch.optim.SGD(model.parameters(), lr=0.05), p=0.5, rho=0.1, model=compiled)
    train(compiled, opt, batches(12))
    assert backend.graphs == 1


def test_a_compiled_step_of_the_base():
    """Sees a wrapper that goes around a base whose step was compiled."""
    ours, theirs = network(), network()
    base = torch.optim.SGD(ours.parameters(), lr=0.05, momentum=0.9)
    backend = Counting()
    base.step = torch.compile(base.step, backend=backend)
    train(ours, RST(base, p=0.5, rho=0.1), batches(6))
    train(theirs, RST(torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9), p=0.5, rho=0.1), batches(6))
    assert backend.graphs > 0
    assert distance(ours, theirs) < 1e-14


@pytest.mark.filterwarnings("ignore:Skipping serialization")  # torch 2.6 speaks of its own settings
def test_inductor():
    """Sees what a backend that really compiles, and plans memory, makes of weights changed in place."""
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
    theirs = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
    theirs.load_state_dict(ours.state_dict())
    compiled = torch.compile(ours)
    steps = batches(6, dtype=torch.float32)
    train(compiled, RST(torch.optim.SGD(ours.parameters(), lr=0.05), p=0.5, rho=0.1, model=ours), steps)
    train(theirs, RST(torch.optim.SGD(theirs.parameters(), lr=0.05), p=0.5, rho=0.1, model=theirs), steps)
    assert distance(ours, theirs) < 1e-6
    assert not identical(snapshot(ours), snapshot(network(dtype=torch.float32)))
