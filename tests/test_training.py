"""A run that is stopped, killed, or spread over processes is the run that was not."""

import math
import multiprocessing
import os
import random
import resource
import signal
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from sharpless.lab.methods.method import Method
from sharpless.lab.runs.stopping import Stopped
from sharpless.lab.tasks.images.checkpoints import Checkpoints
from sharpless.lab.tasks.images.checks import check
from sharpless.lab.tasks.images.ranks import Team
from sharpless.lab.tasks.images.recipe import Recipe
from sharpless.lab.tasks.images.setup import Setup
from sharpless.lab.tasks.images.training import batches, train
from sharpless.lab.trials.trial import Trial

SHORT = Recipe(epochs=2, width=4)
BRANCHING = multiprocessing.get_context("forkserver")
BRANCHING.set_forkserver_preload(["sharpless.lab.tasks.images.training"])


def dropping(classes):
    """A network with dropout."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, classes))


def trained(recipe, method, folder=None, setup=None, watch=None, seed=1):
    """A trial after its run; `watch` is called with it after every step."""
    with tempfile.TemporaryDirectory() as elsewhere:
        trial = Trial(Method(method), seed, folder=folder or Path(elsewhere), watch=lambda _: watch and watch(trial))
        train(trial, recipe, setup)
    return trial


def ended(trial):
    """What a run has come to, its durations left aside."""
    timeless = {name: values for name, values in trial.curve.items() if name != "seconds"}
    return {**timeless, "cost": vars(trial.cost), "sharp_steps": trial.sharp_steps}, trial.weights


def assert_same(one, other):
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()
    assert all(torch.equal(one[1][name], other[1][name]) for name in one[1])


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("sgd", {}),
        ("g-rst", {}),
        ("thrifty:average=0.9", {"clip": 1.0}),
        ("g-rst:p=adaptive:1.3,0.05", {}),
        ("g-rst:ascent=friendly,systematic=yes", {}),
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

    def blow(trial):
        if trial.cost.steps == stop:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)  # one from the group and one from the parent

    with pytest.raises(Stopped) as caught:
        trained(recipe, method, tmp_path, watch=blow)
    assert (caught.value.step, caught.value.signum) == (stop, signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    steps = []
    again = trained(recipe, method, tmp_path, watch=lambda trial: steps.append(trial.cost.steps))
    assert_same(ended(again), ended(trained(recipe, method)))
    assert steps == list(range(stop + 1, 41))
    assert 0 < again.data_seconds < again.seconds


def test_a_second_signal_is_not_waited_with(tmp_path):
    """Sees a run that cannot be ended while it does not come to the end of a step."""

    def blow(_):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trained(SHORT, "sgd", tmp_path, watch=blow)


def run_to_the_end(folder, result):
    """A process of its own that trains, with a checkpoint after every step."""
    warnings.simplefilter("error")
    torch.save(ended(trained(SHORT, "g-rst", folder, Setup(checkpoint_every=0.0))), result)


def test_a_run_that_diverges():
    """Sees a run that an overflow ends, or a loss that hides it."""
    assert math.isnan(trained(replace(SHORT, lr=1e30, epochs=1), "sgd").curve["loss"][0])


def test_skipped_steps_are_counted():
    """Sees steps that float16 leaves out after an overflow counted as none, or at the wrong place."""
    trial = trained(replace(SHORT, precision="16", lr=1e5, epochs=1), "g-rst")
    assert trial.cost.steps == 20
    assert len(trial.sharp_steps) == trial.cost.sharp_steps
    assert trial.sharp_steps == trained(replace(SHORT, epochs=1), "g-rst").sharp_steps


def test_killed_again_and_again(tmp_path):
    """Sees a checkpoint that a kill in the middle of writing it makes unreadable, or a step that is done twice."""
    generator = random.Random(0)
    result, folder = tmp_path / "result.pt", tmp_path / "checkpoints"
    for _ in range(6):
        process = BRANCHING.Process(target=run_to_the_end, args=(folder, result))
        process.start()
        before = {*folder.glob("step-*")}
        while process.is_alive() and not {*folder.glob("step-*")} - before:
            time.sleep(0.001)
        time.sleep(generator.uniform(0.0, 0.02))
        process.kill()
        process.join()
        assert len(list(folder.iterdir())) <= 4  # the last two, one that was just added, and half a one
    process = BRANCHING.Process(target=run_to_the_end, args=(folder, result))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert_same(torch.load(result, weights_only=True), ended(trained(SHORT, "g-rst")))
    assert len(list(folder.iterdir())) == 2


# Checkpoints


def test_the_last_two_are_kept(tmp_path):
    """Sees a folder that fills up, or a run that is left without a second checkpoint."""
    store = Checkpoints(tmp_path, {"seed": 1})
    for step in (1, 2, 10):
        store.save(step, {"step": step})
    assert [path.name[:14] for path in sorted(tmp_path.iterdir())] == ["step-000000002", "step-000000010"]
    assert store.load() == {"step": 10}
    assert Checkpoints(tmp_path / "empty", {"seed": 1}).load() is None


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
    with pytest.warns(UserWarning, match=f"{last} is damaged: an earlier one is used"):
        assert torch.equal(store.load()["weights"], torch.ones(1000))


def test_a_checkpoint_of_another_run(tmp_path):
    """Sees a run that goes on from another one's weights."""
    Checkpoints(tmp_path, {"seed": 1, "rho": 0.1}).save(1, {})
    with pytest.raises(ValueError, match=r"step-.* belongs to another run \(rho differs\)"):
        Checkpoints(tmp_path, {"seed": 1, "rho": 0.2}).load()


