"""A run that is stopped, killed, or spread over processes is the run that was not."""

import json
import multiprocessing
import os
import random
import resource
import signal
import time
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from sharpless.lab.tasks.images.checkpoints import Checkpoints
from sharpless.lab.tasks.images.recipe import Recipe
from sharpless.lab.tasks.images.setup import Setup
from sharpless.lab.stopping import Stopped
from sharpless.lab.train import Training, train

SHORT = Recipe(epochs=2, width=4)
BRANCHING = multiprocessing.get_context("forkserver")
BRANCHING.set_forkserver_preload(["sharpless.lab.train"])


def dropping(classes):
    """A network with dropout."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, classes))


def begun(recipe, method, folder, setup=None, watch=None):
    return Training(recipe, method, 1, setup=setup, checkpoints=Checkpoints(folder, {"seed": 1}), watch=watch)


def ended(training):
    """What a run has come to, its durations left aside."""
    record = training.run()
    timeless = {name: value for name, value in record.items() if "seconds" not in name and name != "setup"}
    return timeless, training.weights()


def assert_same(one, other):
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()
    assert all(torch.equal(one[1][name], other[1][name]) for name in one[1])


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("sgd", {}),
        ("g-rst", {}),
        ("thrifty", {"ema": 0.9, "clip": 1.0}),
        ("g-rst", {"p": "adaptive:1.3,0.05"}),
        ("g-rst", {"ascent": "friendly", "systematic": True}),
        ("sam", {"optimizer": "adamw", "lr_warmup": 0.3, "accumulate": 2}),
        ("g-rst", {"precision": "16"}),
        ("g-rst", {"precision": "bf16", "label_smoothing": 0.1}),
        ("rst", {"momentum": 0.0}),
        ("sam", {"network": "test_training:dropping", "augment": "flip+crop"}),
    ],
)
@pytest.mark.parametrize("stop", [13, 20])  # in the middle of an epoch, and at its end before the test
def test_stopped(method, changes, stop, tmp_path):
    """Sees a state that a checkpoint leaves out: a moment, a scale, a coin, a mask, the place in the epoch, a loss."""
    recipe = replace(SHORT, **changes)

    def blow(training):
        if training.progress.step == stop:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)  # one from the group and one from the parent

    with pytest.raises(Stopped) as caught:
        begun(recipe, method, tmp_path, watch=blow).run()
    assert (caught.value.step, caught.value.signum) == (stop, signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    steps = []
    again = begun(recipe, method, tmp_path, watch=lambda training: steps.append(training.progress.step))
    assert_same(ended(again), ended(Training(recipe, method, 1)))
    assert steps == list(range(stop + 1, 41))


def test_a_second_signal_is_not_waited_with(tmp_path):
    """Sees a run that cannot be ended while it does not come to the end of a step."""

    def blow(_):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        begun(SHORT, "sgd", tmp_path, watch=blow).run()


def run_to_the_end(folder, result):
    """A process of its own that trains, with a checkpoint after every step."""
    warnings.simplefilter("error")
    training = begun(SHORT, "g-rst", folder, Setup(checkpoint_every=0.0))
    torch.save(ended(training), result)


def test_a_run_that_diverges():
    """Sees a record that is no JSON."""
    record = train(replace(SHORT, lr=1e30, epochs=1), "sgd", 0)
    assert record["train_loss"] == [None]
    json.dumps(record, allow_nan=False)


def test_killed_twenty_times(tmp_path):
    """Sees a checkpoint that a kill in the middle of writing it makes unreadable, or a step that is done twice."""
    generator = random.Random(0)
    result = tmp_path / "result.pt"
    kills = 0
    while kills < 20:
        process = BRANCHING.Process(target=run_to_the_end, args=(tmp_path / "checkpoints", result))
        process.start()
        steps = len(list((tmp_path / "checkpoints").glob("step-*")))
        while process.is_alive() and len(list((tmp_path / "checkpoints").glob("*.pt"))) <= min(steps, 1):
            time.sleep(0.001)
        time.sleep(generator.uniform(0.0, 0.02))
        process.kill()
        process.join()
        kills += 1
        there = list((tmp_path / "checkpoints").iterdir())
        assert len(there) <= 4  # the last two, one that was just added, and half a one
    process = BRANCHING.Process(target=run_to_the_end, args=(tmp_path / "checkpoints", result))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert_same(torch.load(result, weights_only=True), ended(Training(SHORT, "g-rst", 1)))
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


# Checkpoints


def test_the_last_two_are_kept(tmp_path):
    """Sees a folder that fills up, or a run that is left without a second checkpoint."""
    store = Checkpoints(tmp_path, {"seed": 1})
    for step in (1, 2, 10):
        store.save(step, {"step": step})
    assert [path.name[:14] for path in sorted(tmp_path.iterdir())] == ["step-000000002", "step-000000010"]
    assert store.load() == {"step": 10}
    store.discard()
    assert not tmp_path.exists()
    assert store.load() is None


@pytest.mark.parametrize("damage", ["cut", "bit"])
def test_a_damaged_checkpoint(damage, tmp_path):
    """Sees a damaged checkpoint that is trained on, or that ends the run although there is an earlier one."""
    store = Checkpoints(tmp_path, {"seed": 1})
    store.save(1, {"weights": torch.ones(1000)})
    store.save(2, {"weights": 2 * torch.ones(1000)})
    last = sorted(tmp_path.iterdir())[-1]
    content = bytearray(last.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 1
    last.write_bytes(content)
    with pytest.warns(UserWarning, match=f"{last} is damaged: an earlier one takes its place"):
        assert torch.equal(store.load()["weights"], torch.ones(1000))


def test_a_checkpoint_of_another_run(tmp_path):
    """Sees a run that goes on from another one's weights."""
    Checkpoints(tmp_path, {"seed": 1, "rho": 0.1}).save(1, {})
    with pytest.raises(ValueError, match=r"step-.* belongs to another run \(rho differs\)"):
        Checkpoints(tmp_path, {"seed": 1, "rho": 0.2}).load()


