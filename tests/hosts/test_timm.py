"""A loop with timm's tools against two gradients by hand."""

import copy
from contextlib import nullcontext
from math import inf

import pytest
import torch
from torch.nn.functional import cross_entropy

from hosts import examples, on_ranks, reference, small_on_ranks
from hosts.methods import wrapped

pytest.importorskip("timm")
from timm.scheduler import StepLRScheduler
from timm.utils import AverageMeter, ModelEmaV3, NativeScaler

METHODS = list(reference.METHODS)
pytestmark = pytest.mark.filterwarnings("ignore", "error:.*(passes|each pass)")
example = examples.load("timm")
CASES = {method: (small_on_ranks.timm, {"method": method, "sizes": (8, 6, 4, 8)}) for method in METHODS}


def micros(sizes=(8,)):
    return [micro for step in reference.batches(sizes) for micro in step]


def epoch(model, data, opt, *, scaler=None, amp=None, clip=inf, **options):
    """Train for an epoch, and return the average of the weights, and of the losses."""
    ema, meter = ModelEmaV3(model, decay=0.5), AverageMeter()
    scheduler = StepLRScheduler(opt, decay_t=2, decay_rate=0.5, t_in_epochs=False)
    tools = scaler or NativeScaler("cpu"), amp or nullcontext(), ema, scheduler, meter
    torch.manual_seed(0)
    example.sharp_epoch(model, data, opt, *tools, clip, **options)
    return ema.module, meter.avg


def expected(method, model, sizes=(8,), base=None, **options):
    """What it has to come to: the scheduler is the same."""
    base = base or reference.sgd(model)
    scheduler = torch.optim.lr_scheduler.StepLR(base, 2, gamma=0.5)
    return reference.train(model, base, reference.batches(sizes), method, scheduler=scheduler, **options)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [reference.network, reference.noisy_network])
@pytest.mark.parametrize("sizes", [(8,), (8, 6, 4)])
def test_right(method, make, sizes):
    """Sees another method, a climb with the last micro-batch alone, passes clipped, averaged or counted one by one."""
    theirs, ours = make(), make()
    most = 0.2 if len(sizes) == 1 else 10.0  # clipped, the scale of an accumulated gradient would not be seen
    base, average, started = reference.sgd(theirs), [w.detach().clone() for w in theirs.parameters()], []

    def after_step(*_):
        for mean, weight in zip(average, theirs.parameters(), strict=True):
            mean.lerp_(weight.detach(), 0.5 if started else 1.0)
        started.append(True)

    base.register_step_post_hook(after_step)
    losses = expected(method, theirs, sizes, base, clip=reference.by_norm(most))
    opt = wrapped(method, reference.sgd(ours), model=ours)
    averaged, logged = epoch(ours, micros(sizes), opt, clip=most, accumulate=len(sizes))
    assert reference.distance(ours, theirs) < 1e-6
    for mean, weight in zip(average, averaged.parameters(), strict=True):
        assert torch.allclose(mean, weight, atol=1e-6, rtol=0)
    if len(sizes) == 1:  # else it is by examples
        assert logged == pytest.approx(sum(losses) / len(losses), abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_clipping_by_value(method):
    """Sees the passes clipped in place of the mixture."""
    theirs, ours = reference.network(), reference.network()
    expected(method, theirs, (8, 6), clip=reference.by_value(0.02))
    opt = wrapped(method, reference.sgd(ours), model=ours)
    epoch(ours, micros((8, 6)), opt, clip=0.02, mode="value", accumulate=2)
    assert reference.distance(ours, theirs) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_bf16(method):
    """Sees a pass outside of autocast."""
    theirs, ours = reference.network(), reference.network()
    expected(method, theirs, autocast=torch.bfloat16)
    epoch(ours, micros(), wrapped(method, reference.sgd(ours), model=ours), amp=torch.autocast("cpu", torch.bfloat16))
    assert reference.distance(ours, theirs) < 1e-6


@pytest.mark.parametrize("method", ["G-RST", "parts"])
def test_fp16_overflow(method):
    """Sees an overflow that moves weights or stops the coins, or a gradient that is clipped before it is unscaled."""
    theirs, ours, overflow = reference.network(), reference.network(), micros()
    overflow[2] = overflow[2][0] * 1e6, overflow[2][1]  # beyond float16
    options = {"autocast": torch.float16, "scale": 2.0**10, "spoiled": (2,)}
    expected(method, theirs, clip=reference.by_norm(0.5), **options)
    opt, scaler = wrapped(method, reference.sgd(ours), model=ours), NativeScaler("cpu")
    scaler.load_state_dict(scaler.state_dict() | {"scale": 2.0**10})
    epoch(ours, overflow, opt, scaler=scaler, amp=torch.autocast("cpu", torch.float16), clip=0.5)
    assert reference.distance(ours, theirs) < 2e-5
    assert (opt.cost.steps, scaler.state_dict()["scale"]) == (reference.STEPS, 2.0**9)


def test_resume():
    """Sees coin, ledger or momentum lost in mid-epoch, in what timm's CheckpointSaver keeps."""
    whole, stopped = reference.noisy_network(), reference.noisy_network(seed=1)
    opt, scaler = wrapped("G-RST", reference.sgd(whole), model=whole), NativeScaler("cpu")
    epoch(whole, micros()[:3], opt, scaler=scaler)
    kept = copy.deepcopy((whole.state_dict(), opt.state_dict(), scaler.state_dict()))
    epoch(whole, micros()[3:], opt, scaler=scaler)

    other, again = wrapped("G-RST", reference.sgd(stopped), model=stopped), NativeScaler("cpu")
    for one, state in zip((stopped, other, again), kept, strict=True):
        one.load_state_dict(state)
    epoch(stopped, micros()[3:], other, scaler=again)
    assert reference.distance(whole, stopped) == 0
    assert other.cost == opt.cost


def test_a_scaler_that_steps():
    """Sees timm's own call of the scaler take a step for each pass."""
    model = reference.network()
    opt = wrapped("SAM", reference.sgd(model), model=model)
    with pytest.raises(RuntimeError, match="in the middle of passes"):
        for x, y in opt.passes(micros()[0]):
            NativeScaler("cpu")(cross_entropy(model(x), y), opt)


def test_the_example():
    """Sees an example that a user cannot run."""
    assert example.main(epochs=1) > 0.1


outcomes = on_ranks.outcomes(CASES)


@pytest.mark.parametrize("name", CASES)
def test_two_ranks(name, outcomes):
    """Sees ranks climb along the union, or communicate twice."""
    assert not outcomes[name], outcomes[name]
