"""Lightning's manual optimization, with nothing added, against two gradients by hand."""

import pytest

pytest.importorskip("lightning")
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn.functional import cross_entropy

from hosts import examples, on_ranks, reference
from hosts.lightning_fits import WARNINGS, Kill, Killed, Manual, fitted, scaled
from hosts.methods import wrapped
from hosts.reference import METHODS, STEPS, distance, expected, network, noisy_network, sgd

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


class Quiet(Manual):
    """Manual optimization that records nothing."""

    def on_before_optimizer_step(self, optimizer):
        pass

    def on_train_batch_end(self, outputs, batch, batch_idx):
        pass


class Turns(Quiet):
    """Two optimizers that take turns, each with the weights of the other toggled off."""

    def configure_optimizers(self):
        return [wrapped("SAM", sgd(part), model=self.net) for part in halves(self.net)]

    def training_step(self, batch, batch_idx):
        for opt in self.optimizers():
            self.toggle_optimizer(opt)
            for x, y in opt.passes(batch):
                self.manual_backward(cross_entropy(self.net(x), y))
            opt.step()
            opt.zero_grad()
            self.untoggle_optimizer(opt)


class Part(nn.Module):
    """One layer of a network, with the output of the whole."""

    def __init__(self, layer, whole):
        super().__init__()
        self.layer, self.whole = layer, [whole]  # a list, so that the other layers are no parameters

    def forward(self, x):
        return self.whole[0](x)


def halves(net):
    return Part(net[0], net), Part(net[2], net)


def test_toggled_optimizers():
    """Sees a climb of weights that are toggled off, or a gradient lost where those of others are."""
    ours, theirs = network(), network()
    fitted("SAM", ours, kind=Turns, callbacks=[])
    bases = [(part, sgd(part)) for part in halves(theirs)]
    for step in reference.batches():
        for part, base in bases:
            reference.train(part, base, [step], "SAM")
    assert distance(ours, theirs) < 1e-6


class Bare(Quiet):
    """Manual optimization as it was before the passes."""

    def training_step(self, batch, batch_idx):
        opt = self.optimizers()
        opt.zero_grad()
        self.manual_backward(cross_entropy(self.net(batch[0]), batch[1]))
        opt.step()


@pytest.mark.parametrize("options", [dict, scaled])
def test_without_passes(options):
    """Sees plain training without a word, since Lightning hands every step a closure that does nothing."""
    with pytest.warns(UserWarning, match=r"Lightning called step\(\) without passes.* see docs/hosts/lightning.md"):
        fitted("SAM", network(), kind=Bare, **options(callbacks=[]))


def test_the_example():
    """Sees an example that a user cannot run, or of which nothing is learned."""
    assert examples.load("lightning_manual").main(epochs=3) > 0.5


outcomes = on_ranks.outcomes(CASES)


@pytest.mark.parametrize("name", CASES)
def test_two_ranks(name, outcomes):
    """Sees ranks climb along the union, or communicate twice: they are given the network that Lightning then wraps."""
    assert not outcomes[name], outcomes[name]
