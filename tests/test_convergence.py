"""docs/convergence.md: its inequalities hold for the library's own steps, and none of their constants can be smaller.

Expectations are over every batch and both sides of the coin, one by one, in float64.
"""

from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn

from sharpless import GRST, RST, schedules
from sharpless.ascent import sam

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


class Sum(NamedTuple):
    """Losses of examples, as a function of the weights, each of them `beta`-smooth."""

    losses: object
    beta: float
    count: int

    def loss(self, w, some=None):
        losses = self.losses(w)
        return losses.mean() if some is None else losses[some].mean()

    def gradient(self, w, some=None):
        w = w.clone().requires_grad_()
        return torch.autograd.grad(self.loss(w, some), w)[0]


def wild(seed, count=3, dim=2):
    """Cosines and quadratic forms that bend up and down."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    height, direction, phase, form = normal(count, 2), normal(count, 2, dim), normal(count, 2), normal(count, dim, dim)
    form, slope = form + form.transpose(1, 2), normal(count, dim)
    bends = (height.abs() * direction.square().sum(2)).sum(1) + torch.linalg.matrix_norm(form, 2)

    def losses(w):
        waves = (height * torch.cos(direction @ w + phase)).sum(1)
        return waves + ((form @ w) @ w) / 2 + slope @ w

    return Sum(losses, float(bends.max()), count)


def bowls(centers, beta):
    """β/2·‖w − c‖² for each c."""
    return Sum(lambda w: beta / 2 * (w - centers).square().sum(1), beta, len(centers))


def step(
    task, w, some, heads, *, rate, gamma, rho, ascent=sam, fraction=1.0, momentum=0.0, buffer=None, nesterov=False
):
    """Return the weights and the momentum buffer after a step of the library whose coin fell so."""
    w = nn.Parameter(w.clone())
    base = torch.optim.SGD([w], lr=rate, momentum=momentum, nesterov=nesterov)
    if buffer is not None:
        base.state[w]["momentum_buffer"] = buffer.clone()
    opt = GRST(base, p=float(heads), gamma=gamma, rho=rho, ascent=ascent, batch_fraction=fraction)
    for (part,) in opt.passes((some,)):
        task.loss(w, part).backward()
    opt.step()
    return w.detach(), base.state[w].get("momentum_buffer")


def one_step(task, w, batches, p, share, heads=None, fraction=1.0, **options):
    """Return the terms of the one-step inequality, whose sum is not to be negative.

    `heads` is a function of the batch that decides in place of the coin.
    """
    rate, full = share / task.beta, task.gradient(w)
    variance = sum(float((task.gradient(w, some) - full).square().sum()) for some in batches) / len(batches)
    later, taken = 0.0, 0.0
    for some in batches:
        chance = p if heads is None else float(heads(some))
        for side, weight in ((True, chance), (False, 1 - chance)):
            if weight > 0:
                after, _ = step(task, w, some, side, rate=rate, fraction=fraction, **options)
                later += weight * float(task.loss(after)) / len(batches)
        taken += chance / len(batches)
    square = fraction * (task.beta * options["rho"]) ** 2  # of parts, ρ√q is the radius
    return {
        "gradient": -rate * float(full.square().sum()),
        "fall": 2 * (float(task.loss(w)) - later),
        "floor": rate * (options["gamma"] * taken) ** 2 * square,
        "noise": rate * share * (variance / (1 - share) if variance else 0.0),
        "coin": rate * share * options["gamma"] ** 2 * taken * (1 - taken) * square,
    }


def slack(terms, **factors):
    return sum(factors.get(name, 1.0) * value for name, value in terms.items())


def draw(seed):
    """Weights, p, γ, ρ, αβ and an ascent, out of a wide range."""
    generator = torch.Generator().manual_seed(1000 + seed)
    one, two, three, four = torch.rand(4, generator=generator).tolist()
    w = 2 * torch.randn(2, generator=generator, dtype=torch.float64)
    p = 0.05 + 0.95 * one
    ways = [sam, lambda w, g, rho: [-e for e in sam(w, g, rho)], lambda w, g, rho: [rho[0] * torch.eye(2).double()[0]]]
    options = {"gamma": 3 * two / p, "rho": 0.05 + 2 * three, "ascent": ways[seed % 3]}
    return w, p, 0.05 + 0.9 * four, options


BATCHES = [torch.tensor(pair) for pair in permutations(range(3), 2)]


@pytest.mark.parametrize("seed", range(12))
def test_one_step(seed):
    """Sees a step that falls less than the theorem says: a climb that is too far, or a mixture that is another one."""
    w, p, share, options = draw(seed)
    for fraction in (1.0, 0.5):
        assert slack(one_step(wild(seed), w, BATCHES, p, share, fraction=fraction, **options)) > 0


@pytest.mark.parametrize("term", ["fall", "floor", "noise", "coin"])
def test_no_constant_can_be_smaller(term):
    """Sees a constant of the theorem that is larger than it need be, and a step that is not the paper's."""
    beta, rho, p, gamma = 1.3, 0.8, 0.4, 1.7
    if term == "fall":  # αβ = 1, no noise
        task, w, share = bowls(torch.zeros(1, 1).double(), beta), torch.tensor([3.0]).double(), 1.0
    else:  # two examples, batches of one, at the minimum of their mean
        share = 0.3
        far = gamma * p * rho * (1 - share) / share
        task, w = bowls(torch.tensor([[far], [-far]]).double(), beta), torch.zeros(1).double()
    batches = [torch.tensor([example]) for example in range(task.count)]
    terms = one_step(task, w, batches, p, share, gamma=gamma, rho=rho)
    assert slack(terms) == pytest.approx(0, abs=1e-12)
    assert slack(terms, **{term: 0.9}) < -1e-3


