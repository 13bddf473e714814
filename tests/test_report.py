"""The report: statistics against other sources of the same numbers, files that are not runs, the page as text."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from scipy import stats

from sharpless.report import figures
from sharpless.report.html import render
from sharpless.report.labels import place_labels
from sharpless.report.runs import Run, read_runs
from sharpless.report.summary import summarize
from sharpless.report.verdict import verdict
from synthetic_runs import METHODS, RECIPE, make_folder, make_record, write_records

SAM = [97.0, 97.5, 97.2, 97.9, 96.8]
GRST = [97.3, 97.4, 97.6, 97.8, 97.1]


def runs_with(folder: Path, **accuracies: list[float]) -> list[Run]:
    """Return runs with these results for the seeds 0, 1, …; an underscore stands for the hyphen of a method."""
    records = [
        make_record(name.replace("_", "-"), seed, test_accuracy=[50.0, accuracy])
        for name, results in accuracies.items()
        for seed, accuracy in enumerate(results)
    ]
    return read_runs(write_records(folder, records))


def versus_sam(runs: list[Run], method: str, margin: float = 1.0) -> Any:
    return entry(summarize(runs, margin), method)["versus_sam"]


def entry(summary: dict[str, Any], method: str) -> dict[str, Any]:
    return next(found for found in summary["methods"] if found["method"] == method)


# Statistics


def test_accuracy_interval_in_closed_form(tmp_path):
    """Sees: ddof=0, a normal instead of a t quantile, a one-sided level, the best epoch instead of the last."""
    records = [make_record("sam", seed, test_accuracy=[99.0, 90.0 + seed]) for seed in (1, 2, 3)]
    accuracy = entry(summarize(read_runs(write_records(tmp_path, records))), "sam")["accuracy"]
    quantile = 0.95 * math.sqrt(2 / (1 - 0.95**2))  # of t with two degrees of freedom: F(t) = 1/2 + t/2√(2+t²)
    half = quantile / math.sqrt(3)
    assert (accuracy["mean"], accuracy["std"]) == (92.0, 1.0)
    assert accuracy["ci95"] == pytest.approx([92 - half, 92 + half], rel=1e-9)


def test_difference_is_the_paired_t_test(tmp_path):
    """Sees: an unpaired interval, SAM minus method, a wrong level."""
    versus = versus_sam(runs_with(tmp_path, sam=SAM, g_rst=GRST), "g-rst")
    oracle = stats.ttest_rel(GRST, SAM).confidence_interval(0.95)
    assert versus["difference"] == pytest.approx(0.16)
    assert versus["ci95"] == pytest.approx([oracle.low, oracle.high])


def test_pairs_are_made_by_seed(tmp_path):
    """Sees: pairing by position where two methods ran with different seeds; nan where all differences are equal."""
    sam = [make_record("sam", seed, test_accuracy=[90.0 + seed]) for seed in (1, 2, 3, 9)]
    rst = [make_record("rst", seed, test_accuracy=[89.0 + seed]) for seed in (0, 1, 2, 3)]
    versus = versus_sam(read_runs(write_records(tmp_path, sam + rst)), "rst")
    assert versus == {"difference": -1.0, "ci95": [-1.0, -1.0], "non_inferior": False}


def test_no_common_seed(tmp_path):
    """Sees: a mean of nothing, and a comparison of runs that no seed joins."""
    records = [make_record("sam", 0), make_record("sam", 1), make_record("rst", 2), make_record("rst", 3)]
    runs = read_runs(write_records(tmp_path, records))
    assert versus_sam(runs, "rst") == {"difference": None, "ci95": None, "non_inferior": None}
    render(runs, summarize(runs))


def test_non_inferiority_asks_the_lower_end(tmp_path):
    """Sees: a margin held against the mean or the upper end, and a margin of the wrong sign."""
    runs = runs_with(tmp_path, sam=SAM, g_rst=GRST[::-1])
    low = float(stats.ttest_rel(GRST[::-1], SAM).confidence_interval().low)
    assert low < 0
    assert versus_sam(runs, "g-rst", margin=-low * 1.01)["non_inferior"] is True
    assert versus_sam(runs, "g-rst", margin=-low * 0.99)["non_inferior"] is False


@pytest.mark.parametrize(
    ("sgd", "expected", "said"),
    [
        ([84.0, 85.0, 83.0, 86.0, 84.0], True, "SAM beats SGD (+12.88 points"),
        ([97.4, 97.3, 97.0, 97.6, 97.2], False, "SAM does not beat SGD (−0.02 points"),
        ([99.0, 99.4, 99.2, 99.8, 98.9], False, "SAM is worse than SGD (−1.98 points"),
    ],
)
def test_sam_against_sgd(tmp_path, sgd, expected, said):
    """Sees: a gain claimed from the mean alone, SGD minus SAM, a loss told as a tie."""
    summary = summarize(runs_with(tmp_path, sgd=sgd, sam=SAM))
    oracle = stats.ttest_rel(SAM, sgd).confidence_interval(0.95)
    assert summary["sam_beats_sgd"]["ci95"] == pytest.approx([oracle.low, oracle.high])
    assert summary["sam_beats_sgd"]["verdict"] is expected
    assert said in verdict(summary)


def test_costs_are_means_over_seeds(tmp_path):
    """Sees: the cost of one seed told for all, passes over own steps instead of over plain training's."""
    records = [make_record("sgd-long", 0, passes=900.0, plain_passes=600.0, seconds=2.0)]
    records += [make_record("sgd-long", 1, passes=960.0, plain_passes=600.0, seconds=4.0)]
    described = entry(summarize(read_runs(write_records(tmp_path, records))), "sgd-long")
    assert described["cost"] == 1.55
    assert described["passes"] == 930.0
    assert described["seconds"] == {"mean": 3.0, "std": pytest.approx(math.sqrt(2))}