def fill_the_disk(folder, result):
    """A process whose disk is full from the second checkpoint on, which the kernel plays by a limit on file sizes."""

    def limit(trial):
        if trial.cost.steps == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        come_to = ended(trained(SHORT, "g-rst", folder, Setup(checkpoint_every=0.0), limit))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    kept = sorted(path.name[:14] for path in folder.iterdir())
    torch.save((come_to, kept, str(caught[0].message)), result)


def test_a_full_disk(tmp_path):
    """Sees a run that a full disk ends, half a checkpoint, or earlier ones lost."""
    process = BRANCHING.Process(target=fill_the_disk, args=(tmp_path / "checkpoints", tmp_path / "result.pt"))
    process.start()
    process.join()
    come_to, kept, warning = torch.load(tmp_path / "result.pt", weights_only=True)
    assert_same(come_to, ended(trained(SHORT, "g-rst")))
    assert kept == ["step-000000001", "step-000000002"]
    assert "no checkpoint was written at step 3 ([Errno 27] File too large): the run goes on" in warning


# What a step does


def test_l2_is_in_the_loss():
    """Sees L2 that is left out, counted twice, or not seen by the perturbation, which weight decay is not."""
    one = replace(SHORT, epochs=1)
    for method, limit in (("sgd", 1e-4), ("sam", 1e-2)):
        decay, l2 = (
            ended(trained(replace(one, weight_decay=wd, l2=l2), method)) for wd, l2 in ((0.05, 0.0), (0.0, 0.05))
        )
        apart = max(float((decay[1][name] - l2[1][name]).abs().max()) for name in l2[1])
        assert (apart < limit) == (method == "sgd")
        squares = sum(float(value.square().sum()) for name, value in l2[1].items() if name.endswith(("weight", "bias")))
        assert 0.1 < (l2[0]["loss"][0] - decay[0]["loss"][0]) / (0.025 * squares) < 10


def test_parts_of_a_batch():
    """Sees micro-batches that weigh more or less than their share; without BatchNorm and climbs they change nothing."""
    recipe = replace(SHORT, network="convnet-groupnorm", lr=0.1, epochs=1)
    one, other = (ended(trained(replace(recipe, accumulate=n), "sgd")) for n in (1, 4))
    torch.testing.assert_close(other[1], one[1], rtol=0, atol=1e-5)
    assert other[0]["loss"] == pytest.approx(one[0]["loss"], abs=1e-5)
    assert one[0]["cost"] == other[0]["cost"]
    assert one[0]["passes"] == [20]


