"""What commands answer to people, to programs, and to those who asked for silence; and the completions of shells."""

import json
import os
import subprocess
import sys

import pytest

from sharpless.cli import main
from sharpless.cost import expected_cost, expected_sharp_steps, plan
from sharpless.report.table import rows
from sharpless.schedules import parse
from synthetic_runs import make_folder

SHARPLESS = [sys.executable, "-m", "sharpless"]
TASK = """
import os
import torch
from sharpless.lab import task

@task(metric="error", goal="min")
def train(trial):
    print("the task prints")
    os.write(1, b"so does what it calls\\n")
    torch.manual_seed(trial.seed)
    model = torch.nn.Linear(3, 1)
    opt = trial.optimizer(torch.optim.SGD(model.parameters(), lr=0.1), model=model)
    if trial.method.name == "rst":
        raise ValueError("it does not like rst")
    for _ in range(trial.epochs(4)):
        for x in opt.passes(torch.randn(8, 3)):
            model(x).square().mean().backward()
        opt.step()
        opt.zero_grad()
    trial.report(test=model.weight.detach().square().sum())
"""


def answered(capfd, *arguments, status=0):
    """The JSON object that a command answers with, and what else it writes."""
    assert main([*map(str, arguments), "--json"]) == status
    written = capfd.readouterr()
    assert written.out.count("\n") == 1
    return json.loads(written.out), written.err


def test_plan_of_a_schedule(capfd):
    """Sees a drawing beside the object, or figures other than those of the schedule."""
    found, beside = answered(capfd, "plan", "--schedule", "linear:0,1", "--steps", 500, "--seconds-per-step", 0.5)
    assert beside == ""
    schedule = parse("linear:0,1")
    assert parse(found["schedule"]) == schedule
    assert (found["batch_fraction"], found["gamma"], found["steps"]) == (1.0, 2.0, 500)
    assert found["cost"] == expected_cost(schedule, 500)
    assert found["sharp_steps"]["expected"] == expected_sharp_steps(schedule, 500)
    assert main(["plan", "--schedule", "linear:0,1", "--steps", "500"]) == 0
    assert f"{found['sharp_steps']['drawn']} sharpness-aware steps" in capfd.readouterr().out
    assert found["expected_seconds"] == {"planned": 250 * found["cost"], "plain": 250.0, "sam": 500.0}


def test_plan_of_a_budget(capfd):
    """Sees another plan than the optimizer's, or an infinite number, which JSON has not."""
    found, _ = answered(capfd, "plan", "--budget", 1.2, "--batch-size", 64)
    planned = plan(1.2, 64)
    assert (found["schedule"], found["batch_fraction"]) == (str(planned.p), planned.batch_fraction)
    assert (found["gamma"], found["cost"]) == (planned.gamma, pytest.approx(planned.cost))
    found, _ = answered(capfd, "plan", "--schedule", "1e-320", "--steps", 10)
    assert found["gamma"] is None


