"""Sharpness-aware steps that climb with a part of the batch: the gradient, its limits, and what it costs."""

import copy
from fractions import Fraction
from functools import partial
from itertools import combinations

import pytest
import torch
from torch.nn.functional import mse_loss

import oracle
from problems import batches, distance, identical, network, noisy_network, snapshot, train, train_plainly
from sharpless import GRST, RST, SAM
from sharpless.coin import uniform

pytestmark = pytest.mark.quick

STEPS, RHO, SEED = 10, 0.1, 3
COINS = [uniform(SEED, step) < 0.6 for step in range(STEPS)]
BASES = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}
# The size m of the part to climb with, by share and number of examples; 1 example cannot be split.
SIZES = {1 / 4: {8: 2, 3: 1}, 1 / 2: {8: 4, 3: 2}, 3 / 8: {8: 3, 3: 1}}


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), lr=0.05, **options)


def unequal(count):
    """Steps of three micro-batches with 8, 3 and 1 examples."""
    return [[(x[:n], y[:n]) for (x, y), n in zip(micro, (8, 3, 1), strict=True)] for micro in batches(count, micro=3)]


def splitting(fraction, keep_strength=True):
    """The oracle's gradient of a micro-batch, for a share of it."""

    def climb(model, loss, batch, rho, gamma):
        size = SIZES[fraction].get(len(batch[0]))
        if size is None:
            return oracle.sharpness_aware_gradient(model, loss, batch, rho, gamma)
        return oracle.split_gradient(model, loss, batch, rho, gamma, size, keep_strength)

    return climb


@pytest.mark.parametrize("keep_strength", [True, False])
@pytest.mark.parametrize("micro", [1, 3])
@pytest.mark.parametrize("gamma", [0.3, "q", 1.0, 2.0, 10.0])
@pytest.mark.parametrize("fraction", SIZES)
def test_the_gradient(fraction, gamma, micro, keep_strength):
    """Sees a part weighed by anything but its size, another radius, the last examples for the first, lost state."""
    gamma = fraction if gamma == "q" else gamma
    steps = batches(STEPS) if micro == 1 else unequal(STEPS)
    for make in BASES.values():
        ours, theirs = network(), network()
        options = {"batch_fraction": fraction, "keep_strength": keep_strength}
        opt = RST(make(ours.parameters()), p=0.6, rho=RHO, gamma=gamma, seed=SEED, **options)
        train(ours, opt, steps)
        base, climb = make(theirs.parameters()), splitting(fraction, keep_strength)
        oracle.train(theirs, mse_loss, steps, base, COINS, RHO, gamma, climb)
        assert distance(ours, theirs) < 1e-12


def test_the_oracle_tells_parts_apart():
    """Sees an oracle that says yes to everything: other shares and other radii end far from one another."""
    ends = []
    climbs = [splitting(q, keep) for q in SIZES for keep in (True, False)]
    for climb in (*climbs, oracle.sharpness_aware_gradient):
        model = network()
        oracle.train(model, mse_loss, batches(STEPS), sgd(model), COINS, RHO, 2.0, climb)
        ends.append(model)
    assert all(distance(a, b) > 1e-5 for i, a in enumerate(ends) for b in ends[:i])


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_mean_over_all_splits(gamma, size):
    """Sees a biased gradient: over all parts of size m, its mean is ∇L and γ times what m-sharpness adds."""
    model = network()
    ((x, y),) = batches(1, size=6)[0]
    radius = RHO * (size / 6) ** 0.5
    ours, theirs = [], []
    for chosen in combinations(range(6), size):
        order = [*chosen, *(i for i in range(6) if i not in chosen)]
        opt = GRST(sgd(model), p=1.0, gamma=gamma, rho=RHO, batch_fraction=size / 6)
        for a, b in opt.passes((x[order], y[order])):
            mse_loss(model(a), b).backward()
        ours.append([p.grad for p in model.parameters()])
        opt.zero_grad()
        part = x[list(chosen)], y[list(chosen)]
        climbed = oracle.sharpness_aware_gradient(model, mse_loss, part, radius, 1.0)
        theirs.append([h - g for h, g in zip(climbed, oracle.gradient(model, mse_loss, part), strict=True)])
    whole = oracle.gradient(model, mse_loss, (x, y))
    for g, mixed, sharpness in zip(whole, zip(*ours, strict=True), zip(*theirs, strict=True), strict=True):
        expected = g + gamma * sum(sharpness) / len(theirs)
        torch.testing.assert_close(sum(mixed) / len(ours), expected, rtol=1e-12, atol=1e-14)
        assert not torch.allclose(mixed[0], expected)


def trained(wrap, loop=train):
    """Parameters, buffers and next random number after training with dropout and BatchNorm."""
    model = noisy_network()
    base = sgd(model, momentum=0.9, weight_decay=0.01)
    torch.manual_seed(1)
    loop(model, wrap(base, model=model), batches(12, micro=2, dtype=torch.float32))
    return {**snapshot(model), "next draw": torch.rand(1)}


@pytest.mark.parametrize("fraction", [1.0, 0.95])  # of 8 examples
def test_the_whole_batch(fraction):
    """Sees q = 1, or a share that rounds to all examples, being anything but G-RST, bit for bit."""
    method = partial(GRST, p=0.6, gamma=2.0, rho=RHO)
    assert identical(trained(partial(method, batch_fraction=fraction)), trained(method))
    assert not identical(trained(partial(method, batch_fraction=0.5)), trained(method))


