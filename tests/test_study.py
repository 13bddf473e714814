"""Studies: choosing hyperparameters, folders that continue, and runs that fail."""

import json
import math
import multiprocessing
import pickle
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy
import pytest
import torch

from sharpless.lab.faults import Failure
from sharpless.lab.methods.method import Method
from sharpless.lab.runs.signals import deferred
from sharpless.lab.studies.choice import CHOICE_SEEDS, best, check_grid, more, points
from sharpless.lab.studies.comparison import compare
from sharpless.lab.studies.conclude import conclude
from sharpless.lab.studies.study import Study
from sharpless.lab.trials.definition import Task
from sharpless.lab.trials.session import restored

TASKS = '''
import math, os, pathlib, torch
from sharpless.lab import task

@task(metric="error", goal="min")
def valley(trial, best: float = 0.1, broken: str = ""):
    """Whose error is smallest at one radius, and at a tenth of it for thrifty."""
    model = torch.nn.Linear(2, 1)
    opt = trial.optimizer(torch.optim.SGD(model.parameters(), lr=0.01), model=model, batch_size=16, rho=0.3)
    for _ in range(trial.epochs(2)):
        for x in opt.passes(torch.randn(16, 2)):
            model(x).square().mean().backward()
        opt.step()
        opt.zero_grad()
    if broken == f"{trial.method.name}-{trial.seed}":
        raise ValueError("as was asked for")
    wanted = best / 10 if trial.method.head == "thrifty" else best
    rho = trial.hyperparameters.get("rho", 10.0)
    error = abs(math.log10(rho / wanted)) + 0.001 * (trial.seed % 7) + 5.0 * (not trial.choosing)
    with open("told.txt", "a") as file:
        file.write(f"{trial.method.name} {trial.seed} {rho:g} {trial.choosing}\\n")
    trial.report(validation=error, test=error + 1)
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks.py").write_text(TASKS)
    return tmp_path


def executed(folder, methods=("sgd", "sam"), seeds=range(2), **options):
    """The records of a study in this process, and the study."""
    task = Task.of("tasks.py:valley", options.pop("options", {}))
    study = Study(task, methods, seeds, folder / "out", **options)
    study.open_folder()
    return list(study.execute(jobs=1)), study


def test_each_method_gets_its_own_radius(folder, monkeypatch):
    """Sees radii chosen on the seeds that are compared, on test data, for all methods alike, or against the goal."""
    monkeypatch.setattr("sharpless.lab.studies.study.execute", in_this_process)
    results, _ = executed(folder, ("sgd", "sam", "thrifty"), grid={"rho": [0.01, 0.1, 1.0]}, choice_seeds=2)
    final = [(run.method.name, run.seed, found["hyperparameters"]) for run, found in results if not run.choosing]
    chosen = {"sgd": {}, "sam": {"rho": 0.1}, "thrifty": {"rho": 0.01}}
    assert final == [(method, seed, chosen[method]) for seed in (0, 1) for method in chosen]
    choosing = [run for run, _ in results if run.choosing]
    assert len(choosing) == 2 * 3 * 2
    assert {run.seed for run in choosing} == {CHOICE_SEEDS, CHOICE_SEEDS + 1}
    (record,) = (found for run, found in results if (run.method.name, run.seed, run.choosing) == ("sam", 1, False))
    assert record["choice"]["cost"] == 12.0  # 3 radii × 2 seeds × 2 gradients
    assert [one["rho"] for one in record["choice"]["tried"]] == [0.01, 0.1, 1.0]
    assert all(value < 3 for one in record["choice"]["tried"] for value in one["values"])
    (base, *_) = (found for run, found in results if run.method.name == "sgd")
    assert base["choice"] is None


def in_this_process(runs, jobs=None, on="local", watch=None):
    """Execute runs one after another, as quickly as can be."""
    yield from ((run, run.train(run.trial(None))) for run in runs)


def test_a_study_continues(folder, monkeypatch):
    """Sees a finished run repeated, or a method or seed that was added left out."""
    monkeypatch.setattr("sharpless.lab.studies.study.execute", in_this_process)
    grid = {"rho": [0.1, 1.0]}
    results, study = executed(folder, grid=grid, choice_seeds=1)
    assert len(results) == 2 + 4
    assert len(study.finished) == 4
    (folder / "out/runs/sam-seed1.json").unlink()
    again, _ = executed(folder, grid=grid, choice_seeds=1)
    assert [run.name for run, _ in again] == ["sam-seed1"]
    more_seeds, _ = executed(folder, seeds=range(3), methods=("sgd", "sam", "g-rst"), grid=grid, choice_seeds=1)
    assert [run.name for run, _ in more_seeds if not run.choosing] == [
        "g-rst-seed0", "g-rst-seed1", "sgd-seed2", "sam-seed2", "g-rst-seed2",
    ]  # fmt: skip


def test_one_run_fails(folder, monkeypatch):
    """Sees a failure that ends the others, that is kept as a run, or whose place is not named."""
    monkeypatch.setattr("sharpless.lab.studies.study.execute", in_this_process)
    results, study = executed(folder, options={"broken": "sam-1"})
    failures = [found for _, found in results if isinstance(found, Failure)]
    line = next(n for n, text in enumerate(TASKS.splitlines(), 1) if "as was asked for" in text)
    place = folder / "tasks.py"
    assert [str(failure) for failure in failures] == [
        f"sam-seed1 failed: ValueError: as was asked for ({place}, line {line})"
    ]
    assert study.failures == failures
    assert len(study.finished) == 3


PATIENT = """
import torch

def train(trial):
    torch.manual_seed(trial.seed)
    model = torch.nn.Linear(2, 1)
    steps = trial.epochs(20)
    opt = trial.optimizer(torch.optim.SGD(model.parameters(), lr=0.1), model=model, total_steps=steps)
    saved, first = trial.folder / "state.pt", 0
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        model.load_state_dict(state["model"])
        opt.load_state_dict(state["opt"])
        trial.load_state_dict(state["trial"])
        first = state["epoch"]
    for epoch in range(first, steps):
        for x in opt.passes(torch.randn(8, 2, generator=torch.Generator().manual_seed(epoch))):
            model(x).square().mean().backward()
        opt.step()
        opt.zero_grad()
        with trial.evaluating(model):
            trial.report(test=model(torch.ones(1, 2)))
        if epoch == 9 and first == 0 and not (trial.folder.parents[1] / "whole").exists():
            state = {"model": model.state_dict(), "opt": opt.state_dict(), "trial": trial.state_dict(), "epoch": 10}
            torch.save(state, saved)
            raise RuntimeError("the lights went out")
"""


def test_a_task_that_goes_on(folder, monkeypatch):
    """Sees a run that goes on from a task's own checkpoint end elsewhere than the one that was never stopped."""
    monkeypatch.setattr("sharpless.lab.studies.study.execute", in_this_process)
    (folder / "patient.py").write_text(PATIENT)
    (folder / "one").mkdir()
    (folder / "one" / "whole").write_text("")
    task = Task.of("patient.py:train")
    ((_, whole),) = Study(task, ["rst:average=0.5"], [3], folder / "one").execute()
    stopped = Study(task, ["rst:average=0.5"], [3], folder / "two")
    ((run, failure),) = stopped.execute()
    assert str(failure).startswith(f"{run.name} failed: RuntimeError: the lights went out")
    assert list(run.work.iterdir()) == [run.work / "state.pt"]
    ((_, found),) = stopped.execute()
    assert 0 < len(whole["sharp_steps"]) < 20
    for name in ("steps", "sharp_steps", "passes", "plain_passes"):
        assert found[name] == whole[name], name
    assert found["curve"]["test"] == whole["curve"]["test"]
    assert not run.work.exists()


def test_a_longer_training_that_is_none(folder, monkeypatch):
    """Sees the base trained as ever in the place of a longer training, where a task ignores the epochs it is given."""
    monkeypatch.setattr("sharpless.lab.studies.study.execute", in_this_process)
    source = (folder / "tasks.py").read_text().replace("range(trial.epochs(2))", "range(0 * trial.epochs(2) + 2)")
    (folder / "tasks.py").write_text(source)
    results, _ = executed(folder, ("sgd", "sgd-long"), [0])
    assert [str(found) for _, found in results if isinstance(found, Failure)] == [
        "sgd-long-seed0 failed: it took 2 steps, and sgd 2: train for trial.epochs(…) epochs"
    ]


def test_other_metrics_in_a_later_run(folder, monkeypatch):
    """Sees runs compared of which one reports another metric, also where the others were trained before."""
    monkeypatch.setattr("sharpless.lab.studies.study.execute", in_this_process)
    executed(folder, ("sgd",))
    for path in (folder / "out/runs").glob("*.json"):
        record = json.loads(path.read_text())
        del record["curve"]["validation"]
        path.write_text(json.dumps(record))
    results, _ = executed(folder, ("sgd", "sam"))
    assert [str(found) for _, found in results] == [
        f"sam-seed{seed} failed: it reported test and validation, and an earlier run test: report the same"
        for seed in (0, 1)
    ]


def test_records_that_no_report_could_read(folder, monkeypatch):
    """Sees all runs trained before the report refuses them, or one result of 1e150 that spoils the others."""
    monkeypatch.setattr("sharpless.lab.studies.study.execute", in_this_process)
    source = (folder / "tasks.py").read_text()
    (folder / "tasks.py").write_text(source.replace("test=error + 1", "test=1e150"))
    executed(folder)
    assert [entry["diverged"] for entry in conclude([folder / "out"], folder)["methods"]] == [[0, 1], [0, 1]]
    (folder / "tasks.py").write_text(source.replace("trial.report(", "trial.facts['hash'] = 2**70; trial.report("))
    monkeypatch.delitem(sys.modules, "tasks")
    results, study = executed(folder, seeds=[2])
    assert [str(found) for _, found in results] == [
        f"{method}-seed2 failed: the report cannot read its record (data: a number is not finite or too large): change "
        "what the task reports"
        for method in ("sgd", "sam")
    ]
    assert len(study.finished) == 4


def test_a_choice_that_was_edited(folder, monkeypatch):
    """Sees a traceback, or a point passed over in silence, where the record of a choice is none."""
    monkeypatch.setattr("sharpless.lab.studies.study.execute", in_this_process)
    executed(folder, grid={"rho": [0.1, 1.0]}, choice_seeds=1)
    path = folder / f"out/choice/sam,rho=0.1-seed{CHOICE_SEEDS}.json"
    for final in folder.glob("out/runs/sam-*"):  # with these, the choice would stand
        final.unlink()
    for junk in ("{}", "[1]", '{"passes": 1, "plain_passes": 0, "curve": {"step": [1]}}', "\0"):
        path.write_text(junk)
        with pytest.raises(ValueError, match="is not the record of a run: delete it, and it is trained again"):
            executed(folder, grid={"rho": [0.1, 1.0]}, choice_seeds=1)


def test_a_radius_that_fails(folder, monkeypatch):
    """Sees a radius chosen with which a run failed, or a method trained for which none is left."""
    monkeypatch.setattr("sharpless.lab.studies.study.execute", in_this_process)
    options = {"broken": f"sam-{CHOICE_SEEDS}"}
    results, study = executed(folder, options=options, grid={"rho": [0.1, 1.0]}, choice_seeds=2)
    assert {run.method.name for run, _ in results if not run.choosing} == {"sgd"}
    assert str(study.failures[-1]) == "sam failed: no point of the grid finished with every seed"


def test_a_choice_stands(folder, monkeypatch):
    """Sees another radius chosen, beside runs with the first one, since a run that had failed is repeated."""
    monkeypatch.setattr("sharpless.lab.studies.study.execute", in_this_process)
    source = (folder / "tasks.py").read_text()
    (folder / "tasks.py").write_text(
        source.replace("    wanted =", "    assert trial.hyperparameters.get('rho') != 0.1\n    wanted =")
    )
    executed(folder, grid={"rho": [0.1, 1.0, 4.0]}, choice_seeds=1)
    (folder / "tasks.py").write_text(source)
    monkeypatch.delitem(sys.modules, "tasks")
    results, _ = executed(folder, seeds=range(3), grid={"rho": [0.1, 1.0, 4.0]}, choice_seeds=1)
    assert [run.name for run, _ in results] == ["sgd-seed2", "sam-seed2"]
    assert [entry["rho"] for entry in conclude([folder / "out"], folder)["methods"]] == [None, 1.0]


def test_a_failed_run_waits_for_the_next_command(folder, monkeypatch):
    """Sees a run that fails repeated, and reported, in every round of an automatic grid."""
    monkeypatch.setattr("sharpless.lab.studies.study.execute", in_this_process)
    source = (folder / "tasks.py").read_text()
    (folder / "tasks.py").write_text(
        source.replace("    wanted =", "    assert trial.hyperparameters.get('rho') != 0.02\n    wanted =")
    )
    results, study = executed(folder, options={"best": 2.0}, grid={"rho": "auto"}, choice_seeds=1)
    assert sum(isinstance(found, Failure) for _, found in results) == len(study.failures) == 1


def test_a_returned_value_is_a_test_result(folder, monkeypatch):
    """Sees hyperparameters chosen on the test data of a task that returns its result in place of reporting it."""
    monkeypatch.setattr("sharpless.lab.studies.study.execute", in_this_process)
    source = (folder / "tasks.py").read_text()
    (folder / "tasks.py").write_text(source.replace("trial.report(validation=error, test=error + 1)", "return error"))
    results, _ = executed(folder, ("sam",), grid={"rho": [0.1, 1.0]}, choice_seeds=1)
    assert all("hyperparameters are chosen on validation data" in str(found) for _, found in results)
    (record,) = (found for _, found in executed(folder, ("sgd",), [0], grid={"rho": [0.1, 1.0]}, choice_seeds=1)[0])
    assert record["curve"]["test"] == [pytest.approx(7.0)]


def test_another_study(folder, monkeypatch):
    """Sees runs of two studies mixed in one folder."""
    monkeypatch.setattr("sharpless.lab.studies.study.execute", in_this_process)
    executed(folder)
    for changes, difference in (
        ({"options": {"best": 0.2}}, r"best is 0\.1 there and 0\.2 here"),
        ({"grid": {"rho": [0.1]}}, r"rho is None there and \[0\.1\] here"),
        ({"threads": 2}, "runs with 1 threads each, and threads = 2 here changes the rounding"),
    ):
        with pytest.raises(ValueError, match=difference):
            executed(folder, **changes)


def test_a_grid_that_is_found(folder, monkeypatch):
    """Sees an automatic grid that stops at its edge, or goes on for ever."""
    monkeypatch.setattr("sharpless.lab.studies.study.execute", in_this_process)
    results, _ = executed(folder, options={"best": 2.0}, grid={"rho": "auto"}, choice_seeds=1)
    tried = [run.point["rho"] for run, _ in results if run.choosing]
    assert tried == [0.02, 0.1, 0.5, 2.5, 12.5, 1.12, 5.59]
    (final, *_) = (found for run, found in results if not run.choosing and run.method.name == "sam")
    assert final["hyperparameters"] == {"rho": 2.5}


def test_a_grid_is_a_product():
    """Sees axes varied one at a time, or a base that is given radii."""
    grid = {"rho": [0.1, 0.3], "lr": [1.0, 2.0]}
    assert len(points(Method("sam"), grid)) == 4
    assert points(Method("sgd"), grid) == [{"lr": 1.0}, {"lr": 2.0}]
    assert points(Method("sgd"), {}) == [{}]


def test_the_best_point():
    """Sees the goal ignored, or a point preferred that failed with a seed."""
    tried = [
        {"rho": 0.1, "values": [1.0, 2.0]},
        {"rho": 0.2, "values": [3.0, 3.0]},
        {"rho": 0.3, "values": [9.0, None]},
    ]
    assert best(tried, "max") == {"rho": 0.2}
    assert best(tried, "min") == {"rho": 0.1}
    assert best(tried[2:], "min") is None
    assert more([{"rho": 0.02, "values": [None]}], "min") == []


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"rho": [-0.1]}, r"rho = -0\.1 is out of range"),
        ({"lr": [0.0]}, r"lr = 0\.0 is out of range"),
        ({"rho": []}, "rho = nothing is out of range"),
        ({"lr": "auto"}, "lr = auto is not known: only rho has an automatic grid"),
        ({"rho": [float("nan")]}, "rho = nan is out of range"),
        ({"momentum": [0.9]}, "momentum cannot be varied: choose from rho, lr, weight_decay"),
    ],
)
def test_bad_grids(grid, message):
    """Sees a grid accepted that cannot be tried."""
    with pytest.raises(ValueError, match=message):
        check_grid(grid)


OWN = """
import multiprocessing

@task(metric="error", goal="min")
def own(trial):
    assert torch.zeros(()).dtype == torch.float64
    assert multiprocessing.get_start_method() == USUAL
    valley(trial)
"""


def test_compare_in_python(folder):
    """Sees the whole way from a function of a notebook to the summary, in other processes, disagree with itself.

    Also sees other settings of torch in these processes, or a DataLoader's processes import all modules anew.
    """
    namespace = {"__name__": "__main__", "USUAL": multiprocessing.get_start_method()}
    exec(compile(TASKS + OWN, "notebook", "exec"), namespace)
    seen = []
    with restored({"default dtype": torch.float64}):
        summary = compare(
            namespace["own"], methods=["sgd", "sam"], rho=[0.1, 1.0], seeds=3, choice_seeds=1, folder="out",
            margin=0.5, watch=lambda done, total: seen.append((done, total)), jobs=1,
        )  # fmt: skip
    sam = next(entry for entry in summary["methods"] if entry["method"] == "sam")
    assert (summary["metric"]["name"], summary["metric"]["goal"], summary["split"]) == ("error", "min", "test")
    assert (sam["rho"], sam["cost"], sam["seeds"]) == (0.1, 2.0, 3)
    assert sam["value"]["mean"] == pytest.approx(6.001)
    assert seen[-1] == (8, 8)
    assert json.loads(Path("out/summary.json").read_text()) == summary
    assert Path("out/report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"margin": "lots"}, "margin = lots"),
        ({"on": "slurm"}, "on = slurm is unknown: choose from local, ray"),
        ({"methods": "sam"}, r"methods = 'sam' is not a list: give \['sam'\]"),
        ({"methods": 0.1}, r"methods = 0.1 is not a list: give \['sam'\]"),
        ({"methods": [1]}, "method '1' is unknown: choose from sgd"),
        ({"seeds": "3"}, "seeds = '3' is not a whole number"),
        ({"seeds": 0}, "seeds = 0 is out of range"),
        ({"seeds": 2.5}, "seeds = 2.5 is not a whole number"),
        ({"first_seed": -1}, "first_seed = -1 is out of range"),
        ({"jobs": -1}, "jobs = -1 is out of range"),
        ({"threads": 1.5}, "threads = 1.5 is not a whole number"),
        ({"rho": None}, "rho = None is not a number: give one, or a list"),
        ({"rho": ["0.1"]}, "rho = '0.1' is out of range"),
        ({"lr": "auto"}, "lr = auto is not known"),
        ({"metric": 5}, "metric = 5 is not a text"),
        ({"options": "best=3"}, "options = 'best=3' are not the task's options by name"),
    ],
)
def test_bad_arguments_in_python(folder, arguments, message):
    """Sees an argument named after hours of training, in Python's own words, or, as on="slurm", never."""
    with pytest.raises((TypeError, ValueError), match=message):
        compare("tasks.py:valley", **{"methods": ["sgd"], "seeds": 1, "folder": "out", **arguments})
    assert not Path("out").exists()


def test_numbers_of_other_kinds(folder, monkeypatch):
    """Sees a radius of NumPy refused, or a study with one be another study than with a plain number."""
    monkeypatch.setattr("sharpless.lab.studies.study.execute", in_this_process)
    settings = {"methods": ["sgd", "sam"], "seeds": 1, "folder": "out"}
    first = compare("tasks.py:valley", rho=numpy.float32(0.5), **settings)
    again = compare("tasks.py:valley", rho=numpy.array([0.5]), **settings)
    assert first == again == compare("tasks.py:valley", rho=0.5, **settings)


@dataclass
class Own:
    """An option of a class that a notebook has made."""

    size: int = 3


OPTIONS = {"best": numpy.float32(0.5), "broken": Path("data"), "more": {1: (Own, Own(), {2}, torch.ones(2), math.nan)}}
WRITTEN = {
    "best": 0.5,
    "broken": "data",
    "more": {"1": [f"{Own.__module__}.Own", "Own(size=3)", [2], [1.0, 1.0], "nan"]},
}


def test_options_of_many_kinds(folder, monkeypatch):
    """Sees a study end after its first run, since JSON has no path, array, class or NaN, or refuse to be continued."""
    (folder / "tasks.py").write_text(TASKS.replace("broken: str", "more=None, broken: str"))
    monkeypatch.setattr("sharpless.lab.studies.study.execute", in_this_process)
    records, _ = executed(folder, options=OPTIONS)
    assert [found["options"] for _, found in records] == [WRITTEN] * 4
    again, _ = executed(folder, options=OPTIONS)
    assert again == []
    with pytest.raises(ValueError, match=r"more = <function .* has no lasting name"):
        executed(folder, options={"more": lambda: 1})
    task = Task.of("tasks.py:valley", {"best": Own(5)})
    assert pickle.loads(pickle.dumps(task)).options == task.options


def test_code_that_has_changed(folder, monkeypatch):
    """Sees the results of an earlier version of a task given for those of the present one, without a word."""
    monkeypatch.setattr("sharpless.lab.studies.study.execute", in_this_process)
    _, study = executed(folder, seeds=range(1))
    assert study.notice is None
    file = folder / "tasks.py"
    file.write_text(file.read_text().replace("test=error + 1", "test=error + 2"))
    for seeds in (range(1), range(2)):
        _, study = executed(folder, seeds=seeds)
        assert study.notice.startswith("tasks.py:valley has changed since")
    with pytest.warns(UserWarning, match="tasks.py:valley has changed since"):
        compare("tasks.py:valley", methods=["sgd"], seeds=1, folder="out")
    assert Task.of("digits").fingerprint == ""
    assert Task.of(in_this_process).fingerprint != Task.of(executed).fingerprint


LEAVING = """
import sys, torch

def train(trial, end: bool = False):
    assert torch.is_grad_enabled() and torch.zeros(()).dtype == torch.float32
    model = torch.nn.Linear(2, 1)
    opt = trial.optimizer(torch.optim.SGD(model.parameters(), lr=0.01), model=model)
    for x in opt.passes(torch.randn(16, 2)):
        model(x).square().mean().backward()
    opt.step()
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    if end:
        sys.exit(0)
    return model.weight.numpy().sum()
"""


def test_where_a_function_of_a_notebook_failed():
    """Sees the failure of a notebook's function without a line, or with a file that the user does not know."""
    namespace = {"__name__": "__main__"}
    exec(compile("def own(trial):\n    raise KeyError('x')", "cell", "exec"), namespace)
    task = Task.of(namespace["own"])
    with pytest.raises(KeyError) as caught:
        task.function(None)
    assert Failure.of("sgd-seed0", caught.value, task.name).why == f"KeyError: 'x' ({task.name}, line 2)"


def test_what_a_run_leaves_behind(folder, monkeypatch):
    """Sees a run begin with the global settings that another one has left in its process."""
    (folder / "leaving.py").write_text(LEAVING)
    monkeypatch.setattr("sharpless.lab.studies.study.execute", in_this_process)
    study = Study(Task.of("leaving.py:train"), ["sgd", "sam"], range(2), folder / "out")
    assert [found["curve"]["test"] for _, found in study.execute()]
    assert not study.failures


def test_a_task_that_exits(folder, monkeypatch):
    """Sees sys.exit(0) in a task end the comparison as if all were well."""
    (folder / "leaving.py").write_text(LEAVING)
    monkeypatch.setattr("sharpless.lab.studies.study.execute", in_this_process)
    study = Study(Task.of("leaving.py:train", {"end": True}), ["sgd"], range(2), folder / "out")
    assert [found.why[:13] for _, found in study.execute()] == ["SystemExit: 0"] * 2


PRICED = """
from time import sleep
import torch
from torch import nn
from torch.nn.functional import mse_loss

def train(trial, how: str = "passes"):
    (trial.folder / "mine").touch()
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    opt = trial.optimizer(base, model=model, total_steps=8, batch_size=32, rho=0.1)
    x = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
    for step in range(8):
        if how == "closure":
            opt.step(lambda: mse_loss(model(x).sum(1), x.sum(1)).backward())
            continue
        for part in opt.passes(x):
            sleep(0.001 * len(part) / 32 + 0.002)
            mse_loss(model(part).sum(1), part.sum(1)).backward()
        opt.step()
        opt.zero_grad()
    trial.report(test=mse_loss(model(x).sum(1), x.sum(1)).item())
"""


def test_a_budget_of_seconds_is_measured_once(folder):
    """Sees a plan in gradients where passes have a fixed price, another plan after a stop, or a run too many."""
    (folder / "priced.py").write_text(PRICED)
    methods = ("sgd", "thrifty:budget=1.2", "thrifty:budget=1.2,unit=gradients")
    study = Study(Task.of("priced.py:train"), methods, [0], folder / "out")
    records = {run.method.name: found for run, found in study.execute(1)}
    told = json.loads((folder / "out/study.json").read_text())
    assert list(told["step_seconds"]) == ["0", *told["part_noise"]] == ["0", "4", "8", "16", "32"]
    assert told["step_seconds"]["4"] > told["step_seconds"]["0"]
    timed, counted = records[methods[1]], records[methods[2]]
    assert timed["gamma"] == 4
    assert timed["plan"]["unit"] == "seconds"
    assert timed["plan"]["cost"] > 1.2
    assert counted["plan"]["cost"] == pytest.approx(1.2)
    assert not list((folder / "out/work").glob("*"))
    again = Study(Task.of("priced.py:train"), methods, [0, 1], folder / "out")
    (found,) = (found for run, found in again.execute(1) if run.method.name == methods[1])
    assert found["plan"] == timed["plan"]
    summary = conclude([folder / "out"], folder / "out")
    assert [entry["plan"] and entry["plan"]["unit"] for entry in summary["methods"]] == [None, "seconds", "gradients"]
    assert any(
        "a budget of 1.2 times the seconds of plain training is not possible" in one for one in summary["warnings"]
    )


def test_a_task_whose_passes_cannot_be_measured(folder):
    """Sees the other methods stopped by it, or thrifty trained by another plan than was asked for."""
    (folder / "priced.py").write_text(PRICED)
    study = Study(Task.of("priced.py:train", {"how": "closure"}), ("sgd", "thrifty"), [0], folder / "out")
    assert [run.method.name for run, _ in study.execute(1)] == ["sgd"]
    assert "measuring passes failed: TaskError: thrifty uses a part of the batch" in str(study.failures[0])


def test_a_signal_waits_for_the_locks():
    """Sees Ctrl-C raise where the locks of futures are held: the executor would wait for them forever."""
    done = []
    with pytest.raises(KeyboardInterrupt):
        with deferred():
            signal.raise_signal(signal.SIGINT)
            done.append("the locks are given back")
        done.append("it went on")
    assert done == ["the locks are given back"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
