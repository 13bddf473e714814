"""Nothing that a machine does, or did before, decides what a run comes to: threads, jobs, earlier runs."""

import json
import os
import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sharpless.lab.compare import Comparison
from sharpless.lab.train import Training, train
from torch import nn
from torch._dynamo import register_backend

from sharpless.cli import main
from sharpless.lab import pools
from sharpless.lab.tasks.images.recipe import Recipe
from sharpless.lab.tasks.images.setup import Setup

SHORT = Recipe(epochs=1, width=4)


def come_to(training):
    record = training.run()
    return record["train_loss"], record["test_accuracy"], [weight.clone() for weight in training.module.parameters()]


def same(one, other):
    return one[:2] == other[:2] and all(map(torch.equal, one[2], other[2]))


@pytest.mark.parametrize(("cores", "threads", "expected"), [(4, 1, 4), (6, 2, 3), (7, 2, 3), (2, 4, 1)])
def test_as_many_runs_as_there_is_room_for(cores, threads, expected, monkeypatch):
    """Sees cores left idle or oversubscribed, or no run at all where a machine has fewer cores than a run threads."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores))
    assert pools.room(threads) == expected


@pytest.mark.parametrize(
    ("given", "there", "told", "expected"),
    [(0, 0, None, 1), (0, 0, "3", 3), (0, 0, "4,2", 4), (0, 0, "many", 1), (0, 2, "3", 2), (5, 2, "3", 5)],
)
def test_where_the_number_of_threads_comes_from(given, there, told, expected, monkeypatch):
    """Sees OMP_NUM_THREADS not kept to, or placed above what a folder was opened with or an option says."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if told is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert Setup(threads=given).settled(there).threads == expected


def test_a_run_has_threads_of_its_own(monkeypatch):
    """Sees a run rounded by the threads of the process that it is executed in, or a process left with other ones."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before, found = torch.get_num_threads(), {}
    try:
        for around in (1, 2):
            torch.set_num_threads(around)
            for own in (0, 2):
                training = Training(SHORT, "sam", 0, setup=Setup(threads=own))
                found[around, own] = come_to(training)
                assert training.run()["threads"] == (own or 1)
                assert torch.get_num_threads() == around
    finally:
        torch.set_num_threads(before)
    assert same(found[1, 0], found[2, 0])
    assert same(found[1, 2], found[2, 2])
    assert not same(found[1, 0], found[1, 2])  # threads do change the rounding, or the test would see nothing


class Cluster:
    """A stand-in for Ray: machines of two cores and of none, which are done with a run as soon as they have it."""

    init = shutdown = staticmethod(lambda **_: None)
    nodes = staticmethod(lambda: [{"Resources": {"CPU": 2.0}}, {"Resources": {}}])
    get = staticmethod(lambda reference: {"cores": reference[1]})
    wait = staticmethod(lambda references, **_: (references[:1], references[1:]))

    def remote(self, **_):
        return lambda _: self

    def options(self, num_cpus):
        return SimpleNamespace(remote=lambda run: (run.name, num_cpus))


@pytest.mark.parametrize(("threads", "cores"), [(1, 1), (2, 2), (3, 2)])
def test_what_is_asked_of_a_cluster(threads, cores, tmp_path, monkeypatch):
    """Sees runs for which a cluster has no room for as many threads, and which Ray would let wait forever."""
    monkeypatch.setattr(pools, "cluster", Cluster)
    comparison = Comparison(SHORT, ["sgd"], [0, 1], tmp_path, Setup(threads=threads))
    assert list(comparison.execute(on="ray")) == [{"cores": cores}] * 2


def threads_in(folder):
    return {path.name: json.loads(path.read_text())["threads"] for path in (folder / "runs").glob("*.json")}


def test_a_folder_keeps_its_threads(tmp_path, monkeypatch, capsys):
    """Sees runs of one experiment with several numbers of threads, or one that was asked for and is not taken."""
    command = ["compare", "--methods", "sgd", "--epochs", "1", "--width", "4", "--out", str(tmp_path)]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert main([*command, "--seeds", "1", "--threads", "2"]) == 0
    assert json.loads((tmp_path / "experiment.json").read_text())["threads"] == 2
    assert main([*command, "--seeds", "2", "--jobs", "1"]) == 0
    assert main(["train", "--method", "sam", *command[3:]]) == 0
    assert threads_in(tmp_path) == {"sgd-seed0.json": 2, "sgd-seed1.json": 2, "sam-seed0.json": 2}
    assert capsys.readouterr().err == ""
    assert main([*command, "--seeds", "3", "--threads", "1"]) == 2
    refused = capsys.readouterr().err
    assert "holds runs with 2 threads each" in refused
    assert "threads = 1 here: leave --threads out, or choose another folder" in refused
    assert refused.count("\n") == 1
    assert len(threads_in(tmp_path)) == 3


def test_a_folder_that_does_not_tell_its_threads(tmp_path):
    """Sees runs continued with other threads than those that began them, for want of knowing better."""
    comparison = Comparison(SHORT, ["sgd"], [0], tmp_path)
    comparison.open_folder()
    comparison.runs[0].path.parent.mkdir()
    comparison.runs[0].path.write_text("{}")
    told = json.loads((tmp_path / "experiment.json").read_text())
    assert Comparison(SHORT, ["sgd"], [0], tmp_path).setup.threads == told.pop("threads")
    (tmp_path / "experiment.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match="is not a recipe of this version"):
        Comparison(SHORT, ["sgd"], [0], tmp_path)


# What the process did before


class Dicing(nn.Module):
    """A network that draws from the generators of Python and of NumPy, when it is made and whenever it runs."""

    def __init__(self, classes):
        super().__init__()
        self.linear = nn.Linear(64, classes)
        self.scale = random.random() + np.random.rand()

    def forward(self, x):
        return self.scale * (random.random() + np.random.rand()) * self.linear(x.flatten(1))


def test_noise_that_is_not_torchs():
    """Sees a run that depends on what was drawn in the process before it, or with a seed that changes nothing."""
    recipe = Recipe(epochs=2, network="test_sharing:Dicing")
    first = come_to(Training(recipe, "sgd", 0))
    random.random()
    np.random.rand(7)
    assert same(come_to(Training(recipe, "sgd", 0)), first)
    assert train(recipe, "sgd", 1)["test_accuracy"] != first[1]


def test_what_was_compiled_before():
    """Sees graphs left by earlier runs, or made for sizes that vary, which round in another way than a run's own."""
    graphs, varying = [], []

    def listening(graph, inputs):
        graphs.append([str(tuple(x.shape)) for x in inputs if isinstance(x, torch.Tensor)])
        varying.extend(x for x in inputs if isinstance(x, torch.SymInt))
        return graph.forward

    register_backend(listening, name="listening")
    recipe, setup = replace(SHORT, network="convnet-groupnorm"), Setup(compile="listening")
    Training(recipe, "sam", 0, setup=setup).run()
    alone = graphs.copy()
    graphs.clear()
    Training(recipe, "thrifty", 0, setup=setup).run()  # with batches of several sizes
    graphs.clear()
    Training(recipe, "sam", 0, setup=setup).run()
    assert graphs == alone != []
    assert not varying