@pytest.mark.parametrize("without", [{"p": 0.0}, {"rho": 0.0}, {"gamma": 0.0}], ids=str)
def test_the_base_optimizer(without):
    """Sees a rounding, a random number or a split batch where plain training has none."""
    method = partial(RST, **{"p": 1.0, "rho": RHO, "gamma": 2.0, "batch_fraction": 0.25} | without)
    assert identical(trained(method), trained(lambda base, model: base, train_plainly))
    model = network()
    opt, ((batch,),) = method(sgd(model)), batches(1)
    assert [given is batch for given in opt.passes(batch)] == [True]


@pytest.mark.filterwarnings("ignore:the gradient of the rest")
@pytest.mark.parametrize("keep_strength", [False, True])
def test_equal_examples(keep_strength):
    """Sees a bias against SAM where every part is as good as the whole; with ρ√q it is a SAM of smaller radius."""
    ours, theirs = network(), network()
    steps = [[(x[:1].expand(8, 5), y[:1].expand(8, 1))] for ((x, y),) in batches(STEPS)]
    train(ours, SAM(sgd(ours), rho=RHO, batch_fraction=0.5, keep_strength=keep_strength), steps)
    train(theirs, SAM(sgd(theirs), rho=RHO * (0.5**0.5 if keep_strength else 1.0)), steps)
    assert distance(ours, theirs) < 1e-12


def spent(sizes, model=None, **options):
    """The ledger of one optimizer step over micro-batches of these sizes."""
    trains = model or network()
    opt = SAM(sgd(trains), model=model, **options)
    dtype = next(trains.parameters()).dtype
    train(trains, opt, [[(x[:n], y[:n]) for n in sizes for ((x, y),) in batches(1, dtype=dtype)]])
    assert opt.cost.steps == opt.cost.sharp_steps == 1
    assert opt.cost.plain_passes == len(sizes)
    return opt.cost.passes


def test_the_ledger():
    """Sees a nominal share in the ledger, or parts counted as passes: 1 + m/n each, 2 where nothing can be split."""
    assert [spent([n], batch_fraction=0.25) for n in (8, 4, 2, 1)] == [1.25, 1.25, 1.5, 2.0]
    assert spent([5], batch_fraction=0.25) == pytest.approx(float(1 + Fraction(1, 5)), rel=1e-15)
    assert spent([8, 8, 4, 1], batch_fraction=0.375) == 1.375 + 1.375 + 1.5 + 2.0
    assert spent([8, 3], batch_fraction=1.0) == 4.0
    # With BatchNorm in the model a part of one example would have no variance.
    assert [spent([n], noisy_network(), batch_fraction=0.25) for n in (8, 4, 3)] == [1.25, 1.5, 2.0]


def test_the_ledger_of_a_run():
    """Sees plain steps that pay for a part, or a ledger off the mark by what the coins decide."""
    model = network()
    opt = RST(sgd(model), p=0.6, rho=RHO, seed=SEED, batch_fraction=0.25)
    sizes = [8, 8, 4, 8, 1] * 2
    train(model, opt, [[(x[:n], y[:n])] for ((x, y),), n in zip(batches(STEPS), sizes, strict=True)])
    shares = [{8: 0.25, 4: 0.25, 1: 1.0}[n] for n, sharp in zip(sizes, COINS, strict=True) if sharp]
    assert (opt.cost.steps, opt.cost.sharp_steps, opt.cost.plain_passes) == (STEPS, sum(COINS), STEPS)
    assert opt.cost.passes == STEPS + sum(shares)


@pytest.mark.parametrize("stop", [1, 4, 7])
def test_a_checkpoint(stop):
    """Sees a ledger or a coin that a run, interrupted between steps or micro-batches, does not get back."""
    steps, options = unequal(6), {"p": 0.6, "rho": RHO, "gamma": 2.0, "batch_fraction": 0.375}
    whole = network()
    opt_of_whole = RST(sgd(whole, momentum=0.9), seed=SEED, **options)
    train(whole, opt_of_whole, steps)

    half, done = network(), stop // 2
    first = RST(sgd(half, momentum=0.9), seed=SEED, **options)
    train(half, first, steps[:done])
    for batch in steps[done][: stop % 2]:
        for x, y in first.passes(batch):
            mse_loss(half(x), y).backward()
    resumed = network(seed=1)
    second = RST(sgd(resumed, momentum=0.9), **options)
    resumed.load_state_dict(half.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(resumed, second, steps[done:])
    assert identical(snapshot(whole), snapshot(resumed))
    assert second.cost == opt_of_whole.cost


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_a_batch_that_cannot_be_seen(p):
    """Sees plain or whole steps in silence where `passes` was given nothing to split, or a closure."""
    model = network()
    opt = RST(sgd(model), p=p, batch_fraction=0.25)
    for batch in (None, {"note": "no tensor"}, torch.tensor(1.0)):
        with pytest.raises(ValueError, match=r"batch_fraction = 0\.25 .* passes\(\(x, y\)\)"):
            opt.passes(batch)
    called = []
    with pytest.raises(RuntimeError, match=r"batch_fraction = 0\.25 .* step\(closure\) .*passes\(\(x, y\)\)"):
        opt.step(lambda: called.append(1))
    assert not called
    assert identical(snapshot(model), snapshot(network()))
    assert opt.cost.steps == 0


@pytest.mark.parametrize("share", [0, -0.5, 1.5, float("nan"), float("inf")])
def test_shares_out_of_range(share):
    """Sees a share accepted that is none, or refused without its name and value."""
    with pytest.raises(ValueError, match=f"batch_fraction = {share} "):
        SAM(sgd(network()), batch_fraction=share)
