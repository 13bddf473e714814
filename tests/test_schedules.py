"""Scheduling functions: the paper's, their means, and the cost that follows from them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharpless.cost import Cost, expected_cost, expected_sharp_steps
from sharpless.schedules import (
    Adaptive,
    Constant,
    Cosine,
    Linear,
    Periodic,
    Piecewise,
    Schedule,
    Warmup,
    parse,
    schedule,
)

pytestmark = pytest.mark.quick

probability = st.floats(0, 1)
boundaries = st.lists(probability, min_size=1, max_size=4).map(sorted)
schedules = st.recursive(
    st.one_of(
        st.builds(Constant, probability),
        st.builds(Linear, probability, probability),
        st.builds(Cosine, probability, probability),
        st.builds(Periodic, st.integers(1, 50)),
        boundaries.flatmap(
            lambda at: st.builds(
                Piecewise, st.lists(probability, min_size=len(at) + 1, max_size=len(at) + 1), st.just(at)
            )
        ),
    ),
    lambda inner: st.builds(Warmup, probability, inner),
    max_leaves=2,
)

P = [0.0, 0.1, 0.3, 0.5, 0.6, 0.9, 1.0]
PAPER = {
    # name: (ours, the paper's p(t), its mean), for the parameter p
    "constant": (Constant, lambda p, t, total: p, lambda p: p),
    "piecewise1": (
        lambda p: Piecewise((0, 1), (p,)),
        lambda p, t, total: 0.0 if t <= p * total else 1.0,
        lambda p: 1 - p,
    ),
    "piecewise2": (
        lambda p: Piecewise((1, 0), (p,)),
        lambda p, t, total: 1.0 if t <= p * total else 0.0,
        lambda p: p,
    ),
    "piecewise3": (
        lambda p: Piecewise((p, 1 - p), (0.5,)),
        lambda p, t, total: p if t <= total / 2 else 1 - p,
        lambda p: 0.5,
    ),
    "v1 piecewise, b = 0.3": (
        lambda p: Piecewise((p, 1 - p), (0.3,)),
        lambda p, t, total: p if t <= 0.3 * total else 1 - p,
        lambda p: 1 - p + (2 * p - 1) * 0.3,
    ),
    "linear1": (
        lambda p: Linear(0, 2 * p) if p <= 0.5 else Linear(2 * p - 1, 1),
        lambda p, t, total: 2 * p * t / total if p <= 0.5 else (2 * p - 1) + 2 * (1 - p) * t / total,
        lambda p: p,
    ),
    "linear2": (lambda p: Linear(p, 1 - p), lambda p, t, total: p + 2 * (0.5 - p) * t / total, lambda p: 0.5),
    "trigonometric": (
        lambda p: Cosine(1, 0),
        lambda p, t, total: 0.5 + 0.5 * math.cos(math.pi * t / total),
        lambda p: 0.5,
    ),
}


@pytest.mark.parametrize("p", P)
@pytest.mark.parametrize("name", PAPER)
def test_functions_of_the_paper(name, p):
    """Sees a boundary moved by one step, a rising line that falls, a wrong mean."""
    ours, theirs, mean = PAPER[name]
    for total in (10, 1000):
        assert [ours(p).at(t, total) for t in range(total)] == pytest.approx(
            [theirs(p, t, total) for t in range(total)], abs=1e-12
        )
    assert ours(p).mean() == pytest.approx(mean(p), abs=1e-12)
    assert expected_cost(ours(p)) == pytest.approx(1 + mean(p), abs=1e-12)


@given(schedules, st.integers(1, 400), st.data())
def test_always_a_probability(ours, total, data):
    """Sees a schedule leave [0, 1], also past the end of the run."""
    step = data.draw(st.integers(0, 2 * total))
    assert 0.0 <= ours.at(step, total) <= 1.0
    assert 0.0 <= ours(data.draw(probability)) <= 1.0
    assert ours.at(2 * total, total) == ours.at(3 * total, total) or "periodic" in str(ours)


@given(schedules)
def test_mean_is_the_limit(ours):
    """Sees a closed form that is not the integral: the exact average over many steps must come to it."""
    total = 20_000
    assert expected_sharp_steps(ours, total) / total == pytest.approx(ours.mean(), abs=5e-3)
    assert expected_cost(ours, total) == pytest.approx(expected_cost(ours), abs=5e-3)


@given(schedules, probability, probability, probability)
def test_areas_add_up(ours, a, b, c):
    """Sees an integral that loses or doubles a piece at a boundary."""
    a, b, c = sorted((a, b, c))
    assert ours.area(a, b) + ours.area(b, c) == pytest.approx(ours.area(a, c), abs=1e-9)


@given(schedules)
def test_text_and_back(ours):
    """Sees a schedule that a run file could not bring back exactly."""
    assert parse(str(ours)) == ours


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_the_ledger(coins):
    """Sees a ratio outside SAM's and the base's."""
    cost = Cost(len(coins), sum(coins), len(coins) + sum(coins), len(coins))
    assert 1.0 <= cost.ratio <= 2.0
    assert cost.ratio == pytest.approx(1 + cost.sharp_steps / cost.steps)


def test_cost_before_the_first_step():
    """Sees a division by zero in a progress bar that asks early."""
    assert Cost(0, 0, 0.0, 0.0).ratio == 1.0


def test_periodic_and_warmup():
    """Sees a period that begins at step 0, a warm-up that shifts the schedule behind it or lets Periodic through."""
    assert [Periodic(3).at(t, None) for t in range(7)] == [0, 0, 1, 0, 0, 1, 0]
    warm = Warmup(0.5, Linear(0, 1))
    assert [warm.at(t, 4) for t in range(4)] == [0, 0, 0.5, 0.75]
    assert warm.mean() == pytest.approx(0.375)
    assert [Warmup(0.5, Periodic(2)).at(t, 8) for t in range(8)] == [0, 0, 0, 0, 0, 1, 0, 1]
    assert Warmup(0.1, 0.5) == Warmup(0.1, Constant(0.5))
    assert Warmup(1.0, 1).at(8, 8) == Warmup(1.0, 1).at(80, 8) == 0  # past the end p stays what it was


def test_callables_of_the_users():
    """Sees a function of progress whose mean or cost is wrong."""
    ours = schedule(lambda u: u**2)
    assert isinstance(ours, Schedule)
    assert ours.mean() == pytest.approx(1 / 3, abs=1e-5)
    assert ours.at(50, 100) == 0.25


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(1.5), r"p = 1.5 is not a probability"),
        (lambda: Linear(0, 2), r"end = 2 is not a probability"),
        (lambda: Cosine(-1, 0), r"start = -1 is not a probability"),
        (lambda: Piecewise((0, 3), (0.5,)), r"3 is not a probability"),
        (lambda: Piecewise((0, 1), (0.5, 0.7)), r"one value more than boundaries"),
        (lambda: Piecewise((0, 1, 0), (0.7, 0.5)), r"rise within \[0, 1\]"),
        (lambda: Periodic(0), r"every = 0 is not a period"),
        (lambda: Warmup(1.5, 0.5), r"fraction = 1.5 is not a share"),
        (lambda: Warmup("0.1", 0.5), r"fraction = '0.1' is not a share"),
        (lambda: Adaptive("1"), r"Adaptive\(1, -1.0\) has no finite thresholds"),
        (lambda: schedule(lambda u: 1 + u), r"p\(0.001\) = 1.001 is not a probability"),
        (lambda: parse("linear:0,2"), r"end = 2.0 is not a probability"),
        *((lambda text=text: parse(text), r"cannot be read: write 0.5, linear:0,1") for text in
          ("", "linear:1", "linear", "0.5:1", "0.1,0.2", "piecewise:0,1", "periodic:2.5", "warmup:0.1", "sine:1")),
    ],
)  # fmt: skip
def test_bad_schedules(make, message):
    """Sees a schedule accepted that leaves [0, 1] or has no meaning."""
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant("0.5"), r"^p = '0.5' is not a number: give one in \[0, 1\]"),
        (lambda: parse(0.5), r"^text = 0.5 is not a text: give one, such as 'linear:0,1'"),
        (lambda: Piecewise((0, 1), 0.75), r"^boundaries = 0.75 is not a tuple: give one, as in Piecewise"),
        (
            lambda: schedule(lambda u: None),
            r"^p = <lambda> is not a function of progress \(TypeError at 0.0: .*\): give",
        ),
    ],
)
def test_schedules_of_a_wrong_type(make, message):
    """Sees Python's own words for a text, a number or nothing where a schedule needs something else."""
    with pytest.raises(TypeError, match=message):
        make()


def test_a_cost_of_any_form():
    """Sees a form of p that RST takes and its price does not, or a division by no steps."""
    for form in (0.5, "0.5", Constant(0.5), lambda u: 0.5):
        assert expected_cost(form) == expected_cost(form, 10) == 1.5
    with pytest.raises(ValueError, match=r"^total_steps = 0 is not a number of steps: give 1 or more"):
        expected_cost(0.5, 0)


def test_texts_are_short():
    """Sees numbers spelled out where a reader typed a short one."""
    assert str(Linear(0, 1)) == "linear:0,1"
    assert str(Warmup(0.05, Piecewise((0, 0.5), (0.75,)))) == "warmup:0.05/piecewise:0,0.5@0.75"
