"""Lightning's manual optimization, with nothing added, against two gradients by hand."""

import pytest

pytest.importorskip("lightning")
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from hosts import examples, on_ranks
from hosts.lightning_fits import WARNINGS, Kill, Killed, Manual, fitted, scaled
from hosts.reference import METHODS, STEPS, distance, expected, network, noisy_network

pytestmark = pytest.mark.filterwarnings(*WARNINGS)
CASES = {method: (on_ranks.lightning, {"method": method, "sizes": (8, 8), "kind": "Manual"}) for method in METHODS}


def manual(method, net, **options):
    return fitted(method, net, kind=Manual, model=True, callbacks=[], **options)


@pytest.mark.parametrize("method", METHODS)
def test_right(method):
    """Sees a coin that Lightning's proxy tosses twice, or what a step remembers land on the proxy alone."""
    ours, theirs = noisy_network(), noisy_network()
    done = manual(method, ours)
    losses = expected(method, theirs)
    assert distance(ours, theirs) < 1e-6
    cost = done.optimizers().optimizer.cost
    assert (cost.steps, cost.sharp_steps) == (STEPS, sum(METHODS[method]["coins"]))
    assert done.trainer.global_step == STEPS
    if method != "parts":
        assert done.logged == pytest.approx(losses, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_hooks(method):
    """Sees `on_before_optimizer_step` find no gradient, since that of the step waits elsewhere."""
    ours, theirs = network(), network()
    done = manual(method, ours)
    seen = []
    expected(method, theirs, clip=lambda parameters: seen.append([p.grad.clone() for p in parameters]))
    assert len(done.seen) == STEPS
    for mine, other in zip(done.seen, seen, strict=True):
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(mine, other, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_fp16_overflow(method):
    """Sees an overflow that moves weights, or stops the coins."""
    ours, theirs = network(), network()
    done = manual(method, ours, module={"overflow": (2,)}, **scaled())
    expected(method, theirs, autocast=torch.float16, scale=2.0**10, spoiled={2})
    assert distance(ours, theirs) < 1e-5
    assert done.optimizers().optimizer.cost.steps == STEPS


@pytest.mark.parametrize("method", METHODS)
def test_resume(method, tmp_path):
    """Sees a coin, a ledger or a momentum lost in mid-epoch."""
    whole, half, resumed = network(), network(), network(seed=1)
    one = manual(method, whole)
    saving = ModelCheckpoint(tmp_path, "half", every_n_train_steps=3)
    with pytest.raises(Killed):
        fitted(method, half, kind=Manual, model=True, callbacks=[saving, Kill(3)], enable_checkpointing=True)
    two = manual(method, resumed, ckpt_path=tmp_path / "half.ckpt")
    assert distance(whole, resumed) == 0
    assert one.optimizers().optimizer.cost == two.optimizers().optimizer.cost


def test_the_example():
    """Sees an example that a user cannot run, or of which nothing is learned."""
    assert examples.load("lightning_manual").main(epochs=3) > 0.5


outcomes = on_ranks.outcomes(CASES)


@pytest.mark.parametrize("name", CASES)
def test_two_ranks(name, outcomes):
    """Sees ranks climb along the union, or communicate twice: they are given the network that Lightning then wraps."""
    assert not outcomes[name], outcomes[name]
