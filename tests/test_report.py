"""The report: files that are not runs, the page as text, the figures, the terminal's table."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from sharpless.cli import main
from sharpless.report import curves, figures
from sharpless.report.drawing import looks
from sharpless.report.html import render
from sharpless.report.labels import place_labels, place_name
from sharpless.report.numbers import Digits
from sharpless.report.runs import read_runs
from sharpless.report.summary import summarize
from sharpless.report.table import headings, legend, rows
from sharpless.report.verdict import verdict
from synthetic_runs import (
    METHODS,
    MSE,
    OPTIONS,
    entry,
    make_choice,
    make_folder,
    make_record,
    runs_with,
    write_records,
)

# Files


def test_what_is_read(tmp_path):
    """Sees: seeds or numbers lost on the way from the file, and temporary files taken for runs."""
    folder = make_folder(tmp_path, ("sam", "rst"), seeds=2, chosen=True)
    for name in (".sam-seed7.json", "sam-seed7.json.tmp", "sam-seed7.json~"):
        (folder / "runs" / name).write_text('{"method": "s')
    (folder / "summary.json").write_text("{}")
    runs = read_runs(folder)
    assert [(run.method, run.seed) for run in runs] == [("sam", 0), ("sam", 1), ("rst", 0), ("rst", 1)]
    record = make_record("rst", 1, chosen=True)
    assert runs[3].model_dump(exclude_none=True) == record
    assert (runs[3].split, runs[3].value) == ("test", record["curve"]["test"][-1])


def test_the_result_is_the_test_set_or_else_validation(tmp_path):
    """Sees: validation told as a result beside a test set, or nothing read where there is no test set."""
    both = make_record("sam", 0, values=[1.0, 2.0], validation=[3.0, 4.0])
    only = make_record("sam", 0, values=[1.0, 2.0], split="validation")
    runs = [read_runs(write_records(tmp_path / str(i), [record]))[0] for i, record in enumerate((both, only))]
    assert [(run.split, run.value) for run in runs] == [("test", 2.0), ("validation", 2.0)]


def changed(*path: str, to: Any) -> str:
    """Return a record with one value replaced, as JSON."""
    record = json.loads(json.dumps(make_record("rst", 5, values=[50.0, 60.0], chosen=True)))
    inner = record
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = to
    return json.dumps(record)


def without(name: str) -> str:
    return json.dumps({key: value for key, value in make_record("rst", 5).items() if key != name})


LOOK = METHODS["rst"]["look"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (json.dumps(make_record("rst", 5))[:-40], "is not complete JSON .* train this run again"),
        ("", "is not complete JSON"),
        (b"\xff\xfe\x00", "is not complete JSON"),
        ("[" * 100_000, "is not complete JSON"),
        ("[1, 2]", r"is not the record of a finished run \(input should be"),
        ('{"task": "digits", "methods": []}', r"is not the record of a finished run \(.*; \d+ more\): move the file"),
        (changed("seed", to="5"), r"\(seed: input should be a valid integer\)"),
        (changed("passes", to=True), r"\(passes: input should be a valid number\)"),
        (changed("data_seconds", to="2"), r"\(data_seconds: "),
        (changed("curve", "passes", to=[1.0, "2"]), r"\(curve\.passes\.1: "),
        (changed("curve", "passes", to=[1.0, 2.0, 3.0]), r"\(curve: the lists have unequal lengths\)"),
        (changed("curve", "step", to=[9, 8]), r"\(curve: steps, passes or seconds decrease\)"),
        (changed("curve", "test", to=[]), r"\(curve: the lists have unequal lengths\)"),
        (changed("curve", "test", to=None), r"\(curve: there is neither validation nor test\)"),
        (changed("curve", "test", to=[50.0, 100.5]), r"\(an accuracy is not from 0 to 100 %\)"),
        (changed("curve", "validation", to=[-1.0, 2.0]), r"\(an accuracy is not from 0 to 100 %\)"),
        (changed("curve", "test", to=[50.0, 1e300]), r"\(curve\.test\.1: "),
        (changed("curve", "loss", to=[1.0, 1e300]), r"\(curve\.loss\.1: "),
        (changed("curve", to={}), r"\(curve\.step: field required; \d more\)"),
        (changed("curve", "seconds", to=[1.0, math.inf]), r"\(curve\.seconds\.1: "),
        (changed("curve", "seconds", to=[-1.0, 1.0]), r"\(curve\.seconds\.0: "),
        (changed("plain_passes", to=0), r"\(plain_passes: "),
        (changed("passes", to=1e200), r"\(passes: "),
        (changed("passes", to=10**400), r"\(passes: "),
        (changed("seed", to=10**30), r"\(seed: "),
        (changed("steps", to=10**12), r"\(steps: "),
        (changed("batch_fraction", to="all"), r"\(batch_fraction: "),
        (changed("batch_fraction", to=0), r"\(batch_fraction: "),
        (changed("sharp_steps", to=[3, 3]), r"\(sharp_steps are outside the steps\)"),
        (changed("sharp_steps", to=[600]), r"\(sharp_steps are outside the steps\)"),
        (changed("schedule", to="often"), r"\(schedule 'often' cannot be read"),
        (changed("schedule", to="warmup:0/" * 5000 + "1"), r"\(schedule …\): move the file"),
        (changed("metric", "goal", to="up"), r"\(metric\.goal: "),
        (changed("look", to=LOOK | {"color": 'red" onload="'}), r"\(look\.color: "),
        (changed("look", to=LOOK | {"marker": "$x$"}), r"\(look\.marker: "),
        (changed("look", to=LOOK | {"dashes": [1, 0]}), r"\(look\.dashes\.1: "),
        (changed("look", to=LOOK | {"dashes": [1]}), r"\(look: each dash needs a gap after it\)"),
        (changed("choice", "tried", to=[{"rho": "0.1", "values": [1.0]}]), r"\(choice\.tried\.0\.rho: "),
        (changed("choice", "tried", to=[]), r"\(choice\.tried: "),
        (changed("hyperparameters", to={"rho": math.nan}), r"\(hyperparameters\.rho: "),
        (changed("options", to={"lr": math.inf}), r"\(options: a number is not finite"),
        (changed("machine", to=[[[[[[[[1]]]]]]]]), r"\(machine: "),
        (changed("data", to={"a": [[[[[[[1]]]]]]]}), r"\(data: the facts are nested too deeply\)"),
        (changed("format", to=1), r"\(format: "),
        (without("format"), r"\(format: field required\)"),
        (without("choice"), r"\(choice: field required\)"),
        (json.dumps(make_record("rst", 5, split="validation")), "another split than .*split = 'validation' instead"),
        (json.dumps(make_record("rst", 1)), r"are the same run \(rst, seed 1\): delete one"),
        (
            json.dumps(make_record("rst", 5, options=OPTIONS | {"noise": 0.4})),
            r"other options than .*rst-seed0.json \(noise = 0.4 instead of 0.3\)",
        ),
    ],
)
def test_a_file_that_is_no_run(tmp_path, content, complaint):
    """Sees: a stack trace, or a silent gap in the statistics, where one sentence has to name the file."""
    folder = make_folder(tmp_path, ("sam", "rst"), seeds=2)
    path = folder / "runs" / "strange.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=complaint) as caught:
        read_runs(folder)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_folder_without_runs(tmp_path):
    """Sees: an empty report made of a mistyped folder."""
    with pytest.raises(ValueError, match=r"nowhere holds no finished run: give a folder of .* with a finished run"):
        read_runs(tmp_path / "nowhere")
    (tmp_path / "runs").mkdir()
    for name in ("study.json", "summary.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match="holds no finished run"):
        read_runs(tmp_path)


def test_the_folder_of_the_runs_itself(tmp_path):
    """Sees: `there/runs` refused, and what stands beside the runs taken for one."""
    folder = make_folder(tmp_path, ("sam", "rst"), seeds=2) / "runs"
    for name in ("study.json", "summary.json", ".rst-seed9.json"):
        (folder / name).write_text("{}")
    assert [(run.method, run.seed) for run in read_runs(folder)] == [("sam", 0), ("sam", 1), ("rst", 0), ("rst", 1)]


@pytest.mark.parametrize("content", ["<!doctype html>", "{}", '{"method": "s'])
def test_a_named_file_that_is_no_run(tmp_path, content):
    """Sees: the advice to delete, move or train again what was only named by mistake, such as the report's page."""
    path = tmp_path / "report.html"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"report\.html is no.* run.*: give runs/\*\.json, or the folder") as caught:
        read_runs(path)
    assert not re.search("delete|move|again", str(caught.value))


