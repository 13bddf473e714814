"""Budgets in seconds: what steps cost on the clock, and the plan that follows from it."""

import math

import numpy as np
import pytest
import torch

from sharpless import GRST, part_noise, step_seconds
from sharpless.cli import main
from sharpless.climb import Climb
from sharpless.cost import NOISE, BudgetError, plan

N = 64
SMALL = {0: 0.5, 4: 0.86, 16: 0.8, 32: 0.9, 64: 1.0}  # a network whose steps with few examples cost nearly SAM's


def extra(prices, m):
    """What a step with m of N examples takes beyond a plain one, in plain steps; between the others by numpy."""
    return max(np.interp(m, list(prices), list(prices.values())) / prices[0] - 1, m / N)


@pytest.mark.parametrize(
    "prices", [SMALL, {0: 1.0, 4: 1.14, 16: 1.3, 64: 2.1}, {0: 1.0, 64: 2.0}, {0: 64, 1: 65, 64: 128}]
)
@pytest.mark.parametrize("budget", [1.05, 1.1, 1.25, 1.5, 2.0])
def test_the_best_pair_is_chosen(prices, budget):
    """Sees a plan that overdraws its seconds, whose γ is beyond 4, or that another pair of p and m would beat."""
    fitting = {}
    for m in [*range(max(4, sorted(prices)[1]), N - 1), N]:
        p = min(1.0, (budget - 1) / extra(prices, m))
        if p >= 0.25:
            fitting[m] = m**-NOISE / p
    if not fitting:
        with pytest.raises(ValueError, match="is too small in seconds"):
            plan(budget, N, seconds=prices)
        return
    found = plan(budget, N, seconds=prices)
    m = round(found.batch_fraction * N)
    assert found.p * (1 + extra(prices, m)) + 1 - found.p == pytest.approx(found.seconds)
    assert found.seconds <= budget + 1e-12
    assert found.gamma == pytest.approx(1 / found.p)
    assert found.gamma <= 4 + 1e-9
    assert m**-NOISE / found.p == pytest.approx(min(fitting.values()))


def test_all_of_the_batch_for_twice_the_time():
    """Sees a budget of two plain steps spent on anything but SAM."""
    found = plan(2.0, N, seconds=SMALL)
    assert (found.p, found.batch_fraction, found.gamma, found.seconds) == (1.0, 1.0, 1.0, 2.0)


def test_a_budget_that_cannot_be_had():
    """Sees a γ of 20 in the place of a word on what can be had."""
    with pytest.raises(
        ValueError, match=r"budget = 1\.02 is too small in seconds .* the cheapest plan costs 1\.1\d\d, with"
    ):
        plan(1.02, N, seconds={0: 1.0, 4: 1.7, 64: 2.0})


def test_the_least_noisy_of_the_cheapest():
    """Sees four examples taken in the place of more, which cost no more than a measurement can tell."""
    prices = {0: 1.0, 4: 2.0, 64: 2.1}
    with pytest.raises(BudgetError) as error:
        plan(1.1, N, seconds=prices)
    near = [m for m in [*range(4, N - 1), N] if extra(prices, m) / 4 <= extra(prices, 4) / 4 + 0.01]
    assert max(near) == 28
    assert error.value.cheapest.batch_fraction * N == max(near)


@pytest.mark.parametrize(
    "prices",
    [
        {},
        {0: 1.0, 32: 1.0},
        {0: -1.0, 64: 1.0},
        {4: 1.0, 64: 2.0},
        {0: 1.0, 64: math.nan},
        {-1: 1.0, 0: 1.0, 64: 2.0},
        {0: 1.0, 64: 2.0, 65: 2.0},
    ],
)
def test_prices_that_say_nothing(prices):
    """Sees a plan made of prices that are none, or of a batch whose price is not known."""
    with pytest.raises(ValueError, match=r"seconds = .* does not fit a batch of 64"):
        plan(1.1, N, seconds=prices)


def test_the_optimizer_and_the_command_line(capsys):
    """Sees prices that do not reach the optimizer, or another plan on the command line."""
    model = torch.nn.Linear(2, 1)
    opt = GRST.for_budget(torch.optim.SGD(model.parameters(), lr=0.1), 1.25, batch_size=N, seconds=SMALL)
    found = plan(1.25, N, seconds=SMALL)
    assert (opt.schedule.mean(), opt.batch_fraction, opt.gamma) == (found.p, found.batch_fraction, found.gamma)
    prices = [f"{m}:{t}" for m, t in SMALL.items()]
    assert main(["plan", "--budget", "1.25", "--batch-size", "64", "--step-seconds", *prices]) == 0
    told = capsys.readouterr().out
    assert f"{found.p:.4g}" in told
    assert f"expected seconds            {found.seconds:.4g} times those of plain training" in told
    assert main(["plan", "--schedule", "0.5", "--steps", "9", "--step-seconds", *prices]) == 2
    assert "--step-seconds = " in capsys.readouterr().err