def test_the_average_of_the_weights():
    """Sees an average that is not tested, or not what is left at the end."""
    history = []

    def keep(trial):
        history.append({name: value.clone() for name, value in trial.average.model.state_dict().items()})

    trial = trained(SHORT, "sgd:average=0.8", watch=keep)
    average = history[0]["0.weight"]
    for state in history[1:]:
        average = 0.8 * average + 0.2 * state["0.weight"]
    torch.testing.assert_close(trial.weights["0.weight"], average)
    assert not torch.equal(trial.weights["0.weight"], history[-1]["0.weight"])
    assert trial.curve["test"] != trained(SHORT, "sgd").curve["test"]


def test_the_schedule_of_the_learning_rate(tmp_path):
    """Sees a rate of the comparison that the schedule forgets, a warm-up left out, or an end that is not 0."""
    seen = []

    def watch(trial):
        seen.append(trial.opt.param_groups[0]["lr"])

    trial = Trial(Method("sgd"), hyperparameters={"lr": 0.2}, folder=tmp_path, watch=lambda _: watch(trial))
    train(trial, replace(SHORT, epochs=1, lr_warmup=0.2))
    assert seen[:5] == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.2])
    assert seen == [*seen[:4], *sorted(seen[4:], reverse=True)]
    assert 0 < seen[-1] < 0.01


def test_what_hyperparameters_are_chosen_by(tmp_path):
    """Sees a choice by the test set, or by examples that were trained on."""
    for validation, steps in ((0.0, 16), (0.4, 12)):
        trial = Trial(Method("sgd"), choosing=True, folder=tmp_path / str(steps))
        train(trial, replace(SHORT, epochs=1, validation=validation))
        assert trial.curve.keys() == {"step", "passes", "seconds", "validation", "loss"}
        assert trial.cost.steps == steps


def test_the_batches_of_an_epoch():
    """Sees an example that comes twice in an epoch, the same order in every epoch, or ranks that share examples."""

    def rows(epoch, first=0, rank=0, ranks=1):
        return list(batches(Listening(), SHORT, Team(rank, ranks, torch.device("cpu")), 0, epoch, first))

    first, again, second = rows(0), rows(0), rows(1)
    assert len({row for batch in first for row in batch.tolist()}) == 20 * 64
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], second[0])
    assert all(map(torch.equal, first[7:], rows(0, 7)))
    halves = [rows(0, rank=rank, ranks=2) for rank in (0, 1)]
    assert {*halves[0][3].tolist()} | {*halves[1][3].tolist()} == {*first[3].tolist()}


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
            "batch_size = 65 cannot be shared evenly: give a multiple",
        ),
        ({}, "sgd:average=0.9", {"strategy": "fsdp2", "devices": 2}, "method sgd:average=0.9 averages whole weights"),
        ({"l2": 0.1}, "sgd", {"strategy": "fsdp2", "devices": 2}, "l2 = 0.1 needs whole weights"),
        ({}, "g-rst:ascent=friendly", {"devices": 2}, "method g-rst:ascent=friendly remembers one gradient"),
        ({"precision": "bf16"}, "peer-sam", {}, "method peer-sam runs on one device, in precision 32"),
        ({"precision": "16"}, "rst:p=adaptive:1,-1", {}, "precision = 16 scales the gradients"),
    ],
)
def test_what_does_not_go_together(recipe, method, setup, message):
    """Sees a run that fails late, or does something else than it says."""
    with pytest.raises(ValueError, match=f"^{message}"):
        check(replace(SHORT, **recipe), Setup(**setup), [Method(method)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": 0}, "devices = 0 is out of range"),
        ({"strategy": "fsdp2"}, "strategy = fsdp2 shards a network over several devices"),
        ({"nodes": 2}, "nodes = 2 would wait for the other nodes"),
        ({"strategy": "dp"}, "strategy = dp is unknown: give auto, ddp, fsdp2"),
        ({"accelerator": "tpu"}, "accelerator = tpu is unknown"),
        ({"compile": "gcc"}, "compile = gcc is not a backend of torch.compile: give .*inductor"),
        ({"accelerator": "cuda", "devices": 99}, "devices = 99 is out of range: cuda has"),
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
    plain, fast = (ended(trained(SHORT, "g-rst", setup=one)) for one in (Setup(), setup))
    torch.testing.assert_close(fast[1], plain[1], rtol=0, atol=1e-3)
    assert fast[0]["sharp_steps"] == plain[0]["sharp_steps"]