def test_several_folders(tmp_path):
    """Sees: only the first folder read, a single file refused, a file read twice because it is named twice."""
    first = make_folder(tmp_path / "first", ("sam", "sgd"), seeds=2)
    second = write_records(tmp_path / "second", [make_record("rst", 0), make_record("sam", 7)])
    third = write_records(tmp_path / "third", [make_record("rst", 1), make_record("rst", 2)]) / "runs/rst-seed2.json"
    again = tmp_path / "second" / ".." / "first"
    read = [(run.method, run.seed) for run in read_runs(first, second, third, again)]
    assert read == [("sgd", 0), ("sgd", 1), ("sam", 0), ("sam", 1), ("sam", 7), ("rst", 0), ("rst", 2)]
    with pytest.raises(ValueError, match="nowhere holds no finished run"):
        read_runs(first, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({}, r"are the same run \(sam, seed 0\): delete one of them, or leave it out"),
        ({"data": {"fingerprint": "b5"}}, r"was trained on other data than .* \(fingerprint = 'b5' instead of '6f1d"),
        ({"data": {}}, r"was trained on other data than .* \(fingerprint = None"),
        ({"split": "validation"}, r"was measured on another split than .* \(split = 'validation' instead of 'test'\)"),
        ({"options": OPTIONS | {"lr": 0.1}}, r"was trained with other options than .* \(lr = 0.1 instead of 0.05\)"),
        ({"task": "other"}, r"is of another task than .* \(task = 'other' instead of 'digits'\)"),
        ({"metric": MSE}, r"was measured by another metric than .* \(goal = 'min' instead of 'max'\)"),
        ({"hyperparameters": {"rho": 1.0}}, r"with other hyperparameters than .* \(rho = 1.0 instead of 0.3\)"),
    ],
)
def test_folders_that_do_not_belong_together(tmp_path, changes, complaint):
    """Sees: a run counted twice, validation mixed with test, another data set that bears the same name."""
    first = write_records(tmp_path / "first", [make_record("sam", 0)])
    second = write_records(tmp_path / "second", [make_record("sam", 0, **changes)])
    with pytest.raises(ValueError, match=complaint) as caught:
        read_runs(first, second)
    assert all(str(folder / "runs/sam-seed0.json") in str(caught.value) for folder in (first, second))


