"""Mixed precision: autocast, GradScaler, dtypes side by side, gradients that are not finite."""

import copy
import math
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import oracle
from problems import batches, distance, identical, network, noisy_network, scaled_steps, snapshot, train
from sharpless import RST, SAM
from sharpless.coin import uniform

pytestmark = pytest.mark.quick


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, **options)


@pytest.mark.parametrize("gamma", [1.0, 2.0])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_grad_scaler(gamma, clip):
    """Sees a mixture of scaled and unscaled gradients, or a norm taken before unscaling."""
    ours, theirs = network(), network()
    steps = batches(8)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    scaled_steps(ours, RST(sgd(ours), p=0.6, rho=0.1, gamma=gamma, seed=3), scaler, steps, clip)
    base = sgd(theirs)
    for step, (batch,) in enumerate(steps):
        if uniform(3, step) < 0.6:
            grads = oracle.sharpness_aware_gradient(theirs, mse_loss, batch, 0.1, gamma)
        else:
            grads = oracle.gradient(theirs, mse_loss, batch)
        for p, g in zip(theirs.parameters(), grads, strict=True):
            p.grad = g
        if clip is not None:
            nn.utils.clip_grad_norm_(theirs.parameters(), clip)
        base.step()
    assert distance(ours, theirs) < 1e-12


@pytest.mark.parametrize("spoiled", [0, 1])
@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_an_overflow(gamma, spoiled):
    """Sees weights that an overflow in either pass touched, statistics it poisoned, a coin or a cost it shifted."""
    model = noisy_network()
    opt = RST(sgd(model), p=0.6, rho=0.1, gamma=gamma, seed=3, model=model)
    steps = batches(9, dtype=torch.float32)
    sharp = [uniform(3, step) < 0.6 for step in range(9)]
    first = sharp.index(True)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaled_steps(model, opt, scaler, steps[:first])
    before = snapshot(model)
    scaled_steps(model, opt, scaler, steps[first : first + 1], spoil={(0, spoiled)})
    parameters = {name for name, _ in model.named_parameters()}
    after = snapshot(model)
    assert identical({n: before[n] for n in parameters}, {n: after[n] for n in parameters})
    assert all(torch.isfinite(tensor).all() for tensor in after.values())
    assert scaler.get_scale() == 4.0
    scaled_steps(model, opt, scaler, steps[first + 1 :])
    assert scaler.get_scale() == 4.0
    assert opt.cost.steps == 9
    assert opt.cost.sharp_steps == sum(sharp)
    assert opt.cost.passes == 9 + sum(sharp)
    assert all(torch.isfinite(tensor).all() for tensor in snapshot(model).values())


