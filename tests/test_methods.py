"""Methods: names with parameters, what they do, and what they are called."""

import pickle

import pytest
import torch

from sharpless.cost import expected_cost, plan
from sharpless.lab.methods.kinds import DEFAULTS, KINDS
from sharpless.lab.methods.method import Method
from sharpless.optimizer import RST
from sharpless.schedules import Constant, Linear, Periodic, Piecewise


def wrapped(name, **changes):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
    options = {"model": model, "total_steps": 100, "batch_size": 64, "seed": 3} | changes
    return Method(name).wrap(torch.optim.SGD(model.parameters(), lr=0.1), 0.2, **options)


@pytest.mark.parametrize(
    ("name", "schedule", "gamma", "share"),
    [
        ("sgd", Constant(0.0), 1.0, 1.0),
        ("ema", Constant(0.0), 1.0, 1.0),
        ("sam", Constant(1.0), 1.0, 1.0),
        ("late", Piecewise((0.0, 1.0), (0.9,)), 1.0, 1.0),
        ("late:budget=2", Constant(1.0), 1.0, 1.0),
        ("rst", Constant(0.5), 1.0, 1.0),
        ("g-rst", Constant(0.5), 2.0, 1.0),
        ("g-rst:p=linear:0,1", Linear(0.0, 1.0), 2.0, 1.0),
        ("g-rst:p=linear:0,1,gamma=3,batch_fraction=0.25", Linear(0.0, 1.0), 3.0, 0.25),
        ("g-rst:p=0.25,degree=2", Constant(0.25), 8.0, 1.0),
        ("thrifty", Constant(round(6.4 / 7, 12)), 7 / 6.4, 7 / 64),
    ],
)
def test_what_a_method_does(name, schedule, gamma, share):
    """Sees a parameter that is read and not used, a default of another method, or a γ that is not degree / mean p."""
    opt = wrapped(name)
    assert isinstance(opt, RST)
    assert opt.schedule == schedule
    assert opt.gamma == pytest.approx(gamma)
    assert opt.batch_fraction == pytest.approx(share)
    assert opt.param_groups[0]["rho"] == 0.2
    assert opt.param_groups[0]["coin_seed"] == 3


def test_gamma_follows_a_schedule():
    """Sees γ = degree / mean p where degree / p(t) was asked for, or a cap or a degree that is not used."""
    method, model = Method("g-rst:p=linear:0,1,degree=0.5,gamma_cap=2"), torch.nn.Linear(3, 1, bias=False)
    base, weights = torch.optim.SGD(model.parameters(), lr=0.01), {}
    opt = method.wrap(base, 0.2, model=model, total_steps=100, batch_size=8, seed=3)
    torch.manual_seed(0)
    for step in range(100):
        x, before, found = torch.randn(8, 3), model.weight.detach().clone(), []
        for part in opt.passes(x):
            model(part).square().mean().backward()
            found.append(model.weight.grad.clone())
        opt.step()
        opt.zero_grad()
        if len(found) == 2:
            moved, (plain, climbed) = (before - model.weight.detach()) / 0.01, found
            weights[step] = float((moved - plain).norm() / (climbed - plain).norm())
    assert min(weights) < 25  # where the cap is met
    assert max(weights) > 50
    assert weights == pytest.approx({step: min(50 / max(step, 1), 2.0) for step in weights}, rel=1e-2)
    assert method.label("SGD", 8, None) == "G-RST, p=linear:0,1, γ=0.5/p(t)≤2"


SECONDS = {0: 1.0, 4: 1.36, 16: 1.4, 32: 1.8, 64: 2.0}