class Odd(torch.nn.Module):
    """A network with dropout, BatchNorm and a counter, that notes what it is run on."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5))
        self.register_buffer("runs", torch.zeros(()))
        self.sizes = []

    def forward(self, x):
        self.sizes.append(len(x))
        self.runs += 1
        return self.layers(x)


def test_timing_leaves_no_trace():
    """Sees gradients, running statistics or random numbers that a measurement has changed, or sizes left out."""
    model, x = Odd(), torch.randn(32, 3)
    model(x).sum().backward()
    before = [p.grad.clone() for p in model.parameters()], {k: v.clone() for k, v in model.state_dict().items()}
    held, state = [p.grad for p in model.parameters()], torch.get_rng_state()
    model.sizes.clear()
    seconds = step_seconds(lambda part: model(part["x"]).sum().backward(), {"x": x}, model, repeats=3)
    assert list(seconds) == [0, 4, 8, 16, 32]
    assert model.sizes == [32, *(4, 4, 28), *(8, 8, 24), *(16, 16, 16), *(32, 32)] * 5
    assert all(t > 0 for t in seconds.values())
    assert all(
        p.grad is grad and torch.equal(grad, old)
        for p, grad, old in zip(model.parameters(), held, before[0], strict=True)
    )
    assert all(torch.equal(value, before[1][name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    found = step_seconds(lambda part: model(part).sum().backward(), x, model, sizes=[10], repeats=1)
    assert list(found) == [0, 10, 32]


def test_the_step_and_not_its_passes_alone(monkeypatch):
    """Sees what a step does beside its passes left out of its price."""
    clock, climb = [0.0], Climb.displacement

    def slow(*arguments, **options):
        clock[0] += 5.0
        return climb(*arguments, **options)

    def run(part):
        clock[0] += len(part)
        model(part).sum().backward()

    monkeypatch.setattr("sharpless.timing.perf_counter", lambda: clock[0])
    monkeypatch.setattr(Climb, "displacement", slow)
    model = torch.nn.Linear(3, 1)
    found = step_seconds(run, torch.ones(32, 3), model, sizes=[8])
    assert found == {0: 32.0, 8: 8 + 8 + 24 + 5.0, 32: 32 + 32 + 5.0}


@pytest.mark.parametrize(
    ("batch", "options", "message"),
    [
        (None, {}, "batch has no tensor with a length"),
        (torch.ones(8, 3), {"sizes": [9]}, r"sizes = \[9\] are out of range: give numbers of examples from 1 to 8"),
        (torch.ones(8, 3), {"repeats": 0}, "repeats = 0 is out of range"),
    ],
)
def test_what_cannot_be_timed(batch, options, message):
    """Sees a traceback of something else where a batch cannot be cut, or a size is larger than the batch."""
    model = torch.nn.Linear(3, 1)
    with pytest.raises(ValueError, match=message):
        step_seconds(lambda part: model(part).sum().backward(), batch, model, **options)


def test_runs_that_measure_nothing():
    """Sees torch's own words for a `run` without backward, or for a function that was given as the network."""
    model = torch.nn.Linear(3, 1)
    with pytest.raises(ValueError, match=r"no pass gave a gradient, .*: call backward\(\) in run"):
        step_seconds(lambda part: model(part).sum(), torch.ones(8, 3), model, repeats=1)
    with pytest.raises(ValueError, match=r"no pass gave a gradient, .*: call backward\(\) in run"):
        part_noise(lambda part: model(part).sum(), torch.ones(8, 3), model)
    for measure in (step_seconds, part_noise):
        with pytest.raises(TypeError, match=r"^model is a method, not a network: give the torch.nn.Module"):
            measure(lambda part: None, torch.ones(8, 3), model.forward)


def test_prices_that_fall():
    """Sees a noisy measurement, by which a step costs less than its gradients, taken for a bargain."""
    found = plan(1.1, N, seconds={0: 1.0, 4: 1.5, 32: 1.01, 64: 2.0})
    assert found.seconds >= 1 + found.p * found.batch_fraction - 1e-9
    assert found.cost <= 1.1 + 1e-9
