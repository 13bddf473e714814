"""When to climb: AE-SAM's policy and systematic sampling, against their definitions written out here."""

import copy
import statistics

import pytest
import torch
from torch.nn.functional import mse_loss

import oracle
from problems import batches, distance, identical, network, snapshot, train
from sharpless import GRST, RST
from sharpless.coin import evenly
from sharpless.schedules import Adaptive, Linear, Periodic, Piecewise, Warmup, parse

pytestmark = pytest.mark.quick

STEPS = 30
PINNED = [False, False, False, True, False, False, False, True]


def ae_sam_by_hand(model, base, steps, gamma=1.0, q=1.0, rho=0.1):
    """AE-SAM: the decision at every step, and training by it."""
    mean, variance, taken = None, 0.0, []
    for step, ((x, y),) in enumerate(steps):
        m = round(q * len(x))
        whole = oracle.gradient(model, mse_loss, (x, y))
        part = oracle.gradient(model, mse_loss, (x[:m], y[:m]))
        square = float(sum((g**2).sum() for g in part))
        mean = square if mean is None else 0.9 * mean + 0.1 * square
        variance = 0.9 * variance + 0.1 * (square - mean) ** 2
        c = 1.0 - 2.0 * step / len(steps)
        taken.append(square >= mean + c * variance**0.5)
        if taken[-1]:
            sharp = oracle.sharpness_aware_gradient(model, mse_loss, (x[:m], y[:m]), rho * q**0.5, 1.0)
            whole = [g + gamma * (h - p) for g, h, p in zip(whole, sharp, part, strict=True)]
        for w, g in zip(model.parameters(), whole, strict=True):
            w.grad = g
        base.step()
    return taken


@pytest.mark.parametrize("q", [1.0, 0.25])
def test_adaptive_is_ae_sams(q):
    """Sees another threshold or moving average, a decision after the fact, or a plain step that loses a part."""
    ours, theirs = network(), network()
    base = torch.optim.SGD(ours.parameters(), lr=0.05, momentum=0.9)
    opt = GRST(base, Adaptive(), gamma=1.5, rho=0.1, total_steps=STEPS, batch_fraction=q)
    taken = []
    for ((x, y),) in batches(STEPS):
        before = opt.cost.sharp_steps
        train(ours, opt, [[(x, y)]])
        taken.append(opt.cost.sharp_steps > before)
    base = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9)
    assert taken == ae_sam_by_hand(theirs, base, batches(STEPS), 1.5, q)
    assert distance(ours, theirs) < 1e-10
    assert 5 < sum(taken) < STEPS - 5
    assert opt.cost.passes == STEPS + q * sum(taken)


def test_adaptive_resumes():
    """Sees moments that a checkpoint loses."""

    def build(model):
        base = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        return RST(base, "adaptive:1,-1", rho=0.1, total_steps=STEPS)

    whole = network()
    opt = build(whole)
    train(whole, opt, batches(STEPS))
    first = network()
    train(first, half := build(first), batches(STEPS)[:13])
    second = network(seed=1)
    second.load_state_dict(snapshot(first))
    resumed = build(second)
    resumed.load_state_dict(copy.deepcopy(half.state_dict()))
    train(second, resumed, batches(STEPS)[13:])
    assert identical(snapshot(whole), snapshot(second))
    assert resumed.cost == opt.cost


def test_adaptive_never_climbs_where_the_base_would_do():
    """Sees a policy that never takes a step differ from the base by a bit."""
    ours, theirs = network(), network()
    base = torch.optim.SGD(ours.parameters(), lr=0.05, momentum=0.9)
    opt = RST(base, Adaptive(30.0, 30.0), rho=0.1, total_steps=STEPS)
    opt.param_groups[0]["norm_mean"] = 1e9  # the first step would be at its own mean
    train(ours, opt, batches(STEPS))
    base = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9)
    oracle.train(theirs, mse_loss, batches(STEPS), base, [False] * STEPS, 0.1, 1.0)
    assert opt.cost.ratio == 1.0
    assert identical(snapshot(ours), snapshot(theirs))


@pytest.mark.parametrize("stop", [0, 4, 9])
def test_adaptive_resumes_between_micro_batches(stop):
    """Sees moments that a step cut in two has updated twice."""

    def build(model):
        return RST(torch.optim.SGD(model.parameters(), lr=0.05), Adaptive(), rho=0.1, total_steps=12)

    def part(model, opt, micro_batches):
        for x, y in opt.passes(micro_batches):
            mse_loss(model(x), y).backward()

    whole = network()
    train(whole, build(whole), batches(12, micro=2))
    first = network()
    train(first, opt := build(first), batches(12, micro=2)[:stop])
    part(first, opt, batches(12, micro=2)[stop][0])
    resumed = build(first)
    resumed.load_state_dict(copy.deepcopy(opt.state_dict()))
    first.zero_grad()
    train(first, resumed, batches(12, micro=2)[stop:])
    assert identical(snapshot(whole), snapshot(first))


def test_zero_gradients_are_not_large():
    """Sees two gradients paid for a climb along none."""
    assert Adaptive(1.0, 1.0).takes(0, 10, 0.0, None, 0.0) == (False, (0.0, 0.0))


def test_moments_in_the_middle():
    """Sees a mean of 0 taken for none, or a threshold that goes on past the last step."""
    _, moments = Adaptive(decay=0.5).takes(1, 10, 4.0, 0.0, 0.0)
    assert moments == (2.0, 2.0)
    policy = Adaptive()
    assert policy.takes(50, 10, 5.0, 4.0, 1.0) == policy.takes(9, 10, 5.0, 4.0, 1.0)


