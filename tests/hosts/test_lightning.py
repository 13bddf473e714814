"""Lightning's automatic optimization, with the callback, against two gradients by hand."""

import runpy
import sys
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("lightning")
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

import ranks
from hosts import on_ranks
from hosts.lightning_fits import WARNINGS, Automatic, Kill, Killed, Loader, Manual, expected, fitted, sgd, trainer
from hosts.reference import METHODS, STEPS, batches, distance, network, noisy_network, train
from sharpless import RST, SAM
from sharpless.hosts.lightning import Sharpness

EXAMPLE = Path(__file__).parents[2] / "examples/hosts/lightning_digits.py"
pytestmark = pytest.mark.filterwarnings(*WARNINGS)
CASES = {method: (on_ranks.lightning, {"method": method, "sizes": (8, 6, 4, 8)}) for method in METHODS}
SHARDED = {f"{method} sharded": (on_ranks.lightning_fsdp, {"method": method}) for method in ("SAM", "G-RST")}
CLIPS = {
    "norm": (0.05, lambda parameters: clip_grad_norm_(parameters, 0.05)),
    "value": (0.02, lambda parameters: clip_grad_value_(parameters, 0.02)),
}


def scaled(**options):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)], **options}


@pytest.mark.parametrize("method", METHODS)
def test_right(method):
    """Sees a pass missing or too many, or a part with another share."""
    ours, theirs = network(), network()
    done = fitted(method, ours)
    expected(method, theirs)
    assert distance(ours, theirs) < 1e-6
    opt = done.optimizers().optimizer
    assert (opt.cost.steps, opt.cost.sharp_steps) == (STEPS, sum(METHODS[method]["coins"]))
    assert opt.model is None


@pytest.mark.parametrize("method", METHODS)
def test_batchnorm_and_dropout(method):
    """Sees statistics that count the perturbed pass, or masks that differ between the passes."""
    ours, theirs = noisy_network(), noisy_network()
    fitted(method, ours)
    expected(method, theirs)
    assert distance(ours, theirs) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_accumulation(method):
    """Sees micro-batches that do not climb, each along its own gradient, or a coin for each."""
    ours, theirs = noisy_network(), noisy_network()
    fitted(method, ours, (8, 6, 4))
    expected(method, theirs, (8, 6, 4))
    assert distance(ours, theirs) < 1e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("algorithm", CLIPS)
def test_clipping(method, algorithm):
    """Sees the passes clipped one by one in place of the mixture."""
    ours, theirs = network(), network()
    value, clip = CLIPS[algorithm]
    done = fitted(method, ours, (8, 6), gradient_clip_val=value, gradient_clip_algorithm=algorithm)
    expected(method, theirs, (8, 6), clip=clip)
    assert distance(ours, theirs) < 1e-6
    assert len(done.seen) == STEPS  # on_before_optimizer_step


@pytest.mark.parametrize("method", METHODS)
def test_bf16(method):
    """Sees a pass outside of autocast."""
    ours, theirs = network(), network()
    fitted(method, ours, precision="bf16-mixed")
    expected(method, theirs, autocast=torch.bfloat16)
    assert distance(ours, theirs) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_fp16_overflow(method):
    """Sees a gradient that is not unscaled before it is clipped, or an overflow that moves weights or stops coins."""
    ours, theirs = network(), network()
    done = fitted(method, ours, module={"overflow": (2,)}, **scaled(gradient_clip_val=0.5))
    expected(method, theirs, autocast=torch.float16, scale=2.0**10, spoiled={2}, clip=lambda p: clip_grad_norm_(p, 0.5))
    assert distance(ours, theirs) < 1e-5
    assert done.optimizers().optimizer.cost.steps == STEPS
    assert done.trainer.precision_plugin.scaler.get_scale() == 2.0**9


