"""Lightning's automatic optimization, with the callback, against two gradients by hand."""

import pytest

pytest.importorskip("lightning")
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from hosts import examples, on_ranks
from hosts.lightning_fits import WARNINGS, Kill, Killed, fitted, scaled
from hosts.reference import (
    METHODS,
    STEPS,
    batches,
    by_norm,
    by_value,
    distance,
    expected,
    network,
    noisy_network,
    sgd,
    train,
)  # fmt: skip
from sharpless.hosts.lightning import Sharpness

pytestmark = pytest.mark.filterwarnings(*WARNINGS)
CASES = {method: (on_ranks.lightning, {"method": method, "sizes": (8, 6, 4, 8)}) for method in METHODS}
SHARDED = {f"{method} sharded": (on_ranks.lightning_fsdp, {"method": method}) for method in ("SAM", "G-RST")}
CLIPS = {
    "norm": (0.05, by_norm(0.05)),
    "value": (0.02, by_value(0.02)),
}


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
    expected(method, theirs, autocast=torch.float16, scale=2.0**10, spoiled={2}, clip=by_norm(0.5))
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


def test_the_example():
    """Sees an example that a user cannot run, or of which nothing is learned."""
    assert examples.load("lightning").main(epochs=3) > 0.5


outcomes = on_ranks.outcomes(CASES | SHARDED)


@pytest.mark.parametrize("name", CASES)
def test_two_ranks(name, outcomes):
    """Sees ranks climb along the union, or communicate twice."""
    assert not outcomes[name], outcomes[name]


@pytest.mark.parametrize("name", SHARDED)
def test_fsdp2(name, outcomes):
    """Sees a rank climb along its shard alone."""
    assert not outcomes[name], outcomes[name]