def test_data_may_be_described_differently(tmp_path):
    """Sees: the same data refused, because one machine describes them with another word."""
    first = write_records(tmp_path / "first", [make_record("sam", 0, data={"fingerprint": "a"})])
    second = write_records(tmp_path / "second", [make_record("sam", 1, data={"fingerprint": "a", "folder": "/data"})])
    assert len(read_runs(first, second)) == 2


def test_an_option_without_a_value_may_be_absent(tmp_path):
    """Sees: an error of Python's min, where a task got an option with the default None after its first runs."""
    records = [make_record("sam", 0), make_record("sam", 1, options=OPTIONS | {"warmup": None})]
    assert len(read_runs(write_records(tmp_path, records))) == 2


# The terminal's table


def test_rows(tmp_path):
    """Sees: a cell in the wrong column, numbers or verdicts other than the summary's, and a row too wide to print."""
    wide = [98.0, 94.0, 99.0, 96.0, 97.0]
    better = [accuracy + 2 for accuracy in (97.0, 97.5, 97.1, 98.0, 96.8)]
    sam = [97.0, 97.5, 97.2, 97.9, 96.8]
    close = [97.1, 97.4, 97.2, 97.8, 96.9]
    low = [82.0, 85.0, 84.0, 83.0, 86.0]
    runs = runs_with(tmp_path, sgd=low, sgd_long=wide, sam=sam, rst=[97.0], g_rst=close, thrifty=better)
    summary = summarize(runs)
    found = {row[0]: row[1:] for row in rows(summary)}
    assert headings(summary) == ("method", "accuracy %", "cost", "× seconds", "minus SAM [95 %]", "non-inferior")
    assert all(len(cells) == 5 for cells in found.values())
    low_end, high_end = entry(summary, "sgd")["versus_sam"]["ci95"]
    assert found["SGD •"][:3] == ("84.0 ± 1.6", "1.00", "1.00")
    assert found["SGD •"][3:] == (f"-13.3 [{low_end:.1f}, {high_end:.1f}]", "no")
    assert found["SGD, cost 1.5"][-1] == "not shown"
    assert found["SAM"][3:] == ("", "")
    assert found["RST, p = 0.5"][0] == "97.0"
    assert found["RST, p = 0.5"][3:] == ("+0.0", "too few seeds")
    assert found["thrifty, p=0.91, q=0.109, γ=1.09 •"][-1] == "yes, better"
    page = render(runs, summary)
    for answer in ("no", "not shown", "too few seeds", "yes", "yes, better"):
        assert any(cells[-1] == answer for cells in found.values())
        assert f"<td>{answer}</td>" in page


def test_rows_of_a_choice(tmp_path):
    """Sees: a ρ that was chosen not told, one told of a method without, its cost hushed up, a column where none was."""
    summary = summarize(read_runs(make_folder(tmp_path, ("sgd", "sam", "rst"), seeds=3, metric=MSE, chosen=True)))
    assert headings(summary) == ("method", "MSE", "cost", "× seconds", "ρ", "minus SAM [95 %]", "non-inferior")
    assert {row[0]: row[4] for row in rows(summary)} == {"SGD •": "", "SAM •": "0.3", "RST, p = 0.5 •": "0.3"}
    lines = legend(summary)
    assert "ρ: chosen on validation, which cost each method 9 plain trainings" in lines
    assert "MSE: lower is better" in lines


