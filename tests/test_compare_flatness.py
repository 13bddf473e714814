"""Flatness within a comparison: from the task to the record, the summary and the page."""

import json
import time

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from sharpless.cli import main
from sharpless.flatness import Objective, measure
from sharpless.lab import task
from sharpless.lab.methods.method import Method
from sharpless.lab.runs.run import Run
from sharpless.lab.studies.conclude import conclude
from sharpless.lab.studies.study import Study
from sharpless.lab.tasks import digits
from sharpless.lab.tasks.images import training
from sharpless.lab.tasks.images.recipe import Recipe
from sharpless.lab.trials.contract import TaskError, check_ended
from sharpless.lab.trials.definition import Task
from sharpless.lab.trials.flat import SETTINGS
from sharpless.lab.trials.trial import Trial
from sharpless.report.numbers import significant

TASK = f"{__file__}:train"


@task(metric="MSE", goal="min")
def train(trial, noise: float = 0.0, silent: bool = False):
    torch.manual_seed(trial.seed)
    x = torch.randn(64, 4)
    y = x.prod(1, keepdim=True)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1))
    opt = trial.optimizer(torch.optim.SGD(model.parameters(), lr=0.02), model=model, total_steps=20, batch_size=16)
    for _ in range(trial.epochs(5)):
        for rows in torch.randperm(64).split(16):
            for part_x, part_y in opt.passes((x[rows], y[rows])):
                mse_loss(model(part_x), part_y).backward()
            opt.step()
            opt.zero_grad()
    with trial.evaluating(model):
        trial.report(test=mse_loss(model(x), y))

    def loss(output, target):
        return mse_loss(output + noise * torch.randn_like(output), target)

    if not silent:
        trial.flatness(model, loss, list(zip(x.split(16), y.split(16), strict=True)))
    return model, x, y


def trained(method, **options):
    trial = Trial(Method(method), seed=1, hyperparameters={"rho": 0.1}, flatness=True)
    return trial, *train(trial, **options)


def test_the_numbers_are_those_of_the_model():
    """Sees numbers of another network, of the weights in place of their average, or under a wrong name."""
    for method in ("sam", "ema:average=0.5"):
        trial, model, x, y = trained(method)
        with trial.evaluating(model):
            found = measure(Objective(model, mse_loss, list(zip(x.split(16), y.split(16), strict=True))), SETTINGS)
        near, adaptive = found["sharpness"]
        assert trial.flat == {
            "examples": 64,
            "measures": {
                "largest eigenvalue": found["eigenvalues"]["values"][0],
                "trace": found["trace"]["mean"],
                "sharpness, ρ = 0.05": near["worst"]["value"],
                "average sharpness, ρ = 0.05": near["average"]["mean"],
                "adaptive sharpness, ρ = 0.5": adaptive["worst"]["value"],
                "average adaptive sharpness, ρ = 0.5": adaptive["average"]["mean"],
            },
            "refused": None,
        }


def test_nothing_is_measured_unasked():
    """Sees a task that is measured, and so slowed down, though nobody asked."""
    trial = Trial(Method("sgd"))
    train(trial)
    assert trial.flat is None
    check_ended(trial)


def test_a_measure_that_is_refused():
    """Sees a run that is lost, or noise that is recorded, where the loss is not the same twice."""
    trial, *_ = trained("sgd", noise=0.5)
    assert trial.flat["measures"] == {}
    assert trial.flat["refused"].startswith("model gives two losses for the same examples")
    check_ended(trial)


def test_a_measure_that_fails():
    """Sees a run that is lost for its measure."""
    trial, model, x, y = trained("sgd")
    trial.flatness(model, lambda out, y: mse_loss(out, y.view(3, -1)), [(x, y)])
    assert trial.flat["refused"].startswith("RuntimeError: ")


def test_a_task_that_says_nothing():
    """Sees a comparison without what it was asked for, in silence."""
    trial, *_ = trained("sgd", silent=True)
    with pytest.raises(TaskError, match=r"call trial\.flatness\(model, loss, batches\) at its end"):
        check_ended(trial)


def test_the_clock_stands_still():
    """Sees a method that seems slower for having been measured."""
    trial, model, x, y = trained("sgd")
    before = trial.state_dict()["seconds"]

    def slow(output, target):
        time.sleep(0.01)
        return mse_loss(output, target)

    trial.flatness(model, slow, [(x, y)])
    assert trial.state_dict()["seconds"] - before < 0.1


def concluded(folder, **options):
    """Return the summary of runs that are executed here, and their records."""
    study = Study(Task.of(TASK, options), ["sgd", "sam"], range(2), folder, flatness=True)
    study.open_folder()
    records = []
    for method in study.methods:
        for seed in study.seeds:
            run = Run(study.task, method, seed, folder, 1, {}, flatness=study.flatness)
            records.append(run.train(run.trial()))
            run.conclude(records[-1])
    return conclude([folder], folder), records


def test_summary_and_page(tmp_path):
    """Sees numbers that are lost on their way to summary and page, or mixed up between methods."""
    summary, records = concluded(tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert '<h2 id="flatness">Flatness</h2>' in page
    for entry, own in zip(summary["methods"], (records[:2], records[2:]), strict=True):
        values = [record["flatness"]["measures"]["trace"] for record in own]
        found = entry["flatness"]["measures"]["trace"]
        assert found["mean"] == pytest.approx(sum(values) / 2)
        assert f"<td>{significant(found['mean'], 3)} ± {significant(found['std'], 2)}</td>" in page
    with pytest.raises(ValueError, match="flatness is True there and False here"):
        Study(Task.of(TASK), ["sgd", "sam"], range(2), tmp_path)


def test_what_was_refused_is_said(tmp_path):
    """Sees a page without its reason, or one that cannot be made, where nothing could be measured."""
    summary, _ = concluded(tmp_path, noise=0.5)
    assert summary["methods"][0]["flatness"]["measures"] == {}
    assert "model gives two losses for the same examples" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_command(tmp_path):
    """Sees an option that does not reach the runs."""
    command = ["compare", TASK, "--methods", "sgd", "--seeds", "1", "--flatness", "--out", str(tmp_path)]
    assert main(command) == 0
    (path,) = tmp_path.glob("runs/*.json")
    assert len(json.loads(path.read_text())["flatness"]["measures"]) == 6


@pytest.mark.parametrize("name", ["digits", "images"])
def test_the_tasks_that_are_built_in(name, tmp_path):
    """Sees a task of ours that cannot be measured, or that says nothing of it."""
    trial = Trial(Method("ema"), flatness=True, folder=tmp_path)
    if name == "digits":
        digits.train(trial, epochs=1)
    else:
        training.train(trial, Recipe(epochs=1, width=4))
    check_ended(trial)
    assert (trial.flat["examples"], trial.flat["refused"]) == (500, None)
    assert all(isinstance(value, float) for value in trial.flat["measures"].values())
