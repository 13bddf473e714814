"""fastai against two gradients by hand."""

from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy

from hosts import examples, reference
from hosts.methods import wrapped
from sharpless import GRST

pytest.importorskip("fastai.callback.schedule")
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.optimizer import OptimWrapper

METHODS = ["SAM", "RST", "G-RST"]
pytestmark = pytest.mark.filterwarnings("ignore", "error:.*(passes|each pass)")
example = examples.load("fastai")


class Recorded(Callback):
    """The losses that fastai logs, and a beginning with the noise of the reference."""

    order, run_valid = 60, False

    def before_train(self):
        self.losses = []
        torch.manual_seed(0)

    def after_batch(self):
        self.losses.append(float(self.loss))


class OnCpu(MixedPrecision):
    """Mixed precision, which fastai has for GPUs alone."""

    name = "mixed_precision"

    def before_fit(self):
        super().before_fit()
        self.autocast = torch.autocast("cpu", dtype=torch.float16)
        self.learn.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)


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


@pytest.mark.parametrize("method", ["SAM", "G-RST"])
def test_fp16_overflow(method):
    """Sees a pass outside autocast, or a step that an overflow poisons."""
    theirs, ours, overflow = reference.network(), reference.network(), reference.batches()
    overflow[2] = [(overflow[2][0][0] * 1e6, overflow[2][0][1])]
    options = {"autocast": torch.float16, "scale": 2.0**10, "spoiled": (2,)}
    reference.expected(method, theirs, **options)
    learn = learner(method, ours, overflow, [OnCpu()])
    fit(learn)
    assert reference.distance(ours, theirs) < 2e-5
    assert learn.opt.opt.cost.steps == reference.STEPS


def test_resume(tmp_path):
    """Sees coin, ledger or momentum lost in what fastai saves."""
    data, whole, stopped = reference.batches(), reference.network(), reference.network()
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


def test_the_example():
    """Sees an example that a user cannot run."""
    assert example.main(epochs=2) > 0.5
