"""Keras on torch against two gradients by hand."""

import copy
import os

import pytest
import torch
from torch import nn

from hosts import examples, on_ranks, reference, small_on_ranks

os.environ["KERAS_BACKEND"] = "torch"
pytest.importorskip("keras")
import keras

from hosts.keras_models import back, compiled, translated
from hosts.methods import wrapped

METHODS = list(reference.METHODS)
NO_MOVE = "ignore:the gradient at the displaced weights"  # a ρ of 1e-12 moves no weight
pytestmark = pytest.mark.filterwarnings("ignore", "error:.*(passes|each pass)", NO_MOVE)
example = examples.load("keras")
CASES = {method: (small_on_ranks.keras, {"method": method, "sizes": (8, 6)}) for method in METHODS}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("norm", [False, True])
def test_right(method, norm):
    """Sees another method, moving averages of both passes, or another loss."""
    theirs = reference.noisy_network() if norm else reference.network()
    theirs = nn.Sequential(*(module for module in theirs if not isinstance(module, nn.Dropout)))
    ours, losses = compiled(method, translated(theirs)), []
    expected = reference.expected(method, theirs)
    for (micro,) in reference.batches():
        losses.append(ours.train_on_batch(*micro))
        ours.reset_metrics()
    x = torch.randn(64, 5)
    theirs.train()
    assert torch.allclose(ours(x, training=True), theirs(x), atol=1e-5)
    if norm:
        (statistics,) = (layer for layer in ours.layers if isinstance(layer, keras.layers.BatchNormalization))
        assert torch.allclose(statistics.moving_mean.value, theirs[1].running_mean, atol=1e-6)
    else:  # Keras takes the biased variance for its moving average
        assert torch.allclose(ours(x), theirs.eval()(x), atol=1e-5)
    assert [float(loss) for loss in losses] == pytest.approx(expected, abs=1e-5)


def test_statistics_and_masks():
    """Sees moving statistics updated by both passes, or masks drawn anew: then ρ = 0 is not plain training."""
    found = {}
    for method, rho in (("SAM", 0.0), ("SAM", 1e-12)):
        keras.utils.set_random_seed(0)
        model = compiled(method, translated(reference.noisy_network(), dropout=0.3))
        for group in model.opt.param_groups:
            group["rho"] = rho
        for (micro,) in reference.batches():
            model.train_on_batch(*micro)
        found[rho] = [torch.as_tensor(value) for value in model.get_weights()]
        assert model.opt.cost.ratio == (2.0 if rho else 1.0)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*found.values(), strict=True))


