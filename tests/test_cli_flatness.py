"""`sharpless flatness`, run as a user runs it."""

import json
import re
import textwrap
from xml.etree import ElementTree

import pytest
import torch
from torch.nn.functional import cross_entropy

from sharpless.cli import main
from sharpless.flatness import Objective
from sharpless.lab.measured import listed, objective
from sharpless.lab.tasks.images.data import load
from sharpless.lab.tasks.images.networks import build
from sharpless.report.landscape import surfaces

TRAIN = ["train", "--epochs", "2", "--width", "4", "--noise", "0.2"]
QUICK = ["--vectors", "2", "--directions", "2", "--ascent-steps", "2", "--points", "5", "--eigenvalues", "1"]
MINE = """
    import torch

    def mine(gain=1.0):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
        with torch.no_grad():
            model[0].weight.mul_(gain), model[0].bias.mul_(gain), model[2].weight.div_(gain)
        x = torch.randn(40, 3)
        return model, torch.nn.functional.cross_entropy, list(zip(x.split(8), (x[:, 0] > 0).long().split(8)))

    def rescaled():
        return mine(5.0)

    def model_alone():
        return mine()[0]

    def noisy():
        model, loss, data = mine()
        return model, lambda out, y: loss(torch.nn.functional.dropout(out), y), data

    def failing():
        raise KeyError("weights.pt")

    def failing_model():
        model, loss, data = mine()
        return model, loss, [(torch.ones(4, 7), torch.ones(4))]

    number = 3
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    for method in ("sgd", "ema"):
        assert main([*TRAIN, "--method", method, "--seed", "3", "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(textwrap.dedent(MINE))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_checkpoint(trained, tmp_path, capsys):
    """Sees another network, other labels, or another subset of the examples than the checkpoint was trained with."""
    command = ["flatness", str(trained), "--examples", "400", "--out", str(tmp_path), *QUICK]
    assert main(command) == 0
    written = json.loads((tmp_path / "flatness.json").read_text())
    assert [one["name"] for one in written["checkpoints"]] == ["ema-seed3", "sgd-seed3"]
    model = build("convnet", classes=10, channels=1, width=4)
    model.load_state_dict(torch.load(trained / "weights/sgd-seed3.pt", weights_only=True))
    data = load("digits", noise=0.2, seed=3).train
    rows = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:400]
    loss = Objective(model, cross_entropy, list(data.batches([rows]))).loss()
    one = written["checkpoints"][1]
    assert one["loss"] == pytest.approx(loss)
    assert (one["examples"], one["weights"]) == (400, sum(weight.numel() for weight in model.parameters()))
    printed = capsys.readouterr().out
    values = [one["loss"], one["eigenvalues"]["values"][0], *(near["worst"]["value"] for near in one["sharpness"])]
    cells = [float(cell.replace(",", "")) for cell in re.findall(r"(?<= )[\d,]*\.?\d+(?:e−?\d+)?", printed)]
    for value in [*values, one["trace"]["mean"]]:
        assert any(cell == pytest.approx(value, rel=6e-3) for cell in cells), value
    assert not list(tmp_path.glob(".*.json*"))


def test_a_run_that_is_not_finished(trained, tmp_path, monkeypatch):
    """Sees a checkpoint of training whose averaged weights are not those that are measured."""
    import sharpless.lab.runs.run

    monkeypatch.setattr(sharpless.lab.runs.run.shutil, "rmtree", lambda *_, **__: None)
    command = [*TRAIN, "--method", "ema", "--seed", "3", "--checkpoint-every", "0"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    *_, last = sorted(tmp_path.glob("work/ema-seed3/step-*.pt"))
    finished = objective(str(trained / "weights/ema-seed3.pt"), 300, 100)
    assert torch.equal(objective(str(last), 300, 100).vector(), finished.vector())


def test_the_pictures(mine):
    """Sees pictures that are no SVG, that lack a network, or that draw rescaled networks in two ways."""
    assert main(["flatness", "nets.py:mine", "nets:rescaled", "--out", "out", *QUICK]) == 0
    for name in ("slice.svg", "surface.svg"):
        text = (mine / "out" / name).read_text()
        root = ElementTree.fromstring(text)
        assert root.tag.endswith("svg")
        assert "nets.py:mine" in text
        assert "nets:rescaled" in text
        assert "$" not in text  # formulas that are not set
    lines = re.findall(r"<title>nets[^<]*</title>\s*<path d=\"([^\"]*)\"", (mine / "out/slice.svg").read_text())
    assert len(lines) == 2
    one, two = ([float(number) for number in re.findall(r"[\d.]+", line)] for line in lines)
    assert one == pytest.approx(two, abs=0.1)


def test_a_surface_of_negative_losses():
    """Sees a surface of one color, and a scale from 1e-12 on, for losses below 0, as those of a density."""
    losses = [[-1.0, -2.0, -1.0], [-2.0, -5.0, -2.0], [-1.0, -2.0, -1.0]]
    picture = surfaces([{"name": "flow", "surface": {"at": [-1.0, 0.0, 1.0], "losses": losses}}])
    assert re.findall(r">(−?-?\d[^<]*)</text>", picture)[-5:] == ["-5", "-4", "-3", "-2", "-1"]
    assert "1e-12" not in picture


def test_what_is_left_out(mine, capsys):
    """Sees measures, or pictures of before, that were not asked for."""
    assert main(["flatness", "nets.py:mine", "--out", "out", *QUICK]) == 0
    capsys.readouterr()
    off = [option for name in QUICK[::2] for option in (name, "0")]
    assert main(["flatness", "nets.py:mine", "--out", "out", *off, "--rho", "0.2", "--adaptive-rho"]) == 0
    (found,) = json.loads((mine / "out/flatness.json").read_text())["checkpoints"]
    assert found["eigenvalues"] is found["trace"] is found["slice"] is found["surface"] is None
    assert found["sharpness"] == [{"rho": 0.2, "adaptive": False, "worst": None, "average": None}]
    assert "trace" not in capsys.readouterr().out
    assert [path.name for path in (mine / "out").iterdir() if path.name != ".lock"] == ["flatness.json"]


@pytest.mark.parametrize("width", [40, 80])
def test_a_narrow_terminal(mine, width, monkeypatch, capsys):
    """Sees a column or a number that is cut off."""
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["flatness", "nets.py:mine", "nets:rescaled", "nets.py:rescaled", "--out", "out", *QUICK]) == 0
    printed = capsys.readouterr().out
    assert "…" not in printed
    for name in ("nets.py:mine", "nets:rescaled", "nets.py:rescaled"):
        assert name in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.pt"], "checkpoint = nowhere.pt is not there: give a file of sharpless train, or FILE.py:function"),
        (["."], "checkpoint = . is a folder without weights/*.pt"),
        (["nets.py"], "checkpoint = nets.py cannot be read"),
        (["other.py:mine"], "checkpoint = other.py:mine: there is no file other.py"),
        (["nets.py:yours"], "checkpoint = nets.py:yours: nets.py has no 'yours'"),
        (["nets.py:number"], "checkpoint = nets.py:number is not a function"),
        (["nets.py:model_alone"], "checkpoint = nets.py:model_alone returned Sequential: return (model, loss"),
        (["nets.py:noisy"], "checkpoint = nets.py:noisy: model gives two losses for the same examples"),
        (["nets.py:failing"], "checkpoint = nets.py:failing raised KeyError: 'weights.pt' ("),
        (["nets.py:failing_model"], "checkpoint = nets.py:failing_model raised RuntimeError: mat1 and mat2"),
        (["nets.py:mine", "--rho", "0"], "--rho = 0.0 is out of range: give positive numbers"),
        (["nets.py:mine", "--adaptive-rho", "nan"], "--adaptive-rho = nan is out of range"),
        (["nets.py:mine", "--eigenvalues", "32"], "--eigenvalues = 32 is out of range: give 0 to 31"),
        (["nets.py:mine", "--points", "4"], "--points = 4 is out of range"),
        (["nets.py:mine", "--ascent-steps", "-1"], "--ascent-steps = -1 is out of range"),
        (["nets.py:mine", "--vectors", "1"], "--vectors = 1 is out of range"),
        (["nets.py:mine", "--examples", "0"], "--examples = 0 is out of range"),
        (["nets.py:mine", "--batch-size", "0"], "--batch-size = 0 is out of range"),
        (["nets.py:mine", "--seed", "-1"], "--seed = -1 is out of range"),
        (["nets.py:mine", "--out", "nets.py"], "nets.py cannot be a folder"),
        ([], "the following arguments are required: CHECKPOINT"),
    ],
)
def test_bad_input(arguments, message, mine, capsys):
    """Sees bad input explained in more than a sentence, or after files were written."""
    assert _status(["flatness", *arguments, *([] if "--out" in arguments else ["--out", "out"])]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert "--eigenvalues" in arguments or not (mine / "out").exists()


def test_the_last_is_looked_at_before_the_first_is_measured(mine, capsys):
    """Sees a wrong checkpoint that is found after those before it have been measured."""
    assert main(["flatness", "nets.py:mine", "nets.py:noisy", "--out", "out", *QUICK]) == 2
    assert "nets.py:noisy: model gives two losses" in capsys.readouterr().err
    assert not (mine / "out").exists()


def test_checkpoints_that_are_not_whole(trained, tmp_path, capsys):
    """Sees weights without their record, of another network, or of other data measured as if they were right."""
    for folder in ("weights", "runs"):
        (tmp_path / folder).mkdir()
    lost = tmp_path / "weights/sgd-seed3.pt"
    lost.write_bytes((trained / "weights/sgd-seed3.pt").read_bytes())
    record = json.loads((trained / "runs/sgd-seed3.json").read_text())
    for change, message in (
        (None, "is not a file of sharpless train with its record in ../runs"),
        ({"options": record["options"] | {"width": 8}}, "does not fit its network convnet"),
        ({"data": {"fingerprint": "0" * 16}}, "was trained on other data than digits here"),
        ({"options": record["options"] | {"epochs": 0}}, "epochs = 0 is out of range"),
    ):
        if change is not None:
            (tmp_path / "runs/sgd-seed3.json").write_text(json.dumps(record | change))
        assert main(["flatness", str(lost), "--out", str(tmp_path / "out")]) == 2
        printed = capsys.readouterr().err
        assert message in printed
        assert printed.count("\n") == 1


def test_the_order(trained, mine):
    """Sees checkpoints that are measured twice, or in another order than they were named in."""
    names = ["nets.py:mine", str(trained / "weights/sgd-seed3.pt"), str(trained)]
    assert listed(names) == [*names[:2], str(trained / "weights/ema-seed3.pt")]


def _status(arguments):
    try:
        return main(arguments)
    except SystemExit as ended:
        return ended.code