def test_grad_scaler_with_a_closure():
    """Sees an update too large by the scale: a closure's gradients are never unscaled."""
    model = network()
    opt = SAM(sgd(model), rho=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    ((x, y),) = batches(1)[0]
    before = snapshot(model)

    def closure():
        opt.zero_grad()
        loss = scaler.scale(mse_loss(model(x), y))
        loss.backward()
        return loss

    closure()
    with pytest.raises(RuntimeError, match=r"GradScaler.*passes"):
        scaler.step(opt, closure)
    assert identical(snapshot(model), before)


@pytest.mark.parametrize("around_the_loop", [False, True])
def test_autocast(around_the_loop):
    """Sees a step that depends on the precision of the forward pass, or a perturbed pass that runs on cached casts."""
    ours, theirs = network(dtype=torch.float32), network(dtype=torch.float32)
    steps = batches(8, dtype=torch.float32)
    opt = RST(sgd(ours), p=0.6, rho=0.1, gamma=2.0, seed=3)
    for (batch,) in steps:
        with torch.autocast("cpu", dtype=torch.bfloat16) if around_the_loop else nullcontext():
            for x, y in opt.passes(batch):
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    prediction = ours(x)
                mse_loss(prediction.float(), y).backward()
        opt.step()
        opt.zero_grad()

    def loss(prediction, y):
        return mse_loss(prediction.float(), y)

    theirs.forward = torch.autocast("cpu", dtype=torch.bfloat16)(theirs.forward)
    oracle.train(theirs, loss, steps, sgd(theirs), [uniform(3, step) < 0.6 for step in range(8)], 0.1, 2.0)
    assert distance(ours, theirs) < 1e-3


class Towers(nn.Module):
    """Parameters in three precisions."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(
            nn.Linear(5, 1).to(dtype) for dtype in (torch.float64, torch.float32, torch.bfloat16)
        )

    def forward(self, x):
        return sum(layer(x.to(layer.weight.dtype)).double() for layer in self.layers)


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_precisions_side_by_side(gamma):
    """Sees one norm for each precision, or a failure of lists of mixed dtypes."""
    ours, theirs = Towers(), Towers()
    x, y = batches(1)[0][0]
    opt = RST(torch.optim.SGD(ours.parameters(), lr=0.05), p=1.0, rho=0.5, gamma=gamma)
    seen = []
    for a, b in opt.passes((x, y)):
        seen.append([p.detach().clone() for p in ours.parameters()])
        mse_loss(ours(a), b).backward()
    moved = [(after - before).double() for before, after in zip(*seen, strict=True)]
    assert sum(float(m.square().sum()) for m in moved) ** 0.5 == pytest.approx(0.5, rel=1e-2)
    grads = oracle.sharpness_aware_gradient(theirs, mse_loss, (x, y), 0.5, gamma)
    for p, g in zip(ours.parameters(), grads, strict=True):
        assert p.grad.dtype == p.dtype
        torch.testing.assert_close(p.grad, g, rtol=3e-2, atol=1e-2)


@pytest.mark.parametrize(("dtype", "value"), [(torch.float16, 300.0), (torch.bfloat16, 1.0), (torch.float32, 3.0)])
@pytest.mark.parametrize("shapes", [[(1000, 100)] * 3, [(30, 20), (7,), ()], [(100, 100), (5,)]])
def test_norm(dtype, value, shapes):
    """Sees a norm summed up in half precision, which overflows or loses digits, or tensors left out of one."""
    from sharpless.tensors import global_norm

    grads = [torch.full(shape, value, dtype=dtype) for shape in shapes]
    numbers = sum(math.prod(shape) for shape in shapes)
    assert float(global_norm(grads)) == pytest.approx(value * numbers**0.5, rel=1e-3)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_gradients_that_are_not_finite(value):
    """Sees weights that stay displaced, or stay NaN, after a pass whose gradient is not finite."""
    model = network()
    opt = SAM(sgd(model), rho=0.1)
    start, twin = snapshot(model), copy.deepcopy(model)
    ((batch,), *rest) = batches(4)
    for x, y in opt.passes(batch):
        (value * mse_loss(model(x), y)).backward()
    assert identical(snapshot(model), start)
    assert not all(torch.isfinite(p.grad).all() for p in model.parameters())
    opt.zero_grad()  # as a loop does that skips the step
    train(model, opt, rest)
    train(twin, SAM(sgd(twin), rho=0.1), rest)
    assert identical(snapshot(model), snapshot(twin))


def test_weights_that_do_not_move():
    """Sees plain training at twice the price where bfloat16 rounds w + ε to w, and no word about it."""
    ((batch,),) = batches(1, dtype=torch.bfloat16)

    def step(rho, dtype=torch.bfloat16):
        model = network(dtype=dtype)
        x, y = (tensor.to(dtype) for tensor in batch)
        opt = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=rho)
        for _ in range(2):  # once said is enough
            for a, b in opt.passes((x, y)):
                mse_loss(model(a), b).backward()
            opt.zero_grad()

    with pytest.warns(UserWarning, match=r"lose \d+% of their perturbation to rounding") as caught:
        step(1e-4)
    assert len(caught) == 1
    step(0.1)
    step(1e-4, torch.float32)
