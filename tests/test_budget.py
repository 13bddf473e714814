"""A budget in place of knobs: the plan, and the optimizer that follows it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import mse_loss

from problems import distance, network
from sharpless import GRST, SAM
from sharpless.coin import uniform
from sharpless.cost import SMALLEST_PART, BudgetError, plan

pytestmark = pytest.mark.quick


@given(st.floats(1.0, 2.0, exclude_min=True), st.integers(1, 5000), st.floats(0.0, 3.0))
def test_a_plan_spends_its_budget(budget, batch_size, degree):
    """Sees a plan that costs more or less than was asked for, cuts examples in two, or changes the degree."""
    try:
        found = plan(budget, batch_size, degree)
        assert found.cost <= budget + 1e-9
        assert found.p == 1 or found.cost == pytest.approx(budget, abs=1e-9)
    except BudgetError as error:
        found = error.cheapest
        assert found.cost > budget
        assert found.p == 0.25
        assert round(found.batch_fraction * batch_size) == (4 if batch_size > 5 else batch_size)
    part = found.batch_fraction * batch_size
    assert part == pytest.approx(round(part), abs=1e-9)
    assert round(part) >= min(SMALLEST_PART, batch_size)
    assert 0 <= found.p <= 1
    assert found.p == 0 or found.p * found.gamma == pytest.approx(degree)


def test_p_is_as_large_as_it_can_be():
    """Sees a budget spent on rare and large steps, whose γ breaks networks without BatchNorm."""
    for batch_size in (64, 128, 256, 1000):
        assert plan(1.1, batch_size).p > 0.9
    assert plan(1.1, 16).batch_fraction == 0.25  # 4 examples: with the 1.6 that p = 1 would leave, a climb is noise
    assert plan(1.1, 16).p == pytest.approx(0.4)


def test_the_whole_budget_is_sam():
    """Sees a budget of 2 that is not SAM, or a plan for batches that cannot be split."""
    found = plan(2.0, 64)
    assert (found.p, found.batch_fraction, found.gamma) == (1.0, 1.0, 1.0)
    found = plan(1.5, 4)
    assert (found.p, found.batch_fraction, found.gamma) == (0.5, 1.0, 2.0)
    assert plan(1.5, 5).batch_fraction == 1.0
    assert plan(1.5, 6).batch_fraction == 4 / 6
    assert plan(1.1, 160).batch_fraction == 0.1  # 1.1 - 1 is more than 0.1


@pytest.mark.parametrize("budget", [1.0, 0.5, 2.5, float("nan"), float("inf")])
def test_bad_budgets(budget):
    """Sees a budget that no p and q has."""
    with pytest.raises(ValueError, match=f"^budget = {budget} is out of range: give more than 1"):
        plan(budget, 64)
    with pytest.raises(ValueError, match=r"^batch_size = 0 is out of range"):
        plan(1.1, 0)
    with pytest.raises(ValueError, match=r"^degree = -1 is out of range"):
        plan(1.1, 64, -1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": "1.1"}, "budget = '1.1' is not a number"),
        ({"batch_size": None}, "batch_size = None is not a number"),
        ({"degree": "x"}, "degree = 'x' is not a number"),
        ({"batch_size": math.nan}, "batch_size = nan is out of range"),
        ({"batch_size": math.inf}, "batch_size = inf is out of range"),
        ({"seconds": {"0": 0.1, "64": 0.2}}, "seconds = .*'64'.* are not numbers by number of examples"),
        ({"noise": [1.0]}, r"noise = \[1.0\] are not numbers by number of examples"),
    ],
)
def test_budgets_of_a_wrong_type(arguments, message):
    """Sees Python's own words for an argument of the wrong type, such as measured seconds that were kept as JSON."""
    base = torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.1)
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        GRST.for_budget(base, **{"budget": 1.1, "batch_size": 64, **arguments})


def run(opt, model, steps, batch_size):
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        x = torch.randn(batch_size, 5, generator=generator, dtype=torch.float64)
        for a, b in opt.passes((x, x.sum(1, keepdim=True))):
            mse_loss(model(a), b).backward()
        opt.step()
        opt.zero_grad()


def test_for_budget():
    """Sees an optimizer that does not follow its plan: what it spends is the plan's cost for the coins it tossed."""
    model = network()
    base = torch.optim.SGD(model.parameters(), lr=0.01)
    opt = GRST.for_budget(base, 1.1, batch_size=64, rho=0.1, degree=0.5, model=model, seed=3)
    assert opt.schedule.mean() == pytest.approx(6.4 / 7)
    assert opt.batch_fraction == 7 / 64
    assert opt.gamma == pytest.approx(0.5 * 7 / 6.4)
    run(opt, model, 200, 64)
    heads = sum(uniform(3, step) < 6.4 / 7 for step in range(200))
    assert opt.cost.passes == pytest.approx(200 + heads * 7 / 64)
    assert opt.cost.ratio == pytest.approx(1.1, abs=0.005)


def test_for_a_budget_of_two():
    """Sees SAM's budget buy something else."""
    one, other = network(), network()
    run(GRST.for_budget(torch.optim.SGD(one.parameters(), lr=0.01), 2.0, batch_size=64, rho=0.1), one, 5, 64)
    run(SAM(torch.optim.SGD(other.parameters(), lr=0.01), rho=0.1), other, 5, 64)
    assert distance(one, other) == 0.0


def test_the_budget_decides_the_part():
    """Sees a batch_fraction of the user's silently replaced."""
    base = torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.1)
    for name in ("batch_fraction", "gamma", "p", "gamma_cap"):
        with pytest.raises(ValueError, match=f"^{name} = 0.5 is chosen by the budget"):
            GRST.for_budget(base, 1.1, batch_size=64, **{name: 0.5})
    assert "q = 0.1094" in repr(GRST.for_budget(base, 1.1, batch_size=64))