@pytest.mark.parametrize("seed", range(4))
def test_a_coin_that_sees_the_batch(seed):
    """Sees a theorem on `Adaptive` that is wrong where long gradients are climbed with."""
    w, p, share, options = draw(seed)
    task = wild(seed)
    threshold = sorted(float(task.gradient(w, some).norm()) for some in BATCHES)[2]
    terms = one_step(task, w, BATCHES, p, share / 2, lambda some: task.gradient(w, some).norm() > threshold, **options)
    assert slack(terms, noise=2 * (1 - share / 2), coin=2.0) > 0


def test_what_a_coin_pays_that_sees_the_batch():
    """Sees a factor in that theorem that is larger than it need be."""
    gamma, rho, w = 1.7, 0.8, torch.zeros(1).double()
    task = bowls(gamma * rho * torch.tensor([[1.0], [-1.0], [0.0], [0.0], [0.0]]).double(), 1.3)
    batches = [torch.tensor([example]) for example in range(task.count)]
    terms = one_step(task, w, batches, None, 0.5, lambda some: task.gradient(w, some).norm() > 0, gamma=gamma, rho=rho)
    assert slack(terms, coin=2.0) == pytest.approx(0, abs=1e-12)
    assert slack(terms, coin=1.8) < -1e-3
    assert slack(terms, coin=2.0, noise=0.9) < -1e-3


def tree(task, w, rates, p, options, buffer=None):
    """Yield (chance, steps left, weights) of every path of coins, whole batches, before each step and at the end."""
    yield 1.0, len(rates), w
    if rates:
        for heads, chance in ((True, p), (False, 1 - p)):
            after, momentum = step(task, w, torch.arange(task.count), heads, rate=rates[0], buffer=buffer, **options)
            for weight, left, now in tree(task, after, rates[1:], p, options, momentum):
                yield chance * weight, left, now


