"""A loop with timm's tools against two gradients by hand."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch.nn.functional import cross_entropy

from hosts import examples, reference
from hosts.methods import wrapped

pytest.importorskip("timm")
from timm.scheduler import StepLRScheduler
from timm.utils import ModelEmaV3, NativeScaler

METHODS = list(reference.METHODS)
pytestmark = pytest.mark.filterwarnings("ignore", "error:.*(passes|each pass)")
example = examples.load("timm")


def micros(sizes=(8,)):
    return [micro for step in reference.batches(sizes) for micro in step]


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
    reference.train(
        theirs, base, reference.batches(sizes), method,
        clip=reference.by_norm(most),
        scheduler=torch.optim.lr_scheduler.StepLR(base, 2, gamma=0.5),
    )  # fmt: skip
    opt, ema = wrapped(method, reference.sgd(ours), model=ours), ModelEmaV3(ours, decay=0.5)
    scheduler = StepLRScheduler(opt, decay_t=2, decay_rate=0.5, t_in_epochs=False)
    torch.manual_seed(0)
    example.sharp_epoch(ours, micros(sizes), opt, NativeScaler("cpu"), nullcontext, most, ema, scheduler, len(sizes))
    assert reference.distance(ours, theirs) < 1e-6
    for mean, weight in zip(average, ema.module.parameters(), strict=True):
        assert torch.allclose(mean, weight, atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", ["G-RST", "parts"])
def test_fp16_overflow(method):
    """Sees a step that an overflow poisons, or a coin lost with it."""
    theirs, ours, overflow = reference.network(), reference.network(), micros()
    overflow[2] = overflow[2][0] * 1e6, overflow[2][1]  # beyond float16
    options = {"autocast": torch.float16, "scale": 2.0**10, "spoiled": (2,)}
    reference.expected(method, theirs, **options)
    opt, scaler = wrapped(method, reference.sgd(ours), model=ours), NativeScaler("cpu")
    scaler.load_state_dict(scaler.state_dict() | {"scale": 2.0**10})
    example.sharp_epoch(ours, overflow, opt, scaler, lambda: torch.autocast("cpu", dtype=torch.float16))
    assert reference.distance(ours, theirs) < 2e-5
    assert (opt.cost.steps, scaler.state_dict()["scale"]) == (reference.STEPS, 2.0**9)


def test_resume():
    """Sees coin, ledger or momentum lost between epochs, in what timm's CheckpointSaver keeps."""
    whole, stopped = reference.network(), reference.network()
    opt, scaler = wrapped("G-RST", reference.sgd(whole), model=whole), NativeScaler("cpu")
    example.sharp_epoch(whole, micros()[:3], opt, scaler, nullcontext)
    kept = copy.deepcopy((whole.state_dict(), opt.state_dict(), scaler.state_dict()))
    example.sharp_epoch(whole, micros()[3:], opt, scaler, nullcontext)

    other, again = wrapped("G-RST", reference.sgd(stopped), model=stopped), NativeScaler("cpu")
    for one, state in zip((stopped, other, again), kept, strict=True):
        one.load_state_dict(state)
    example.sharp_epoch(stopped, micros()[3:], other, again, nullcontext)
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
