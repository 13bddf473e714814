"""The command line, run as a user runs it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Literal, Optional, Union

import pytest
import torch

from sharpless import GRST
from sharpless.cli import main
from sharpless.cli.commands import _Parser
from sharpless.cli.task import parsed

SHARPLESS = [sys.executable, "-m", "sharpless"]
PATIENCE = 900  # seconds after which something hangs, on a busy machine too
QUICK = ["--epochs", "2", "--seeds", "2", "--methods", "sgd", "sam", "g-rst"]


def sharpless(*arguments, **options):
    return subprocess.run(
        [*SHARPLESS, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=PATIENCE, **options
    )


def run_files(folder):
    return {path.name: path.read_bytes() for path in (folder / "runs").glob("*.json")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "digits"
    return folder, sharpless("compare", *QUICK, "--out", folder)


def test_compare(finished):
    """Sees a table, a summary or a page that is missing, or that says something else than the run files."""
    folder, ended = finished
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["task"] == "digits"
    assert [method["method"] for method in summary["methods"]] == ["sgd", "sam", "g-rst"]
    runs = {name: json.loads(text) for name, text in run_files(folder).items()}
    assert sorted(runs) == sorted(f"{method}-seed{seed}.json" for method in ("sgd", "sam", "g-rst") for seed in (0, 1))
    for method in summary["methods"]:
        records = [record for record in runs.values() if record["method"] == method["method"]]
        last = [record["curve"]["test"][-1] for record in records]
        assert method["seeds"] == 2
        assert method["value"]["mean"] == pytest.approx(sum(last) / 2)
        assert method["cost"] == pytest.approx(sum(record["passes"] for record in records) / 80)
        assert method["label"] in ended.stdout
    assert (summary["metric"], summary["split"]) == ({"name": "accuracy", "unit": "%", "goal": "max"}, "test")
    costs = {method["method"]: method["cost"] for method in summary["methods"]}
    assert costs["sgd"] == 1.0
    assert costs["sam"] == 2.0
    assert 1.2 < costs["g-rst"] < 1.8
    assert set(summary["methods"][2]) >= {"value", "rho", "cost", "cost_seconds", "versus_sam", "pareto_optimal"}
    assert summary["methods"][2]["rho"] == 0.3
    assert "<svg" in (folder / "report.html").read_text()
    assert max(len(line) for line in ended.stdout.splitlines() if str(folder) not in line) <= 80


def test_started_again(finished):
    """Sees a finished run repeated, a longer study that does not reuse it, or a summary that is not made anew."""
    folder, _ = finished
    before = run_files(folder)
    (folder / "summary.json").unlink()
    options = ["--first-seed", "1", "--seeds", "2", "--methods", "rst", "sgd"]
    again = sharpless("compare", *QUICK, *options, "--out", folder)
    assert again.returncode == 0, again.stderr
    after = run_files(folder)
    assert before.items() <= after.items()
    assert set(after) - set(before) == {"rst-seed1.json", "rst-seed2.json", "sgd-seed2.json"}
    assert len(json.loads((folder / "summary.json").read_text())["methods"]) == 4


def processes_of(group):
    """The processes, zombies left aside, that belong to a process group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(pgrp) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_stopped_and_continued(blow, tmp_path):
    """Sees workers that live on, half-written files, finished runs lost or repeated.

    At a Ctrl-C, and when the terminal is closed, also a traceback, and semaphores that leak.
    """
    # However many cores there are, and however late the blow, runs are left: two at a time, and many.
    command = ["compare", "--epochs", "4", "--seeds", "4", "--methods", "sgd", "rst", "--jobs", "2", "--out", tmp_path]
    process = subprocess.Popen(
        [*SHARPLESS, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Under nohup, children would ignore SIGHUP too.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # noqa: PLW1509
    )
    patience = time.monotonic() + PATIENCE
    while len(run_files(tmp_path)) < 2 and time.monotonic() < patience:
        time.sleep(0.05)
    if blow is not signal.SIGKILL:
        os.killpg(process.pid, blow)  # a terminal sends it to the whole group
    else:
        process.kill()
    _, errors = process.communicate(timeout=PATIENCE)
    while processes_of(process.pid) and time.monotonic() < patience:
        time.sleep(0.1)
    assert not processes_of(process.pid)
    kept = run_files(tmp_path)
    assert 2 <= len(kept) < 8
    for text in kept.values():
        json.loads(text)
    if blow is not signal.SIGKILL:
        assert process.returncode == 128 + blow
        told = f"{len(kept)} runs are finished in {tmp_path}"
        assert errors == f"sharpless: interrupted; {told}; the same command continues\n"
    ended = sharpless(*command)
    assert ended.returncode == 0, ended.stderr
    assert f"{len(kept)} runs are in" in ended.stdout.replace("\n", " ")
    after = run_files(tmp_path)
    assert len(after) == 8
    assert kept.items() <= after.items()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "sgd", "sma"], "method 'sma' is unknown: choose from sgd, sgd-long, ema, sam"),
        (["--methods", "g-rst:p=1.5"], "method g-rst:p=1.5: p = 1.5 is not a probability"),
        (["--methods", "g-rst:gamma=2,degree=1"], "degree and gamma exclude each other"),
        (["--methods", "sam:p=0.5"], "method sam:p=0.5: sam has no parameter 'p', choose from average, ascent"),
        (["--methods", "thrifty:budget=1"], "budget = 1 is out of range"),
        (["--rho", "-1"], "--rho = -1.0 is out of range"),
        (["--rho", "0.1", "auto"], "--rho = 0.1 auto is out of range: give numbers, or auto alone"),
        (["--lr", "auto"], "--lr = auto is not known: only rho has an automatic grid"),
        (["--seeds", "0"], "--seeds = 0 is out of range"),
        (["--choice-seeds", "0"], "--choice-seeds = 0 is out of range"),
        (["--jobs", "0"], "--jobs = 0 is out of range"),
        (["--first-seed", "-1"], "--first-seed = -1 is out of range: give 0 or more"),
        (["--first-seed", "999999"], "--first-seed = 999999 is out of range: seeds end at 999999"),
        (["--threads", "-1"], "--threads = -1 is out of range"),
        (["--threads", "100000"], "--threads = 100000 is out of range: give 1 to 1024"),
        (["--margin", "0"], "--margin = 0"),
    ],
)
def test_bad_options(arguments, message, tmp_path, capsys):
    """Sees bad input found late, explained in more than a sentence, or after files were written."""
    assert main(["compare", *arguments, "--out", str(tmp_path / "new")]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_a_folder_with_another_study(finished, capsys):
    """Sees runs of two studies mixed in one folder, or the old ones lost."""
    folder, _ = finished
    before = run_files(folder)
    assert main(["compare", *QUICK, "--noise", "0.5", "--out", str(folder)]) == 2
    assert "holds another study (--noise is 0.3 there and 0.5 here): choose another folder" in capsys.readouterr().err
    (folder / "study.json").write_text("[]")
    assert main(["compare", *QUICK, "--out", str(folder)]) == 2
    assert "is not the study of this version" in capsys.readouterr().err
    assert run_files(folder) == before


TASK = """
import torch
from sharpless.lab import task

@task(metric="MSE", goal="min")
def train(trial, width: int = 4, fault: str = ""):
    '''Fit a parabola.

    Args:
        trial: one run of a comparison.
        width: hidden units.
        fault: what to do wrong.
    '''
    model = torch.nn.Sequential(torch.nn.Linear(1, width), torch.nn.Tanh(), torch.nn.Linear(width, 1))
    steps = trial.epochs(20)
    opt = trial.optimizer(torch.optim.Adam(model.parameters()), model=model, total_steps=steps, batch_size=16)
    for _ in range(steps):
        for x in opt.passes(torch.rand(16, 1)):
            (model(x) - x ** 2).square().mean().backward()
        opt.step()
        opt.zero_grad()
    if fault == trial.method.name:
        raise KeyError(fault)
    with trial.evaluating(model):
        x = torch.linspace(0, 1, 50)[:, None]
        error = (model(x) - x ** 2).square().mean()
        trial.report(validation=error, test=float("nan") if fault == "nan" else error)
"""


@pytest.fixture
def own_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_task.py").write_text(TASK)
    return ["compare", "my_task.py:train", "--seeds", "2"]


def test_a_task_of_ones_own(own_task):
    """Sees options of a task not reach it, radii not chosen, or a lower metric taken for a worse one."""
    options = ["--methods", "sgd", "sam", "late:budget=1.5", "--rho", "0.01", "1", "--choice-seeds", "1"]
    ended = sharpless(*own_task, *options, "--width", "3")
    assert ended.returncode == 0, ended.stderr
    summary = json.loads(Path("runs/compare/summary.json").read_text())
    assert (summary["metric"]["name"], summary["metric"]["goal"]) == ("MSE", "min")
    assert summary["options"] == {"width": 3, "fault": ""}
    methods = {method["method"]: method for method in summary["methods"]}
    assert methods["sgd"]["label"] == "Adam"
    assert methods["sgd"]["rho"] is None
    assert methods["sam"]["rho"] in {0.01, 1.0}
    assert methods["sam"]["choice"]["cost"] == 4.0
    assert "rho 0.01" in ended.stdout
    other = sharpless(*own_task, *options, "--width", "4")
    assert other.stderr.startswith("sharpless: ")
    assert "holds another study (--width is 3 there and 4 here)" in other.stderr


def test_one_trial_crashes(own_task):
    """Sees a crash that ends the other runs, or whose place in the user's file is not named."""
    ended = sharpless(*own_task, "--methods", "sgd", "sam", "--fault", "sam")
    assert ended.returncode == 1
    line = next(number for number, text in enumerate(TASK.splitlines(), 1) if "raise KeyError" in text)
    place = Path("my_task.py").resolve()
    for seed in (0, 1):
        assert f"sharpless: sam-seed{seed} failed: KeyError: 'sam' ({place}, line {line})\n" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(run_files(Path("runs/compare"))) == 2


def test_a_metric_that_is_no_number(own_task):
    """Sees a traceback, or a mean over what is no number, where a run reports one."""
    ended = sharpless(*own_task, "--methods", "sgd", "sam", "--fault", "nan")
    assert ended.returncode == 0, ended.stderr
    assert "diverged" in ended.stdout


def test_annotations_for_type_checkers():
    """Sees a traceback for `trial: Trial` where only type checkers import Trial, or a number then read as a text."""

    def train(trial: "Trial", width: "int" = 4, rate: "Nowhere" = 0.5): ...  # noqa: F821

    parser = _Parser(prog="sharpless")
    found = parsed(["--width", "3", "--rate", "1"], "my.py:train", train, parser)
    assert found == {"width": 3, "rate": 1.0}
    assert parsed(["--width", "3"], "my.py:train", partial(train, rate=0.1), parser) == {"width": 3}


def test_an_option_with_two_meanings():
    """Sees an option of a task that compare takes for its own, so that the task trains with its default."""
    parser = _Parser(prog="sharpless")
    for name in ("--metric", "--lr"):
        parser.add_argument(name)

    def train(trial, metric: str = "l2", lr: float = 0.1): ...

    with pytest.raises(ValueError, match="--metric is an option of compare itself: rename this parameter of the task"):
        parsed([], "my.py:train", train, parser)
    assert parsed([], "my.py:train", partial(train, metric="l1"), _Parser(prog="sharpless")) == {}


def test_the_options_of_a_task_are_shown(own_task):
    """Sees a help without the options of the task that it names."""
    shown = sharpless(*own_task[:2], "--help").stdout
    assert "--width N" in shown
    assert "hidden units (default: 4)" in shown
    assert "--methods METHOD" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["my_task.py:tarin"], "sharpless: task = my_task.py:tarin: my_task.py has no 'tarin'"),
        (["your_task.py:train"], "sharpless: task = your_task.py:train: there is no file your_task.py"),
        (["my_task.py:train", "--wdth", "3"], "unrecognized arguments: --wdth 3; options of my_task.py:train: --width"),
        (["--data", "cifar10"], "for images use their task: sharpless compare images --data"),
        (["my_task.py:train", "--width", "x"], "argument --width: 'x' is not a whole number"),
    ],
)
def test_bad_tasks(own_task, arguments, message, capsys):
    """Sees a task or an option that is misspelled explained in more than a sentence, or ignored."""
    with suppress(SystemExit):  # as the parser ends
        assert main(["compare", *arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("where", ["a file", "under a file", "runs is a file"])
def test_a_folder_that_cannot_be(where, tmp_path, capsys):
    """Sees a traceback, or work done, where the folder cannot be made."""
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "below" if where == "under a file" else tmp_path / "file"
    if where == "runs is a file":
        folder = tmp_path / "folder"
        (folder / "study.json").mkdir(parents=True)
    assert main(["compare", *QUICK, "--out", str(folder)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("sharpless: ")
    assert printed.err.count("\n") == 1


def test_plan(capsys):
    """Sees a plan whose numbers are not the schedule's, or a drawing that falls where p rises."""
    assert main(["plan", "--schedule", "linear:0,1", "--steps", "1000", "--seconds-per-step", "0.36"]) == 0
    text = capsys.readouterr().out
    drawing = [line.partition("│")[2] for line in text.splitlines() if "│" in line]
    assert [len(line.strip()) for line in drawing] == sorted(len(line.strip()) for line in drawing)
    assert drawing[0].rstrip().endswith("█") or drawing[0].rstrip().endswith("▇")
    assert "expected propagation count  1.5 forward-backward passes per step" in text
    assert "500 ± 13 of 1000 expected" in text
    assert "9 min 0 s (plain training 6 min 0 s, SAM 12 min 0 s)" in text
    assert "γ for SAM's degree          2," in text


def test_plan_with_a_part_of_the_batch(capsys):
    """Sees a climb with a tenth of the batch priced as one with all of it, expected, drawn, or in seconds."""
    assert main(["plan", "--schedule", "1", "--batch-fraction", "0.1", "--steps", "99", "--seconds-per-step", "1"]) == 0
    text = capsys.readouterr().out
    assert "q                           0.1 of the batch" in text
    assert "expected propagation count  1.1 forward-backward passes per step" in text
    assert "99 sharpness-aware steps, 1.1 passes per step" in text
    assert "1 min 49 s (plain training 1 min 39 s" in text


def test_plan_of_a_budget(capsys):
    """Sees a plan whose numbers are not those of the optimizer that it tells to write."""
    assert main(["plan", "--budget", "1.02", "--batch-size", "128", "--degree", "0.5", "--steps", "1000"]) == 0
    text = capsys.readouterr().out
    told = dict(line.split(maxsplit=1) for line in text.splitlines() if line.split()[0] in {"p", "q", "γ", "why"})
    code = re.search(r"GRST\.for_budget\(.*\)", text)[0]
    model = torch.nn.Linear(2, 1)
    opt = eval(code, {"GRST": GRST, "model": model, "base": torch.optim.SGD(model.parameters(), lr=0.1)})
    assert told["p"] == str(opt.schedule) == "0.64"
    assert told["q"] == f"{128 * opt.batch_fraction:.0f} of 128 examples" == "4 of 128 examples"
    assert told["γ"] == f"{opt.gamma:.4g}, degree / p" == "0.7812, degree / p"
    assert "climbs with 4 of 128 examples" in told["why"]
    assert "expected propagation count  1.02 forward-backward passes per step" in text
    assert "640 ± 15 of 1000 expected" in text


@pytest.mark.parametrize("budget", ["1.1", "1.5", "2"])
def test_plan_takes_any_budget(budget, capsys):
    """Sees a budget that is overdrawn by rounding."""
    assert main(["plan", "--budget", budget, "--batch-size", "128", "--steps", "10"]) == 0
    assert f"{float(budget):.4g} forward-backward passes per step" in capsys.readouterr().out


def test_plan_of_too_small_a_budget(capsys):
    """Sees a budget that divides by zero, or γ = 10⁹ in the place of a word on what can be had."""
    assert main(["plan", "--budget", "1.000000000001", "--batch-size", "128"]) == 2
    assert "the cheapest plan costs 1.008, with 4 of 128 examples in 25 % of the steps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "plan takes either a schedule or a budget: give --schedule P --steps T, or --budget B"),
        (["--schedule", "1", "--budget", "1.1"], "plan takes either a schedule or a budget"),
        (["--budget", "2.1", "--batch-size", "8"], "budget = 2.1 is out of range"),
        (["--budget", "1.1", "--batch-size", "0"], "--batch-size = 0 is out of range"),
        (["--budget", "1.1", "--batch-size", "8", "--degree", "-1"], "degree = -1.0 is out of range"),
        (["--budget", "1.1", "--step-seconds", "0:1", "128:nan"], "--step-seconds = {0: 1.0, 128: nan} does not fit"),
        (["--budget", "1.1", "--step-seconds", "0:1", "0:2", "128:3"], "--step-seconds = 0:1 0:2 128:3 has two"),
        (["--budget", "1.1", "--batch-size", "8", "--batch-fraction", "1"], "batch-fraction = 1.0 has no effect on a"),
        (["--schedule", "1", "--batch-size", "8"], "batch-size = 8 has no effect on a schedule: leave it out"),
        (["--schedule", "1", "--degree", "2"], "degree = 2.0 has no effect on a schedule: leave it out"),
        (["--schedule", "1", "--batch-fraction", "0"], "batch-fraction = 0.0 is not a share of the batch"),
    ],
)
def test_plans_that_cannot_be(arguments, message, capsys):
    """Sees options ignored that exclude each other, or bad ones explained in more than a sentence."""
    assert main(["plan", *arguments, "--steps", "10"]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--schedule", "linear:0,2", "--steps", "10"], "end = 2.0 is not a probability"),
        (["--schedule", "0.5"], "a schedule and a duration refer to a number of steps: give --steps T"),
        (["--budget", "1.1", "--seconds-per-step", "1"], "a schedule and a duration refer to a number of steps"),
        (["--schedule", "0.5", "--steps", "0"], "steps = 0 is not a number of steps"),
        (["--schedule", "0.5", "--steps", "9", "--seconds-per-step", "0"], "seconds-per-step = 0.0 is not a duration"),
    ],
)
def test_bad_plans(arguments, message, capsys):
    """Sees a plan made of nonsense."""
    assert main(["plan", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_without_the_peers(tmp_path, monkeypatch, capsys):
    """Sees a traceback, or work done, where the package of the peers is missing, or it asked for without them."""
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    assert main(["compare", "--methods", "sgd", "peer-sam", "--out", str(tmp_path / "new")]) == 2
    printed = capsys.readouterr()
    assert "method peer-sam needs pytorch_optimizer: pip install pytorch_optimizer, or leave it out" in printed.err
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_without_the_laboratory():
    """Sees a traceback where an extra is missing, or `plan` asking for more than torch."""
    blind = "import sys; sys.modules.update({m: None for m in ('sklearn', 'rich', 'matplotlib', 'jinja2', 'scipy')}); "
    code = blind + "from sharpless.cli import main; sys.exit(main())"
    ended = subprocess.run([sys.executable, "-c", code, "compare"], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "pip install 'sharpless[lab]'" in ended.stderr
    assert ended.stderr.count("\n") == 1
    plan = [sys.executable, "-c", code, "plan", "--schedule", "0.5", "--steps", "9"]
    assert subprocess.run(plan, capture_output=True, check=False).returncode == 0


def test_plan_of_a_policy(capsys):
    """Sees a coin promised where the gradients decide."""
    assert main(["plan", "--schedule", "adaptive:1,-1", "--steps", "100"]) == 0
    text = capsys.readouterr().out
    assert "it depends on the gradients" in text
    assert "with seed" not in text


def test_plan_of_a_budget_alone(capsys):
    """Sees a budget that cannot be planned without knowing the number of steps and the batch."""
    assert main(["plan", "--budget", "1.1"]) == 0
    text = capsys.readouterr().out
    assert "13 of 128 examples" in text
    assert "sharpness-aware steps" not in text


def options_of_many_types(
    trial,
    widths: list[int] = [1, 2],  # noqa: B006 - as a user may write it
    mode: Literal["a", "b"] = "a",
    depth: Optional[int] = None,  # noqa: UP045
    rate: Union[float, None] = None,  # noqa: UP007
    sides: tuple = (1.5, 2),
    names: Sequence[str] = (),
    more: dict = {},  # noqa: B006
    flags: list[bool] = [True],  # noqa: B006
    text=None,
): ...


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ("--widths 3 4", {"widths": [3, 4]}),
        ("--mode b", {"mode": "b"}),
        ("--depth 4", {"depth": 4}),
        ("--rate 4", {"rate": 4.0}),
        ("--sides 3", {"sides": [3.0]}),
        ("--names a b --text 7", {"names": ["a", "b"], "text": "7"}),
        ("--mode c", "argument --mode: invalid choice: 'c' (choose from 'a', 'b')"),
        ("--widths x", "argument --widths: 'x' is not a whole number"),
        ("--more x", "argument --more: 'x' cannot be read as dict: give it in Python, compare(options=…)"),
        ("--flags yes", "argument --flags: 'yes' cannot be read as list[bool]: give it in Python"),
    ],
)
def test_types_of_options(arguments, found, capsys):
    """Sees a text given to a task where its signature says a number or a list, or a list as a default crash."""
    parser = _Parser(prog="sharpless")
    try:
        assert parsed(arguments.split(), "my.py:train", options_of_many_types, parser) == found
    except SystemExit:
        assert found in capsys.readouterr().err