def test_report(tmp_path, capfd):
    """Sees a table beside the object, or an object other than summary.json."""
    folder = make_folder(tmp_path / "runs", ("sgd", "sam"), 2)
    found, beside = answered(capfd, "report", folder, "--out", tmp_path)
    assert beside == ""
    page = found.pop("page")
    assert page == str(tmp_path / "report.html")
    assert found == json.loads((tmp_path / "summary.json").read_text())
    assert main(["report", str(folder), "--out", str(tmp_path), "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")
    assert answered(capfd, "report", folder, "--out", tmp_path, "--quiet") == (found | {"page": page}, "")
    assert main(["report", str(folder), "--out", str(tmp_path)]) == 0
    assert rows(found)[0][0] in capfd.readouterr().out


def test_train(tmp_path, capfd):
    """Sees figures other than those of the record, progress beside the object, or another object the second time."""
    command = ["train", "--epochs", 1, "--width", 4, "--method", "sam", "--out", tmp_path]
    found, beside = answered(capfd, *command)
    assert "epoch 1/1" in beside
    record = json.loads((tmp_path / "runs/sam-seed0.json").read_text())
    assert found["record"] == str(tmp_path / "runs/sam-seed0.json")
    assert found["weights"] == str(tmp_path / "weights/sam-seed0.pt")
    assert (found["value"], found["cost"], found["seed"]) == (record["curve"]["test"][-1], 2.0, 0)
    assert answered(capfd, *command) == (found, f"SAM on digits, in {tmp_path}\n")
    assert main([*map(str, command), "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")


NETWORK = """
import torch

def mine():
    torch.manual_seed(0)
    return torch.nn.Linear(3, 2), torch.nn.functional.cross_entropy, [(torch.randn(8, 3), torch.tensor([0, 1] * 4))]
"""


def test_flatness(tmp_path, monkeypatch, capfd):
    """Sees a table beside the object, or an object other than flatness.json."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "networks.py").write_text(NETWORK)
    off = [word for name in ("vectors", "directions", "ascent-steps", "points") for word in (f"--{name}", 0)]
    found, beside = answered(capfd, "flatness", "networks.py:mine", "--out", "out", "--eigenvalues", 1, *off)
    assert found == json.loads((tmp_path / "out/flatness.json").read_text())
    assert "eigenvalue 1" not in beside


def test_compare(tmp_path, monkeypatch, capfd):
    """Sees what a task prints, here and in other processes, among the object, or lost; a failure that it leaves out."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(TASK)
    command = ["compare", "own.py:train", "--seeds", "1", "--methods", "sgd", "sam"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [*SHARPLESS, *command, "rst", "--json"], capture_output=True, text=True, check=False, env=environment
    )
    assert ended.returncode == 1
    found = json.loads(ended.stdout)
    for part in ("the task prints", "so does what it calls", "seconds", "rst-seed0 failed"):
        assert part in ended.stderr
    (failure,) = found.pop("failures")
    assert failure["run"] == "rst-seed0"
    assert "it does not like rst" in failure["why"]
    assert found.pop("page") == "runs/compare/report.html"
    assert found == json.loads((tmp_path / "runs/compare/summary.json").read_text())
    assert [method["method"] for method in found["methods"]] == ["sgd", "sam"]
    assert main([*command, "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("option", ["--json", "--quiet"])
@pytest.mark.parametrize(
    "command",
    [
        ["plan", "--budget", "3"],
        ["report", "nowhere"],
        ["compare", "--seeds", "0"],
        ["train", "--method", "sgdd"],
        ["plan", "--bugdet", "1.1"],
    ],
    ids=" ".join,
)
def test_errors_stay_a_sentence(command, option, capfd):
    """Sees an error that is silent, on the standard output, or an object beside it."""
    try:
        status = main([*command, option])
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    written = capfd.readouterr()
    assert written.out == ""
    assert written.err.startswith("sharpless: ")
    assert written.err.count("\n") == 1


BASH = """
eval "$({sharpless} --print-completion bash)"
[[ $(complete -p sharpless) =~ -F\\ ([^ ]+) ]]
COMP_WORDS=(sharpless "$@"); COMP_CWORD=$#; COMPREPLY=()
${{BASH_REMATCH[1]}}
echo "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "completion"),
    [
        ("tr", "train"),
        ("train --prec", "--precision"),
        ("compare --on ", "local ray"),
        ("plan --js", "--json"),
        ("report --out f", "folder"),
        ("report f", "file folder"),
    ],
)
def test_completion(words, completion, tmp_path):
    """Sees a script that bash does not take, or that completes no command, option, choice, folder or file."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    script = BASH.format(sharpless=" ".join(SHARPLESS))
    ended = subprocess.run(
        ["bash", "-c", script, "bash", *words.split(" ")], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert ended.stderr == ""
    assert sorted(ended.stdout.split()) == completion.split()


def test_completion_without_its_package(monkeypatch, capsys):
    """Sees a traceback where the package that writes the script is not installed."""
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit, match="2"):
        main(["--print-completion", "bash"])
    assert "needs shtab: pip install 'sharpless[lab]'" in capsys.readouterr().err
