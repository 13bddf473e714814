"""Nothing that a machine does, or did before, decides what a run comes to: threads, jobs, earlier runs."""

import json
import os
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo import register_backend

from sharpless.cli import main
from sharpless.lab.methods.method import Method
from sharpless.lab.runs import execute
from sharpless.lab.runs.run import Run
from sharpless.lab.threads import settled
from sharpless.lab.trials.definition import Task

SHORT = {"epochs": 1, "width": 4}


def images(folder, method="sgd", seed=0, threads=1, **options):
    """A run of the images task."""
    return Run(Task.of("images", SHORT | options), Method(method), seed, folder, threads, {})


def come_to(run):
    trial = run.trial()
    record = run.train(trial)
    return record["curve"]["loss"], record["curve"]["test"], list(trial.weights.values()), record


def same(one, other):
    return one[:2] == other[:2] and all(map(torch.equal, one[2], other[2]))


@pytest.mark.parametrize(("cores", "threads", "expected"), [(4, 1, 4), (6, 2, 3), (7, 2, 3), (2, 4, 1)])
def test_as_many_runs_as_there_is_room_for(cores, threads, expected, monkeypatch):
    """Sees cores left idle or oversubscribed, or no run at all where a machine has fewer cores than a run threads."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores))
    assert execute.parallel_runs(threads) == expected


@pytest.mark.parametrize(
    ("given", "there", "told", "expected"),
    [(0, 0, None, 1), (0, 0, "3", 3), (0, 0, "4,2", 4), (0, 0, "many", 1), (0, 2, "3", 2), (5, 2, "3", 5)],
)
def test_where_the_number_of_threads_comes_from(given, there, told, expected, monkeypatch):
    """Sees OMP_NUM_THREADS not kept to, or placed above what a folder was opened with or an option says."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if told is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert settled(given, there) == expected


def test_a_run_has_threads_of_its_own(tmp_path):
    """Sees a run rounded by the threads of the process that it is executed in, or a process left with other ones."""
    before, found = torch.get_num_threads(), {}
    try:
        for around in (1, 2):
            torch.set_num_threads(around)
            for own in (1, 2):
                found[around, own] = come_to(images(tmp_path, "sam", threads=own))
                assert found[around, own][3]["setup"]["threads"] == own
                assert torch.get_num_threads() == around
    finally:
        torch.set_num_threads(before)
    assert same(found[1, 1], found[2, 1])
    assert same(found[1, 2], found[2, 2])
    assert not same(found[1, 1], found[1, 2])  # threads do change the rounding, or the test would see nothing


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
    monkeypatch.setattr(execute, "cluster", Cluster)
    runs = [images(tmp_path, seed=seed, threads=threads) for seed in (0, 1)]
    assert list(execute.execute(runs, on="ray")) == [(run, {"cores": cores}) for run in runs]


def test_a_folder_keeps_its_threads(tmp_path, monkeypatch, capsys):
    """Sees runs of one study with several numbers of threads, or one that was asked for and is not taken."""
    options = ["--epochs", "1", "--width", "4", "--out", str(tmp_path)]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert main(["train", "--method", "sgd", *options, "--threads", "2"]) == 0
    assert json.loads((tmp_path / "study.json").read_text())["threads"] == 2
    assert main(["compare", "images", "--methods", "sgd", *options, "--seeds", "2", "--jobs", "1"]) == 0
    found = [json.loads(path.read_text())["setup"]["threads"] for path in (tmp_path / "runs").glob("*.json")]
    assert found == [2, 2]
    assert capsys.readouterr().err == ""
    assert main(["train", "--method", "sam", *options, "--threads", "1"]) == 2
    refused = capsys.readouterr().err
    assert "holds runs with 2 threads each" in refused
    assert refused.count("\n") == 1
    assert len(list((tmp_path / "runs").iterdir())) == 2


# What the process did before


class Dicing(nn.Module):
    """A network that draws from the generators of Python and of NumPy, when it is made and whenever it runs."""

    def __init__(self, classes):
        super().__init__()
        self.linear = nn.Linear(64, classes)
        self.scale = random.random() + np.random.rand()

    def forward(self, x):
        return self.scale * (random.random() + np.random.rand()) * self.linear(x.flatten(1))


def test_noise_that_is_not_torchs(tmp_path):
    """Sees a run that depends on what was drawn in the process before it, or with a seed that changes nothing."""
    network = "test_sharing:Dicing"
    first = come_to(images(tmp_path, network=network))
    random.random()
    np.random.rand(7)
    torch.rand(7)
    assert same(come_to(images(tmp_path, network=network)), first)
    assert not same(come_to(images(tmp_path, network=network, seed=1)), first)


def test_what_was_compiled_before(tmp_path):
    """Sees graphs left by earlier runs, or made for sizes that vary, which round in another way than a run's own."""
    graphs, varying = [], []

    def listening(graph, inputs):
        graphs.append([str(tuple(x.shape)) for x in inputs if isinstance(x, torch.Tensor)])
        varying.extend(x for x in inputs if isinstance(x, torch.SymInt))
        return graph.forward

    register_backend(listening, name="listening")
    options = {"network": "convnet-groupnorm", "compile": "listening"}
    come_to(images(tmp_path, "sam", **options))
    alone = graphs.copy()
    graphs.clear()
    come_to(images(tmp_path, "thrifty", **options))  # with batches of several sizes
    graphs.clear()
    come_to(images(tmp_path, "sam", **options))
    assert graphs == alone != []
    assert not varying
