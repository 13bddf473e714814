"""Accelerate against two gradients by hand."""

import warnings
from importlib.metadata import version

import pytest

pytest.importorskip("accelerate")
import torch
from torch.nn.functional import cross_entropy

from hosts import examples, on_ranks, reference
from hosts.methods import wrapped
from hosts.on_ranks import accelerator
from hosts.reference import METHODS, STEPS, by_norm, by_value, distance, expected, network, noisy_network, sgd
from sharpless import SAM

pytestmark = pytest.mark.filterwarnings("ignore", "error:.*passes")
CASES = {method: (on_ranks.accelerate, {"method": method, "sizes": (8, 6, 4, 8)}) for method in METHODS}
HAS_FSDP2 = tuple(map(int, version("accelerate").split(".")[:2])) >= (1, 6)
METHODS_OF_FSDP2 = ("SAM", "G-RST") if HAS_FSDP2 else ()
SHARDED = {f"{method} sharded": (on_ranks.accelerate_fsdp, {"method": method}) for method in METHODS_OF_FSDP2}


def prepared(method, net, sizes=(8,), **options):
    one = accelerator(gradient_accumulation_steps=len(sizes), **options)
    return one, *one.prepare(net, wrapped(method, sgd(net), model=net))


def train(one, model, opt, steps, *, clip=None, overflow=(), scheduler=None):
    """The loop of Accelerate's documentation, and one line."""
    losses = []
    for number, micros in enumerate(steps):
        losses.append(0.0)
        for micro in micros:
            with one.accumulate(model):
                for x, y in opt.optimizer.passes(micro):
                    loss = cross_entropy(model(x), y)
                    one.backward(loss * float("inf") if number in overflow else loss)
                    if not opt.optimizer.perturbed:
                        losses[-1] += float(loss) * len(x) / len(micro[0]) / len(micros)
                if clip is not None and one.sync_gradients:
                    clip(one)
                opt.step()
                if scheduler is not None:
                    scheduler.step()
                opt.zero_grad()
    return losses


def fitted(method, net, sizes=(8,), **options):
    one, model, opt = prepared(method, net, sizes)
    torch.manual_seed(0)
    return opt.optimizer, train(one, model, opt, reference.batches(sizes), **options)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sizes", [(8,), (8, 6, 4)])
def test_right(method, sizes):
    """Sees BatchNorm and dropout that count both passes, or micro-batches under `accumulate` that do not climb."""
    ours, theirs = noisy_network(), noisy_network()
    opt, losses = fitted(method, ours, sizes)
    assert losses == pytest.approx(expected(method, theirs, sizes), abs=1e-6)
    assert distance(ours, theirs) < 1e-6
    assert (opt.cost.steps, opt.cost.sharp_steps) == (STEPS, sum(METHODS[method]["coins"]))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["norm", "value"])
