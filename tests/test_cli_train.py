"""`sharpless train`, and what one machine or many do with a command, run as a user runs it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

from sharpless.cli import main
from sharpless.lab.tasks.images.data import load
from sharpless.lab.tasks.images.networks import build
from sharpless.lab.tasks.images.setup import Setup
from test_cli import PATIENCE, SHARPLESS, run_files, sharpless

SMALL = ["--width", "4", "--network", "convnet-groupnorm", "--lr", "0.1"]


def weights(folder, name):
    return torch.load(folder / "weights" / f"{name}.pt", weights_only=True)


def narrow(classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, classes))


def wide(classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes))


def blind(_):
    return wide(3)


def test_train(tmp_path):
    """Sees weights that a plain load_state_dict does not take, or others than those that were tested."""
    command = ["train", "--method", "g-rst", "--seed", "3", "--epochs", "2", *SMALL, "--out", tmp_path]
    ended = sharpless(*command)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    model = build("convnet-groupnorm", classes=10, channels=1, width=4)
    model.load_state_dict(weights(tmp_path, "g-rst-seed3"))
    record = json.loads((tmp_path / "runs/g-rst-seed3.json").read_text())
    x, y = next(load("digits").test.batches([torch.arange(500)]))
    assert record["curve"]["test"][-1] == pytest.approx(100 * float((model(x).argmax(1) == y).float().mean()))
    assert f"accuracy {record['curve']['test'][-1]:.2f} %" in ended.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "runs", "study.json", "weights", "work"]
    again = sharpless(*command)
    assert again.returncode == 0
    assert "there is nothing to train" in again.stdout


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
NODES = [*TORCHRUN, "--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port"]
SHARED = {
    "ddp": lambda: [[*SHARPLESS, "--devices", "2", "--strategy", "ddp"]],
    "fsdp2": lambda: [[*SHARPLESS, "--devices", "2", "--strategy", "fsdp2"]],
    "torchrun": lambda: [[*TORCHRUN, "--nproc-per-node", "2", "-m", "sharpless"]],
    "nodes": lambda: [
        [*NODES, port, "--node-rank", node, "-m", "sharpless"] for port in [free_port()] for node in "01"
    ],
}


@pytest.mark.parametrize("how", SHARED)
def test_two_processes_are_one(how, tmp_path):
    """Sees ranks that toss other coins, take other examples, or do not come to the weights of one process."""
    command = ["train", "--method", "g-rst", "--epochs", "1", "--climb-together", *SMALL, "--clip", "1"]
    assert main([*command, "--out", str(tmp_path / "one")]) == 0
    started = []
    for begin in SHARED[how]():
        place = begin.index("sharpless") + 1  # the options of the setup stand before the command's name
        whole = [*begin[:place], *command, *begin[place:], "--out", str(tmp_path / "two")]
        started.append(subprocess.Popen(whole, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    told = [process.communicate(timeout=PATIENCE) for process in started]
    assert [process.returncode for process in started] == [0] * len(started), told
    assert sum(printed.count("weights: ") for printed, _ in told) == 1
    one, two = (json.loads((tmp_path / name / "runs/g-rst-seed0.json").read_text()) for name in ("one", "two"))
    assert one["sharp_steps"] == two["sharp_steps"]
    assert (one["setup"]["processes"], two["setup"]["processes"]) == (1, 2)
    assert one["setup"]["threads"] == two["setup"]["threads"]
    assert two["curve"]["loss"] == pytest.approx(one["curve"]["loss"], abs=1e-4)
    one, two = (weights(tmp_path / name, "g-rst-seed0") for name in ("one", "two"))
    torch.testing.assert_close(two, one, rtol=0, atol=1e-4)


def test_compare_under_torchrun(tmp_path):
    """Sees processes that wait for one another for ever, or that each compare by themselves."""
    torchrun = [*TORCHRUN, "--nproc-per-node", "2", "-m", "sharpless", "compare", "images"]
    options = ["--methods", "sgd", "sam", "--rho", "0.1", "0.2", "--choice-seeds", "1", "--seeds", "1", "--epochs", "1"]
    command = [*torchrun, *options, *SMALL[:-2], "--out", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("4/4 runs") == ended.stdout.count("The page: ") == 1
    assert {*run_files(tmp_path)} == {"sgd-seed0.json", "sam-seed0.json"}
    (_, one), *_ = run_files(tmp_path).items()
    assert json.loads(one)["setup"]["processes"] == 2
    assert len(list(tmp_path.glob("choice/*.json"))) == 2


@pytest.mark.parametrize(("devices", "blow"), [(1, signal.SIGTERM), (1, signal.SIGKILL), (2, signal.SIGTERM)])
def test_stopped_and_continued(devices, blow, tmp_path):
    """Sees a run that begins anew, that does not say where it stopped, or that comes to other weights."""
    # With 40 steps an epoch, two processes stop in the middle of one.
    command = ["train", "--method", "sam", "--epochs", "12", *SMALL, "--devices", str(devices), "--batch-size", "32"]
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    command += ["--out", str(tmp_path / "cut"), "--checkpoint-every"]
    process = subprocess.Popen(
        [*SHARPLESS, *command, "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    patience = time.monotonic() + PATIENCE
    while not list(tmp_path.glob("cut/work/*/step-*")) and time.monotonic() < patience:
        time.sleep(0.01)
    os.killpg(process.pid, blow)
    _, errors = process.communicate(timeout=PATIENCE)
    if blow is signal.SIGTERM:
        assert process.returncode == 128 + blow
        assert errors.count("interrupted after step ") == 1
        assert "Traceback" not in errors
    assert not run_files(tmp_path / "cut")
    assert list(tmp_path.glob("cut/work/*/step-*"))
    assert main([*command, "1"]) == 0
    name = "sam-seed0"
    assert all(map(torch.equal, weights(tmp_path / "whole", name).values(), weights(tmp_path / "cut", name).values()))
    records = [json.loads((tmp_path / folder / f"runs/{name}.json").read_text()) for folder in ("whole", "cut")]
    assert records[0]["sharp_steps"] == records[1]["sharp_steps"]
    for key in ("loss", "test", "step", "passes"):
        assert records[0]["curve"][key] == records[1]["curve"][key]
    assert not (tmp_path / "cut/work" / name).exists()


def test_two_in_a_folder(tmp_path, capsys):
    """Sees two processes that write to one folder, or a folder that stays locked when its process was killed."""
    command = ["train", "--epochs", "300", *SMALL, "--out", str(tmp_path), "--checkpoint-every", "0.1"]
    process = subprocess.Popen([*SHARPLESS, *command], stdout=subprocess.DEVNULL)
    patience = time.monotonic() + PATIENCE
    while not list(tmp_path.glob("work/*/step-*")) and time.monotonic() < patience:
        time.sleep(0.01)
    assert main(command) == 2
    assert f"another process uses {tmp_path}" in capsys.readouterr().err
    process.kill()
    process.wait()
    assert main([*command[:2], "299", *command[3:]]) == 2
    assert "holds another study (--epochs is 300 there and 299 here)" in capsys.readouterr().err


def test_on_ray(tmp_path):
    """Sees runs that differ by where they are executed, or by how many at a time, or files that are missing."""
    command = ["compare", "images", "--epochs", "1", "--seeds", "2", "--methods", "sgd", "sam", *SMALL]
    found = []
    for way in (["--jobs", "2"], ["--on", "ray"]):
        ended = sharpless(*command, *way, "--out", tmp_path / way[-1])
        assert ended.returncode == 0, ended.stderr
        found.append({name: json.loads(text) for name, text in run_files(tmp_path / way[-1]).items()})
    here, on_ray = found
    assert len(here) == 4
    assert here.keys() == on_ray.keys()
    for name, one in here.items():
        for key in ("loss", "test", "passes"):
            assert one["curve"][key] == on_ray[name]["curve"][key], (name, key)


def test_logs(tmp_path):
    """Sees curves that are missing, or that are others than those of the record."""
    command = ["train", "--epochs", "2", *SMALL, "--log", "tensorboard", "wandb", "--out", str(tmp_path)]
    ended = sharpless(*command, env={**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true"})
    assert ended.returncode == 0, ended.stderr
    record = json.loads((tmp_path / "runs/thrifty-seed0.json").read_text())
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "logs/thrifty-seed0")).Reload()
    points = [(point.step, point.value) for point in board.Scalars("test_accuracy")]
    assert points == [(20 * (i + 1), pytest.approx(value)) for i, value in enumerate(record["curve"]["test"])]
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


# Options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "mnist"], "mnist"),
        (["--data", "cifar10", "--data-dir", "/nowhere"], "/nowhere"),
        (["--network", "resnet19"], "resnet19"),
        (["--network", "test_cli_train:narrow"], "does not take images of 1 channels and 8 × 8 pixels ("),
        (["--network", "test_cli_train:blind"], "gives (1, 3) for one image: give one number per class"),
        (["--accelerator", "tpu"], "--accelerator = tpu is unknown"),
        (["--recipe", "wrn"], "--recipe = wrn is unknown: give digits"),
        (["--batch-size", "2000"], "--batch-size = 2000 is out of range: give 2 to 1297"),
        (["--devices", "3"], "--batch-size = 64 cannot be shared evenly: give a multiple of 3"),
        (["--examples", "5000"], "examples = 5000 is out of range"),
    ],
)
@pytest.mark.parametrize("command", ["train", "compare"])
def test_bad_input(command, arguments, message, tmp_path, capsys):
    """Sees bad input found late, explained in more than a sentence, or after files were written."""
    task = ["images"] * (command == "compare")
    assert main([command, *task, *arguments, "--out", str(tmp_path / "new")]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_help_names_every_field():
    """Sees a field that the command line does not offer."""
    text = sharpless("train", "--help").stdout
    assert all(
        f"--{name.replace('_', '-')}" in text for name in (*Setup.__dataclass_fields__, "rho", "data", "l2", "recipe")
    )