@pytest.fixture
def in_bf16():
    """The mixed precision of Keras."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy(before)


class Half(nn.Linear):
    """A layer in bfloat16, as Keras computes it."""

    def forward(self, x):
        return x.bfloat16() @ self.weight.bfloat16().T + self.bias.bfloat16()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("in_bf16")
def test_bf16(method):
    """Sees a pass in another precision, or displaced weights that were rounded."""
    theirs = nn.Sequential(Half(5, 8), nn.Tanh(), Half(8, 3), nn.Identity())
    theirs[-1].forward = torch.Tensor.float
    theirs.load_state_dict(reference.network().state_dict())
    ours = compiled(method, translated(reference.network()))
    reference.expected(method, theirs)
    for (micro,) in reference.batches():
        ours.train_on_batch(*micro)
    assert reference.distance(back(ours, reference.network()), theirs) < 1e-6


def test_fp16():
    """Sees training in float16 without a loss scale, in which small gradients vanish without a word."""
    inputs = keras.Input((5,))
    block = keras.Sequential([keras.layers.Dense(8), keras.layers.Dense(8, dtype="mixed_float16")])
    model = example.SharpModel(inputs, keras.layers.Dense(3)(block(inputs)))
    model.compile(loss="mse")
    with pytest.raises(ValueError, match="set the policy mixed_bfloat16"):
        model.train_on_batch(torch.randn(8, 5), torch.randn(8, 3))


@pytest.mark.parametrize("method", ["SAM", "parts"])
def test_logs(method):
    """Sees logs of another pass than the clean one, without the weights of examples, or without a regularizer.

    At a learning rate of 0, `evaluate` finds what `fit` has logged. The last batch is smaller.
    """
    inputs = {name: keras.Input((5,)) for name in "ab"}
    summed = None if method == "parts" else "l2"  # over the examples by older versions, and so no mean over two parts
    hidden = keras.layers.Add()([keras.layers.Dense(8, activity_regularizer=summed)(each) for each in inputs.values()])
    model = example.SharpModel(inputs, [keras.layers.Dense(3, kernel_regularizer="l1")(hidden) for _ in "cd"])
    base = torch.optim.SGD([variable.value for variable in model.trainable_variables], lr=0.0)
    model.opt = wrapped(method, base, model=model)
    model.compile(loss=["mse", "mae"], metrics=[["mae"], ["mse"]], weighted_metrics=[["mae"], ["mse"]])
    x, y = {name: torch.randn(20, 5) for name in "ab"}, tuple(torch.randn(20, 3) for _ in "cd")
    given = {"sample_weight": (torch.rand(20), torch.rand(20)), "batch_size": 8, "verbose": 0}
    logged = model.fit(x, y, shuffle=False, **given).history
    found = model.evaluate(x, y, return_dict=True, **given)
    assert {name: value for name, (value,) in logged.items()} == pytest.approx(found, rel=1e-5)
    assert model.opt.cost.sharp_steps > 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("clip", [reference.by_norm(0.05), reference.by_value(0.02)], ids=["norm", "value"])
def test_clipping_and_scheduler(method, clip):
    """Sees a hook, as the page has it, that clips a pass, or a scheduler that does not reach the base."""
    theirs, ours = reference.network(), compiled(method, translated(reference.network()))
    base = reference.sgd(theirs)
    by_hand = torch.optim.lr_scheduler.StepLR(base, 2, 0.5)
    reference.train(theirs, base, reference.batches(), method, clip=clip, scheduler=by_hand)

    @ours.opt.base.register_step_pre_hook
    def _(*_):
        clip([variable.value for variable in ours.trainable_variables])

    scheduler = torch.optim.lr_scheduler.StepLR(ours.opt, 2, 0.5)
    x, y = (torch.cat(tensors) for tensors in zip(*(micro for (micro,) in reference.batches()), strict=True))
    step = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: scheduler.step())
    ours.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[step])
    assert reference.distance(back(ours, reference.network()), theirs) < 1e-6


def test_resume():
    """Sees coin, ledger, momentum or seeds lost in mid-epoch, in what the page saves."""
    made = []
    for _ in range(2):
        keras.utils.clear_session()  # a process of its own: the names of layers are the same
        made.append(compiled("G-RST", translated(reference.noisy_network(), dropout=0.3)))
    whole, stopped = made
    for number, (micro,) in enumerate(reference.batches()):
        if number == 3:
            kept = copy.deepcopy((whole.state_dict(), whole.opt.state_dict()))
        whole.train_on_batch(*micro)
    stopped.load_state_dict(kept[0])
    stopped.opt.load_state_dict(kept[1])
    for (micro,) in reference.batches()[3:]:
        stopped.train_on_batch(*micro)
    assert reference.distance(whole, stopped) == 0
    assert whole.opt.cost == stopped.opt.cost


def test_plain_steps_are_warned_of():
    """Sees a train_step without passes take plain steps without a word."""

    class Plain(example.SharpModel):
        def train_step(self, data):
            x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
            loss = self.compute_loss(x, y, self(x))
            loss.backward()
            self.opt.step()
            self.opt.zero_grad()
            return {"loss": loss}

    inputs = keras.Input((5,))
    model = compiled("SAM", Plain(inputs, keras.layers.Dense(3)(inputs)))
    with pytest.warns(UserWarning, match=r"Keras called step\(\) without passes.* see docs/hosts/keras.md"):
        model.fit(torch.randn(32, 5), torch.randint(3, (32,)), batch_size=8, verbose=0)


def test_the_example(monkeypatch):
    """Sees an example that a user cannot run, or whose optimizer misses the network or steps."""
    made = examples.optimizers(monkeypatch)
    assert example.main(epochs=2) > 0.5
    examples.assert_whole(made, 2 * 19)


outcomes = on_ranks.outcomes(CASES)


@pytest.mark.parametrize("name", CASES)
def test_two_ranks(name, outcomes):
    """Sees ranks climb along the union, or communicate twice."""
    assert not outcomes[name], outcomes[name]