def test_one_seed_says_nothing(tmp_path):
    """Sees: an interval or a verdict out of a single seed, NaN in the summary, a page that needs an interval."""
    runs = read_runs(make_folder(tmp_path, seeds=1))
    summary = summarize(runs)
    json.dumps(summary, allow_nan=False)
    rst = entry(summary, "rst")
    assert rst["accuracy"]["std"] is rst["accuracy"]["ci95"] is rst["seconds"]["std"] is None
    assert rst["versus_sam"]["difference"] == pytest.approx(
        rst["accuracy"]["mean"] - entry(summary, "sam")["accuracy"]["mean"]
    )
    assert rst["versus_sam"]["ci95"] is rst["versus_sam"]["non_inferior"] is None
    assert summary["sam_beats_sgd"]["verdict"] is None
    assert "too few seeds" in verdict(summary)
    assert "on-inferior" not in verdict(summary)
    assert "too few seeds" in render(runs, summary)


@pytest.mark.parametrize(
    ("methods", "missing"), [(("sgd", "rst"), "no runs of SAM"), (("sam", "rst"), "no runs of SGD"),
                             (("rst",), "no runs of SGD and SAM")]
)  # fmt: skip
def test_a_missing_method(tmp_path, methods, missing):
    """Sees: a comparison with SAM or SGD that needs runs which are not there."""
    runs = read_runs(make_folder(tmp_path, methods, seeds=2))
    summary = summarize(runs)
    assert summary["sam_beats_sgd"] == {"difference": None, "ci95": None, "verdict": None}
    assert (entry(summary, "rst")["versus_sam"] is None) == ("sam" not in methods)
    assert missing in render(runs, summary)


def test_sam_is_not_compared_with_itself(tmp_path):
    """Sees: SAM called non-inferior to SAM."""
    assert versus_sam(runs_with(tmp_path, sam=SAM), "sam") is None


def test_equal_results_need_no_spread(tmp_path):
    """Sees: nan or a warning (an error here) where all seeds agree."""
    runs = runs_with(tmp_path, sgd=[90.0] * 3, sam=[90.0] * 3, rst=[90.0] * 3)
    summary = summarize(runs)
    json.dumps(summary, allow_nan=False)
    assert entry(summary, "rst")["accuracy"] == {"mean": 90.0, "std": 0.0, "ci95": [90.0, 90.0]}
    assert entry(summary, "rst")["versus_sam"] == {"difference": 0.0, "ci95": [0.0, 0.0], "non_inferior": True}
    assert summary["sam_beats_sgd"]["verdict"] is False
    render(runs, summary)


