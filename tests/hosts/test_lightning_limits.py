"""Lightning's automatic optimization: other bases and callbacks, and what is refused."""

import runpy
import sys
from functools import partial

import pytest

pytest.importorskip("lightning")
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.nn.functional import cross_entropy

from hosts.lightning_fits import WARNINGS, Automatic, Loader, Manual, fitted, scaled, trainer
from hosts.reference import METHODS, STEPS, batches, distance, expected, network, noisy_network, sgd, train
from sharpless import RST, SAM
from sharpless.hosts import lightning
from sharpless.hosts.lightning import Sharpness

pytestmark = pytest.mark.filterwarnings(*WARNINGS)


def test_the_other_package():
    """Sees the callback fail, or do nothing, in the Trainer of the package pytorch_lightning."""
    other = pytest.importorskip("pytorch_lightning")

    class Net(other.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()

        def training_step(self, batch):
            return cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return SAM(sgd(self.net), rho=METHODS["SAM"]["rho"])

    net, theirs = Net(), network()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    other.Trainer(accelerator="cpu", max_epochs=1, callbacks=[Sharpness()], **quiet).fit(net, Loader(batches()))
    expected("SAM", theirs)
    assert distance(net.net, theirs) < 1e-6


class Skipping(Automatic):
    """A module that has no loss for the third batch."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return None if batch_idx == 2 else loss

    def on_train_batch_end(self, outputs, batch, batch_idx):
        assert outputs or batch_idx == 2

    def on_before_optimizer_step(self, optimizer):
        assert isinstance(optimizer, RST)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("options", [{}, {"autocast": torch.float16, "scale": 2.0**10}], ids=["float32", "float16"])
def test_a_batch_without_a_loss(method, options):
    """Sees a step that moves weights though `training_step` returned None, or that is paid for."""
    ours, theirs = network(), network()
    done = fitted(method, ours, kind=Skipping, **scaled() if options else {})
    expected(method, theirs, spoiled={2}, **options)
    assert distance(ours, theirs) < 1e-6
    assert done.trainer.optimizers[0].cost.plain_passes == STEPS - 1


def test_averaged_weights():
    """Sees passes in the epoch in which averaged weights go through the data for the statistics of BatchNorm alone."""
    net, calls = noisy_network(), []
    net.register_forward_pre_hook(lambda *_: calls.append(1))
    callbacks = [Sharpness(), StochasticWeightAveraging(0.1, swa_epoch_start=1)]
    fitted("SAM", net, callbacks=callbacks, max_epochs=3)
    assert len(calls) == 3 * 2 * STEPS + STEPS


class Both:
    """Two optimizers as one, for the reference."""

    def __init__(self, *optimizers):
        self.optimizers = optimizers

    def step(self):
        for optimizer in self.optimizers:
            optimizer.step()


def muon(net):
    matrices, others = [p for p in net.parameters() if p.ndim == 2], [p for p in net.parameters() if p.ndim != 2]
    return torch.optim.Muon(matrices, lr=0.1), torch.optim.AdamW(others, lr=0.1)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_muon():
    """Sees one of several bases that takes no step, or a step with a gradient that is not the mixed one."""
    ours, theirs = network(), network()
    make = partial(SAM, rho=METHODS["SAM"]["rho"])
    trainer().fit(Automatic(ours, lambda net: make(muon(net))), Loader(batches()))
    train(theirs, Both(*muon(theirs)), batches(), "SAM")
    assert distance(ours, theirs) < 1e-6


def test_schedule_free():
    """Sees `train` and `eval` of a schedule-free base lost on the way through Lightning's proxy."""
    schedulefree = pytest.importorskip("schedulefree")

    class Free(Automatic):
        def on_train_epoch_start(self):
            self.optimizers().train()

        def on_train_epoch_end(self):
            self.optimizers().eval()

    ours, theirs = network(), network()
    base = schedulefree.SGDScheduleFree(theirs.parameters(), lr=0.3)
    base.train()
    train(theirs, base, batches(), "SAM")
    base.eval()
    make = partial(SAM, rho=METHODS["SAM"]["rho"])
    free = Free(ours, lambda net: make(schedulefree.SGDScheduleFree(net.parameters(), lr=0.3)))
    trainer().fit(free, Loader(batches()))
    assert distance(ours, theirs) < 1e-6


@pytest.mark.filterwarnings("default")  # of what heavyball imports
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_heavyball(name, monkeypatch):
    """Sees a base with a step of its own, which keeps and clears gradients itself, given another gradient."""
    heavyball = pytest.importorskip("heavyball")
    monkeypatch.setattr(heavyball.utils, "compile_mode", None)
    ours, theirs = network(), network()
    train(theirs, getattr(heavyball, name)(theirs.parameters(), lr=0.1), batches(), "SAM")
    make = partial(SAM, rho=METHODS["SAM"]["rho"])
    trainer().fit(
        Automatic(ours, lambda net: make(getattr(heavyball, name)(net.parameters(), lr=0.1))), Loader(batches())
    )
    assert distance(ours, network()) > 1e-2
    assert distance(ours, theirs) < 1e-6


def test_what_is_refused(monkeypatch):
    """Sees training begin where the callback can do nothing."""

    def fit(make, kind=Automatic):
        trainer().fit(kind(network(), make), Loader(batches()))

    with pytest.raises(ValueError, match="configure_optimizers returns SGD, but Sharpness"):
        fit(sgd)
    with pytest.raises(ValueError, match="automatic_optimization is False: leave the callback out"):
        fit(lambda net: SAM(sgd(net)), Manual)

    class Fetching(Automatic):
        def training_step(self, dataloader_iter):
            raise AssertionError

    with pytest.raises(ValueError, match=r"training_step\(dataloader_iter\) fetches a new batch"):
        fit(lambda net: SAM(sgd(net)), Fetching)
    monkeypatch.setattr(SingleDeviceStrategy, "handles_gradient_accumulation", True)
    with pytest.raises(ValueError, match="strategy SingleDeviceStrategy takes the steps itself"):
        fitted("SAM", network())
    monkeypatch.setitem(sys.modules, "lightning", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs Lightning: pip install 'sharpless\[lightning\]'"):
        runpy.run_path(lightning.__file__)


def test_another_loop(monkeypatch):
    """Sees plain training in a version of Lightning whose loop is another."""
    from lightning.pytorch.loops.optimization.automatic import _AutomaticOptimization

    monkeypatch.delattr(_AutomaticOptimization, "_make_closure")
    with pytest.raises(RuntimeError, match="has a training loop that Sharpness"):
        fitted("SAM", network())
    monkeypatch.setattr(_AutomaticOptimization, "_make_closure", lambda self, batch, *rest: None, raising=False)
    with pytest.raises(RuntimeError, match="has a training loop that Sharpness"):
        fitted("SAM", network())


def test_without_the_callback():
    """Sees plain training, or clipping of each pass, without a word that names Lightning and the cure."""
    with pytest.warns(UserWarning, match=r"Lightning hands step\(\) a closure .* use sharpless.hosts.lightning"):
        fitted("SAM", network(), callbacks=[])
    with pytest.warns(UserWarning, match=r"Lightning called step\(\) without passes.* use sharpless.hosts.lightning"):
        fitted("SAM", network(), **scaled(callbacks=[]))
    trainer(callbacks=[]).fit(Automatic(network(), lambda net: RST(sgd(net), p=0.0)), Loader(batches()))  # is plain
