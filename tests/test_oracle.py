"""sharpless against the paper, written out in tests/oracle.py, in float64."""

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import oracle
from problems import batches, distance, network, train
from sharpless import GRST, RST, SAM
from sharpless.coin import uniform

pytestmark = pytest.mark.quick

STEPS = 20
BASES = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
}


def coins(p, seed=3):
    return [uniform(seed, step) < p for step in range(STEPS)]


@pytest.mark.parametrize("micro", [1, 3])
@pytest.mark.parametrize("gamma", [0.3, 1.0, 2.0, 10.0])
@pytest.mark.parametrize("base", BASES)
def test_rst_is_the_papers(base, gamma, micro):
    """Sees a wrong mixture (a dropped γ, a unit-norm clean gradient), climb, or micro-batch, and lost state."""
    ours, theirs = network(), network()
    steps = batches(STEPS, micro)
    train(ours, RST(BASES[base](ours.parameters()), p=0.6, rho=0.1, gamma=gamma, seed=3), steps)
    oracle.train(theirs, mse_loss, steps, BASES[base](theirs.parameters()), coins(0.6), 0.1, gamma)
    assert distance(ours, theirs) < 1e-12


def test_the_oracle_tells_methods_apart():
    """Sees an oracle that says yes to everything: RST, G-RST, SAM and the base end far from one another."""
    ends = []
    for p, gamma in ((0.0, 1.0), (0.6, 1.0), (0.6, 2.0), (1.0, 1.0)):
        model = network()
        base = torch.optim.SGD(model.parameters(), lr=0.05)
        oracle.train(model, mse_loss, batches(STEPS), base, coins(p), 0.1, gamma)
        ends.append(model)
    assert all(distance(a, b) > 1e-4 for i, a in enumerate(ends) for b in ends[:i])


@pytest.mark.parametrize(
    ("wrap", "p", "gamma"),
    [
        (lambda base: SAM(base, rho=0.1), 1.0, 1.0),
        (lambda base: GRST(base, p=0.25, rho=0.1, seed=3), 0.25, 4.0),
        (lambda base: GRST(base, p=0.5, degree=0.8, rho=0.1, seed=3), 0.5, 1.6),
        (lambda base: GRST(base, p=1.0, gamma=0.7, rho=0.1, seed=3), 1.0, 0.7),
    ],
    ids=["SAM", "G-RST", "G-RST with a degree", "GNP"],
)
def test_the_named_methods(wrap, p, gamma):
    """Sees a degree that is not divided by p, or a SAM that is not p = 1, γ = 1."""
    ours, theirs = network(), network()
    train(ours, wrap(torch.optim.SGD(ours.parameters(), lr=0.05, momentum=0.9)), batches(STEPS))
    base = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9)
    oracle.train(theirs, mse_loss, batches(STEPS), base, coins(p), 0.1, gamma)
    assert distance(ours, theirs) < 1e-12


@pytest.mark.parametrize("gamma", [1.0, 2.0])
@pytest.mark.parametrize("clears", ["the wrapper", "the base", "the model", "in place", "the model, in place"])
def test_closures(clears, gamma):
    """Sees a closure that clears the clean gradient away, or whose leftovers are taken for accumulated ones."""
    ours, theirs = network(), network()
    base = torch.optim.SGD(ours.parameters(), lr=0.05, momentum=0.9)
    opt = RST(base, p=0.6, rho=0.1, gamma=gamma, seed=3)
    clear = {
        "the wrapper": opt.zero_grad,
        "the base": base.zero_grad,
        "the model": ours.zero_grad,
        "in place": lambda: opt.zero_grad(set_to_none=False),
        "the model, in place": lambda: ours.zero_grad(set_to_none=False),
    }[clears]
    for ((x, y),) in batches(STEPS):

        def closure(x=x, y=y):
            clear()
            loss = mse_loss(ours(x), y)
            loss.backward()
            return loss

        clean_loss = mse_loss(ours(x), y)
        assert torch.equal(opt.step(closure), clean_loss)
    base = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9)
    oracle.train(theirs, mse_loss, batches(STEPS), base, coins(0.6), 0.1, gamma)
    assert distance(ours, theirs) < 1e-12
    assert opt.cost.passes == STEPS + sum(coins(0.6))


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_clearing_in_the_loop_body(gamma):
    """Sees a habit of many loops, zero_grad before every backward, take the clean gradient away."""
    ours, theirs = network(), network()
    opt = RST(torch.optim.SGD(ours.parameters(), lr=0.05, momentum=0.9), p=0.6, rho=0.1, gamma=gamma, seed=3)
    for (batch,) in batches(STEPS):
        for x, y in opt.passes(batch):
            opt.zero_grad()
            mse_loss(ours(x), y).backward()
        opt.step()
    base = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9)
    oracle.train(theirs, mse_loss, batches(STEPS), base, coins(0.6), 0.1, gamma)
    assert distance(ours, theirs) < 1e-12


