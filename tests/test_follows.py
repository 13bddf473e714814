"""What is computed from the weights, or shares their memory, follows them to the perturbed pass and back."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from problems import identical
from sharpless import GRST, part_noise

pytestmark = pytest.mark.quick

RHO = 0.1
X = torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def mixed_by_hand(model, gamma, loss):
    """(1−γ)g(θ) + γg(θ + ε), with the weights moved in place; the weights are restored."""
    weights = [p for p in model.parameters() if p.requires_grad]
    before = [w.detach().clone() for w in weights]
    clean = torch.autograd.grad(loss(model), weights)
    norm = torch.cat([g.flatten() for g in clean]).norm()
    with torch.no_grad():
        for w, g in zip(weights, clean, strict=True):
            w.add_(RHO * g / norm)
    perturbed = torch.autograd.grad(loss(model), weights)
    with torch.no_grad():
        for w, old in zip(weights, before, strict=True):
            w.copy_(old)
    return [(1 - gamma) * g + gamma * h for g, h in zip(clean, perturbed, strict=True)]


def mixed(model, gamma, loss, **options):
    opt = GRST(torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1), 1.0, gamma=gamma, rho=RHO)
    opt.model = model
    for _ in opt.passes():
        loss(model).backward()
    return [p.grad for p in model.parameters() if p.requires_grad]


class Alias(nn.Module):
    """An autoencoder whose decoder uses the weight of its encoder, as a buffer or as a frozen parameter."""

    def __init__(self, kind, size=5):
        super().__init__()
        torch.manual_seed(0)
        self.encode = nn.Linear(size, 4, bias=False, dtype=torch.float64)
        alias = self.encode.weight.data
        if kind == "buffer":
            self.register_buffer("alias", alias)
        else:
            self.alias = nn.Parameter(alias, requires_grad=False)

    def forward(self, x):
        return self.encode(x).tanh() @ self.alias


def error(model):
    return (model(X) - X).square().mean()


@pytest.mark.parametrize("gamma", [1.0, 2.0])
@pytest.mark.parametrize("kind", ["buffer", "frozen parameter"])
def test_a_buffer_that_is_a_weight(kind, gamma):
    """Sees plain training: a buffer that shares memory with a weight is written back, and the weight with it."""
    ours, theirs = Alias(kind), Alias(kind)
    start = copy.deepcopy(ours.state_dict())
    for _ in range(3):
        ours.zero_grad()
        for p, g in zip(mixed(ours, gamma, error), mixed_by_hand(theirs, gamma, error), strict=True):
            torch.testing.assert_close(p, g, rtol=1e-12, atol=1e-14)
    assert identical(ours.state_dict(), start)
    assert ours.alias.data_ptr() == ours.encode.weight.data_ptr()


def test_the_noise_of_a_network_with_such_a_buffer():
    """Sees D = g⁺ − g measured as 0 where the perturbed pass is a clean one."""
    noise = part_noise(lambda x: ours(x).square().mean().backward(), X, ours := Alias("buffer"), sizes=[4])
    assert noise[4] > 0


class Symmetric(nn.Module):
    """A parametrization whose backward keeps no tensors."""

    def forward(self, x):
        return x.triu() + x.triu(1).T


@pytest.mark.parametrize("gamma", [1.0, 2.0])
@pytest.mark.parametrize("kind", ["symmetric", "weight_norm", "orthogonal"])
def test_a_cache_around_the_loop(kind, gamma):
    """Sees plain training where parametrize.cached() surrounds the loop, with weights of before the climb."""

    def layer():
        torch.manual_seed(0)
        layer = nn.Linear(5, 5, dtype=torch.float64)
        if kind == "symmetric":
            return parametrize.register_parametrization(layer, "weight", Symmetric())
        return getattr(parametrizations, kind)(layer)

    ours, theirs = layer(), layer()
    expected = mixed_by_hand(theirs, gamma, error)
    with parametrize.cached():
        for p, g in zip(mixed(ours, gamma, error), expected, strict=True):
            torch.testing.assert_close(p, g, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(ours(X), theirs(X), rtol=0, atol=0)


def by_assignment(key, query):
    key.data = key.data * 0.9 + query.data * 0.1


def through_data(key, query):
    key.data.mul_(0.9).add_(query.data, alpha=0.1)


@torch.no_grad()
def in_place(key, query):
    key.lerp_(query, 0.1)


class MomentumEncoder(nn.Module):
    """A network whose forward updates a moving average of its encoder, as MoCo's does."""

    def __init__(self, update):
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key = (nn.Linear(5, 4, dtype=torch.float64) for _ in range(2))
        self.frozen = nn.Linear(4, 4, dtype=torch.float64)
        self.key.requires_grad_(False)
        self.frozen.requires_grad_(False)
        self.update = update

    def forward(self, x):
        for key, query in zip(self.key.parameters(), self.query.parameters(), strict=True):
            self.update(key, query)
        return self.query(x) * self.frozen(self.key(x).tanh())


@pytest.mark.parametrize("gamma", [1.0, 2.0])
@pytest.mark.parametrize("update", [by_assignment, through_data, in_place])
@pytest.mark.parametrize("held", ["query", "all"])
def test_a_momentum_encoder(update, gamma, held):
    """Sees a moving average that follows perturbed weights, or moves twice, where a forward updates it.

    MoCo's own code gives the optimizer all parameters, and freezes those of the moving average.
    """
    ours, theirs = MomentumEncoder(update), MomentumEncoder(update)
    base = torch.optim.SGD((ours if held == "all" else ours.query).parameters(), lr=0.1)
    opt = GRST(base, 1.0, gamma=gamma, rho=RHO, model=ours)

    def loss(model):
        return (model(X).sum(1) - 1).square().mean()

    for step in range(6):
        keys = []
        for _ in opt.passes():
            keys.append(copy.deepcopy(ours.key.state_dict()))
            loss(ours).backward()
        start = copy.deepcopy(theirs.key.state_dict())
        theirs.load_state_dict(ours.state_dict())
        theirs.key.load_state_dict(start)
        loss(theirs)
        assert identical(theirs.key.state_dict(), ours.key.state_dict())
        assert step == 0 or identical(*keys)
        opt.step()
        opt.zero_grad()
    place = opt._memory.buffers._moving
    assert {module for module, _ in place} == {ours.key}
