"""Fabric against two gradients by hand."""

import pytest

pytest.importorskip("lightning")
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision
from torch.nn.functional import cross_entropy

from hosts import examples, on_ranks, reference
from hosts.methods import wrapped
from hosts.reference import METHODS, STEPS, by_norm, by_value, distance, expected, network, noisy_network, sgd
from sharpless import SAM

pytestmark = pytest.mark.filterwarnings("ignore", "error:.*passes")
CASES = {method: (on_ranks.fabric, {"method": method, "sizes": (8, 6, 4, 8)}) for method in METHODS}


def train(fabric, model, opt, steps, *, clip=None, overflow=(), scheduler=None):
    """The loop of Fabric's documentation, and one line."""
    losses = []
    for number, micros in enumerate(steps):
        losses.append(0.0)
        for micro in micros:
            for x, y in opt.passes(micro):
                loss = cross_entropy(model(x), y) / len(micros)
                fabric.backward(loss * float("inf") if number in overflow else loss)
                if not opt.perturbed:
                    losses[-1] += float(loss) * len(x) / len(micro[0])
        if clip is not None:
            fabric.clip_gradients(model, opt, **clip)
        opt.step()
        opt.zero_grad()
        if scheduler is not None:
            scheduler.step()
    return losses


def fitted(method, net, sizes=(8,), fabric=None, **options):
    fabric = fabric or Fabric(accelerator="cpu", devices=1)
    model, opt = fabric.setup(net, wrapped(method, sgd(net), model=net))
    torch.manual_seed(0)
    return opt, train(fabric, model, opt, reference.batches(sizes), **options)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sizes", [(8,), (8, 6, 4)])
def test_right(method, sizes):
    """Sees what a step remembers land on Fabric's proxy; BatchNorm and dropout; micro-batches that do not climb."""
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
    fitted(method, ours, clip={"max_norm": 0.05} if kind == "norm" else {"clip_val": 0.02})
    clips = {"norm": by_norm(0.05), "value": by_value(0.02)}
    expected(method, theirs, clip=clips[kind])
    assert distance(ours, theirs) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_bf16(method):
    """Sees a pass outside of autocast."""
    ours, theirs = network(), network()
    fitted(method, ours, fabric=Fabric(accelerator="cpu", precision="bf16-mixed"))
    expected(method, theirs, autocast=torch.bfloat16)
    assert distance(ours, theirs) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_fp16_overflow(method):
    """Sees an overflow that moves weights or stops the coins, or a gradient that is clipped before it is unscaled."""
    ours, theirs = network(), network()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
    fabric = Fabric(accelerator="cpu", plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    opt, _ = fitted(method, ours, fabric=fabric, overflow={2}, clip={"max_norm": 0.5, "error_if_nonfinite": False})
    norm = {"clip": by_norm(0.5)}
    expected(method, theirs, autocast=torch.float16, scale=2.0**10, spoiled={2}, **norm)
    assert distance(ours, theirs) < 1e-5
    assert opt.cost.steps == STEPS


def test_scheduler():
    """Sees a scheduler on Fabric's proxy that does not reach the base."""
    ours, theirs = network(), network()
    fabric = Fabric(accelerator="cpu", devices=1)
    model, opt = fabric.setup(ours, wrapped("G-RST", sgd(ours), model=ours))
    train(fabric, model, opt, reference.batches(), scheduler=torch.optim.lr_scheduler.StepLR(opt, 2, 0.5))
    base = sgd(theirs)
    reference.train(theirs, base, reference.batches(), "G-RST", scheduler=torch.optim.lr_scheduler.StepLR(base, 2, 0.5))
    assert distance(ours, theirs) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_resume(method, tmp_path):
    """Sees a coin, a ledger or a momentum lost on the way through Fabric's checkpoint."""
    fabric = Fabric(accelerator="cpu", devices=1)
    whole, half, resumed = network(), network(), network(seed=1)
    one, _ = fitted(method, whole)
    for net, steps in ((half, slice(0, 3)), (resumed, slice(3, None))):
        model, opt = fabric.setup(net, wrapped(method, sgd(net), model=net))
        state = {"model": model, "opt": opt}
        if net is resumed:
            fabric.load(tmp_path / "half", state)
        train(fabric, model, opt, reference.batches()[steps])
        fabric.save(tmp_path / "half", state)
    assert distance(whole, resumed) == 0
    assert one.cost == opt.cost


def test_without_passes():
    """Sees plain training without a word that names Fabric."""
    net = network()
    fabric = Fabric(accelerator="cpu", devices=1)
    _, opt = fabric.setup(net, SAM(sgd(net)))
    opt.step()
    with pytest.warns(UserWarning, match=r"Fabric called step\(\) without passes.* see docs/hosts/fabric.md"):
        opt.step()


def test_the_example(monkeypatch):
    """Sees an example that a user cannot run, that learns nothing, or whose schedule counts something else."""
    made = examples.schedules(monkeypatch)
    assert examples.load("fabric").main(epochs=3) > 0.5
    examples.assert_ended(made)


outcomes = on_ranks.outcomes(CASES)


@pytest.mark.parametrize("name", CASES)
def test_two_ranks(name, outcomes):
    """Sees ranks climb along the union, or communicate twice: they are given the network that Fabric then wraps."""
    assert not outcomes[name], outcomes[name]
