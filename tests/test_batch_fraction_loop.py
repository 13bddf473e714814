"""Steps that climb with a part of the batch, and what happens around their three passes."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import oracle
from problems import batches, distance, identical, network, noisy_network, scaled_steps, snapshot, train
from sharpless import RST, SAM
from sharpless.coin import uniform

pytestmark = pytest.mark.quick

((X, Y),) = batches(1, dtype=torch.float32)[0]
RHO = 0.1


class Breakdown(Exception):
    pass


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), lr=0.05, **options)


def test_what_is_yielded():
    """Sees another order, parts that overlap or miss examples, and `perturbed` at weights that are not."""
    model = network()
    opt = RST(sgd(model), p=0.5, rho=RHO, seed=2, batch_fraction=0.25)
    for step, ((x, y),) in enumerate(batches(8)):
        start, sharp = model[0].weight.detach().clone(), uniform(2, step) < 0.5
        seen = []
        for a, b in opt.passes((x, y)):
            seen.append((a, b, opt.perturbed))
            assert torch.equal(model[0].weight, start) != opt.perturbed
            mse_loss(model(a), b).backward()
        parts = [(slice(0, 2), False), (slice(0, 2), True), (slice(2, 8), False)] if sharp else [(slice(0, 8), False)]
        assert not opt.perturbed
        for (a, b, perturbed), (where, displaced) in zip(seen, parts, strict=True):
            assert perturbed == displaced
            assert torch.equal(a, x[where])
            assert torch.equal(b, y[where])
        opt.step()
        opt.zero_grad()


@pytest.mark.parametrize("repeat", [True, False])
def test_statistics_and_noise(repeat):
    """Sees statistics of the perturbed part, or not of the rest; masks of S that differ; a rest that repeats them."""
    instance = nn.InstanceNorm1d(2, track_running_stats=True)
    normalized = [nn.BatchNorm1d(64), nn.Unflatten(1, (2, 32)), instance, nn.Flatten()]
    model = nn.Sequential(nn.Linear(5, 64), *normalized, nn.Dropout(0.5), nn.Linear(64, 1))
    plain, masks = copy.deepcopy(model), []
    opt = SAM(sgd(model), rho=0.5, model=model, batch_fraction=0.5, repeat_dropout=repeat)
    for dropout in (model[5], plain[5]):
        dropout.register_forward_hook(lambda module, inputs, output: masks.append(output == 0))
    torch.manual_seed(5)
    for x, y in opt.passes((X, Y)):
        mse_loss(model(x), y).backward()
    after = torch.rand(1)
    torch.manual_seed(5)
    plain(X[:4])
    plain(X[4:])
    assert identical(dict(model.named_buffers()), dict(plain.named_buffers()))
    assert int(model[1].num_batches_tracked) == 2
    climbing, perturbed, rest, *expected = masks
    assert torch.equal(climbing, expected[0])
    assert torch.equal(perturbed, climbing) == repeat
    assert not torch.equal(rest, climbing)
    assert torch.equal(rest, expected[1]) == repeat
    assert torch.equal(after, torch.rand(1)) == repeat


@pytest.mark.parametrize("leave", ["break", Breakdown, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["before backward", "after backward"])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_leaving_early(number, where, leave):
    """Sees weights left displaced, layers frozen, or a half-made gradient taken for one, whichever pass broke off."""
    model = noisy_network()
    opt = SAM(sgd(model), rho=0.5, model=model, batch_fraction=0.5)
    start, storage = copy.deepcopy(dict(model.named_parameters())), [p.data_ptr() for p in model.parameters()]
    for x, y in opt.passes((X, Y)):  # an earlier micro-batch, whose gradients go with the step
        mse_loss(model(x), y).backward()

    def loop():
        for count, (x, y) in enumerate(opt.passes((X, Y))):
            loss = mse_loss(model(x), y)
            if count != number or where == "after backward":
                loss.backward()
            if count == number:
                if leave == "break":
                    break
                raise leave

    if leave == "break":
        loop()
    else:
        with pytest.raises(leave) as caught:
            loop()
        assert caught.traceback  # still alive, and with it the frame of the loop
    assert identical(dict(model.named_parameters()), start)
    assert storage == [p.data_ptr() for p in model.parameters()]
    assert all(p.grad is None for p in model.parameters())
    assert model[1].track_running_stats
    assert not opt.perturbed
    with pytest.warns(UserWarning, match="left early"):
        assert opt.step() is None
    assert identical(dict(model.named_parameters()), start)
    assert opt.cost.passes == 1.5 + (0.5, 1.0, 1.5)[number]
    train(model, opt, [[(X, Y)]])
    assert opt.cost.passes == 3.0 + (0.5, 1.0, 1.5)[number]
    assert not identical(dict(model.named_parameters()), start)


@pytest.mark.parametrize("clear", ["opt.zero_grad()", "model.zero_grad()", "opt.zero_grad(set_to_none=False)"])
@pytest.mark.parametrize("gamma", [0.25, 1.0, 2.0])
def test_clearing_in_the_loop_body(gamma, clear):
    """Sees a habit of many loops, zero_grad before every backward, take one of the three gradients away."""
    ends = []
    for habit in (clear, ""):
        model = network()
        opt = RST(sgd(model, momentum=0.9), p=0.6, rho=RHO, gamma=gamma, seed=3, batch_fraction=0.25)
        for (batch,) in batches(12):
            for x, y in opt.passes(batch):
                eval(habit or "None")
                mse_loss(model(x), y).backward()
            opt.step()
            opt.zero_grad()
        ends.append(model)
    assert distance(*ends) < 1e-13


class Chooses(nn.Module):
    """A network whose branch for the climb differs from that for the rest."""

    def __init__(self):
        super().__init__()
        self.trunk, self.few, self.many = network(0), network(1), network(2)

    def forward(self, x):
        return self.trunk(x) + (self.few(x) if len(x) < 3 else self.many(x))


@pytest.mark.parametrize("gamma", [0.25, 2.0])
def test_parameters_that_one_part_uses(gamma):
    """Sees a gradient lost, or weighed by the wrong pass, where only S or only R goes through a parameter."""
    ours, theirs = Chooses().double(), Chooses().double()
    opt = RST(sgd(ours, weight_decay=0.1), p=1.0, rho=RHO, gamma=gamma, batch_fraction=0.25)
    train(ours, opt, batches(5, micro=2))

    def climb(model, loss, batch, rho, gamma):
        return oracle.split_gradient(model, loss, batch, rho, gamma, 2)

    oracle.train(theirs, mse_loss, batches(5, micro=2), sgd(theirs, weight_decay=0.1), [True] * 5, RHO, gamma, climb)
    assert distance(ours, theirs) < 1e-12


@pytest.mark.parametrize("gamma", [0.25, 2.0])
def test_grad_scaler(gamma):
    """Sees gradients of three passes in different units when they are unscaled and clipped."""
    ours, theirs, steps = network(), network(), batches(8)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    opt = RST(sgd(ours, momentum=0.9), p=0.6, rho=RHO, gamma=gamma, seed=3, batch_fraction=0.25)
    scaled_steps(ours, opt, scaler, steps, clip=0.05)
    base = sgd(theirs, momentum=0.9)
    for step, (batch,) in enumerate(steps):
        if uniform(3, step) < 0.6:
            grads = oracle.split_gradient(theirs, mse_loss, batch, RHO, gamma, 2)
        else:
            grads = oracle.gradient(theirs, mse_loss, batch)
        for p, g in zip(theirs.parameters(), grads, strict=True):
            p.grad = g
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.05)
        base.step()
    assert distance(ours, theirs) < 1e-12


@pytest.mark.parametrize("spoiled", [0, 1, 2])
@pytest.mark.parametrize("gamma", [0.25, 2.0])
def test_an_overflow(gamma, spoiled):
    """Sees weights that an overflow in one of the passes touched, statistics it poisoned, a cost that it shifted."""
    model = noisy_network()
    opt = SAM(sgd(model), rho=RHO, model=model, batch_fraction=0.25)
    opt.gamma = gamma
    steps = batches(3, dtype=torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaled_steps(model, opt, scaler, steps[:1])
    before = copy.deepcopy(dict(model.named_parameters()))
    scaled_steps(model, opt, scaler, steps[1:2], clip=1.0, spoil={(0, spoiled)})
    assert identical(dict(model.named_parameters()), before)
    assert scaler.get_scale() == 4.0
    scaled_steps(model, opt, scaler, steps[2:])
    assert scaler.get_scale() == 4.0
    assert not identical(dict(model.named_parameters()), before)
    assert all(torch.isfinite(tensor).all() for tensor in snapshot(model).values())
    assert (opt.cost.steps, opt.cost.passes) == (3, 3 * 1.25)


def test_autocast():
    """Sees a step that depends on the precision of the forward pass, or that climbs in it."""
    ours, theirs = network(dtype=torch.float32), network(dtype=torch.float32)
    steps = batches(8, dtype=torch.float32)

    def loss(prediction, y):
        return mse_loss(prediction.float(), y)

    def in_bfloat16(model):
        return torch.autocast("cpu", dtype=torch.bfloat16)(model.forward)

    def climb(model, loss, batch, rho, gamma):
        return oracle.split_gradient(model, loss, batch, rho, gamma, 2)

    ours.forward, theirs.forward = in_bfloat16(ours), in_bfloat16(theirs)
    train(ours, RST(sgd(ours), p=0.6, rho=0.5, gamma=2.0, seed=3, batch_fraction=0.25), steps, loss)
    coins = [uniform(3, step) < 0.6 for step in range(8)]
    oracle.train(theirs, loss, steps, sgd(theirs), coins, 0.5, 2.0, climb)
    assert distance(ours, theirs) < 1e-3
    oracle.train(theirs, loss, steps[:1], sgd(theirs), [True], 0.5, 2.0)
    assert distance(ours, theirs) > 1e-3