def test_order_of_methods(tmp_path):
    """Sees: an order that depends on the names of the files."""
    late = [make_record("rst", 0, method=method) for method in ("rst-late", "part-batch")]
    folder = write_records(make_folder(tmp_path, seeds=1), late)
    methods = [described["method"] for described in summarize(read_runs(folder))["methods"]]
    known = ["sgd", "sgd-long", "sam", "rst", "g-rst", "thrifty"]
    assert methods == [*known, "part-batch", "peer-looksam", "peer-sam", "rst-late"]


@pytest.mark.parametrize("margin", [0.0, -1.0, math.nan, math.inf])
def test_margin_is_checked(tmp_path, margin):
    """Sees: a margin with which every method is, or none can be, non-inferior."""
    with pytest.raises(ValueError, match="margin = "):
        summarize(runs_with(tmp_path, sam=SAM), margin)


def test_verdict_sorts_the_methods(tmp_path):
    """Sees: an undecided method told as inferior, an inferior one as undecided, a cost left out."""
    runs = runs_with(
        tmp_path, sgd=[84.0] * 5, sam=SAM, g_rst=GRST, rst=[92.0, 91.0, 92.5, 92.1, 90.9],
        sgd_long=[98.0, 94.0, 99.0, 96.0, 97.0],
    )  # fmt: skip
    text = verdict(summarize(runs))
    kept = text.index("Non-inferior to SAM, whose cost is 2.00, within 1 point: G-RST, p = 0.5, γ = 2 (+0.16 points")
    behind = text.index("Behind SAM by more than 1 point: RST, p = 0.5 (−5.58 points")
    undecided = text.index("Neither shown to keep up with SAM within 1 point nor to fall behind: SGD, 45 epochs")
    assert kept < behind < undecided
    assert re.search(r"45 epochs \([^)]*\) at cost 1\.50\.$", text)


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
    with pytest.raises(ValueError, match=r"nowhere holds no runs/\*\.json: give a folder"):
        read_runs(tmp_path / "nowhere")


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
    rows = re.findall(r'<th scope="row">(.*?)(?: •)?</th>', page)
    for told in METHODS.values():
        assert rows.count(told["label"]) == 2  # results and ledger
    drawings = re.findall(r"<figure>.*?</figure>", page, flags=re.DOTALL)
    assert len(drawings) == 5
    for drawing in drawings:
        assert re.search(r'<svg role="img" aria-label="[^"]{20,}"', drawing)
        assert re.search(r"<figcaption>\S", drawing)
    identifiers = re.findall(r'\bid="([^"]*)"', page)
    assert len(identifiers) == len(set(identifiers))


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
    assert {found["method"] for found in summary["methods"] if found["non_dominated"]} == {
        "sgd", "g-rst", "thrifty", "peer-sam",
    }  # fmt: skip
    drawn = figures.accuracy_against_cost(summary)
    hollow = re.findall(r"fill: var\(--paper, white\); stroke: (#\w+)", drawn)
    assert set(hollow) == {"#997700", "#0077bb", "#009988"}  # sgd-long, sam, rst


def test_frontier_of_seconds_is_its_own(tmp_path):
    """Sees: the frontier of gradients drawn over seconds, where a cheap method that is slow is dominated."""
    summary = bought(tmp_path, sgd=(1, 84, 1), sam=(2, 97, 3), rst=(1.5, 92, 4))
    assert all(found["non_dominated"] for found in summary["methods"])
    assert "var(--paper" not in figures.accuracy_against_cost(summary)
    drawn = figures.accuracy_against_seconds(summary)
    assert set(re.findall(r"fill: var\(--paper, white\); stroke: (#\w+)", drawn)) == {"#009988"}


def test_frontier_is_marked_on_the_page(tmp_path):
    """Sees: a table that marks other methods than the summary, or none."""
    runs = runs_with(tmp_path, sgd=[84.0] * 3, sgd_long=[83.0] * 3, sam=[97.0] * 3)
    page = render(runs, summarize(runs))
    assert re.findall(r'<th scope="row">([^<]*) •</th>', page) == ["SGD", "SAM"]


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
        figures.test_accuracy(runs),
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