@pytest.mark.parametrize(
    ("spreads", "values", "expected"),
    [
        ([0.0008], [0.3795], "0.3795 ± 0.0008"),
        ([0.0012], [0.3795], "0.3795 ± 0.0012"),
        ([1.7, 0.6, 0.6], [98.3], "98.3 ± 1.7"),
        ([12.0], [345.6], "346 ± 12"),
        ([0.0], [0.25], "0.2500 ± 0.0000"),
        ([3e-9], [1e-7], "1e−07 ± 3e−09"),
        ([1e9], [4e12], "4e+12 ± 1e+09"),
    ],
)
def test_digits(spreads, values, expected):
    """Sees: digits that no spread supports, digits of the difference lost, a number of thirty figures."""
    assert Digits(spreads, values).spread({"mean": values[0], "std": spreads[0]}) == expected


def test_digits_of_differences(tmp_path):
    """Sees: SAM said to beat the base by +0 points, from 0 to 0, where the seeds differ more than the methods."""
    base = [80.0, 90.0, 95.0, 99.0]
    gains = {"sam": (0.04, 0.05, 0.05, 0.04), "rst": (0.03, 0.02, 0.03, 0.02)}
    sam, rst = ([value + gain for value, gain in zip(base, found, strict=True)] for found in gains.values())
    runs = runs_with(tmp_path, sgd=base, sam=sam, rst=rst)
    summary = summarize(runs)
    assert verdict(summary)[0].startswith(
        "SAM beats SGD (accuracy +0.045 points, 95 % interval 0.036\u00a0to\u00a00.054)"
    )
    assert rows(summary)[2][1] == "91 ± 8"
    assert rows(summary)[2][4] == "-0.020 [-0.033, -0.007]"
    assert "<td>−0.020</td>" in render(runs, summary)


