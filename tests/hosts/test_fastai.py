"""fastai against two gradients by hand."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, leaky_relu

from hosts import examples, on_ranks, reference, small_on_ranks
from hosts.methods import wrapped
from sharpless import GRST

pytest.importorskip("fastai.callback.schedule")
from fastai.callback.core import Callback
from fastai.callback.fp16 import AMPMode, MixedPrecision
from fastai.callback.mixup import MixUp
from fastai.callback.schedule import ParamScheduler
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import OptimWrapper

METHODS = ["SAM", "RST", "G-RST"]
NO_MOVE = "ignore:the gradient at the displaced weights"  # a ρ of 1e-12 moves no weight
pytestmark = pytest.mark.filterwarnings("ignore", "error:.*(passes|each pass)", NO_MOVE)
example = examples.load("fastai")
CASES = {method: (small_on_ranks.fastai, {"method": method, "sizes": (8, 6, 4, 8)}) for method in METHODS}


class Recorded(Callback):
    """The losses that fastai logs, of the predictions that metrics see, and a beginning with the reference's noise."""

    order, run_valid = 60, False

    def before_train(self):
        self.losses = []
        torch.manual_seed(0)

    def after_batch(self):
        self.losses.append(float(self.loss))
        assert torch.allclose(self.loss_func(self.pred, *self.yb), self.loss, equal_nan=True)


class OnCpu(MixedPrecision):
    """Mixed precision, which fastai has for GPUs alone."""

    name = "mixed_precision"

    def before_fit(self):
        super().before_fit()
        half = self.amp_mode == AMPMode.FP16
        self.autocast = torch.autocast("cpu", dtype=torch.float16 if half else torch.bfloat16)
        self.learn.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=half)


class ByValue(GradientClip):
    """Clipping by value, which fastai has not."""

    def before_step(self):
        torch.nn.utils.clip_grad_value_(self.parameters(), self.max_norm)


def learner(method, model, steps, callbacks=()):
    data = [micro for step in steps for micro in step]

    def wrap(params, lr):
        return OptimWrapper(opt=wrapped(method, reference.sgd(model), model=model))

    callbacks = [example.Sharpness(), Recorded(), *callbacks]
    return Learner(DataLoaders(data, data), model, cross_entropy, wrap, lr=0.3, cbs=callbacks)


def fit(learn):
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [reference.network, reference.noisy_network])
@pytest.mark.parametrize("sizes", [(8,), (8, 6, 4)])
def test_right(method, make, sizes):
    """Sees another method, a climb with the last micro-batch alone, statistics of both passes, passes clipped."""
    theirs, ours = make(), make()
    expected = reference.expected(
        method, theirs, sizes,
        weights=[size / sum(sizes) for size in sizes],  # fastai's accumulation is by examples
        clip=reference.by_norm(0.2),
    )  # fmt: skip
    accumulation = [GradientAccumulation(sum(sizes))] if len(sizes) > 1 else []
    learn = learner(method, ours, reference.batches(sizes), [GradientClip(0.2), *accumulation])
    fit(learn)
    assert reference.distance(ours, theirs) < 1e-6
    if len(sizes) == 1:
        assert learn.recorded.losses == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_clipping_by_value(method):
    """Sees a callback clip the passes in place of the mixture."""
    theirs, ours = reference.network(), reference.network()
    reference.expected(method, theirs, clip=reference.by_value(0.02))
    fit(learner(method, ours, reference.batches(), [ByValue(0.02)]))
    assert reference.distance(ours, theirs) < 1e-6