def test_clipping(method, kind):
    """Sees the passes clipped in place of the mixture."""
    ours, theirs = network(), network()
    clips = {
        "norm": (lambda one: one.clip_grad_norm_(ours.parameters(), 0.05), by_norm(0.05)),
        "value": (lambda one: one.clip_grad_value_(ours.parameters(), 0.02), by_value(0.02)),
    }
    fitted(method, ours, (8, 6), clip=clips[kind][0])
    expected(method, theirs, (8, 6), clip=clips[kind][1])
    assert distance(ours, theirs) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_bf16(method):
    """Sees a pass outside of autocast."""
    ours, theirs = network(), network()
    one, model, opt = prepared(method, ours, mixed_precision="bf16")
    train(one, model, opt, reference.batches())
    expected(method, theirs, autocast=torch.bfloat16)
    assert distance(ours, theirs) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_fp16_overflow(method):
    """Sees an overflow that moves weights, rates or no coins, or a gradient that is clipped before it is unscaled."""
    ours, theirs = network(), network()
    one = accelerator()  # fp16 is kept to GPUs, so it is put in by hand
    one.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
    one.native_amp, one.state._mixed_precision = True, "fp16"
    model, opt = one.prepare(ours, wrapped(method, sgd(ours), model=ours))

    def clip(one):
        one.clip_grad_norm_(ours.parameters(), 0.5)

    scheduler = one.prepare(torch.optim.lr_scheduler.StepLR(opt, 2, 0.5))
    train(one, model, opt, reference.batches(), overflow={2}, clip=clip, scheduler=scheduler)
    base = sgd(theirs)
    by_hand = torch.optim.lr_scheduler.LambdaLR(base, lambda step: 0.5 ** ((step - (step > 2)) // 2))  # not step 2
    options = {"clip": by_norm(0.5), "scheduler": by_hand, "autocast": torch.float16, "scale": 2.0**10}
    reference.train(theirs, base, reference.batches(), method, spoiled={2}, **options)
    assert distance(ours, theirs) < 1e-5
    assert opt.optimizer.cost.steps == STEPS


def test_scheduler():
    """Sees a prepared scheduler that does not reach the base, or that is stepped where the step was not taken."""
    ours, theirs = network(), network()
    one, model, opt = prepared("G-RST", ours, (8, 6))
    scheduler = one.prepare(torch.optim.lr_scheduler.StepLR(opt, 2, 0.5))
    train(one, model, opt, reference.batches((8, 6)), scheduler=scheduler)
    base = sgd(theirs)
    by_hand = torch.optim.lr_scheduler.StepLR(base, 2, 0.5)
    reference.train(theirs, base, reference.batches((8, 6)), "G-RST", scheduler=by_hand)
    assert distance(ours, theirs) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_resume(method, tmp_path):
    """Sees a coin, a ledger or a momentum lost on the way through `save_state` and `load_state`."""
    whole, half, resumed = noisy_network(), noisy_network(), noisy_network(seed=1)
    first, _ = fitted(method, whole)
    torch.manual_seed(0)
    for net, steps in ((half, slice(0, 3)), (resumed, slice(3, None))):
        one, model, opt = prepared(method, net)
        if net is resumed:
            one.load_state(tmp_path)
        train(one, model, opt, reference.batches()[steps])
        one.save_state(tmp_path)
    assert distance(whole, resumed) == 0
    assert first.cost == opt.optimizer.cost


def test_without_passes():
    """Sees plain training without a word that names Accelerate."""
    net = network()
    one = accelerator()
    _, opt = one.prepare(net, SAM(sgd(net)))
    opt.step()
    with pytest.warns(UserWarning, match=r"Accelerate called step\(\) without passes.* see docs/hosts/accelerate.md"):
        opt.step()


@pytest.mark.parametrize("micros", [1, 2])
def test_closures(micros):
    """Sees closures that Accelerate drops but for the last one, without a word; or a word where it drops none."""
    net = network()
    one, model, opt = prepared("SAM", net, (8,) * micros)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for x, y in (micro for step in reference.batches((8,) * micros) for micro in step):
            with one.accumulate(model):
                opt.step(lambda x=x, y=y: one.backward(cross_entropy(model(x), y)))
                opt.zero_grad()
    told = [str(each.message) for each in found if "closure" in str(each.message)]
    assert len(told) == micros - 1
    assert all("Accelerate hands step() a closure that runs the last of accumulated" in text for text in told)


def test_the_example(monkeypatch):
    """Sees an example that a user cannot run, that learns nothing, or whose schedule counts something else."""
    made = examples.schedules(monkeypatch)
    assert examples.load("accelerate").main(epochs=3) > 0.5
    examples.assert_ended(made)


outcomes = on_ranks.outcomes(CASES | SHARDED)


@pytest.mark.parametrize("name", CASES)
def test_two_ranks(name, outcomes):
    """Sees ranks climb along the union, or communicate twice."""
    assert not outcomes[name], outcomes[name]


@pytest.mark.parametrize("name", SHARDED)
def test_fsdp2(name, outcomes):
    """Sees a rank climb along its shard alone."""
    assert not outcomes[name], outcomes[name]