def fill_the_disk(folder, result):
    """A process whose disk is full from the second checkpoint on, which the kernel plays by a limit on file sizes."""

    def limit(training):
        if training.progress.step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))

    training = begun(SHORT, "g-rst", folder, Setup(checkpoint_every=0.0), limit)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        come_to = ended(training)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    kept = sorted(path.name[:14] for path in folder.iterdir())
    torch.save((come_to, kept, str(caught[0].message)), result)


def test_a_full_disk(tmp_path):
    """Sees a run that a full disk ends, half a checkpoint, or earlier ones lost."""
    process = BRANCHING.Process(target=fill_the_disk, args=(tmp_path / "checkpoints", tmp_path / "result.pt"))
    process.start()
    process.join()
    come_to, kept, warning = torch.load(tmp_path / "result.pt", weights_only=True)
    assert_same(come_to, ended(Training(SHORT, "g-rst", 1)))
    assert kept == ["step-000000001", "step-000000002"]
    assert "no checkpoint was written at step 3 ([Errno 27] File too large): the run goes on" in warning


# What a step does


def test_l2_is_in_the_loss():
    """Sees L2 that is left out, counted twice, or not seen by the perturbation, which weight decay is not."""
    one = replace(SHORT, epochs=1)
    for method, limit in (("sgd", 1e-4), ("sam", 1e-2)):
        decay, l2 = (
            ended(Training(replace(one, weight_decay=wd, l2=l2), method, 0)) for wd, l2 in ((0.05, 0.0), (0.0, 0.05))
        )
        apart = max(float((decay[1][name] - l2[1][name]).abs().max()) for name in l2[1])
        assert (apart < limit) == (method == "sgd")
        squares = sum(float(value.square().sum()) for name, value in l2[1].items() if name.endswith(("weight", "bias")))
        assert 0.1 < (l2[0]["train_loss"][0] - decay[0]["train_loss"][0]) / (0.025 * squares) < 10