def test_the_table_fits_a_terminal(tmp_path, capsys, monkeypatch):
    """Sees: a table cut or wrapped in 80 columns, spaces at the ends of lines, the page's place left out."""
    monkeypatch.setenv("COLUMNS", "80")
    folder = make_folder(tmp_path / "in", ("sgd", "sam", "rst", "thrifty"), seeds=5, metric=MSE, chosen=True)
    assert main(["report", str(folder), "--out", str(tmp_path / "out"), "--margin", "50%"]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert all(len(line) <= 80 for line in lines if "The page: " not in line)
    assert re.search(r"^SAM(?: •)? +0\.\d+ ± 0\.\d+ +2\.00 +\d\.\d\d +0\.3 *$", printed, re.MULTILINE)
    assert "(50 % of SAM's gain)" in " ".join(printed.split())
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["margin"]["share"] == 0.5
    assert f"from {folder}" in (tmp_path / "out" / "report.html").read_text()
    assert main(["report", str(folder), "--out", str(tmp_path), "--margin", "much"]) == 2
    assert "--margin = much is invalid: give a positive number" in capsys.readouterr().err


def test_seconds_are_the_median(tmp_path):
    """Sees: the mean of the seconds, which one run on a busy machine decides, in page or figure."""
    records = [make_record("sam", seed, seconds=seconds) for seed, seconds in enumerate((0.2, 23.0, 0.4))]
    runs = read_runs(write_records(tmp_path, records))
    summary = summarize(runs)
    assert entry(summary, "sam")["seconds"]["median"] == 0.4
    assert "median training time, in seconds" in figures.against_seconds(summary)


def test_legend(runs, tmp_path):
    """Sees: lines too long for a terminal, a mark or a word that is not explained, validation hushed up."""
    assert all(len(line) <= 80 for line in legend(summarize(runs)))
    few = read_runs(write_records(tmp_path, [make_record(m, s, split="validation") for m in METHODS for s in range(3)]))
    summary = summarize(few)
    assert any(row[-1] == "alone only" for row in rows(summary))
    lines = legend(summary)
    assert all(len(line) <= 80 for line in lines)
    starts = (
        "•",
        "cost: in gradients",
        "accuracy on the validation split, not on the test set",
        "intervals",
        "alone only:",
    )
    for start in starts:
        assert any(line.startswith(start) for line in lines), start
    single = summarize([run for run in few if run.method in {"sam", "rst"}])
    assert [line[0] for line in legend(single)] == ["•", "c", "a"]


# Page and figures


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return read_runs(make_folder(tmp_path_factory.mktemp("comparison")))


@pytest.fixture(scope="module")
def page(runs):
    return render(runs, summarize(runs))


def test_page_stands_alone(page):
    """Sees: a font, script, picture or style that the page would fetch from somewhere."""
    addresses = re.findall(r"""(?:href|src|srcset|action|data)\s*=\s*["']?([^"'>\s]*)|url\(([^)]*)\)""", page)
    assert addresses  # the figures refer to parts of themselves
    assert all(address.startswith(("#", "data:image/png")) for pair in addresses for address in pair if address)
    assert set(re.findall(r"https?://[^\"<\s]*", page)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert not re.search(r"<script|<link|@import|@font-face", page)


def test_page_tells_every_method(page, runs):
    """Sees: a method lost between runs, tables and figures, and a figure without name or caption."""
    found = re.findall(r'<th scope="row">(.*?)(?:\xa0•)?</th>', page)
    for told in METHODS.values():
        assert found.count(told["label"]) == 4  # results, all the statistics, equal gradients, ledger
    drawings = re.findall(r"<figure.*?</figure>", page, flags=re.DOTALL)
    assert len(drawings) == 6
    for drawing in drawings:
        assert re.search(r'<svg role="img" aria-label="[^"]{20,}"', drawing)
        assert re.search(r"<figcaption>\S", drawing)
    identifiers = re.findall(r'\bid="([^"]*)"', page)
    assert len(identifiers) == len(set(identifiers))


def test_page_tells_the_data_and_the_machine(page):
    """Sees: a page that does not say on which data, on what split, and with what setup its numbers were found."""
    text = re.sub(r"<[^>]*>", "", page[page.index("Options, hyperparameters and data") :])
    assert "fingerprint 6f1d0c1a94bd3c5e0e6a7f28b1c9d2f4" in text
    assert "devices 1, strategy one process" in text
    assert "4.0 % of the training time" in text
    assert "Trained on system Linux, processor x86_64, cores 2, threads 1 with sharpless 0.1.0" in " ".join(
        text.split()
    )
    assert "Not set or zero: clip, augment." in text
    assert "is measured on the test set" in page


def test_page_of_a_validation_split(tmp_path):
    """Sees: accuracy on held-out training examples told as test accuracy, in text, table or figure."""
    records = [make_record(method, seed, split="validation") for method in ("sgd", "sam") for seed in (0, 1)]
    runs = read_runs(write_records(tmp_path, records))
    page = render(runs, summarize(runs))
    assert "the test set was not used" in page
    rest = page.replace("the test set was not used", "")
    assert not re.search(r"test (accuracy|set)", rest, re.IGNORECASE)
    assert len(re.findall("validation accuracy", page, re.IGNORECASE)) >= 5


def test_page_of_runs_without_loss_and_options(tmp_path):
    """Sees: a page that fails where a task reports no loss, or has neither options nor data nor a choice."""
    bare: dict[str, Any] = {"options": {}, "data": {}, "setup": {}, "machine": {}, "versions": {}, "loss": None}
    records = [make_record(method, seed, data_seconds=None, **bare) for method in ("sgd", "sam") for seed in (0, 1)]
    for record in records:
        del record["curve"]["loss"]
    runs = read_runs(write_records(tmp_path, records))
    page = render(runs, summarize(runs))
    assert "Training loss" not in page
    assert "waiting for data" not in page
    assert "fingerprint" not in page
    assert "Choosing" not in page


def test_the_first_figure_is_the_differences(page):
    """Sees: the figure that answers the question below others, or without the margin."""
    first = page[page.index("<svg") : page.index("</svg>")]
    assert "Is a method non-inferior to SAM, within 1 point? " in first
    assert "SAM − 1 point" in first


def test_page_says_when_and_whence(runs):
    """Sees: date or folder left out, or an address taken for markup."""
    page = render(runs, summarize(runs), places=["a<b", "other"], date="2026-01-02")
    assert "Made on 2026-01-02 from a&lt;b, other." in page


def test_figures_state_what_was_found(page):
    """Sees: figures described by their axes alone."""
    said = re.findall(r'<svg role="img" aria-label="([^"]*)"', page)
    for part in (
        "No: SGD, SGD, cost 1.5, RST",
        "no method is as good for less than SGD, ",
        "from the best to the worst: ",
        "from the lowest to the highest: ",
        "The share of them: RST, p = 0.5 5",
    ):
        assert any(part in text for text in said), part
    assert page.count("<title>") > len(METHODS)


def test_choice_is_drawn(tmp_path):
    """Sees: the choice of ρ not drawn, a ρ with a failed seed drawn as a mean of the others."""
    choice = make_choice(97.4)
    choice["tried"][2]["values"][1] = None
    records = [make_record("sam", seed, chosen=True) | {"choice": choice} for seed in (0, 1)]
    records += [make_record("sgd", seed, validation=[84.0] * 30) for seed in (0, 1)]
    runs = read_runs(write_records(tmp_path, records))
    drawn = curves.choice(runs, summarize(runs))
    assert 'aria-label="Validation accuracy % against ρ. Chosen: SAM 0.3."' in drawn
    ticks = re.findall(r">([\d.]+)</text>", drawn)
    assert {"0.1", "0.3"} <= set(ticks)
    assert "1" not in ticks
    assert ">SGD</text>" in drawn
    assert "The horizontal line is the result of SGD." in " ".join(render(runs, summarize(runs)).split())
    without = [run for run in runs if run.method == "sam"]
    assert "horizontal line" not in render(without, summarize(without))  # nor is one drawn
    assert curves.choice(read_runs(make_folder(tmp_path / "none", ("sam",))), summarize(runs)) is None


def test_runs_that_stop_early(tmp_path):
    """Sees: curves of unequal length refused, or cut at the shortest."""
    records = [make_record("sam", 0, values=[10.0, 90.0], step=[10, 20])]
    records += [make_record("sam", 1, values=[10.0, 80.0, 88.0], step=[10, 20, 30])]
    runs = read_runs(write_records(tmp_path, records))
    steps, found = curves._together(runs, lambda run: run.values)
    assert steps.tolist() == [10, 20, 30]
    assert found.tolist() == [[10.0, 90.0, 90.0], [10.0, 80.0, 88.0]]
    render(runs, summarize(runs))


def test_page_repeats_itself(page, runs):
    """Sees: dates, random ids and leftovers of a former figure in the page."""
    assert render(runs, summarize(runs)) == page


def test_labels_are_text(tmp_path):
    """Sees: markup in a label taken for markup, and dollars taken for formulas, in table, verdict and figures."""
    label = r"<script>alert(1)</script>, $\frac{1$ & co"
    records = [make_record(method, seed) for method in ("sgd", "sam") for seed in (0, 1)]
    records += [make_record("rst", seed, label=label) for seed in (0, 1)]
    runs = read_runs(write_records(tmp_path, records))
    page = render(runs, summarize(runs))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 6
    assert r"$\frac{1$ &amp; co" in page


def test_expected_cost_follows_the_schedule(tmp_path):
    """Sees: an expected cost per own step instead of per plain step, or from the schedule's mean over no steps."""
    record = make_record("rst", 0, schedule="linear:0,1", steps=4, sharp_steps=[3], passes=5.0, plain_passes=2.0)
    runs = read_runs(write_records(tmp_path, [record]))
    page = render(runs, summarize(runs))
    ledger = page[page.index("Cost ledger") :]
    cells = re.findall(r"<td>(.*?)</td>", ledger)[:9]
    # p = 0, 1/4, 1/2, 3/4: five and a half passes expected, five spent, two plain.
    assert cells == ["linear:0,1", "1", "1", "4", "1.0", "5.0", "2", "2.500", "2.750"]


def test_ledger_of_runs_that_stop_early(tmp_path):
    """Sees: mean passes divided by the steps of the first seed, which is another cost than that of the results."""
    records = [
        make_record("sgd", seed, steps=steps, passes=float(steps), plain_passes=float(steps))
        for seed, steps in enumerate((600, 200))
    ]
    runs = read_runs(write_records(tmp_path, records))
    page = render(runs, summarize(runs))
    cells = re.findall(r"<td>(.*?)</td>", page[page.index("Cost ledger") :])[:9]
    assert cells[3:] == ["400", "0.0", "400.0", "400", "1.000", "1.000"]


def test_expected_cost_with_a_part_of_the_batch(tmp_path):
    """Sees: a climb with a quarter of the batch priced as one with all of it, or q left out of the ledger."""
    record = make_record("rst", 0, schedule="0.5", batch_fraction=0.25, steps=8, passes=8.75, plain_passes=8.0)
    record["sharp_steps"] = [0, 3, 6]
    runs = read_runs(write_records(tmp_path, [record]))
    page = render(runs, summarize(runs))
    cells = re.findall(r"<td>(.*?)</td>", page[page.index("Cost ledger") :])[:9]
    assert (cells[1], cells[-2:]) == ("0.25", ["1.094", "1.125"])


# Frontier


def bought(tmp_path: Path, **methods: tuple[float, float, float]) -> dict[str, Any]:
    """Return the summary of methods with these (cost, accuracy, seconds)."""
    records = [
        make_record(name, seed, passes=cost, plain_passes=1.0, values=[accuracy + off], seconds=seconds + off)
        for name, (cost, accuracy, seconds) in methods.items()
        for seed, off in ((0, -0.5), (1, 0.5))
    ]
    return summarize(read_runs(write_records(tmp_path, records)))


def test_frontier(tmp_path):
    """Sees: one seed or the interval asked in place of the mean, ties lost, a dearer or worse method kept."""
    summary = bought(
        tmp_path, **{"sgd": (1, 84, 1), "rst": (1.5, 92, 2), "g-rst": (1.5, 97, 2), "thrifty": (1.5, 97, 2)},
        **{"sgd-long": (1.2, 84, 1), "sam": (2.0, 97, 3), "peer-sam": (2.5, 97.1, 4)},
    )  # fmt: skip
    assert {found["method"] for found in summary["methods"] if found["pareto_optimal"]} == {
        "sgd", "g-rst", "thrifty", "peer-sam",
    }  # fmt: skip
    drawn = figures.against_cost(summary)
    hollow = re.findall(r"fill: var\(--paper, white\); stroke: (#\w+)", drawn)
    assert set(hollow) == {"#997700", "#0077bb", "#009988"}  # sgd-long, sam, rst


def test_frontier_of_seconds_is_its_own(tmp_path):
    """Sees: the frontier of gradients drawn over seconds, where a cheap method that is slow is dominated."""
    summary = bought(tmp_path, sgd=(1, 84, 1), sam=(2, 97, 3), rst=(1.5, 92, 4))
    assert all(found["pareto_optimal"] for found in summary["methods"])
    assert "var(--paper" not in figures.against_cost(summary)
    drawn = figures.against_seconds(summary)
    assert set(re.findall(r"fill: var\(--paper, white\); stroke: (#\w+)", drawn)) == {"#009988"}


def test_frontier_is_marked_on_the_page(tmp_path):
    """Sees: a table that marks other methods than the summary, or none."""
    runs = runs_with(tmp_path, sgd=[84.0] * 3, sgd_long=[83.0] * 3, sam=[97.0] * 3)
    page = render(runs, summarize(runs))
    assert re.findall(r'<th scope="row">([^<]*)\xa0•</th>', page) == ["SGD", "SAM"]


class Drawn(Exception):
    """Carries a figure out of where it would be written."""


def axes_of(monkeypatch, draw, *given) -> Axes:
    """Return the axes that a function of `figures` or `curves` draws."""

    def keep(figure: Figure, _: str) -> str:
        raise Drawn(figure)

    for module in (figures, curves):
        monkeypatch.setattr(module, "to_svg", keep)
    with pytest.raises(Drawn) as caught:
        draw(*given)
    axes: Axes = caught.value.args[0].axes[0]
    return axes


def test_axes_end_where_the_quantities_do(tmp_path, monkeypatch):
    """Sees: room for accuracies above 100 % or below 0, and for negative times and costs."""
    summary = bought(tmp_path, sgd=(0.01, 0.5, 0.51), sam=(2, 99.5, 4), rst=(1, 60, 2))
    for draw in (figures.against_cost, figures.against_seconds):
        axes = axes_of(monkeypatch, draw, summary)
        assert axes.get_xlim()[0] == 0
        assert axes.get_ylim() == (0, 100)


def test_steps_are_whole_and_accuracies_within_100(tmp_path, monkeypatch):
    """Sees: half a step on the axis, an accuracy of 102 %, and a limit of accuracies laid on losses."""
    record = make_record("rst", 0, values=[0.5, 50.0, 99.9], loss=[250.0, 200.0, 120.0], step=[1, 2, 3])
    runs = read_runs(write_records(tmp_path, [record]))
    summary = summarize(runs)
    axes = axes_of(monkeypatch, curves.values, runs, summary)
    assert axes.get_ylim() == (0, 100)
    assert all(tick == int(tick) for tick in axes.get_xticks())
    assert axes_of(monkeypatch, curves.loss, runs, summary).get_ylim()[1] > 250


def test_the_start_of_training_does_not_flatten_the_curves(tmp_path, monkeypatch):
    """Sees: an axis that reaches up to the error of an untrained network, and hides all differences."""
    found = [100.0, *(0.5 + 0.1 / point for point in range(1, 30))]
    runs = read_runs(write_records(tmp_path, [make_record("sam", 0, values=found, metric=MSE)]))
    assert axes_of(monkeypatch, curves.values, runs, summarize(runs)).get_ylim()[1] < 1


def test_a_large_difference_is_an_arrow(tmp_path, monkeypatch):
    """Sees: a margin that cannot be seen because the base is far behind, or a difference drawn where there is none."""
    summary = summarize(runs_with(tmp_path, sgd=[20.0, 21.0, 22.0], sam=[97.0, 97.1, 97.2], rst=[97.0, 97.0, 97.2]))
    axes = axes_of(monkeypatch, figures.forest, summary)
    low, high = axes.get_xlim()
    assert -20 < low < -1 < 0 < high < 20
    assert any("−76.1" in text.get_text() for text in axes.texts)


def test_variants_of_a_method_look_different(tmp_path):
    """Sees: two curves of the same color where variants of one method come with the same look."""
    labels = [f"g-rst:p={p}" for p in range(12)]
    records = [make_record("g-rst", 0, method=label, label=label) for label in labels] + [make_record("sam", 0)]
    runs = read_runs(write_records(tmp_path, records))
    found = looks(summarize(runs))
    assert found["sam"][0] == METHODS["sam"]["look"]["color"]
    assert found[min(labels)][:2] == ("#cc3311", "v")
    assert len(set(found.values())) == 13
    render(runs, summarize(runs))


def test_name_of_a_line_goes_where_it_is_free():
    """Sees: only the ends of the line tried, where both are crossed by error bars and the middle is free."""
    axes = Figure(figsize=(3.8, 3.0), dpi=72).add_subplot()
    axes.set(xlim=(0, 1), ylim=(0, 100))
    bars = [Bbox(axes.transData.transform([(x, 0), (x, 100)])).padded(3.5) for x in (0.1, 0.9)]
    box = place_name(axes, "SAM − 1 point", 50.0, bars).get_window_extent()
    assert not any(box.overlaps(bar) for bar in bars)


def test_percentages_that_are_no_shares(tmp_path):
    """Sees R² below 0, or an error above 100 %, refused after the training, or cut off in a figure."""
    for metric, values in (
        ({"name": "R²", "unit": "%", "goal": "max"}, [-30.0, 40.0]),
        ({"name": "error", "unit": "%", "goal": "min"}, [130.0, 120.0]),
    ):
        records = [
            make_record(method, seed, metric=metric, values=values) for method in ("sgd", "sam") for seed in (0, 1)
        ]
        runs = read_runs(write_records(tmp_path / metric["goal"], records))
        summary = summarize(runs)
        assert summary["methods"][0]["value"]["mean"] == values[-1]
        assert "<svg" in render(runs, summary)


def test_training_that_stays_on_its_plateau(tmp_path):
    """Sees a method that never began to learn compared without a word, or one that did called stuck."""
    losses = {
        ("sgd", 0): [2.3, 1.0, 0.4], ("sgd", 1): [2.3, 1.2, 0.6],
        ("sam", 0): [2.31, 2.3, 2.3], ("sam", 1): [2.3, 1.5, 0.9],
        ("rst", 0): [2.3, 2.2, 2.0], ("rst", 1): [3.3, 2.5, 2.2], ("g-rst", 0): [2.3, 2.3, 2.3],
    }  # fmt: skip
    results = {("g-rst", 0): 80.0}  # a method that does not memorize wrong labels
    records = [
        make_record(*run, values=[50.0, 60.0, results.get(run, 70.0)], loss=loss) for run, loss in losses.items()
    ]
    (warning,) = (
        text for text in summarize(read_runs(write_records(tmp_path, records)))["warnings"] if "plateau" in text
    )
    assert warning.startswith(
        "SAM stayed on its initial plateau with seed 0: its training loss ended at 2.3, and that of SGD fell from "
        "2.3 to 0.5."
    )


def test_diverged_training_is_drawn(tmp_path):
    """Sees: a figure that fails on a loss that is not finite, written as NaN, Infinity or null."""
    losses: list[Any] = [2.0, 1.9, math.nan, math.inf, None]
    records = [make_record("rst", seed, loss=losses, values=[10.0] * 5) for seed in (0, 1)]
    runs = read_runs(write_records(tmp_path, records))
    drawn = curves.loss(runs, summarize(runs))
    assert not re.search(r"[\s\"(](nan|inf)\b", drawn, re.IGNORECASE)
    assert re.search(r'd="M [\d.]+ [\d.]+ \nL [\d.]+ [\d.]+ \n"[^>]*stroke: #009988', drawn)  # two points, one stroke


def test_coin_is_drawn_for_methods_that_toss_one(runs, tmp_path):
    """Sees: an empty panel for SGD or SAM, one for LookSAM, a coin left out, no panel where none tosses."""
    drawn = curves.coin(runs, summarize(runs))
    assert re.findall(r"([\w-]+)[^>]*\(seed 0\)<", drawn) == ["RST", "G-RST", "thrifty"]
    plain = read_runs(make_folder(tmp_path, ("sgd", "sam"), seeds=1))
    assert re.findall(r"(\w+) \(seed 0\)<", curves.coin(plain, summarize(plain))) == ["SGD", "SAM"]


def test_a_method_keeps_its_color(runs):
    """Sees: colors dealt out per figure, so that RST has SAM's color where SGD is not drawn."""
    summary = summarize(runs)
    for svg in (
        figures.forest(summary),
        figures.against_cost(summary),
        figures.against_seconds(summary),
        curves.loss(runs, summary),
        curves.values(runs, summary),
        curves.coin(runs, summary),
    ):
        assert {"#009988", "#cc3311"} <= set(re.findall(r"stroke: (#\w+)", svg))
    assert "#0077bb" not in curves.coin(runs, summary)


def test_labels_do_not_cover_each_other():
    """Sees: labels piled up where methods have nearly the same accuracy and cost."""
    axes = Figure(figsize=(3.8, 3.0), dpi=72).add_subplot()
    axes.set(xlim=(0.8, 2.2), ylim=(80, 100))
    points = [(1.5, 97.4, "G-RST\np = 0.5, γ = 2", "red"), (1.5, 97.2, "RST\nlinear", "blue")]
    points += [(1.5, 97.0, "RST\np = 0.75", "green"), (2.0, 97.4, "SAM", "black")]
    marks = [Bbox([axes.transData.transform(point[:2])] * 2).padded(3.5) for point in points]
    boxes = [label.get_window_extent() for label in place_labels(axes, points, marks)]
    for i, box in enumerate(boxes):
        assert not any(box.shrunk(0.98, 0.98).overlaps(other) for other in boxes[:i] + marks)
        assert axes.bbox.contains(*box.min)
        assert axes.bbox.contains(*box.max)
