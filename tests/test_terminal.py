"""The command line where something is odd: names, encodings, terminals, disks, files, networks of the user's."""

import errno
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time

import pytest
import torch

from sharpless.cli import main
from sharpless.cost import expected_sharp_steps
from sharpless.lab import store
from sharpless.lab.faults import Failure
from sharpless.lab.methods.method import Method
from sharpless.lab.runs.run import Run
from sharpless.lab.runs.stopping import Stopped
from sharpless.lab.studies.study import Study
from sharpless.lab.tasks.images.checkpoints import Checkpoints, _digest
from sharpless.lab.trials.definition import Task
from sharpless.report.html import render
from sharpless.report.runs import read_runs
from sharpless.report.summary import summarize
from sharpless.schedules import parse
from synthetic_runs import OPTIONS, make_folder, make_record, write_records

SHARPLESS = [sys.executable, "-m", "sharpless"]
TINY = ["--epochs", "1", "--width", "4"]
BARE = "import sys; sys.modules.update(dict.fromkeys({missing}))\nfrom sharpless.cli import main; sys.exit(main())"
EXTRAS = ["numpy", "scipy", "sklearn", "cloudpickle", "matplotlib", "jinja2", "rich", "pydantic", "datasets"]


def run(*arguments, program=SHARPLESS, **environment):
    return subprocess.run(
        [*program, *map(str, arguments)],
        capture_output=True,
        check=False,
        timeout=100,
        env={**os.environ, **environment},
    )


def bare(*arguments, missing):
    """Run a command where some packages cannot be imported."""
    return run(*arguments, program=[sys.executable, "-c", BARE.format(missing=missing)])


def refused(capsys, *arguments):
    """The one sentence in which a command refuses."""
    assert main([*map(str, arguments)]) == 2
    sentence = capsys.readouterr().err
    assert sentence.startswith("sharpless: ")
    assert sentence.count("\n") == 1
    return sentence


# Names