def momentum_slack(task, w, p, share, nesterov, options, mu=0.7, kappa=1 + 0.7 * 2**0.5 / 1.7):
    """Return right minus left of the theorem on momentum, for five learning rates that fall."""
    largest = share * (1 - mu) ** 2 / (1 + (8**0.5 - 1) * mu) / task.beta
    rates = [largest / (1 + step / 5) for step in range(5)]
    sums = [sum(mu**k * rate for k, rate in enumerate(rates[t:])) for t in range(5)]
    long = [rate + mu * later for rate, later in zip(rates, sums, strict=True)] if nesterov else sums
    square = (task.beta * options["rho"]) ** 2
    floor, coin = (options["gamma"] * p) ** 2 * square, options["gamma"] ** 2 * p * (1 - p) * square
    found = 2 * float(task.loss(w)) + sum(rate * (floor + kappa * rate * task.beta * coin) for rate in long)
    for chance, left, now in tree(task, w, rates, p, options | {"momentum": mu, "nesterov": nesterov}):
        found -= chance * (long[-left] * float(task.gradient(now).square().sum()) if left else 2 * task.loss(now))
    return float(found)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum(nesterov):
    """Sees a theorem on momentum that is wrong, on all paths of five coins, or whose price could be halved."""
    for seed in range(3):
        w, p, share, options = draw(seed)
        assert momentum_slack(wild(seed), w, p, share, nesterov, options) > 0
    options = {"gamma": 4.0, "rho": 1.0, "ascent": lambda w, g, rho: [torch.full_like(w[0], rho[0])]}
    case = bowls(torch.zeros(1, 1).double(), 1.0), -torch.ones(1).double(), 0.25, 0.9, nesterov, options
    assert momentum_slack(*case) > 0 > momentum_slack(*case, kappa=0.7)


@pytest.mark.parametrize("mu", [0.5, 0.9])
def test_momentum_in_the_long_run(mu):
    """Sees a price of the coin under momentum that is too small, or far from what a fixed direction pays."""
    p, share = 0.1, (1 - mu) ** 2 / (1 + (8**0.5 - 1) * mu) / 2  # αβ; β = ρ = 1
    move, push = torch.tensor([[1 - share, -share * mu], [1.0, mu]]).double(), torch.tensor([-share, 1.0]).double()
    spread, steps, excess = torch.zeros(2, 2).double(), 4000, 0.0  # covariance of θ and the momentum
    for _ in range(steps):
        excess += float(spread[0, 0]) / steps
        spread = move @ spread @ move.T + torch.outer(push, push) * (1 - p) / p
    bound = share / (1 - mu) * (1 + 2**0.5 * mu / (1 + mu)) * (1 - p) / p
    assert bound / 4 < excess < bound / 2


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.parametrize("name", ["fixed_direction", "double_well"])
def test_worst_cases(scripts, name):
    """Sees a mean squared gradient, over all paths of coins, that is not the one that the page says is attained."""
    import smooth_problems

    problem, p, depth, rate = getattr(smooth_problems, name)(), 0.4, 6, 0.004
    slope, start = (0.75, problem.start) if name == "double_well" else (1.0, problem.start - 1)

    class Task(Sum):
        def loss(self, w, some=None):
            return (problem.gradient(w.detach(), w) * w).sum()  # its gradient is the problem's

    options = {"gamma": 1 / p, "rho": 1.0, "ascent": problem.climb}
    found = [0.0] * (depth + 1)
    for chance, left, now in tree(Task(None, 1.0, 1), start, [rate] * depth, p, options):
        found[depth - left] += chance * float(problem.gradient(now, now).square().sum())
    price = [slope**2 * (1 - (1 - rate) ** (2 * t)) * rate / (2 - rate) * (1 - p) / p for t in range(depth + 1)]
    assert found == pytest.approx([slope**2 + more for more in price], abs=1e-12)


def test_every_kth_step(scripts):
    """Sees a price of steps spread evenly that is too small, too large, or no better than the coin's."""
    import smooth_problems

    problem, every, rate, steps = smooth_problems.fixed_direction(), 8, 2**-4, 3200
    w = nn.Parameter(problem.start - 1)  # the mean of the weights to come, ½ above the minimum
    opt = RST(torch.optim.SGD([w], rate), schedules.Periodic(every), 1.0, gamma=every, ascent=problem.climb)
    squares = 0.0
    for _ in range(steps):
        squares += float(w.detach().square().sum()) / steps
        for _ in opt.passes((problem.examples,)):
            w.grad = w.detach().clone()
        opt.step()
    price = rate**2 * (every - 1) * (2 * every - 1) / 3
    assert price / 10 < squares - 1 < price + 1 / (rate * steps) < rate / (2 - rate) * (every - 1)