@pytest.mark.parametrize("method", ["SAM", "parts"])
def test_scheduler(method):
    """Sees a scheduler of Lightning's that does not reach the base."""
    ours, theirs = network(), network()

    def halve(opt):
        return torch.optim.lr_scheduler.StepLR(opt, 2, 0.5)

    fitted(method, ours, module={"scheduler": halve})
    base = sgd(theirs)
    train(theirs, base, batches(), method, scheduler=halve(base))
    assert distance(ours, theirs) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_logged_loss(method):
    """Sees the loss at displaced weights in logs, in metrics, or in what hooks are given."""
    ours, theirs = network(), network()
    done = fitted(method, ours)
    losses = expected(method, theirs)
    assert done.returned == pytest.approx(losses, abs=1e-6)
    if method != "parts":  # there, the log of a step is the loss of the rest
        assert done.logged == pytest.approx(losses, abs=1e-6)
    mean = sum(losses) / STEPS
    metrics = done.trainer.callback_metrics
    assert (float(metrics["loss_epoch"]), float(metrics["mean"])) == (pytest.approx(mean), pytest.approx(mean))
    if method != "parts":
        assert float(metrics["backwards"]) == STEPS


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("overflow", [False, True])
def test_resume(method, overflow, tmp_path):
    """Sees a coin, a ledger or a momentum lost in mid-epoch; or, after an overflow, a coin tossed twice."""
    options = scaled if overflow else dict
    module = {"overflow": (2,) if overflow else ()}
    whole, half, resumed = network(), network(), network(seed=1)
    one = fitted(method, whole, module=module, **options())
    saving = ModelCheckpoint(tmp_path, "half", every_n_train_steps=3)
    callbacks = {"callbacks": [Sharpness(), saving, Kill(3)], "enable_checkpointing": True}
    with pytest.raises(Killed):
        fitted(method, half, module=module, **options(**callbacks))
    two = fitted(method, resumed, module=module, ckpt_path=tmp_path / "half.ckpt", **options())
    assert distance(whole, resumed) == 0
    assert one.optimizers().optimizer.cost == two.optimizers().optimizer.cost


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


def test_what_is_refused(monkeypatch):
    """Sees training begin where the callback can do nothing."""

    def fit(make, kind=Automatic):
        trainer().fit(kind(network(), make), Loader(batches()))

    with pytest.raises(ValueError, match="configure_optimizers returns SGD, which Sharpness"):
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
        runpy.run_module("sharpless.hosts.lightning")


def test_another_loop(monkeypatch):
    """Sees plain training in a version of Lightning whose loop is another."""
    from lightning.pytorch.loops.optimization.automatic import _AutomaticOptimization

    monkeypatch.delattr(_AutomaticOptimization, "_make_closure")
    with pytest.raises(RuntimeError, match="has another training loop than Sharpness"):
        fitted("SAM", network())
    monkeypatch.setattr(_AutomaticOptimization, "_make_closure", lambda self, batch, *rest: None, raising=False)
    with pytest.raises(RuntimeError, match="has another training loop than Sharpness"):
        fitted("SAM", network())


def test_without_the_callback():
    """Sees plain training, or clipping of each pass, without a word that names Lightning and the cure."""
    with pytest.warns(UserWarning, match=r"Lightning hands step\(\) a closure .* use sharpless.hosts.lightning"):
        fitted("SAM", network(), callbacks=[])
    with pytest.warns(UserWarning, match=r"Lightning called step\(\) without passes.* use sharpless.hosts.lightning"):
        fitted("SAM", network(), **scaled(callbacks=[]))
    trainer(callbacks=[]).fit(Automatic(network(), lambda net: RST(sgd(net), p=0.0)), Loader(batches()))  # is plain


def test_the_example():
    """Sees an example that a user cannot run, or of which nothing is learned."""
    assert runpy.run_path(EXAMPLE)["main"](epochs=3) > 0.5


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    return ranks.run(tmp_path_factory.mktemp("ranks"), 2, CASES | SHARDED)


@pytest.mark.parametrize("name", CASES)
def test_two_ranks(name, outcomes):
    """Sees ranks climb along the union, or communicate twice."""
    assert not outcomes[name], outcomes[name]


@pytest.mark.parametrize("name", SHARDED)
def test_fsdp2(name, outcomes):
    """Sees a rank climb along its shard alone."""
    assert not outcomes[name], outcomes[name]