@pytest.mark.parametrize("name", ["[/a]", "[red]a", ":bomb:", "$x$ & <b>", "a\nb", "a\x1b[31mb", "a\udcffb", "\u202eb"])
def test_a_folder_may_have_any_name(name, tmp_path, capsys):
    """Sees markup, an emoji, a line break, a command to the terminal or bytes that are no text taken from a name."""
    folder = make_folder(tmp_path / name, ("sgd", "sam"), 2)
    assert main(["report", str(folder), "--out", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert json.loads((folder / "summary.json").read_text())["methods"]
    assert "<svg" in (folder / "report.html").read_text()
    assert not re.search("[\x1b\u202e\ud800-\udfff]", printed)
    seen = name.encode("unicode_escape").decode() if re.search("[^ -~]", name) else name
    assert f"{tmp_path}/{seen}/report.html" in printed


def test_train_into_a_folder_of_any_name(tmp_path, capsys):
    """Sees a traceback after the training, by a folder that looks like markup."""
    command = ["train", *TINY, "--method", "sam", "--out", str(folder := tmp_path / "[/a]")]
    assert main(command) == 0
    assert f"{folder}/weights/sam-seed0.pt" in capsys.readouterr().out
    assert main(command) == 0
    assert main([*command, "--epochs", "2"]) == 2
    assert f"{folder} holds another study (--epochs is 1 there and 2 here)" in capsys.readouterr().err


def test_the_page_shows_names_as_they_are(tmp_path):
    """Sees markup of a name in the page, or a name that is no text and keeps the page from being written."""
    data = "folder:/a/<b>&$x$\udcff"
    records = [
        make_record(method, seed, options={**OPTIONS, "data": data}) for method in ("sgd", "sam") for seed in "01"
    ]
    records = [record | {"seed": int(record["seed"])} for record in records]
    runs = read_runs(write_records(tmp_path, records))
    store.write(tmp_path / "page.html", render(runs, summarize(runs)))
    page = (tmp_path / "page.html").read_text()
    assert "<b>" not in page
    assert "folder:/a/&lt;b&gt;&amp;$x$\\udcff" in page
    store.write(tmp_path / "data.json", json.dumps(data, ensure_ascii=False))
    assert json.loads((tmp_path / "data.json").read_text()) == data


# Terminals


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("comparison"))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-16"])
def test_output_in_any_encoding(encoding, comparison, tmp_path):
    """Sees a traceback, or a table out of line, where the encoding of the output lacks a character."""
    for command in (["report", comparison, "--out", tmp_path], ["plan", "--schedule", "linear:0,1", "--steps", "9"]):
        ended = run(*command, PYTHONIOENCODING=encoding)
        assert (ended.returncode, ended.stderr) == (0, b"")
        told = ended.stdout.decode(encoding)
        if command[0] == "report":
            rows = [line for line in told.splitlines() if re.search(r"\[[+-]\d", line)]
            assert len(rows) >= 5
            assert len({*map(len, rows)}) == 1
        if encoding == "ascii":
            assert "84.0 +- " in told or "8| " in told or "#" in told
    help_text = run("train", "--help", PYTHONIOENCODING=encoding)
    assert (help_text.returncode, help_text.stderr) == (0, b"")


def test_output_in_the_c_locale(comparison, tmp_path):
    """Sees a traceback where the locale is C, as in containers."""
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ended = run("report", comparison, "--out", tmp_path / "\u00e9", **plain)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"84." in ended.stdout


def test_forty_columns(comparison, tmp_path):
    """Sees columns cut away or lines broken in a narrow terminal, in table, drawing and help."""
    told = run("report", comparison, "--out", tmp_path, COLUMNS="40").stdout.decode()
    summary = json.loads((tmp_path / "summary.json").read_text())
    for entry in summary["methods"]:
        block = told[told.index(f"\n{entry['label']}") + 1 :].split("\n\n")[0].splitlines()
        assert re.fullmatch(rf"  accuracy %        {entry['value']['mean']:.1f} ± .*", block[1])
        assert re.fullmatch(rf"  cost              {entry['cost']:.2f}", block[2])
        assert max(map(len, block[1:])) <= 40
    drawn = run("plan", "--schedule", "linear:0,1", "--steps", "9", COLUMNS="40").stdout.decode()
    assert max(len(line) for line in drawn.splitlines() if "│" in line or "└" in line) <= 40
    for command in ((), ("compare",), ("train",), ("plan",), ("report",), ("flatness",)):
        ended = run(*command, "--help", COLUMNS="40")
        assert ended.returncode == 0
        assert max(map(len, ended.stdout.decode().splitlines())) <= 60  # a choice of names cannot be broken


def test_a_reader_that_has_enough():
    """Sees a traceback, or a complaint of Python at its end, behind `| head -1`."""
    for command in (["plan", "--schedule", "0.5", "--steps", "9"], ["train", "--help"], ["--version"]):
        reading, writing = os.pipe()
        os.close(reading)
        ended = subprocess.run([*SHARPLESS, *command], stdout=writing, stderr=subprocess.PIPE, check=False)
        os.close(writing)
        assert ended.stderr == b""
        assert ended.returncode in ({128 + signal.SIGPIPE} if command[0] == "plan" else {0, 128 + signal.SIGPIPE})


def test_output_to_a_full_disk():
    """Sees a traceback where the output is redirected to a full disk."""
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [*SHARPLESS, "plan", "--budget", "1.1"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert ended.returncode == 2
    assert ended.stderr == "sharpless: the output cannot be written: No space left on device\n"


def test_closed_output():
    """Sees a traceback where standard output or standard error is closed, as in some services."""
    plan = shlex.join([*SHARPLESS, "plan", "--budget"])
    for ending, returncode in (("1.1 >&-", 0), ("1.1 2>&-", 0), ("3 2>&-", 2)):
        ended = subprocess.run(f"{plan} {ending}", shell=True, capture_output=True, check=False)
        assert (ended.stderr, ended.returncode) == (b"", returncode)


# What is imported


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["--help"],
        ["plan", "--help"],
        ["plan", "--schedule", "warmup:0.1/adaptive:1,-1", "--steps", "100"],
        ["plan", "--budget", "1.1", "--steps", "100"],
        ["compare", "--help"],
        ["train", "--help"],
        ["report", "--help"],
        ["flatness", "--help"],
        ["compare", "--seeds", "0"],
        ["train", "--lr-warmup", "2"],
    ],
)
def test_the_light_commands_need_nothing(arguments):
    """Sees a plan or a help that waits for torch, or asks for numpy."""
    wrong = {"--lr-warmup": b"--lr-warmup = 2.0 is out of range", "--seeds": b"--seeds = 0 is out of range"}
    sentences = [sentence for option, sentence in wrong.items() if option in arguments]
    ended = bare(*arguments, missing=["torch"] if sentences else ["torch", *EXTRAS])
    assert b"Traceback" not in ended.stderr
    assert ended.returncode == (2 if sentences else 0)
    for sentence in sentences:
        assert ended.stderr.startswith(b"sharpless: " + sentence)


