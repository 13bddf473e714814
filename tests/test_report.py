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

from sharpless.report import figures
from sharpless.report.html import render
from sharpless.report.labels import place_labels, place_name
from sharpless.report.runs import read_runs
from sharpless.report.summary import summarize
from sharpless.report.table import HEADINGS, legend, rows
from synthetic_runs import METHODS, RECIPE, entry, make_folder, make_record, runs_with, write_records

# Files


def test_what_is_read(tmp_path):
    """Sees: seeds or numbers lost on the way from the file, and temporary files taken for runs."""
    folder = make_folder(tmp_path, ("sam", "rst"), seeds=2)
    for name in (".sam-seed7.json", "sam-seed7.json.tmp", "sam-seed7.json~"):
        (folder / "runs" / name).write_text('{"method": "s')
    (folder / "summary.json").write_text("{}")
    runs = read_runs(folder)
    assert [(run.method, run.seed) for run in runs] == [("sam", 0), ("sam", 1), ("rst", 0), ("rst", 1)]
    record = make_record("rst", 1)
    assert {name: getattr(runs[3], name) for name in record if hasattr(runs[3], name)}.items() <= record.items()
    assert runs[3].accuracy == record["test_accuracy"][-1]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (json.dumps(make_record("rst", 5))[:-40], "is not complete JSON .* train this run again"),
        ("", "is not complete JSON"),
        (b"\xff\xfe\x00", "is not complete JSON"),
        ("[1, 2]", "is not the record of a run"),
        ('{"task": "digits", "methods": []}', r"is not the record of a run \(method, seed, .* move the file"),
        (json.dumps(make_record("rst", 5, seed="5")), r"\(seed missing or of the wrong type\)"),
        (json.dumps(make_record("rst", 5, passes=True)), r"\(passes missing or of the wrong type\)"),
        (json.dumps(make_record("rst", 5, data_seconds="2")), r"\(data_seconds missing or of the wrong type\)"),
        (json.dumps(make_record("rst", 5, epoch_passes=[1.0, "2"])), r"\(epoch_passes missing or of the wrong type\)"),
        (json.dumps(make_record("rst", 5, epoch_passes=[1.0, 2.0])), "is not a finished run .*of unequal length"),
        (json.dumps(make_record("rst", 5, split="validation")), "another split than .*split = 'validation' instead"),
        (json.dumps(make_record("rst", 5, test_accuracy=[])), "is not a finished run"),
        (json.dumps(make_record("rst", 5, test_accuracy=[50.0, math.nan])), "is not a finished run"),
        (json.dumps(make_record("rst", 5, plain_passes=0)), "is not a finished run"),
        (json.dumps(make_record("rst", 1)), r"are the same run \(rst, seed 1\): delete one"),
        (
            json.dumps(make_record("rst", 5, recipe=RECIPE | {"noise": 0.4})),
            r"another recipe than .*rst-seed0.json \(noise = 0.4 instead of 0.3\)",
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


def test_a_folder_without_runs(tmp_path):
    """Sees: an empty report made of a mistyped folder."""
    with pytest.raises(ValueError, match=r"nowhere holds no finished run: give a folder that .* has ended"):
        read_runs(tmp_path / "nowhere")
    (tmp_path / "runs").mkdir()
    for name in ("experiment.json", "summary.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match="holds no finished run"):
        read_runs(tmp_path)


def test_the_folder_of_the_runs_itself(tmp_path):
    """Sees: `there/runs` refused, and what stands beside the runs taken for one."""
    folder = make_folder(tmp_path, ("sam", "rst"), seeds=2) / "runs"
    for name in ("experiment.json", "summary.json", ".rst-seed9.json"):
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
        ({"recipe": RECIPE | {"lr": 0.1}}, r"was trained by another recipe than .* \(lr = 0.1 instead of 0.05\)"),
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
    assert all(len(cells) == len(HEADINGS) - 1 for cells in found.values())
    low_end, high_end = entry(summary, "sgd")["versus_sam"]["ci95"]
    assert found["SGD •"][:2] == ("84.0 ± 1.6", "1.00")
    assert found["SGD •"][3:] == (f"-13.3 [{low_end:+.1f}, {high_end:+.1f}]", "no")
    assert found["SGD, 45 epochs"][-1] == "not shown"
    assert found["SAM"][3:] == ("", "")
    assert found["RST, p = 0.5"][0] == "97.0"
    assert found["RST, p = 0.5"][3:] == ("+0.0", "too few seeds")
    assert found["thrifty, p=0.91, q=0.109, γ=1.09 •"][-1] == "yes, better"
    page = render(runs, summary)
    for answer in ("no", "not shown", "too few seeds", "yes", "yes, better"):
        assert any(cells[-1] == answer for cells in found.values())
        assert f"<td>{answer}</td>" in page


def test_seconds_are_the_median(tmp_path):
    """Sees: the mean of the seconds, which one run on a busy machine decides, in table, page or figure."""
    records = [make_record("sam", seed, seconds=seconds) for seed, seconds in enumerate((0.2, 23.0, 0.4))]
    runs = read_runs(write_records(tmp_path, records))
    summary = summarize(runs)
    assert rows(summary)[0][3] == "0.4"
    assert re.search(r"Seconds, median</th></tr>(.|\n)*?<td>0\.4</td></tr>", render(runs, summary))
    assert "median training time (seconds)" in figures.accuracy_against_seconds(summary)


def test_legend(runs, tmp_path):
    """Sees: lines too long for a terminal, a mark or a word that is not explained, validation hushed up."""
    assert all(len(line) <= 80 for line in legend(summarize(runs)))
    few = read_runs(write_records(tmp_path, [make_record(m, s, split="validation") for m in METHODS for s in range(3)]))
    summary = summarize(few)
    assert any(row[-1] == "alone only" for row in rows(summary))
    lines = legend(summary)
    assert all(len(line) <= 80 for line in lines)
    for start in ("•", "accuracy on the validation split, not on the test set", "intervals", "alone only:"):
        assert any(line.startswith(start) for line in lines), start
    single = summarize([run for run in few if run.method in {"sam", "rst"}])
    assert [line[0] for line in legend(single)] == ["•", "a"]


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
        answers = told["label"] != "SAM"
        assert found.count(told["label"]) == 3 + answers  # results, against SAM, equal gradients, ledger
    drawings = re.findall(r"<figure>.*?</figure>", page, flags=re.DOTALL)
    assert len(drawings) == 5
    for drawing in drawings:
        assert re.search(r'<svg role="img" aria-label="[^"]{20,}"', drawing)
        assert re.search(r"<figcaption>\S", drawing)
    identifiers = re.findall(r'\bid="([^"]*)"', page)
    assert len(identifiers) == len(set(identifiers))


def test_page_tells_the_data_and_the_machine(page):
    """Sees: a page that does not say on which data, on what split, and with what setup its numbers were found."""
    text = re.sub(r"<[^>]*>", "", page[page.index("Data, machine and versions") :])
    assert "fingerprint 6f1d0c1a94bd3c5e0e6a7f28b1c9d2f4" in text
    assert "Accuracies are on the test set" in text
    assert "devices 1, strategy one process" in text
    assert "4.0 % of the training time" in text


def test_page_of_a_validation_split(tmp_path):
    """Sees: accuracy on held-out training examples told as test accuracy, in text, table or figure."""
    records = [make_record(method, seed, split="validation") for method in ("sgd", "sam") for seed in (0, 1)]
    runs = read_runs(write_records(tmp_path, records))
    page = render(runs, summarize(runs))
    assert "the test set was not used" in page
    rest = page.replace("the test set was not used", "")
    assert not re.search(r"test (accuracy|set)", rest, re.IGNORECASE)
    assert len(re.findall("validation accuracy", page, re.IGNORECASE)) >= 8


def test_page_of_runs_without_curves(tmp_path):
    """Sees: a page that fails on older run files, or shows a table of nothing."""
    told = ("epoch_passes", "epoch_seconds", "data_seconds", "split", "data", "setup")
    records = [make_record(method, seed) for method in ("sgd", "sam") for seed in (0, 1)]
    old = [{name: value for name, value in record.items() if name not in told} for record in records]
    runs = read_runs(write_records(tmp_path, old))
    summary = summarize(runs)
    assert summary["equal_gradients"] == {"cheapest": None, "budget": None, "reached": {"sgd": None, "sam": None}}
    page = render(runs, summary)
    assert "Equal epochs" not in page
    assert "waiting for data" not in page
    assert "fingerprint" not in page


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
    cells = re.findall(r"<td>(.*?)</td>", ledger)[:8]
    # p = 0, 1/4, 1/2, 3/4: five and a half passes expected, five spent, two plain.
    assert cells == ["linear:0,1", "1", "4", "1.0", "5.0", "2", "2.500", "2.750"]


def test_expected_cost_with_a_part_of_the_batch(tmp_path):
    """Sees: a climb with a quarter of the batch priced as one with all of it, or q left out of the ledger."""
    record = make_record("rst", 0, schedule="0.5", batch_fraction=0.25, steps=8, passes=8.75, plain_passes=8.0)
    record["sharp_steps"] = [0, 3, 6]
    runs = read_runs(write_records(tmp_path, [record]))
    page = render(runs, summarize(runs))
    cells = re.findall(r"<td>(.*?)</td>", page[page.index("Cost ledger") :])[:8]
    assert (cells[1], cells[-2:]) == ("0.25", ["1.094", "1.125"])


def test_a_record_without_batch_fraction(tmp_path):
    """Sees: runs made before there was one that cannot be read any more, or a wrong type that can."""
    record = make_record("sam", 0)
    del record["batch_fraction"]
    assert read_runs(write_records(tmp_path, [record]))[0].batch_fraction == 1.0
    with pytest.raises(ValueError, match=r"\(batch_fraction missing or of the wrong type\)"):
        read_runs(write_records(tmp_path, [record | {"batch_fraction": "all"}]))


# Frontier


def bought(tmp_path: Path, **methods: tuple[float, float, float]) -> dict[str, Any]:
    """Return the summary of methods with these (cost, accuracy, seconds)."""
    records = [
        make_record(name, seed, passes=cost, plain_passes=1.0, test_accuracy=[accuracy + off], seconds=seconds + off)
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
    drawn = figures.accuracy_against_cost(summary)
    hollow = re.findall(r"fill: var\(--paper, white\); stroke: (#\w+)", drawn)
    assert set(hollow) == {"#997700", "#0077bb", "#009988"}  # sgd-long, sam, rst


def test_frontier_of_seconds_is_its_own(tmp_path):
    """Sees: the frontier of gradients drawn over seconds, where a cheap method that is slow is dominated."""
    summary = bought(tmp_path, sgd=(1, 84, 1), sam=(2, 97, 3), rst=(1.5, 92, 4))
    assert all(found["pareto_optimal"] for found in summary["methods"])
    assert "var(--paper" not in figures.accuracy_against_cost(summary)
    drawn = figures.accuracy_against_seconds(summary)
    assert set(re.findall(r"fill: var\(--paper, white\); stroke: (#\w+)", drawn)) == {"#009988"}


def test_frontier_is_marked_on_the_page(tmp_path):
    """Sees: a table that marks other methods than the summary, or none."""
    runs = runs_with(tmp_path, sgd=[84.0] * 3, sgd_long=[83.0] * 3, sam=[97.0] * 3)
    page = render(runs, summarize(runs))
    assert re.findall(r'<th scope="row">([^<]*)\xa0•</th>', page) == ["SGD", "SAM"]


class Drawn(Exception):
    """Carries a figure out of where it would be written."""


def axes_of(monkeypatch, draw, *given) -> Axes:
    """Return the axes that a function of `figures` draws."""

    def keep(figure: Figure, _: str) -> str:
        raise Drawn(figure)

    monkeypatch.setattr(figures, "to_svg", keep)
    with pytest.raises(Drawn) as caught:
        draw(*given)
    axes: Axes = caught.value.args[0].axes[0]
    return axes


def test_axes_end_where_the_quantities_do(tmp_path, monkeypatch):
    """Sees: room for accuracies above 100 % or below 0, and for negative times and costs."""
    summary = bought(tmp_path, sgd=(0.01, 0.5, 0.51), sam=(2, 99.5, 4), rst=(1, 60, 2))
    for draw in (figures.accuracy_against_cost, figures.accuracy_against_seconds):
        axes = axes_of(monkeypatch, draw, summary)
        assert axes.get_xlim()[0] == 0
        assert axes.get_ylim() == (0, 100)


def test_epochs_are_whole_and_accuracies_within_100(tmp_path, monkeypatch):
    """Sees: half an epoch on the axis, an accuracy of 102 %, and a limit of accuracies laid on losses."""
    records = [make_record("rst", 0, test_accuracy=[0.5, 50.0, 99.9], train_loss=[250.0, 200.0, 120.0])]
    runs = read_runs(write_records(tmp_path, records))
    axes = axes_of(monkeypatch, figures.accuracy, runs)
    assert axes.get_ylim() == (0, 100)
    assert all(tick == int(tick) for tick in axes.get_xticks())
    assert axes_of(monkeypatch, figures.training_loss, runs).get_ylim()[1] > 250


def test_name_of_a_line_goes_where_it_is_free():
    """Sees: only the ends of the line tried, where both are crossed by error bars and the middle is free."""
    axes = Figure(figsize=(3.8, 3.0), dpi=72).add_subplot()
    axes.set(xlim=(0, 1), ylim=(0, 100))
    bars = [Bbox(axes.transData.transform([(x, 0), (x, 100)])).padded(3.5) for x in (0.1, 0.9)]
    box = place_name(axes, "SAM − 1 point", 50.0, bars).get_window_extent()
    assert not any(box.overlaps(bar) for bar in bars)


def test_diverged_training_is_drawn(tmp_path):
    """Sees: a figure that fails on a loss that is not finite, written as NaN, Infinity or null."""
    losses: list[Any] = [2.0, 1.9, math.nan, math.inf, None]
    records = [make_record("rst", seed, train_loss=losses, test_accuracy=[10.0] * 5) for seed in (0, 1)]
    drawn = figures.training_loss(read_runs(write_records(tmp_path, records)))
    assert not re.search(r"[\s\"(](nan|inf)\b", drawn, re.IGNORECASE)
    assert re.search(r'd="M [\d.]+ [\d.]+ \nL [\d.]+ [\d.]+ \n"[^>]*stroke: #009988', drawn)  # two epochs, one stroke


def test_coin_is_drawn_for_methods_that_toss_one(runs, tmp_path):
    """Sees: an empty panel for SGD or SAM, one for LookSAM, a coin left out, no panel where none tosses."""
    assert re.findall(r"([\w-]+)[^>]*\(seed 0\)<", figures.coin(runs)) == ["RST", "G-RST", "thrifty"]
    plain = read_runs(make_folder(tmp_path, ("sgd", "sam"), seeds=1))
    assert re.findall(r"(\w+) \(seed 0\)<", figures.coin(plain)) == ["SGD", "SAM"]


def test_a_method_keeps_its_color(runs):
    """Sees: colors dealt out per figure, so that RST has SAM's color where SGD is not drawn."""
    summary = summarize(runs)
    for svg in (
        figures.accuracy_against_cost(summary),
        figures.accuracy_against_seconds(summary),
        figures.training_loss(runs),
        figures.accuracy(runs),
        figures.coin(runs),
    ):
        assert {"#009988", "#cc3311"} <= set(re.findall(r"stroke: (#\w+)", svg))
    assert "#0077bb" not in figures.coin(runs)


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