def test_parts_of_a_batch():
    """Sees micro-batches that weigh more or less than their share; without BatchNorm and climbs they change nothing."""
    recipe = replace(SHORT, network="convnet-groupnorm", lr=0.1, epochs=1)
    whole, parts = (Training(replace(recipe, accumulate=n), "sgd", 0) for n in (1, 4))
    one, other = ended(whole), ended(parts)
    torch.testing.assert_close(other[1], one[1], rtol=0, atol=1e-5)
    assert other[0]["train_loss"] == pytest.approx(one[0]["train_loss"], abs=1e-5)
    assert one[0]["passes"] == other[0]["passes"] == one[0]["plain_passes"] == 20


def test_the_average_of_the_weights():
    """Sees an average that is not tested, not what is left at the end, or not what its decay says."""
    history = []

    def keep(training):
        history.append({name: value.clone() for name, value in training.module.state_dict().items()})

    training = Training(replace(SHORT, ema=0.8), "sgd", 0, watch=keep)
    _, weights = ended(training)
    name = "0.weight"
    average = history[0][name]
    for state in history[1:]:
        average = 0.8 * average + 0.2 * state[name]
    torch.testing.assert_close(weights[name], average)
    assert not torch.equal(weights[name], history[-1][name])
    assert training.progress.test_accuracy != train(SHORT, "sgd", 0)["test_accuracy"]


def test_the_batches_of_an_epoch():
    """Sees an example that comes twice in an epoch, the same order in every epoch, or another order for a method."""
    training = Training(SHORT, "sam", 0)
    training.train_set = Listening()
    first, again, second = (list(training._batches(epoch, 0)) for epoch in (0, 0, 1))
    assert len({row for batch in first for row in batch.tolist()}) == 20 * 64
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], second[0])
    assert all(map(torch.equal, first[7:], training._batches(0, 7)))


class Listening:
    """Examples that answer with the rows they are asked for."""

    def __len__(self):
        return 1297

    def batches(self, rows, *_):
        return iter(rows)


@pytest.mark.parametrize(
    ("recipe", "method", "setup", "message"),
    [
        ({"batch_size": 1298}, "sgd", {}, "batch_size = 1298 is out of range: give 2 to 1297"),
        (
            {"batch_size": 65},
            "sgd",
            {"devices": 2},
            "batch_size = 65 cannot be shared out evenly: give a multiple",
        ),
        ({"ema": 0.9}, "sgd", {"strategy": "fsdp2"}, "ema = 0.9 needs whole weights"),
        ({"l2": 0.1}, "sgd", {"strategy": "fsdp2"}, "l2 = 0.1 needs whole weights"),
        ({"ascent": "friendly"}, "g-rst", {"devices": 2}, "ascent = friendly remembers one gradient"),
        ({"precision": "bf16"}, "peer-sam", {}, "peer-sam runs on one device, in precision 32"),
    ],
)
def test_what_does_not_go_together(recipe, method, setup, message):
    """Sees a run that fails late, or does something else than it says."""
    with pytest.raises(ValueError, match=f"^{message}"):
        Training(replace(SHORT, **recipe), method, 0, setup=Setup(**setup))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": 0}, "devices = 0 is out of range"),
        ({"strategy": "dp"}, "strategy = dp is unknown: give auto, ddp, fsdp2"),
        ({"accelerator": "tpu"}, "accelerator = tpu is unknown"),
        ({"compile": "gcc"}, "compile = gcc is no backend of torch.compile: give .*inductor"),
        ({"accelerator": "cuda", "devices": 99}, "devices = 99 is out of range: of cuda there are"),
        ({"checkpoint_every": -1.0}, "checkpoint_every = -1.0 is out of range"),
    ],
)
def test_bad_setups(changes, message):
    """Sees a setup accepted that no machine is."""
    with pytest.raises(ValueError, match=f"^{message}"):
        Setup(**changes)


def test_a_compiled_network_in_channels_last():
    """Sees options that change what is computed, by more than rounding."""
    setup = Setup(compile="aot_eager", channels_last=True)
    plain, fast = (ended(Training(SHORT, "g-rst", 0, setup=one)) for one in (Setup(), setup))
    torch.testing.assert_close(fast[1], plain[1], rtol=0, atol=1e-3)
    assert fast[0]["sharp_steps"] == plain[0]["sharp_steps"]