def test_an_overflow_leaves_the_moments_alone():
    """Sees one infinite norm decide all later steps."""
    policy = Adaptive()
    taken, moments = policy.takes(1, 10, float("inf"), 2.0, 0.5)
    assert (taken, moments) == (False, (2.0, 0.5))
    assert policy.takes(1, 10, float("nan"), 2.0, 0.5) == (False, (2.0, 0.5))


def test_adaptive_in_accumulation_decides_once():
    """Sees micro-batches of one step that disagree."""
    model = network()
    base = torch.optim.SGD(model.parameters(), lr=0.05)
    opt = RST(base, Adaptive(), rho=0.1, total_steps=STEPS)
    train(model, opt, batches(STEPS, micro=3))
    assert opt.cost.passes == 3 * STEPS + 3 * opt.cost.sharp_steps


def test_the_expected_share():
    """Sees a mean that is not the chance of the threshold."""
    for policy in (Adaptive(), Adaptive(2.0, 0.5), Adaptive(0.3, 0.3)):
        middle = statistics.fmean(policy((i + 0.5) / 10_000) for i in range(10_000))
        assert policy.mean() == pytest.approx(middle, abs=1e-8)
        assert policy.area(0.25, 0.5) + policy.area(0.5, 0.75) == pytest.approx(policy.area(0.25, 0.75))
        assert parse(str(policy)) == policy
    assert Warmup(0.5, Adaptive()).mean() == pytest.approx(Adaptive().area(0.5, 1.0))


def test_a_warm_up_tosses_nothing():
    """Sees a policy that decides within the warm-up, too."""
    model = network()
    base = torch.optim.SGD(model.parameters(), lr=0.05)
    opt = RST(base, Warmup(0.5, Adaptive(-9, -9)), rho=0.1, total_steps=STEPS)
    train(model, opt, batches(STEPS))
    assert opt.cost.sharp_steps == STEPS // 2


@pytest.mark.parametrize("schedule", ["0.3", "linear:0,1", "cosine:1,0", "0.05"])
def test_systematic_sampling(schedule):
    """Sees more or fewer steps than Σp(t), steps in a heap, or a start that is not random."""
    p, count = parse(schedule), 400
    chances = [p.at(step, count) for step in range(count)]
    sums = [sum(chances[:step]) for step in range(count + 1)]
    starts = set()
    often = [0] * count
    for seed in range(200):
        taken = [evenly(seed, sums[step], chances[step]) for step in range(count)]
        # As many as Σp says, up to any step: rounded up or down.
        assert all(abs(sum(taken[:step]) - sums[step]) < 1 + 1e-9 for step in range(count + 1))
        starts.add(taken.index(True))
        often = [times + took for times, took in zip(often, taken, strict=True)]
    assert len(starts) > 2 or chances[0] == 1
    # Each step with its own probability: 200 draws have a standard deviation of 0.035 or less.
    assert max(abs(times / 200 - chance) for times, chance in zip(often, chances, strict=True)) < 0.16


@pytest.mark.parametrize("stop", [0, 11])
def test_systematic_steps_of_an_optimizer(stop):
    """Sees an optimizer that counts Σp from the start of the process, or adds it up differently when resumed."""
    count = 40
    chances = [Linear(0, 1).at(step, count) for step in range(count)]
    expected = [evenly(5, sum(chances[:step]), chances[step]) for step in range(count)]
    model = network()

    def build():
        base = torch.optim.SGD(model.parameters(), lr=0.01)
        return RST(base, Linear(0, 1), rho=0.1, total_steps=count, seed=5, systematic=True)

    opt, taken = build(), []
    for step, micro_batches in enumerate(batches(count)):
        if step == stop:
            state = opt.state_dict()
            opt = build()
            opt.load_state_dict(state)
        before = opt.cost.sharp_steps
        train(model, opt, [micro_batches])
        taken.append(opt.cost.sharp_steps > before)
    assert taken == expected


def test_systematic_steps_are_pinned():
    """Sees a start, and with it every resumed run, change between versions; and a load of an earlier state ignored."""
    assert [evenly(1, 0.25 * step, 0.25) for step in range(8)] == PINNED
    assert all(evenly(seed, 0.1 * 3, 1.0) for seed in range(50))
    model = network()
    opt = RST(torch.optim.SGD(model.parameters(), lr=0.01), 0.25, rho=0.1, seed=1, systematic=True)
    state = copy.deepcopy(opt.state_dict())
    for _ in range(2):
        taken = []
        for micro_batches in batches(8):
            before = opt.cost.sharp_steps
            train(model, opt, [micro_batches])
            taken.append(opt.cost.sharp_steps > before)
        assert taken == PINNED
        opt.load_state_dict(copy.deepcopy(state))


def test_the_variance_of_the_cost():
    """Sees systematic sampling whose number of steps is as random as a coin's."""
    counts = [sum(evenly(seed, 0.25 * step, 0.25) for step in range(1000)) for seed in range(20)]
    assert set(counts) == {250}


def test_old_methods_are_schedules():
    """Sees late-phase SAM and every k-th step spelled by another name than the schedules that they are."""
    late = [Piecewise((0, 1), (0.75,)).at(step, 100) for step in range(100)]
    assert late == [0.0] * 76 + [1.0] * 24
    assert [Periodic(5).at(step, 100) for step in range(10)] == [0, 0, 0, 0, 1] * 2


def test_what_excludes_each_other():
    """Sees an even spread of coins asked for where none is tossed."""
    base = torch.optim.SGD(network().parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"^systematic = True replaces the coin, but p = adaptive:1,-1,0.9 has none"):
        RST(base, Adaptive(), total_steps=10, systematic=True)
    with pytest.raises(ValueError, match=r"^decay = 1.5 is out of range"):
        Adaptive(decay=1.5)
