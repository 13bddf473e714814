"""Whoever moves the weights puts them back, and the noise and the statistics are those of the clean pass."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from problems import batches, identical, network, noisy_network, snapshot, train
from sharpless import SAM

pytestmark = pytest.mark.quick

((X, Y),) = batches(1, dtype=torch.float32)[0]


class Breakdown(Exception):
    pass


def sam(model, **options):
    return SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.5, model=model, **options)


@pytest.mark.parametrize("error", [Breakdown, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["before backward", "after backward"])
def test_an_exception_in_the_perturbed_pass(error, where):
    """Sees weights left displaced, statistics left frozen, or a half-made gradient, while the traceback lives."""
    model = noisy_network()
    opt = sam(model)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    storage = [p.data_ptr() for p in model.parameters()]
    with pytest.raises(error) as caught:
        for count, (x, y) in enumerate(opt.passes((X, Y))):
            loss = mse_loss(model(x), y)
            if count == 1:
                assert not torch.equal(model[0].weight, start["0.weight"])
                if where == "after backward":
                    loss.backward()
                raise error
            loss.backward()
    assert caught.traceback  # still alive, and with it the frame of the loop
    assert identical(dict(model.named_parameters()), start)
    assert storage == [p.data_ptr() for p in model.parameters()]
    assert all(p.grad is None for p in model.parameters())
    assert model[1].track_running_stats
    with pytest.warns(UserWarning, match="left early"):
        opt.step()
    assert identical(dict(model.named_parameters()), start)
    train(model, opt, batches(1, dtype=torch.float32))


def test_break_in_the_perturbed_pass():
    """Sees weights left displaced, or passes not counted, when the loop is left early."""
    model = network()
    start = snapshot(model)
    opt = sam(model)
    for count, (x, y) in enumerate(opt.passes((X.double(), Y.double()))):
        mse_loss(model(x), y).backward()
        if count == 1:
            break
    assert identical(snapshot(model), start)
    with pytest.warns(UserWarning, match="left early"):
        opt.step()
    assert identical(snapshot(model), start)
    assert opt.cost.passes == 2


def test_an_interrupt_while_putting_back(monkeypatch):
    """Sees the one moment in which a Ctrl-C could leave half of the weights displaced."""
    from sharpless import displaced

    put_back, calls = displaced.put_back, []

    def interrupted_once(weights, before):
        calls.append(weights)
        if len(calls) == 1:
            raise KeyboardInterrupt
        put_back(weights, before)

    monkeypatch.setattr(displaced, "put_back", interrupted_once)
    model = network()
    start = snapshot(model)
    with pytest.raises(KeyboardInterrupt):
        for x, y in sam(model).passes((X.double(), Y.double())):
            mse_loss(model(x), y).backward()
    assert identical(snapshot(model), start)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_bit_for_bit(dtype):
    """Sees a restore by subtraction: with a learning rate of 0 not one bit may change, in place."""
    model = network(dtype=dtype)
    opt = SAM(torch.optim.SGD(model.parameters(), lr=0.0), rho=0.7)
    start, storage = snapshot(model), [p.data_ptr() for p in model.parameters()]
    train(model, opt, batches(50, dtype=dtype))
    assert identical(snapshot(model), start)
    assert storage == [p.data_ptr() for p in model.parameters()]


def test_the_radius():
    """Sees a perturbation of another length than ρ, also where gradients are half precision or tiny."""
    for dtype, scale, tolerance in ((torch.float32, 1e-9, 1e-5), (torch.bfloat16, 1.0, 0.02)):
        model = network(dtype=dtype)
        before = [p.detach().clone() for p in model.parameters()]
        for x, y in (
            loop := SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=2.0).passes((X.to(dtype), Y.to(dtype)))
        ):
            (scale * mse_loss(model(x), y)).backward()
            moved = sum(
                float((p.detach() - b).double().square().sum()) for p, b in zip(model.parameters(), before, strict=True)
            )
        assert moved**0.5 == pytest.approx(2.0, rel=tolerance)
        del loop


def test_a_zero_gradient():
    """Sees a division by zero: no gradient, no perturbation, no NaN, in float16 either."""
    half = [nn.Parameter(torch.ones(3, dtype=torch.float16))]
    for _ in (opt := SAM(torch.optim.SGD(half, lr=0.1), rho=0.5)).passes():
        (0.0 * half[0]).sum().backward()
        assert torch.equal(half[0].detach(), torch.ones(3, dtype=torch.float16))
    model = network()
    opt = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.5)
    start = snapshot(model)
    for x, _ in opt.passes((X.double(), Y.double())):
        (0.0 * model(x).sum()).backward()
        assert identical(snapshot(model), start)
    opt.step()
    assert identical(snapshot(model), start)


def test_batchnorm_statistics_are_the_clean_passes():
    """Sees running statistics updated twice, num_batches_tracked counted twice, or frozen layers woken up."""
    model = noisy_network()
    cumulative, frozen = nn.BatchNorm1d(6, momentum=None), nn.BatchNorm1d(6)
    model = nn.Sequential(*model[:5], cumulative, frozen, *model[5:])
    frozen.eval()
    plain = copy.deepcopy(model)
    torch.manual_seed(0)
    plain(X)
    torch.manual_seed(0)
    opt = sam(model)
    for x, y in opt.passes((X, Y)):
        mse_loss(model(x), y).backward()
    assert identical(dict(model.named_buffers()), dict(plain.named_buffers()))
    assert all(layer.track_running_stats for layer in (model[1], cumulative, frozen))

    opt = sam(model, freeze_batchnorm=False)
    opt.zero_grad()
    for x, y in opt.passes((X, Y)):
        mse_loss(model(x), y).backward()
    assert int(cumulative.num_batches_tracked) == 3


def test_other_normalization_layers():
    """Sees statistics of InstanceNorm updated twice, or layers without statistics that get some."""
    instance = nn.InstanceNorm1d(2, track_running_stats=True)
    without = nn.BatchNorm1d(2, track_running_stats=False)
    model = nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Conv1d(2, 2, 1), instance, without, nn.Flatten())
    plain = copy.deepcopy(model)
    x = torch.randn(8, 6)
    plain(x)
    for batch in sam(model).passes(x):
        model(batch).square().sum().backward()
    assert identical(snapshot(model), snapshot(plain))
    assert instance.running_mean is not None
    assert not without.track_running_stats


def test_noise_that_the_second_pass_draws_otherwise():
    """Sees the perturbed pass leave its mark on the generator when it draws more, or breaks off."""
    model = network()
    for draws in (3, None):
        torch.manual_seed(0)
        for count, (x, y) in enumerate(sam(model).passes((X.double(), Y.double()))):
            torch.rand(2 if count == 0 else 3)
            if count == 1 and draws is None:
                break
            mse_loss(model(x), y).backward()
        after = torch.rand(1)
        torch.manual_seed(0)
        torch.rand(2)
        assert torch.equal(after, torch.rand(1))


@pytest.mark.parametrize("repeat", [True, False])
def test_dropout_noise(repeat):
    """Sees other dropout masks in the perturbed pass, or the same ones where that was switched off."""
    model = nn.Sequential(nn.Linear(5, 64), nn.Dropout(0.5), nn.Linear(64, 1))
    masks = []
    model[1].register_forward_hook(lambda module, inputs, output: masks.append(output == 0))
    for x, y in sam(model, repeat_dropout=repeat).passes((X, Y)):
        mse_loss(model(x), y).backward()
    assert torch.equal(*masks) == repeat