@pytest.mark.parametrize("missing", EXTRAS[:-1])
@pytest.mark.parametrize("command", ["compare", "train", "report", "flatness"])
def test_what_is_missing_is_named(missing, command, tmp_path):
    """Sees a traceback, or work begun, where a package is missing that the command needs."""
    if command == "report" and missing in {"sklearn", "cloudpickle"}:
        return
    ended = bare(
        command,
        *([tmp_path] if command in {"report", "flatness"} else []),
        "--out",
        tmp_path / "new",
        missing=[missing],
    )
    assert ended.returncode == 2
    assert ended.stderr.decode() == f"sharpless: {command} needs {missing}: pip install 'sharpless[lab]'\n"
    assert not (tmp_path / "new").exists()


def test_something_is_said_before_what_is_slow_is_imported(tmp_path):
    """Sees seconds of silence at the start: the first line has to come before torch."""
    ended = bare("compare", "--seeds", "2", "--methods", "sgd", "sam", "--out", tmp_path / "new", missing=["torch"])
    assert ended.stdout.decode() == f"2 methods × 2 seeds of digits, in {tmp_path / 'new'}\n"


@pytest.mark.parametrize("command", ["compare", "train"])
def test_ctrl_c_while_modules_are_imported(command, tmp_path):
    """Sees a traceback of a Ctrl-C that comes in the first seconds."""
    process = subprocess.Popen(
        [*SHARPLESS, command, "--out", tmp_path / "new"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, b"sharpless: interrupted\n")


# Names of options


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (["train", "--lr-warmup", "2"], "--lr-warmup = 2.0 is out of range"),
        (["train", "--batch-size", "1"], "--batch-size = 1 is out of range"),
        (["train", "--batch-size", "9999"], "--batch-size = 9999 is out of range: give 2 to 1297"),
        (
            ["train", "--batch-size", "10", "--accumulate", "4"],
            "--batch-size = 10 is not a multiple of --accumulate = 4",
        ),
        (["train", "--nodes", "2"], "--nodes = 2 would wait for the other nodes forever: start it with torchrun"),
        (["train", "--lr", "1e308"], "--lr = 1e+308 is out of range"),
        (["train", "--image-size", "-1"], "--image-size = -1 is out of range"),
        (["train", "--image-size", "100"], "--image-size = 100 is too large for digits"),
        (["train", "--label-smoothing", "nan"], "--label-smoothing = nan is out of range"),
        (["train", "--weight-decay", "inf"], "--weight-decay = inf is out of range"),
        (["train", "--checkpoint-every", "nan"], "--checkpoint-every = nan is out of range"),
        (["train", "--data-dir", "/"], "--data-dir = / is for cifar10"),
        (["train", "--validation", "0.9999"], "--validation = 0.9999 leaves none of the 1297 training examples"),
        (["train", "--seed", "-1"], "--seed = -1 is out of range"),
        (["train", "--recipe", "wrn"], "--recipe = wrn is unknown: give digits"),
        (["train", "--data", "mnist"], "--data = mnist is unknown"),
        (["train", "--method", "g-rst:p=linear:0,2"], "method g-rst:p=linear:0,2: end = 2.0 is not a probability"),
        (["train", "--method", "rst:p=often"], "method rst:p=often: "),
        (["train", "--method", "rst:p=" + "warmup:0/" * 5000 + "1"], "method rst:p=warmup:0/"),
        (["train", "--method", "thrifty:budget=nan"], "method thrifty:budget=nan: budget = nan is out of range"),
        (["train", "--method", "sma"], "method 'sma' is unknown"),
        (["compare", "--seeds", "0"], "--seeds = 0 is out of range"),
        (["compare", "--seeds", "2000000000"], "--seeds = 2000000000 is out of range: give at most 10000"),
        (["compare", "--first-seed", "-1"], "--first-seed = -1 is out of range"),
        (["compare", "--jobs", "0"], "--jobs = 0 is out of range"),
        (["compare", "--margin", "nan"], "--margin = nan"),
        (["compare", "--methods", ""], "--methods = nothing: choose from sgd"),
        (["plan", "--schedule", "1", "--steps", "9", "--batch-fraction", "nan"], "--batch-fraction = nan is not"),
        (["plan", "--schedule", "1", "--steps", "0"], "--steps = 0 is not a number of steps"),
        (["plan", "--schedule", "1", "--steps", "9", "--seconds-per-step", "1e308"], "--seconds-per-step = 1e+308 is"),
        (["plan", "--schedule", "1", "--batch-size", "8", "--steps", "1"], "--batch-size = 8 has no effect on a"),
        (["plan", "--schedule", "linear:0,2", "--steps", "9"], "--schedule = linear:0,2: end = 2.0"),
        (["plan", "--budget", "inf"], "--budget = inf is out of range"),
    ],
)
def test_options_are_named_as_they_are_typed(arguments, start, tmp_path, capsys):
    """Sees a sentence that names a field of Python, a part of a schedule or nothing in place of the option."""
    out = [] if arguments[0] == "plan" else ["--out", tmp_path / "new"]
    assert refused(capsys, *arguments, *out).startswith(f"sharpless: {start}")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (["compare", "--epochs", "1.5"], "argument --epochs: '1.5' is not a whole number"),
        (["compare", "--epochs", "9" * 30], "argument --epochs: 999999999999999999999999… is out of range"),
        (["compare", "--batch-size", "9" * 400], "argument --batch-size: 99999"),
        (["plan", "--steps", "9" * 5000], "argument --steps: "),
        (["train", "--lr", "fast"], "argument --lr: "),
        (["train", "--out", ""], "argument --out: the path is empty: give one, . for this folder"),
        (["report", ""], "argument RUNS: the path is empty"),
        (["compare", "--batchsize", "8"], "unrecognized arguments: --batchsize 8"),
        (["compair"], "argument COMMAND: invalid choice: 'compair' (choose from 'compare'"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_options_that_cannot_be_read(arguments, start, capsys):
    """Sees dozens of lines of usage, a number that overflows later, or an empty variable of the shell taken for `.`."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    sentence = capsys.readouterr().err
    assert caught.value.code == 2
    assert sentence.startswith(f"sharpless: {start}")
    assert sentence.count("\n") == 1


# Plans


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--schedule", "linear:0,1"], "500000000 ± 12910 of 1000000000 expected"),
        (["--schedule", "0.5", "--seed", "3"], "500000000 ± 15811 of"),
        (["--schedule", "periodic:8"], "125000000 ± 0 of"),
        (["--schedule", "piecewise:0,1@0.75"], "250000000 ± 0 of"),
        (["--schedule", "cosine:1,0", "--seconds-per-step", "0.1"], "500000000 ± 11180 of"),
        (["--schedule", "warmup:0.5/adaptive:0,0"], "250000000 ± 11180 of"),
        (["--budget", "1.5", "--batch-size", "8"], "1000000000 ± 0 of"),
    ],
)
def test_a_plan_of_a_billion_steps(arguments, expected, capsys):
    """Sees a plan that takes minutes, or figures that are not those of the schedule."""
    start = time.process_time()
    assert main(["plan", *arguments, "--steps", "1000000000"]) == 0
    assert time.process_time() - start < 5
    assert expected in capsys.readouterr().out


@pytest.mark.parametrize("text", ["linear:0,1", "cosine:1,0", "periodic:7", "piecewise:0,1@0.3", "warmup:0.1/0.5"])
def test_long_runs_are_expected_as_short_ones_are(text):
    """Sees a step in the expected number where the sum gives way to the integral."""
    schedule = parse(text)
    steps = 100_000
    assert expected_sharp_steps(schedule, steps + 1) == pytest.approx(expected_sharp_steps(schedule, steps), abs=2.1)


# Disks


def full(monkeypatch, where):
    """Let the disk be full for what lies in a folder."""
    really = store._write_with

    def write(path, fill):
        if path.is_relative_to(where):
            raise OSError(errno.ENOSPC, "No space left on device")
        really(path, fill)

    monkeypatch.setattr(store, "_write_with", write)


def test_a_disk_that_is_full_at_the_end(tmp_path, monkeypatch, capsys):
    """Sees a finished training lost, its checkpoints deleted, or a sentence that names no file."""
    (tmp_path / "spare").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "spare"))
    command = ["train", *TINY, "--method", "sam", "--checkpoint-every", "0", "--out", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        full(patch, tmp_path / "out" / "weights")
        sentence = refused(capsys, *command)
    place = tmp_path / "out" / "weights" / "sam-seed0.pt"
    assert sentence.startswith(
        f"sharpless: {place}: No space left on device: weights and record are in {tmp_path}/spare"
    )
    (kept,) = (tmp_path / "spare").glob("*/weights/sam-seed0.pt")
    assert list(tmp_path.glob("out/work/*/step-000000020-*.pt"))
    assert main(command) == 0
    weights, spare = (torch.load(path, weights_only=True) for path in (place, kept))
    assert all(map(torch.equal, weights.values(), spare.values()))


def test_all_disks_full(tmp_path, monkeypatch, capsys):
    """Sees a traceback, or a training that has to begin anew, where no disk takes its weights."""
    command = ["train", *TINY, "--method", "sam", "--checkpoint-every", "0", "--out", str(tmp_path / "out")]
    (tmp_path / "spare").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "spare"))
    with monkeypatch.context() as patch:
        full(patch, tmp_path / "out" / "weights")
        full(patch, tmp_path / "spare")
        sentence = refused(capsys, *command)
    assert f"{tmp_path}/out/weights/sam-seed0.pt: No space left on device: free some space there" in sentence
    assert not list((tmp_path / "spare").iterdir())
    assert list(tmp_path.glob("out/work/*/step-000000020-*.pt"))
    assert main(command) == 0


@pytest.mark.parametrize("what", ["link to nowhere", "file", "runs", "weights", "study.json", "run", "loop"])
@pytest.mark.parametrize("command", ["train", "compare"])
def test_something_else_in_the_place(command, what, tmp_path, capsys):
    """Sees a training that cannot be written at its end, since a folder stands in the place of a file, or the like."""
    if (command, what) == ("compare", "run"):
        return  # it leaves no weights
    out = tmp_path / "out"
    if what == "link to nowhere":
        out.symlink_to(tmp_path / "nowhere")
    elif what == "loop":
        out.symlink_to(out)
    elif what == "file":
        out.write_text("")
    else:
        out.mkdir()
        if what in {"runs", "weights"}:
            (out / what).write_text("")
        else:
            (out / {"run": "weights/sgd-seed0.pt"}.get(what, what)).mkdir(parents=True)
    name = {"run": "weights/sgd-seed0.pt", "runs": "runs", "weights": "weights", "study.json": "study.json"}
    option = ["--method", "sgd"] if command == "train" else ["--methods", "sgd", "--seeds", "1"]
    sentence = refused(capsys, command, *TINY, *option, "--out", out)
    assert sentence.startswith(f"sharpless: {out / name.get(what, '')}")
    assert "with --out" in sentence


# Networks of the user's

NETWORK = """import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.layer = nn.Linear(64, classes)

    def forward(self, x):
        {forward}
        return self.layer(x.flatten(1))

def make(classes):
    {factory}
    return Net(classes)
{module}
"""


@pytest.mark.parametrize(
    ("fault", "line", "told"),
    [
        ({"factory": "1 / 0"}, 14, "ZeroDivisionError: division by zero"),
        ({"factory": "nn.Linear(2, -1)"}, 14, "RuntimeError: "),
        ({"factory": "raise StopIteration"}, 14, "StopIteration"),
        ({"forward": "x = x['pixels']"}, 10, "IndexError: "),
        ({"forward": "if self.training: raise KeyError('head')"}, 10, "KeyError: 'head'"),
        ({"forward": "if self.training: torch.ones(2) @ torch.ones(3)"}, 10, "RuntimeError: "),
        ({"module": "import argparse; argparse.ArgumentParser().parse_args(['--what'])"}, 16, "SystemExit: 2"),
        ({"module": "undefined"}, 16, "NameError: name 'undefined' is not defined"),
        ({"module": "def broken(:"}, 16, "SyntaxError: invalid syntax"),
    ],
)
def test_a_network_that_raises(fault, line, told, tmp_path, monkeypatch, capsys):
    """Sees a traceback, another fault told than the network's, or no word of where in the user's file it is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    name = f"net_{abs(hash((*fault.items(),)))}"
    file = tmp_path / f"{name}.py"
    file.write_text(NETWORK.format(**({"forward": "pass", "factory": "pass", "module": ""} | fault)))
    assert main(["train", *TINY, "--network", f"{name}:make", "--method", "sgd", "--out", "out"]) == 2
    sentence = capsys.readouterr().err
    assert sentence.splitlines()[-1].startswith(f"sharpless: --network = {name}:make")
    assert f"{file}, line {line}" in sentence
    assert told in sentence
    assert "Traceback" not in sentence


@pytest.mark.parametrize(
    "error",
    [
        "MemoryError()",
        "torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.')",
        'RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: not enough memory: you tried to ...")',
    ],
)
@pytest.mark.parametrize("place", ["factory", "forward", "training"])
def test_not_enough_memory(error, place, tmp_path, monkeypatch, capsys):
    """Sees a traceback, or the network blamed, where memory does not suffice."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    name = f"hungry_{abs(hash((error, place)))}"
    fault = f"raise {error}" if place != "training" else f"if self.training: raise {error}"
    lines = {"forward": "pass", "factory": "pass", "module": ""} | {place.replace("training", "forward"): fault}
    (tmp_path / f"{name}.py").write_text(NETWORK.format(**lines))
    sentence = refused(capsys, "train", *TINY, "--network", f"{name}:make", "--method", "sgd", "--out", "out")
    assert sentence.startswith("sharpless: there is too little memory (")
    assert "give a smaller --batch-size" in sentence


def nothing(classes):
    """A network that returns no tensor."""

    class Nothing(torch.nn.Linear):
        def forward(self, x):
            return {"logits": x}

    return Nothing(1, classes)


def detached(classes):
    """A network that no gradient flows through."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes).requires_grad_(False))


@pytest.mark.parametrize(
    ("network", "clause"),
    [
        ("test_terminal:detached", "without a gradient"),
        ("os:system", "raised TypeError: expected str"),
        ("test_terminal:EXTRAS", "cannot be called"),
    ],
)
def test_a_network_that_is_none(network, clause, tmp_path, capsys):
    """Sees a traceback where what is named makes no network, or none that can be trained."""
    command = ["train", *TINY, "--method", "sgd", "--network", network, "--out", str(tmp_path / "new")]
    assert main(command) == 2
    sentence = capsys.readouterr().err
    assert f"sharpless: --network = {network}" in sentence
    assert clause in sentence


def test_a_network_that_returns_no_tensor(tmp_path, capsys):
    """Sees a traceback where a network returns a dict, as those of transformers do."""
    sentence = refused(capsys, "train", "--network", "test_terminal:nothing", "--out", tmp_path / "new")
    assert "gives a dict for one image: give one number per class" in sentence


# Files that were edited


def deep(levels):
    return json.loads("[" * levels + "]" * levels)


@pytest.mark.parametrize(
    ("changes", "clause"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 10**12}, "steps"),
        ({"steps": 1.5}, "steps"),
        ({"seconds": -1.0}, "seconds"),
        ({"seconds": math.nan}, "seconds"),
        ({"seconds": 10**400}, "seconds"),
        ({"data_seconds": math.inf}, "data_seconds"),
        ({"passes": 0}, "passes"),
        ({"plain_passes": 1e-300}, "plain_passes"),
        ({"curve": {}}, "curve"),
        ({"curve": deep(50)}, "curve"),
        ({"batch_fraction": 0.0}, "batch_fraction"),
        ({"batch_fraction": math.nan}, "batch_fraction"),
        ({"seed": -1}, "seed"),
        ({"sharp_steps": [10**6]}, "sharp_steps"),
        ({"sharp_steps": [3, 3]}, "sharp_steps"),
        ({"schedule": "often"}, "cannot be read"),
        ({"schedule": "warmup:0/" * 5000 + "1"}, "schedule"),
        ({"machine": {"cores": math.nan}}, "machine"),
        ({"setup": {"devices": deep(50)}}, "setup"),
        ({"versions": "2.6"}, "versions"),
        ({"metric": {"name": "accuracy", "unit": "%", "goal": "up"}}, "goal"),
        ({"look": {"color": "red; }", "marker": "v", "dashes": []}}, "look"),
    ],
)
def test_a_record_that_was_edited(changes, clause, tmp_path, capsys):
    """Sees a record that no run writes shown in a report, minutes of work on it, or a sentence without the file."""
    folder = make_folder(tmp_path, ("sgd", "sam"), 2)
    path = folder / "runs" / "sam-seed9.json"
    path.write_text(json.dumps(make_record("sam", 9) | changes))
    sentence = refused(capsys, "report", folder, "--out", tmp_path)
    assert sentence.startswith(f"sharpless: {path} ")
    assert clause in sentence


