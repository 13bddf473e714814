"""skorch against two gradients by hand."""

import pytest
import torch
from torch import nn

from hosts import examples, on_ranks, reference, small_on_ranks
from hosts.methods import wrapped
from hosts.on_ranks import accelerator

pytest.importorskip("skorch")
from skorch.callbacks import Callback, Checkpoint, GradientNormClipping, LoadInitState, LRScheduler, lr_scheduler
from skorch.hf import AccelerateMixin

METHODS = list(reference.METHODS)
pytestmark = pytest.mark.filterwarnings("ignore", "error:.*(passes|each pass)")
example = examples.load("skorch")
CASES = {method: (small_on_ranks.skorch, {"method": method, "sizes": (8, 6, 4, 8)}) for method in METHODS}


class Begin(Callback):
    """Training begins with the noise of the reference."""

    begun = False

    def on_batch_begin(self, net, training, **kwargs):
        if training and not self.begun:
            torch.manual_seed(0)
        self.begun = True


class ClipOnce(Callback):
    """Clipping with Accelerate, as the page has it; without it, by value."""

    def on_grad_computed(self, net, named_parameters, **kwargs):
        if not hasattr(net, "accelerator"):
            nn.utils.clip_grad_value_([weight for _, weight in named_parameters], 0.02)
        elif net.accelerator.sync_gradients:
            net.accelerator.clip_grad_norm_(net.module_.parameters(), 0.05)


def net(method, model, callbacks=(), epochs=1, kind=example.SharpClassifier, **options):
    class Net(kind):
        def wrap_optimizer(self, base):
            return wrapped(method, base, model=self.module_)

    return Net(
        model, criterion=nn.CrossEntropyLoss, max_epochs=epochs, batch_size=8, lr=0.3, optimizer__momentum=0.9,
        train_split=None, callbacks=[Begin(), *callbacks], verbose=0, **options,
    )  # fmt: skip


class Accelerated(AccelerateMixin, example.SharpClassifier):
    """The mixin of skorch for Accelerate."""


def accelerated(method, model, one, steps):
    """Train on micro-batches, with clipping by norm."""
    micros = [micro for step in steps for micro in step]
    host = net(method, model, [ClipOnce()], kind=Accelerated, accelerator=one, iterator_train=lambda *_, **__: micros)
    return host.fit(*micros[0])


def data():
    rows = [micro for (micro,) in reference.batches()]
    return tuple(torch.cat(tensors).numpy() for tensors in zip(*rows, strict=True))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [reference.network, reference.noisy_network])
def test_right(method, make):
    """Sees another method, statistics of both passes, each pass clipped, a scheduler per pass, or another loss."""
    theirs, ours = make(), make()
    base = reference.sgd(theirs)
    expected = reference.train(
        theirs, base, reference.batches(), method,
        clip=reference.by_norm(0.2),
        scheduler=torch.optim.lr_scheduler.StepLR(base, 2),
    )  # fmt: skip
    callbacks = [GradientNormClipping(0.2), LRScheduler("StepLR", step_size=2, step_every="batch")]
    host = net(method, ours, callbacks).fit(*data())
    assert reference.distance(host.module_, theirs) < 1e-6
    losses = [batch["train_loss"] for batch in host.history[-1]["batches"]]
    assert losses == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_clipping_by_value(method):
    """Sees a callback clip the passes in place of the mixture."""
    theirs, ours = reference.network(), reference.network()
    reference.expected(method, theirs, clip=reference.by_value(0.02))
    assert reference.distance(net(method, ours, [ClipOnce()]).fit(*data()).module_, theirs) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_accumulation(method):
    """Sees micro-batches under Accelerate that do not climb, are dropped, or are clipped one by one."""
    theirs, ours, sizes = reference.noisy_network(), reference.noisy_network(), (8, 6, 4)
    reference.expected(method, theirs, sizes, clip=reference.by_norm(0.05))
    accelerated(method, ours, accelerator(gradient_accumulation_steps=3), reference.batches(sizes))
    assert reference.distance(ours, theirs) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_bf16(method):
    """Sees a pass outside of autocast."""
    theirs, ours = reference.network(), reference.network()
    reference.expected(method, theirs, clip=reference.by_norm(0.05), autocast=torch.bfloat16)
    accelerated(method, ours, accelerator(mixed_precision="bf16"), reference.batches())
    assert reference.distance(ours, theirs) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_fp16_overflow(method):
    """Sees an overflow that moves weights or stops the coins, or a gradient that is clipped before it is unscaled."""
    theirs, ours, overflow = reference.network(), reference.network(), reference.batches()
    overflow[2] = [(overflow[2][0][0] * 1e6, overflow[2][0][1])]  # beyond float16
    options = {"autocast": torch.float16, "scale": 2.0**10, "spoiled": {2}}
    reference.expected(method, theirs, clip=reference.by_norm(0.05), **options)
    one = accelerator()  # fp16 is kept to GPUs, so it is put in by hand
    one.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    one.native_amp, one.state._mixed_precision = True, "fp16"
    host = accelerated(method, ours, one, overflow)
    assert reference.distance(ours, theirs) < 2e-5
    assert (host.optimizer_.optimizer.cost.steps, one.scaler.get_scale()) == (reference.STEPS, 2.0**9)


def test_resume(tmp_path):
    """Sees coin, ledger or momentum lost in skorch's checkpoints."""
    saver = Checkpoint(monitor=None, dirname=tmp_path)
    whole = net("G-RST", reference.network(), epochs=4).fit(*data())
    net("G-RST", reference.network(), [saver], epochs=2).fit(*data())
    again = net("G-RST", reference.network(), [LoadInitState(saver)], epochs=2).fit(*data())
    assert reference.distance(whole.module_, again.module_) == 0
    assert again.optimizer_.cost == whole.optimizer_.cost


def test_numbers_of_groups():
    """Sees skorch's way to change a number of the optimizer come to nothing, as its page promises that it does not."""
    host = net("SAM", reference.network()).initialize()
    host.set_params(optimizer__rho=0.7, optimizer__lr=0.01)
    assert [(group["rho"], group["lr"]) for group in host.optimizer_.param_groups] == [(0.7, 0.01)]


def test_predictions_of_the_clean_passes():
    """Sees scores of training that count examples twice, at displaced weights, or none of the rest of a batch."""
    host = net("parts", reference.network()).initialize()
    for (batch,) in reference.batches():
        before = host.module_(batch[0]).detach()
        torch.testing.assert_close(host.train_step(batch)["y_pred"].detach(), before)
    assert host.optimizer_.cost.sharp_steps == 3


def test_the_example(monkeypatch):
    """Sees an example that a user cannot run, whose schedule counts something else, or whose BatchNorm both passes."""
    made = examples.schedules(monkeypatch, lr_scheduler)
    assert example.main(epochs=2) > 0.5
    examples.assert_ended(made)
    host = example.SharpClassifier(reference.network(), criterion=nn.CrossEntropyLoss).initialize()
    assert host.optimizer_.model is host.module_


outcomes = on_ranks.outcomes(CASES)


@pytest.mark.parametrize("name", CASES)
def test_two_ranks(name, outcomes):
    """Sees ranks climb along the union, or communicate twice."""
    assert not outcomes[name], outcomes[name]