def test_closures_under_no_grad():
    """Sees a closure that cannot differentiate since its caller had switched gradients off."""
    model = network()
    opt = SAM(torch.optim.SGD(model.parameters(), lr=0.05), rho=0.1)
    ((x, y),) = batches(1)[0]

    def closure():
        loss = mse_loss(model(x), y)
        loss.backward()
        return loss

    with torch.no_grad():
        opt.step(closure)
    assert distance(model, network()) > 1e-6


@pytest.mark.filterwarnings("ignore:Using backward")
def test_gradients_of_gradients():
    """Sees a graph of the gradient, whose sum is a new tensor, taken for gradients that were cleared."""
    weight = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    opt = SAM(torch.optim.SGD([weight], lr=0.05), rho=0.1)
    for factor in (1.0, 10.0):
        for _ in opt.passes():
            (factor * weight).sum().backward(create_graph=True)
    assert float(weight.grad.detach()) == 11.0


def test_nothing_to_train():
    """Sees a loop fail in which this optimizer's parameters are frozen for a while."""
    model = network().requires_grad_(False)
    opt = SAM(torch.optim.SGD(model.parameters(), lr=0.05), rho=0.1)
    for x, _ in opt.passes(batches(1)[0][0]):
        model(x)
    opt.step()
    assert opt.cost.steps == 1


class Branches(nn.Module):
    """A network with branches that the first, the second, or neither of two forward passes goes through."""

    def __init__(self):
        super().__init__()
        self.trunk, self.first, self.second, self.neither = (nn.Linear(5, 1) for _ in range(4))
        self.double()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.trunk(x) + (self.first(x) if self.calls % 2 == 1 else self.second(x))


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_parameters_without_a_gradient_in_one_pass(gamma):
    """Sees a layer left displaced, lost, or moved by weight decay since a zero stood for no gradient."""
    torch.manual_seed(0)
    ours = Branches()
    theirs = Branches()
    theirs.load_state_dict(ours.state_dict())
    opt = RST(torch.optim.SGD(ours.parameters(), lr=0.05, weight_decay=0.1), p=1.0, rho=0.1, gamma=gamma)
    train(ours, opt, batches(5, micro=2))
    base = torch.optim.SGD(theirs.parameters(), lr=0.05, weight_decay=0.1)
    oracle.train(theirs, mse_loss, batches(5, micro=2), base, [True] * 5, 0.1, gamma)
    assert distance(ours, theirs) < 1e-12


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_the_smallest_parameter_unused(gamma):
    """Sees the zero that watches for clearing left behind as a gradient: weight decay would move the parameter."""
    model = network()
    model.register_parameter("unused", nn.Parameter(torch.ones(1, dtype=torch.float64)))
    opt = RST(torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=0.1), p=1.0, rho=0.1, gamma=gamma)
    ((x, y),) = batches(1)[0]
    for a, b in opt.passes((x, y)):
        mse_loss(model(a), b).backward()
    assert model.unused.grad is None
    opt.step()
    assert float(model.unused.detach()) == 1.0


def test_rho_of_a_group():
    """Sees a group's own ρ ignored: with 0 the group is not perturbed, and not part of the norm either."""
    torch.manual_seed(0)
    ours, theirs = network(), network()
    weights = [p for p in ours.parameters() if p.dim() > 1]
    biases = [p for p in ours.parameters() if p.dim() == 1]
    opt = SAM(torch.optim.SGD([{"params": weights}, {"params": biases, "rho": 0.0}], lr=0.05), rho=0.1)
    base = torch.optim.SGD(theirs.parameters(), lr=0.05)
    for ((x, y),) in batches(5):
        train(ours, opt, [[(x, y)]])
        clean = oracle.gradient(theirs, mse_loss, (x, y))
        norm = sum((g**2).sum() for g in clean if g.dim() > 1) ** 0.5
        before = [p.detach().clone() for p in theirs.parameters()]
        for p, g in zip(theirs.parameters(), clean, strict=True):
            p.data += 0.1 * g / norm if p.dim() > 1 else 0
        grads = oracle.gradient(theirs, mse_loss, (x, y))
        for p, b, g in zip(theirs.parameters(), before, grads, strict=True):
            p.data, p.grad = b, g
        base.step()
    assert distance(ours, theirs) < 1e-12


def test_degree_over_p_at_every_step():
    """Sees a γ that stays constant under gamma_cap, or passes the cap."""
    from sharpless.schedules import Linear

    model = network()
    base = torch.optim.SGD(model.parameters(), lr=0.0)
    opt = GRST(base, p=Linear(0.2, 1), degree=1.0, rho=0.1, gamma_cap=2.5, total_steps=STEPS)
    for step, (batch,) in enumerate(batches(STEPS)):
        seen = []
        for x, y in opt.passes(batch):
            mse_loss(model(x), y).backward()
            seen.append(torch.autograd.grad(mse_loss(model(x), y), list(model.parameters())))
        if len(seen) == 2:
            gamma = min(1 / (0.2 + 0.8 * step / STEPS), 2.5)
            for p, g, h in zip(model.parameters(), *seen, strict=True):
                torch.testing.assert_close(p.grad, (1 - gamma) * g + gamma * h, rtol=1e-12, atol=1e-14)
        opt.step()
        opt.zero_grad()
    assert opt.cost.sharp_steps > 5