@pytest.mark.parametrize("what", ["nested", "folder", "loop", "nowhere", "pipe", "bytes"])
def test_something_else_in_the_place_of_a_record(what, tmp_path, capsys):
    """Sees a traceback, or a wait for ever, where a run file is none."""
    folder = make_folder(tmp_path, ("sgd", "sam"), 2)
    path = folder / "runs" / "sam-seed9.json"
    match what:
        case "nested":
            path.write_text("[" * 100_000)
        case "folder":
            path.mkdir()
        case "loop":
            path.symlink_to(path)
        case "nowhere":
            path.symlink_to(tmp_path / "nowhere")
        case "pipe":
            os.mkfifo(path)
        case "bytes":
            path.write_bytes(b"\xff\xfe")
    assert refused(capsys, "report", folder, "--out", tmp_path).startswith(f"sharpless: {path} is n")


def test_a_long_run_is_drawn(tmp_path):
    """Sees a page that takes minutes, or a strip that is not that of the steps, for a run of many steps."""
    sharp = list(range(100_000_000, 200_000_000, 50_000))
    record = make_record("rst", 0) | {"steps": 200_000_000, "schedule": "piecewise:0,1@0.5", "sharp_steps": sharp}
    runs = read_runs(write_records(tmp_path, [record]))
    start = time.process_time()
    assert "<svg" in render(runs, summarize(runs))
    assert time.process_time() - start < 20


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "[" * 100_000,
        '{"task": [], "options": "", "threads": 1}',
        '{"task": "images", "threads": 1}',
        b"\xff",
    ],
)
def test_a_study_that_was_edited(content, tmp_path, capsys):
    """Sees a traceback, or a sentence without the file, where a folder's description is none."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "sgd-seed0.json").write_text("{}")
    path = tmp_path / "study.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    sentence = refused(capsys, "train", *TINY, "--out", tmp_path)
    assert sentence.startswith(f"sharpless: {path} is not the study of this version: choose another folder with --out")


@pytest.mark.parametrize("threads", ["1", 10**12, True, 0])
def test_threads_that_were_edited(threads, tmp_path, capsys):
    """Sees a number of threads taken from a folder that is none."""
    command = ["train", *TINY, "--method", "sgd", "--out", str(tmp_path)]
    assert main(command) == 0
    path = tmp_path / "study.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"threads": threads}))
    assert "is not the study of this version" in refused(capsys, *command)


def stopped(tmp_path):
    """A run that has left a checkpoint at step 10, and its checkpoint."""
    run = Run(Task.of("images", {"epochs": 1, "width": 4}), Method("g-rst"), 0, tmp_path, 1, {})

    def stop(_):
        if trial.cost.steps == 10:
            os.kill(os.getpid(), signal.SIGTERM)

    trial = run.trial(stop)
    with pytest.raises(Stopped):
        run.train(trial)
    (path,) = run.work.glob("step-*")
    return run, path


def with_trial(found, **changes):
    """A checkpoint with another state of the trial."""
    return found | {"state": found["state"] | {"trial": found["state"]["trial"] | changes}}


@pytest.mark.parametrize(
    "junk",
    [
        lambda _: b"junk",
        lambda _: b"",
        lambda _: [1, 2],
        lambda _: torch.ones(3),
        lambda found: {"run": found["run"]},
        lambda found: found | {"state": 3},
        lambda found: found | {"state": {}},
        lambda found: found | {"run": [1]},
        lambda found: found | {"state": found["state"] | {"model": {}}},
        lambda found: found | {"state": found["state"] | {"model": {"0.weight": torch.ones(1)}}},
        lambda found: found | {"state": found["state"] | {"optimizer": [1]}},
        lambda found: found | {"state": found["state"] | {"losses": []}},
        lambda found: found | {"state": found["state"] | {"step": 10**12}},
        lambda found: found | {"state": found["state"] | {"step": -1}},
        lambda found: found | {"state": found["state"] | {"step": "ten"}},
        lambda found: with_trial(found, seconds=math.nan),
        lambda found: with_trial(found, sharp_steps=[99]),
        lambda found: with_trial(found, curve={"step": [1, 2], "test": [50.0]}),
        lambda found: found | {"state": found["state"] | {"trial": {"speed": 1}}},
    ],
)
def test_a_checkpoint_with_junk(junk, tmp_path):
    """Sees a traceback, or a run that goes on from nonsense, where a checkpoint of the right name holds junk."""
    run, path = stopped(tmp_path)
    made = junk(torch.load(path, weights_only=True))
    if isinstance(made, bytes):
        path.write_bytes(made)
    else:
        torch.save(made, path)
    named = path.rename(path.with_name(f"step-000000010-{_digest(path)}.pt"))
    failure = run.train(run.trial())
    assert isinstance(failure, Failure)
    assert f"{named} is not a checkpoint of this version: delete it" in failure.why


def test_a_folder_in_the_place_of_a_checkpoint(tmp_path):
    """Sees a training that ends over a folder among the checkpoints."""
    (tmp_path / "step-000000000-0.pt").mkdir()
    checkpoints = Checkpoints(tmp_path, {})
    for step in (1, 2, 3):
        checkpoints.save(step, {"step": step})
    assert checkpoints.load() == {"step": 3}


# How a comparison goes


def test_progress_within_runs(tmp_path):
    """Sees progress shown only when a run ends, or more of it than there is."""
    study = Study(Task.of("digits", {"epochs": 40}), ["sgd"], [0, 1], tmp_path)
    shares = []
    for _ in study.execute(1, watch=lambda done, total: shares.append((done, total))):
        break
    assert {total for _, total in shares} == {2}
    assert any(0 < done < 1 for done, _ in shares)
    assert shares[-1][0] == 1
    assert [path.name for path in study.finished] == ["sgd-seed0.json"]


def test_what_diverged_is_called_so(tmp_path, capsys):
    """Sees an accuracy of chance told without a word of the loss that is not finite."""
    losses = [2.0, *[None] * 29]
    changed = {("sam", 1): losses, ("sam", 2): losses, ("sgd", 0): [None] * 30}
    records = [
        make_record(method, seed, **({"loss": changed[method, seed]} if (method, seed) in changed else {}))
        for method in ("sgd", "sam", "rst")
        for seed in (0, 1, 2)
    ]
    folder = write_records(tmp_path, records)
    assert main(["report", str(folder), "--out", str(folder)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    page = (folder / "report.html").read_text()
    for told in (
        "SGD diverged: its loss or accuracy was not finite from point 1 of the curve (step 20) on with seed 0.",
        "SAM diverged: its loss or accuracy was not finite from point 2 of the curve (step 40) on with seeds 1, 2.",
    ):
        assert told in printed
        assert told in page
    assert "RST, p = 0.5 diverged" not in printed
    assert main(["train", *TINY, "--method", "sgd", "--lr", "1e30", "--out", str(tmp_path / "new")]) == 0
    assert "the training diverged: the loss was not finite from epoch 1 on" in capsys.readouterr().out