def test_scheduler():
    """Sees a schedule of fastai that does not reach the base."""
    theirs, ours = reference.network(), reference.network()
    base = reference.sgd(theirs)
    by_hand = torch.optim.lr_scheduler.StepLR(base, 2, 0.5)
    reference.train(theirs, base, reference.batches(), "G-RST", scheduler=by_hand)
    halved = ParamScheduler({"lr": lambda progress: 0.3 * 0.5 ** (round(progress * reference.STEPS) // 2)})
    fit(learner("G-RST", ours, reference.batches(), [halved]))
    assert reference.distance(ours, theirs) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_bf16(method):
    """Sees a pass outside of autocast."""
    theirs, ours = reference.network(), reference.network()
    reference.expected(method, theirs, autocast=torch.bfloat16)
    fit(learner(method, ours, reference.batches(), [OnCpu(AMPMode.BF16)]))
    assert reference.distance(ours, theirs) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_fp16_overflow(method):
    """Sees an overflow that moves weights or stops the coins, or a gradient that is clipped before it is unscaled."""
    theirs, ours, overflow = reference.network(), reference.network(), reference.batches()
    overflow[2] = [(overflow[2][0][0] * 1e6, overflow[2][0][1])]
    options = {"autocast": torch.float16, "scale": 2.0**10, "spoiled": (2,)}
    reference.expected(method, theirs, clip=reference.by_norm(0.5), **options)
    learn = learner(method, ours, overflow, [OnCpu(), GradientClip(0.5)])
    fit(learn)
    assert reference.distance(ours, theirs) < 2e-5
    assert learn.opt.opt.cost.steps == reference.STEPS


def test_changed_predictions():
    """Sees a second pass without what a callback does to predictions."""

    class Leaky(Callback):
        def after_pred(self):
            self.learn.pred = leaky_relu(self.pred, 0.5)

    theirs, ours = nn.Sequential(*reference.network(), nn.LeakyReLU(0.5)), reference.network()
    reference.expected("G-RST", theirs)
    fit(learner("G-RST", ours, reference.batches(), [Leaky()]))
    assert reference.distance(ours, theirs) < 1e-6


def test_mixup():
    """Sees masks drawn anew, or another mixture in the second pass: then ρ = 0 is not plain training."""
    found = []
    for rho in (0.0, 1e-12):
        model = reference.noisy_network()
        learn = learner("SAM", model, reference.batches(), [MixUp()])
        learn.loss_func = CrossEntropyLossFlat()
        learn.create_opt()
        learn.opt.opt.param_groups[0]["rho"] = rho
        fit(learn)
        assert learn.opt.opt.cost.ratio == (2.0 if rho else 1.0)
        found.append(model)
    assert reference.distance(*found) < 1e-6


def test_plain_steps_are_warned_of():
    """Sees a learner without the callback train with plain steps without a word."""
    learn = learner("SAM", reference.network(), reference.batches())
    learn.remove_cb(example.Sharpness)
    with pytest.warns(UserWarning, match=r"^fastai called step\(\) without passes.* see docs/hosts/fastai.md"):
        fit(learn)


def test_resume(tmp_path):
    """Sees coin, ledger or momentum lost in what fastai saves."""
    data, whole, stopped = reference.batches(), reference.noisy_network(), reference.noisy_network()
    first = learner("G-RST", whole, data)
    fit(first)
    first.path = tmp_path
    first.save("half")
    fit(first)
    again = learner("G-RST", stopped, data)
    again.path = tmp_path
    again.load("half")
    fit(again)
    assert reference.distance(whole, stopped) == 0
    assert again.opt.opt.cost == first.opt.opt.cost


def test_what_is_refused():
    """Sees parts with the callback, which are not what was asked for."""
    with pytest.raises(ValueError, match=r"batch_fraction = 0\.5 splits the batch"):
        fit(learner("parts", reference.network(), reference.batches()))


def test_the_page():
    """Sees code of the how-to that a user cannot run."""
    data = [micro for (micro,) in reference.batches()]
    given = {"OptimWrapper": OptimWrapper, "GradientClip": GradientClip, "Sharpness": example.Sharpness, "GRST": GRST}
    given |= {"Learner": partial(Learner, loss_func=cross_entropy), "torch": torch}
    names = examples.run_page("fastai", model=reference.network(), dls=DataLoaders(data, data), **given)
    fit(names["learn"])
    assert names["opt"].cost.steps == reference.STEPS


def test_the_example(monkeypatch):
    """Sees an example that a user cannot run, or whose optimizer misses the network or steps."""
    made = examples.optimizers(monkeypatch)
    assert example.main(epochs=2) > 0.5
    examples.assert_whole(made, 2 * 18)


outcomes = on_ranks.outcomes(CASES)


@pytest.mark.parametrize("name", CASES)
def test_two_ranks(name, outcomes):
    """Sees ranks climb along the union, or communicate twice."""
    assert not outcomes[name], outcomes[name]
