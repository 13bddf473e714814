"""The noise of parts of a batch: measured, planned with, and left out of a training that it would break."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sharpless import GRST, part_noise
from sharpless.cost import BudgetError, plan

pytestmark = pytest.mark.quick
RHO, N = 0.3, 32


def problem(*, normalized):
    torch.manual_seed(0)
    layers = [nn.Linear(6, 16), nn.BatchNorm1d(16) if normalized else nn.Identity(), nn.Tanh(), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.Linear(16, 3)).double(), torch.randn(N, 6).double(), torch.randint(3, (N,))


def by_hand(model, x, y, m):
    """The mean of ‖g⁺ − g‖² over the first four parts of m examples, with torch.func on copies of the weights."""
    weights = {name: value.detach() for name, value in model.named_parameters()}
    buffers = {name: value.clone() for name, value in model.named_buffers()}

    def loss(weights, part):
        torch.manual_seed(1)
        held = {name: value.clone() for name, value in buffers.items()}
        return cross_entropy(torch.func.functional_call(model, (weights, held), (x[part],)), y[part])

    def flat(grads):
        return torch.cat([grads[name].flatten() for name in weights])

    squares = []
    for k in range(min(N // m, 4)):
        part = slice(k * m, (k + 1) * m)
        clean = torch.func.grad(loss)(weights, part)
        radius = RHO * math.sqrt(m / N) / flat(clean).norm()
        moved = {name: value + radius * clean[name] for name, value in weights.items()}
        squares.append((flat(torch.func.grad(loss)(moved, part)) - flat(clean)).square().sum())
    return torch.stack(squares).mean()


@pytest.mark.parametrize("normalized", [False, True])
def test_the_noise_of_parts(normalized):
    """Sees a wrong radius, another mask of dropout, other running statistics or weights in the second pass."""
    model, x, y = problem(normalized=normalized)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def run(rows):
        torch.manual_seed(1)
        cross_entropy(model(x[rows]), y[rows]).backward()

    noise = part_noise(run, torch.arange(N), model, rho=RHO, sizes=[4, 7, 16])
    whole = by_hand(model, x, y, N)
    assert noise == pytest.approx({m: float(by_hand(model, x, y, m) / whole) for m in (4, 7, 16, 32)})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_noise_that_a_training_would_not_bear():
    """Sees parts that are 50 times as noisy as the batch, or a correction more than 10 times as noisy as SAM's."""
    noise = {4: 50.0, 8: 20.0, 16: 3.0, 32: 1.5, 64: 1.0}
    assert round(64 * plan(1.25, 64).batch_fraction) == 16
    assert plan(1.1, 64).batch_fraction == 7 / 64
    for budget in (1.08, 1.1, 1.2, 1.5, 2.0):
        found = plan(budget, 64, noise=noise)
        m = round(64 * found.batch_fraction)
        assert m > 8
        assert (noise.get(m) or noise[16]) / found.p <= 10 + 1e-9
    with pytest.raises(BudgetError, match=r"the measured noise: the cheapest plan costs 1\.0") as refused:
        plan(1.02, 64, noise=noise)
    assert refused.value.cheapest.cost > 1.02


def test_batchnorm_without_a_measurement():
    """Sees a part of few examples chosen for a network with BatchNorm of which nothing was measured."""

    def made(budget, model, **options):
        base = torch.optim.SGD(model.parameters(), lr=0.1)
        return GRST.for_budget(base, budget, batch_size=64, model=model, **options)

    normalized, plain = problem(normalized=True)[0], problem(normalized=False)[0]
    assert made(1.1, plain).batch_fraction == 7 / 64
    assert made(1.25, normalized).batch_fraction == 0.5
    with pytest.raises(
        BudgetError, match=r"the cheapest plan costs 1\.125, .*model has BatchNorm.* noise = part_noise"
    ):
        made(1.1, normalized)
    assert made(1.1, normalized, noise=dict.fromkeys((4, 64), 1.0)).batch_fraction == 7 / 64


@pytest.mark.parametrize("noise", [{}, {32: 1.0}, {4: -1.0, 64: 1.0}, {4: math.nan, 64: 1.0}])
def test_noise_that_says_nothing(noise):
    """Sees a plan made of noise that is none."""
    with pytest.raises(ValueError, match=r"noise = .* does not fit a batch of 64"):
        plan(1.1, 64, noise=noise)