def test_thrifty_by_what_was_measured():
    """Sees a budget of seconds planned in gradients, noise that is forgotten, or both forgotten in another process."""
    noise = {4: 50.0, 16: 2.0, 64: 1.0}
    method = Method("thrifty:budget=1.5").measured(SECONDS, noise)
    wanted = plan(1.5, 64, seconds=SECONDS, noise=noise)
    assert method.settings(64).plan == pickle.loads(pickle.dumps(method)).settings(64).plan == wanted
    assert wanted.seconds <= 1.5
    gradients = Method("thrifty:budget=1.5,unit=gradients").measured(SECONDS, noise)
    assert gradients.settings(64).plan == plan(1.5, 64, noise=noise)
    assert Method("sam").measured(SECONDS, noise).seconds is None
    cheapest = Method("thrifty:budget=1.01").measured(SECONDS, noise).settings(64).plan
    assert cheapest.seconds > 1.01
    assert cheapest.gamma == 4


def test_late_costs_what_thrifty_does():
    """Sees late-phase SAM compared with thrifty at another cost."""
    for budget in (1.05, 1.1, 1.5):
        late = Method(f"late:budget={budget}").settings(64)
        assert expected_cost(late.schedule, 1000) == pytest.approx(budget, abs=2e-3)


@pytest.mark.parametrize(("budget", "k"), [(1.1, 10), (1.5, 2), (1.3, 3), (2.0, 1)])
def test_looksam_gets_the_budget(budget, k):
    """Sees a k of LookSAM that is not the one whose cost is the budget, or another one in the label."""
    method = Method(f"peer-looksam:budget={budget}")
    assert method.settings(None).schedule == Periodic(k)
    assert method.label("SGD", 64, None) == f"peer LookSAM, k={k}"


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("sgd", "Adam"),
        ("sgd-long", "Adam, 15 epochs"),
        ("ema", "Adam, EMA 0.99"),
        ("sam:average=0.9", "SAM, EMA 0.9"),
        ("late", "late SAM, last 10%"),
        ("rst:p=0.25,ascent=asam", "RST, p=0.25, asam"),
        ("g-rst:systematic=yes", "G-RST, p=0.5, γ=2, systematic"),
        ("thrifty", "thrifty, p=0.91, q=0.109, γ=1.09"),
        ("temperon", "temperon, last 30%"),
    ],
)
def test_labels(name, label):
    """Sees rows that differ in what they do and not in what they are called."""
    assert Method(name).label("Adam", 64, 15) == label


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sdg", "method 'sdg' is unknown: choose from sgd, sgd-long"),
        ("sam:p=0.5", "method sam:p=0.5: sam has no parameter 'p', choose from average, ascent"),
        ("g-rst:p=1.5", "method g-rst:p=1.5: p = 1.5 is not a probability"),
        ("g-rst:p=0", "method g-rst:p=0: p = 0 is too small for a degree"),
        ("g-rst:gamma=2,degree=1", "method g-rst:gamma=2,degree=1: degree and gamma exclude each other"),
        ("g-rst:gamma=2,gamma_cap=4", "method g-rst:gamma=2,gamma_cap=4: gamma_cap and gamma exclude each other"),
        ("g-rst:gamma=two", "method g-rst:gamma=two: gamma = two is out of range: give a number from 0 on"),
        ("thrifty:budget=2.5", "method thrifty:budget=2.5: budget = 2.5 is out of range"),
        ("sam:average=1", r"method sam:average=1: average = 1 is out of range: give a decay in \[0, 1\)"),
        ("rst:ascent=up", "method rst:ascent=up: ascent = up is out of range: give sam or asam"),
    ],
)
def test_bad_methods(name, message):
    """Sees a method accepted that cannot be trained, or a sentence that does not name it."""
    with pytest.raises(ValueError, match="^" + message):
        Method(name)


def test_a_part_of_an_unknown_batch():
    """Sees thrifty trained with a part that was chosen for another batch size."""
    with pytest.raises(ValueError, match=r"method thrifty: thrifty chooses a part of the batch: give trial\.optimizer"):
        wrapped("thrifty", batch_size=None)


def test_methods_travel():
    """Sees a method that a worker process cannot be handed, or a default row that there is no kind of."""
    for name in KINDS:
        assert pickle.loads(pickle.dumps(Method(name))) == Method(name)
    assert set(DEFAULTS) <= KINDS.keys()
    assert len({(kind.look.color, kind.look.marker) for kind in KINDS.values()}) == len(KINDS)
