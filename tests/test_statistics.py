"""The statistics of the report, against scipy's tests, numbers worked out by hand and simulated studies."""

import json
import math
import random
import re
from typing import Any

import pytest
from scipy import stats

from sharpless.report.budgets import at_equal
from sharpless.report.html import render
from sharpless.report.runs import Run, by_method, read_runs
from sharpless.report.statistics import against, holm, seeds_needed
from sharpless.report.summary import summarize
from sharpless.report.table import legend, rows
from sharpless.report.verdict import verdict, word
from synthetic_runs import MSE, entry, make_folder, make_record, runs_with, write_records

SAM = [97.0, 97.5, 97.2, 97.9, 96.8]
GRST = [97.3, 97.4, 97.6, 97.8, 97.1]


def versus_sam(runs: list[Run], method: str, margin: str | float | None = None) -> Any:
    return entry(summarize(runs, margin), method)["versus_sam"]


# Intervals and pairs


def test_interval_in_closed_form(tmp_path):
    """Sees: ddof=0, a normal instead of a t quantile, a one-sided level, the best epoch instead of the last."""
    records = [make_record("sam", seed, values=[99.0, 90.0 + seed]) for seed in (1, 2, 3)]
    value = entry(summarize(read_runs(write_records(tmp_path, records))), "sam")["value"]
    quantile = 0.95 * math.sqrt(2 / (1 - 0.95**2))  # of t with two degrees of freedom: F(t) = 1/2 + t/2√(2+t²)
    half = quantile / math.sqrt(3)
    assert (value["mean"], value["std"]) == (92.0, 1.0)
    assert value["ci95"] == pytest.approx([92 - half, 92 + half], rel=1e-9)


def test_difference_is_the_paired_t_test(tmp_path):
    """Sees: an unpaired interval, SAM minus method, a wrong level."""
    versus = versus_sam(runs_with(tmp_path, sam=SAM, g_rst=GRST), "g-rst")
    oracle = stats.ttest_rel(GRST, SAM).confidence_interval(0.95)
    assert versus["difference"] == pytest.approx(0.16)
    assert versus["ci95"] == pytest.approx([oracle.low, oracle.high])


def test_pairs_are_made_by_seed(tmp_path):
    """Sees: pairing by position where two methods ran with different seeds; nan where all differences are equal."""
    sam = [make_record("sam", seed, values=[90.0 + seed]) for seed in (1, 2, 3, 9)]
    rst = [make_record("rst", seed, values=[89.0 + seed]) for seed in (0, 1, 2, 3)]
    versus = versus_sam(read_runs(write_records(tmp_path, sam + rst)), "rst")
    assert (versus["difference"], versus["ci95"]) == (-1.0, [-1.0, -1.0])
    assert versus["non_inferior"] is versus["behind"] is versus["beats"] is False


def test_no_common_seed(tmp_path):
    """Sees: a mean of nothing, and a comparison of runs that no seed joins."""
    records = [make_record("sam", 0), make_record("sam", 1), make_record("rst", 2), make_record("rst", 3)]
    runs = read_runs(write_records(tmp_path, records))
    assert set(versus_sam(runs, "rst").values()) == {None}
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
        ([84.0, 85.0, 83.0, 86.0, 84.0], True, "SAM beats SGD (accuracy +12.9 points"),
        ([97.4, 97.3, 97.0, 97.6, 97.2], False, "SAM does not beat SGD (accuracy −0.02 points"),
        ([99.0, 99.4, 99.2, 99.8, 98.9], False, "SAM is worse than SGD (accuracy −2.0 points"),
    ],
)
def test_sam_against_sgd(tmp_path, sgd, expected, said):
    """Sees: a gain claimed from the mean alone, SGD minus SAM, a loss told as a tie."""
    summary = summarize(runs_with(tmp_path, sgd=sgd, sam=SAM))
    oracle = stats.ttest_rel(SAM, sgd).confidence_interval(0.95)
    assert summary["sam_beats_base"]["ci95"] == pytest.approx([oracle.low, oracle.high])
    assert summary["sam_beats_base"]["verdict"] is expected
    assert verdict(summary)[0].startswith(said)


def test_costs_are_means_over_seeds(tmp_path):
    """Sees: the cost of one seed told for all, mean for median, passes over own steps, not plain training's."""
    records = [make_record("sgd-long", 0, passes=900.0, plain_passes=600.0, seconds=2.0)]
    records += [make_record("sgd-long", 1, passes=960.0, plain_passes=600.0, seconds=4.0)]
    records += [make_record("sgd-long", 2, passes=930.0, plain_passes=600.0, seconds=9.0)]
    described = entry(summarize(read_runs(write_records(tmp_path, records))), "sgd-long")
    assert described["cost"] == 1.55
    assert described["passes"] == 930.0
    assert described["seconds"] == {"mean": 5.0, "std": pytest.approx(math.sqrt(13)), "median": 4.0}


def test_one_seed_says_nothing(tmp_path):
    """Sees: an interval or a verdict out of a single seed, NaN in the summary, a page that needs an interval."""
    runs = read_runs(make_folder(tmp_path, seeds=1))
    summary = summarize(runs)
    json.dumps(summary, allow_nan=False)
    rst = entry(summary, "rst")
    assert rst["value"]["std"] is rst["value"]["ci95"] is rst["seconds"]["std"] is None
    assert rst["versus_sam"]["difference"] == pytest.approx(
        rst["value"]["mean"] - entry(summary, "sam")["value"]["mean"]
    )
    assert {told for name, told in rst["versus_sam"].items() if name != "difference"} == {None}
    assert summary["sam_beats_base"]["verdict"] is None
    assert "too few seeds" in verdict(summary)[0]
    assert "on-inferior" not in " ".join(verdict(summary))
    assert "too few seeds" in render(runs, summary)


@pytest.mark.parametrize(
    ("methods", "missing"),
    [
        (("sgd", "rst"), "no runs of SAM (sam) here"),
        (("sam", "rst"), "no runs of the base optimizer (sgd) here"),
        (("rst",), "no runs of the base optimizer (sgd) and SAM (sam) here"),
    ],
)  # fmt: skip
def test_a_missing_method(tmp_path, methods, missing):
    """Sees: a comparison with SAM or SGD that needs runs which are not there."""
    runs = read_runs(make_folder(tmp_path, methods, seeds=2))
    summary = summarize(runs)
    assert summary["sam_beats_base"] == {"difference": None, "ci95": None, "verdict": None}
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
    assert entry(summary, "rst")["value"] == {"mean": 90.0, "std": 0.0, "ci95": [90.0, 90.0]}
    versus = entry(summary, "rst")["versus_sam"]
    assert (versus["difference"], versus["ci95"], versus["p"]) == (0.0, [0.0, 0.0], 0.0)
    assert (versus["non_inferior"], versus["behind"], versus["beats"]) == (True, False, False)
    assert summary["sam_beats_base"]["verdict"] is False
    render(runs, summary)


def test_order_of_methods(tmp_path):
    """Sees: an order that depends on the names of the files, or a list of methods that the report knows."""
    records = [make_record("rst", 0, method=method, rank=rank) for method, rank in (("b", 2), ("z", 1), ("a", 2))]
    methods = [described["method"] for described in summarize(read_runs(write_records(tmp_path, records)))["methods"]]
    assert methods == ["z", "a", "b"]


@pytest.mark.parametrize("margin", [0.0, -1.0, math.nan, math.inf, "0%", "100%", "-5%", "nan%", "much", "", "%"])
def test_margin_is_checked(tmp_path, margin):
    """Sees: a margin with which every method is, or none can be, non-inferior."""
    with pytest.raises(ValueError, match="margin = "):
        summarize(runs_with(tmp_path, sam=SAM), margin)


def test_verdict_sorts_the_methods(tmp_path):
    """Sees: an undecided method called inferior, an inferior one undecided, a cost left out, the dear ones first."""
    runs = runs_with(
        tmp_path, sgd=[84.0] * 5, sam=SAM, g_rst=GRST, rst=[92.0, 91.0, 92.5, 92.1, 90.9], thrifty=GRST,
        sgd_long=[98.0, 94.0, 99.0, 96.0, 97.0],
    )  # fmt: skip
    beats, kept, behind, undecided = verdict(summarize(runs))
    assert beats.startswith("SAM beats SGD (accuracy +13.3 points, 95 % interval ")
    assert beats.endswith("), at cost 2.00.")
    lead = "Non-inferior to SAM, whose cost is 2.00, within 1 point: thrifty, p=0.91, q=0.109, γ=1.09 at cost 1.10; "
    assert kept == lead + "G-RST, p = 0.5, γ = 2 at cost 1.49."
    assert behind == "Behind SAM by more than 1 point: RST, p = 0.5 at cost 1.49."
    lead = "Neither shown to be non-inferior to SAM within 1 point nor to be behind"
    assert undecided == f"{lead}: SGD, cost 1.5 at cost 1.50."


# Lower is better


def test_lower_is_better_mirrors_higher(tmp_path):
    """Sees: a test, a bound or a verdict that is not turned around where the goal is to minimize."""
    high = {"sgd": [84.0, 85.0, 83.0], "sam": SAM[:3], "rst": [92.0, 91.0, 92.5], "g_rst": GRST[:3]}
    low = {name: [100 - value for value in values] for name, values in high.items()}
    up = summarize(runs_with(tmp_path / "up", **high), 1.0)
    down = summarize(runs_with(tmp_path / "down", MSE, **low), 1.0)
    assert up["sam_beats_base"]["verdict"] is down["sam_beats_base"]["verdict"] is True
    for one, other in zip(up["methods"], down["methods"], strict=True):
        assert one["pareto_optimal"] == other["pareto_optimal"]
        assert word(one, up) == word(other, down)
        if one["method"] != "sam":
            mine, mirrored = one["versus_sam"], other["versus_sam"]
            assert mirrored["difference"] == pytest.approx(-mine["difference"])
            assert mirrored["ci95"] == pytest.approx([-end for end in mine["ci95"][::-1]])
            for name in ("p", "p_holm", "non_inferior", "behind", "beats", "seeds_needed"):
                assert mirrored[name] == pytest.approx(mine[name]), name
    assert "MSE −13.2 " in verdict(down)[0].replace(",", " ")
    assert "lower is better" in verdict(down)[0]
    worse = summarize(runs_with(tmp_path / "worse", MSE, sgd=low["sam"], sam=low["sgd"]), 1.0)
    assert worse["sam_beats_base"]["verdict"] is False
    assert verdict(worse)[0].startswith("SAM is worse than SGD (MSE +13")


def test_default_margins(tmp_path):
    """Sees: a point of accuracy asked of an MSE, a share of the wrong gain, a share taken where it was not asked."""
    assert summarize(runs_with(tmp_path / "a", sgd=[84.0, 85.0], sam=SAM[:2]))["margin"] == {
        "value": 1.0,
        "share": None,
    }
    runs = runs_with(tmp_path / "b", MSE, sgd=[0.5, 0.52, 0.51], sam=[0.4, 0.41, 0.42], g_rst=[0.42, 0.43, 0.44])
    assert summarize(runs)["margin"] == {"value": pytest.approx(0.25 * 0.1), "share": 0.25}
    assert summarize(runs, "50%")["margin"] == {"value": pytest.approx(0.05), "share": 0.5}
    assert summarize(runs, "0.05")["margin"] == {"value": 0.05, "share": None}
    assert versus_sam(runs, "g-rst", "50%")["non_inferior"] is True
    assert versus_sam(runs, "g-rst", "10%")["behind"] is True
    assert "within 0.05 (50 % of SAM's gain): G-RST" in verdict(summarize(runs, "50%"))[1]


@pytest.mark.parametrize("sgd", [[0.4, 0.42, 0.41], [0.3, 0.31, 0.32]])
def test_a_share_of_no_gain(tmp_path, sgd):
    """Sees: a method called non-inferior, or behind, by a margin of nothing or less, and a page that needs one."""
    runs = runs_with(tmp_path, MSE, sgd=sgd, sam=[0.4, 0.41, 0.42], g_rst=[0.4, 0.411, 0.42], rst=[0.1, 0.11, 0.12])
    summary = summarize(runs)
    json.dumps(summary, allow_nan=False)
    assert summary["margin"] == {"value": None, "share": 0.25}
    versus = entry(summary, "g-rst")["versus_sam"]
    assert (versus["p"], versus["non_inferior"], versus["behind"]) == (None, False, False)
    assert word(entry(summary, "g-rst"), summary) == "no gain"
    assert entry(summary, "rst")["versus_sam"]["beats"] is True
    assert "no method is called non-inferior" in verdict(summary)[0]
    assert "“No gain”" in render(runs, summary)


def test_a_share_of_an_unknown_gain(tmp_path):
    """Sees: SAM said to gain nothing where the base was not trained, and no word on what to do."""
    summary = summarize(runs_with(tmp_path, MSE, sam=[0.4, 0.41, 0.42], g_rst=[0.4, 0.411, 0.42]))
    assert word(entry(summary, "g-rst"), summary) == "no margin"
    assert "no margin: SAM's gain over the base is not known, so give --margin as an amount" in legend(summary)


def test_a_margin_above_the_gain(tmp_path):
    """Sees: a method said to be non-inferior to SAM, as if it kept its gain, where the base is non-inferior as well."""
    sam = [97.0, 97.1, 97.2, 97.0]
    runs = runs_with(tmp_path, sgd=[96.5, 96.7, 96.7, 96.6], sam=sam, g_rst=[96.6, 96.7, 96.8, 96.5])
    said = " But the margin, 1 point, is more than this gain: SGD is non-inferior to SAM too."
    assert verdict(summarize(runs))[0].endswith(f", at cost 2.00.{said}")
    assert said not in verdict(summarize(runs, 0.1))[0]


def test_a_margin_in_the_unit_without_gain(tmp_path):
    """Sees: being non-inferior to a SAM that gains nothing told as an achievement."""
    summary = summarize(runs_with(tmp_path, sgd=SAM, sam=SAM, g_rst=GRST))
    assert "non-inferior to SAM does not mean good here" in verdict(summary)[0]
    assert entry(summary, "g-rst")["versus_sam"]["non_inferior"] is True


# Diverged runs, choices


def test_a_seed_without_a_result(tmp_path):
    """Sees: a diverged seed left out in silence, a mean of it, and a method with one called non-inferior or better."""
    records = [make_record("sgd", seed, values=[50.0, 84.0 + seed]) for seed in range(4)]
    records += [make_record("sam", seed, values=[50.0, 97.0 + seed / 10]) for seed in range(4)]
    records += [make_record("rst", seed, values=[50.0, 98.0 + seed / 9]) for seed in (0, 1, 2)]
    records += [make_record("rst", 3, values=[50.0, None], loss=[2.0, None])]
    records += [make_record("g-rst", seed, values=[50.0, math.nan]) for seed in range(4)]
    runs = read_runs(write_records(tmp_path, records))
    summary = summarize(runs)
    json.dumps(summary, allow_nan=False)
    rst, grst = entry(summary, "rst"), entry(summary, "g-rst")
    assert rst["diverged"] == [3]
    assert rst["value"]["mean"] == pytest.approx(98 + 1 / 9)
    assert (rst["versus_sam"]["non_inferior"], rst["versus_sam"]["beats"]) == (False, False)
    assert [word(found, summary) for found in (rst, grst)] == ["diverged", "diverged"]
    assert grst["value"] == {"mean": None, "std": None, "ci95": None}
    assert not grst["pareto_optimal"]
    one, other = (warning for warning in summary["warnings"] if "diverged" in warning)
    assert "from point 2 of the curve (step 600) on with seed 3. Seed 3 ended without a result" in one
    assert "with seeds 0, 1, 2, 3. Seeds 0, 1, 2, 3 ended without a result" in other
    assert any("training diverged with some seed: " in sentence for sentence in verdict(summary))
    render(runs, summary)


def test_sam_with_a_seed_without_a_result(tmp_path):
    """Sees: a gain of SAM, or methods behind it, claimed from the seeds that it survived, or more seeds advised."""
    records = [make_record("sgd", seed, values=[50.0, 84.0 + seed / 9]) for seed in range(6)]
    records += [make_record("sam", seed, values=[50.0, 97.0 + seed / 10 if seed else None]) for seed in range(6)]
    records += [make_record("rst", seed, values=[50.0, 97.2 + seed / 11]) for seed in range(6)]
    runs = read_runs(write_records(tmp_path, records))
    summary = summarize(runs)
    assert summary["sam_beats_base"]["verdict"] is False
    assert verdict(summary)[0].startswith("SAM diverged with some seed, so it is not said to beat SGD (accuracy +12.97")
    assert [word(found, summary) for found in summary["methods"]] == ["not shown", "", "yes, better"]
    assert [found["method"] for found in summary["methods"] if found["pareto_optimal"]] == ["sgd", "rst"]
    assert not any("too few" in text for text in summary["warnings"])
    shared = summarize(runs, "25%")
    assert [word(found, shared) for found in shared["methods"]] == ["no margin", "", "yes, better"]
    assert "no method is as good for less than SGD, RST, p = 0.5." in render(runs, summary)


def test_sam_without_any_result(tmp_path):
    """Sees: more seeds advised where those of SAM diverged, and a frontier that needs one method without a fault."""
    runs = runs_with(tmp_path, sgd=[84.0, None], sam=[None, None], rst=[97.0, None])
    summary = summarize(runs)
    assert verdict(summary)[0].startswith("SAM diverged, and has too few seeds with a result for a comparison with SGD")
    assert [word(found, summary) for found in summary["methods"]] == ["diverged", "", "diverged"]
    assert not any("train at least two" in text for text in summary["warnings"])
    render(runs, summary)


def test_a_seed_without_a_run(tmp_path):
    """Sees: a run that failed left out of means and differences without a word on the page."""
    seeds = {"sgd": range(5), "sam": (0, 1, 4), "rst": (0, 1, 4), "g-rst": range(4)}
    records = [make_record(method, seed) for method, found in seeds.items() for seed in found]
    found = [w for w in summarize(read_runs(write_records(tmp_path, records)))["warnings"] if "no run" in w]
    assert found == [
        "SAM and RST: no run with seeds 2, 3, of 5 seeds. Means and differences leave them out. A run that failed may "
        "be the worst one.",
        "G-RST: no run with seed 4, of 5 seeds. Means and differences leave it out. A run that failed may be the worst "
        "one.",
    ]


def test_a_loss_that_diverged(tmp_path):
    """Sees: the accuracy of a broken network without a word, or a warning where the loss recovered."""
    records = [make_record("sam", seed, values=[9.0, 10.0, 10.0], loss=[2.0, None, 2.0]) for seed in (0, 1)]
    records += [make_record("rst", seed, values=[9.0, 10.0, 10.0], loss=[2.0, None, None]) for seed in (0, 1)]
    (found,) = (w for w in summarize(read_runs(write_records(tmp_path, records)))["warnings"] if "diverged" in w)
    assert found.startswith(
        "RST, p = 0.5 diverged: its loss or accuracy was not finite from point 2 of the curve (step"
    )
    assert "Its result with this seed is that of a diverged network." in found


def test_nothing_has_a_result(tmp_path):
    """Sees: a page, a table or a figure that needs at least one result."""
    records = [make_record(method, seed, values=[None]) for method in ("sgd", "sam", "rst") for seed in (0, 1)]
    runs = read_runs(write_records(tmp_path, records))
    summary = summarize(runs)
    json.dumps(summary, allow_nan=False)
    assert verdict(summary)
    assert rows(summary)[0][1] == "—"
    render(runs, summary)


def chosen(folder: Any, chose: float, *, goal: str = "max", base: float = 80.0) -> Any:
    """Return the summary of a SAM whose ρ was chosen among three, the base reaching `base` on validation."""
    metric = MSE if goal == "min" else None
    given: dict[str, Any] = {"chosen": True} | ({"metric": metric} if metric else {})
    records = [make_record("sam", seed, hyperparameters={"rho": chose}, **given) for seed in (0, 1)]
    given = {"metric": metric} if metric else {}
    records += [make_record("sgd", seed, validation=[base] * 30, **given) for seed in (0, 1)]
    return summarize(read_runs(write_records(folder, records)))


def test_an_optimum_at_the_edge(tmp_path):
    """Sees: the end of a grid not named, the wrong end, no remedy, and the middle of a grid called an end."""
    middle = chosen(tmp_path / "middle", 0.3)
    assert entry(middle, "sam")["choice"] == {"cost": 9.0, "edge": {}, "beats_base": True}
    assert not any("grid" in warning for warning in middle["warnings"])
    for place, end, words in ((0.1, "lower", "smallest"), (1.0, "upper", "largest")):
        summary = chosen(tmp_path / end, place)
        assert entry(summary, "sam")["choice"]["edge"] == {"rho": end}
        (warning,) = (warning for warning in summary["warnings"] if "grid" in warning)
        assert warning.startswith(f"rho = {place:g}, chosen for SAM, is the {words} value of the grid: ")
        assert f"{'below' if end == 'lower' else 'above'} {place:g} in --rho" in warning


@pytest.mark.parametrize(("goal", "good", "bad"), [("max", 99.0, 80.0), ("min", 0.1, 9.0)])
def test_no_radius_beats_the_base(tmp_path, goal, good, bad):
    """Sees: a base that no radius beat on validation not told first, or told where one did, or the goal forgotten."""
    beaten = chosen(tmp_path / "beaten", 0.3, goal=goal, base=bad)
    assert entry(beaten, "sam")["choice"]["beats_base"] is True
    assert verdict(beaten)[0].startswith("SAM beats SGD")
    unbeaten = chosen(tmp_path / "unbeaten", 0.3, goal=goal, base=good)
    assert verdict(unbeaten)[0] == "No radius ρ that was tried beats SGD on validation, with any method."
    assert verdict(unbeaten)[1].startswith("SAM beats SGD")


def test_cost_in_seconds_is_paired_by_seed(tmp_path):
    """Sees: a ratio of means or of medians, other seeds of the base, a cost without a base."""
    records = [make_record("sgd", seed, seconds=seconds) for seed, seconds in enumerate((1.0, 10.0, 2.0))]
    records += [make_record("sam", seed, seconds=seconds) for seed, seconds in enumerate((2.0, 15.0, 6.0, 99.0))]
    summary = summarize(read_runs(write_records(tmp_path / "with", records)))
    assert (entry(summary, "sgd")["cost_seconds"], entry(summary, "sam")["cost_seconds"]) == (1.0, 2.0)
    alone = summarize(read_runs(write_records(tmp_path / "without", records[3:])))
    assert entry(alone, "sam")["cost_seconds"] is None


# Tests, and the correction for their number

ASIDE = {
    "sgd": [84.0, 85.0, 83.0, 86.0, 84.0],
    "sgd_long": [84.1, 85.2, 83.3, 86.4, 84.5],
    "rst": [90.0, 91.0, 92.0] * 2,
}
CLOSE = [96.9, 96.6, 96.8, 97.1, 96.5]  # SAM - 1 and 0.9, 0.1, 0.6, 0.2, 0.7 more


def test_p_values_are_those_of_scipy(tmp_path):
    """Sees: a two-sided p-value, the wrong tail, a margin of the wrong sign, n for n − 1 degrees of freedom."""
    for margin in (0.05, 0.3, 1.0):
        versus = versus_sam(runs_with(tmp_path, sam=SAM, g_rst=GRST), "g-rst", margin)
        lowered = [accuracy - margin for accuracy in SAM]
        assert versus["p"] == pytest.approx(stats.ttest_rel(GRST, lowered, alternative="greater").pvalue, rel=1e-9)
        assert versus["p_holm"] == versus["p"]  # a single comparison


def test_three_questions(tmp_path):
    """Sees: one question answered with the tail or the bound of another."""
    for shift in (-1.5, -1.2, -0.8, -0.1, 0.1, 0.5):
        shifted = [accuracy + shift for accuracy in GRST]
        versus = versus_sam(runs_with(tmp_path, sam=SAM, g_rst=shifted), "g-rst")
        lowered = [accuracy - 1 for accuracy in SAM]
        for name, other, tail in (
            ("non_inferior", lowered, "greater"),
            ("behind", lowered, "less"),
            ("beats", SAM, "greater"),
        ):
            assert versus[name] == (stats.ttest_rel(shifted, other, alternative=tail).pvalue <= 0.025), (shift, name)


def test_holm_by_hand():
    """Sees: Bonferroni's factor for all, no running maximum, p-values in the wrong order, more than 1."""
    # Ordered 0.005, 0.01, 0.03, 0.04, times 4, 3, 2, 1: 0.02, 0.03, 0.06, and 0.04, which may not fall below 0.06.
    adjusted = holm({"h1": 0.01, "h2": 0.04, "h3": 0.03, "h4": 0.005, "not asked": None})
    assert adjusted.pop("not asked") is None
    assert adjusted == {name: pytest.approx(p) for name, p in {"h1": 0.03, "h2": 0.06, "h3": 0.06, "h4": 0.02}.items()}
    assert holm({"a": 0.7, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def test_alone_but_not_among_five(tmp_path):
    """Sees: a verdict that is not corrected, or also for SAM and methods of one seed."""
    p = stats.ttest_rel(CLOSE, [accuracy - 1 for accuracy in SAM], alternative="greater").pvalue
    assert 0.025 / 4 < p < 0.025
    alone = summarize(runs_with(tmp_path / "alone", sam=SAM, g_rst=CLOSE, thrifty=[97.0]))
    assert alone["comparisons"] == 1
    assert entry(alone, "g-rst")["versus_sam"]["non_inferior"] is True
    runs = runs_with(tmp_path / "among", sam=SAM, g_rst=CLOSE, peer_sam=GRST, **ASIDE)
    among = summarize(runs)
    versus = entry(among, "g-rst")["versus_sam"]
    assert among["comparisons"] == 5
    assert versus["ci95"][0] > -1
    assert versus["p_holm"] == pytest.approx(4 * p)  # peer-sam's p-value is smaller
    assert versus["non_inferior"] is versus["behind"] is False
    assert word(entry(among, "g-rst"), among) == "alone only"
    assert any("as the only comparison, but not as one of 5: G-RST" in sentence for sentence in verdict(among))
    assert (
        "“Alone only”: non-inferior as the only comparison (its interval lies within the margin), but not as one of 5"
        in " ".join(render(runs, among).split())
    )


def test_the_primary_question_is_not_corrected(tmp_path):
    """Sees: SAM against SGD corrected for the methods that happen to be in the table."""
    sgd = [accuracy - gain for accuracy, gain in zip(SAM, (1.6, 0.2, 2.3, 0.9, 2.0), strict=True)]
    assert 0.025 / 5 < stats.ttest_rel(SAM, sgd, alternative="greater").pvalue < 0.025
    others = {name: results for name, results in ASIDE.items() if name != "sgd"}
    runs = runs_with(tmp_path, sgd=sgd, sam=SAM, g_rst=GRST, peer_sam=GRST, **others)
    summary = summarize(runs)
    assert summary["sam_beats_base"]["verdict"] is True
    assert "It is not corrected" in render(runs, summary)


@pytest.mark.parametrize(
    ("truth", "question", "good"),
    [(-1.0, "non_inferior", 0), (-1.0, "non_inferior", 3), (-1.0, "behind", 0), (0.0, "beats", 0)],
)
def test_any_false_claim_is_rare(truth, question, good):
    """Sees: no correction (0.12), 5 % one-sided (0.05), a false discovery rate in place of Holm's (0.04 with 3 good).

    Five methods with exactly the difference at which the claim is false, but for `good` ones of which it is true.
    """
    generator, studies, seeds = random.Random(0), 4000, 5
    false = alone = 0
    for _ in range(studies):
        pairs = {f"good {i}": [generator.gauss(5, 0.01) for _ in range(seeds)] for i in range(good)}
        pairs |= {f"bad {i}": [generator.gauss(truth) for _ in range(seeds)] for i in range(5 - good)}
        bad = [found for method, found in against(pairs, 1.0).items() if method.startswith("bad")]
        false += any(found[question] for found in bad)
        alone += any(found["ci95"][0] > truth for found in bad)
    error = math.sqrt(0.025 * 0.975 / studies)
    assert false / studies <= 0.025 + 3 * error
    assert alone / studies > 0.045  # what would be claimed if each were the only one
    if not good:
        assert false / studies >= 0.025 - 3 * error  # these methods are independent: Holm gives nothing away


# Enough seeds?


@pytest.mark.parametrize(("spread", "margin"), [(0.1, 1.0), (0.9, 1.0), (2.5, 1.0), (0.7, 0.3), (5.0, 1.0)])
def test_seeds_needed(spread, margin):
    """Sees: a normal quantile, the quantile of the seeds at hand, one seed too many or too few."""
    needed = seeds_needed(spread, margin)
    assert stats.t.interval(0.95, needed - 1, scale=spread / math.sqrt(needed))[1] <= margin
    if needed > 2:
        assert stats.t.interval(0.95, needed - 2, scale=spread / math.sqrt(needed - 1))[1] > margin


def test_seeds_needed_has_an_end():
    """Sees: an endless search, and a hundred seeds refused that would do."""
    enough = float(stats.t.ppf(0.975, 99)) / 10
    assert seeds_needed(1.0, enough * (1 + 1e-12)) == 100
    assert seeds_needed(1.0, enough * 0.999) is None


def test_warnings(tmp_path):
    """Sees: no warning, one for what is decided or narrow, or a number of seeds out of thin air."""
    wide = [98.0, 94.0, 99.0, 96.0, 97.0]
    found = [left - right for left, right in zip(wide, SAM, strict=True)]
    half = stats.t.interval(0.95, 4, scale=stats.sem(found))[1]
    summary = summarize(runs_with(tmp_path, sam=SAM, g_rst=GRST, sgd_long=wide, sgd=[80.0, 86.0, 83.0, 84.0, 85.0]))
    sgd = entry(summary, "sgd")["versus_sam"]
    assert sgd["ci95"][1] - sgd["ci95"][0] > 2  # wider than the margin, but behind all the same
    (warning,) = summary["warnings"]
    needed = seeds_needed(stats.tstd(found), 1.0)
    assert warning == (
        f"5 seeds are too few to decide on SGD (cost 1.5): its interval reaches ± {half:.2f} points, the margin is 1; "
        f"seeds needed: {needed}."
    )
    assert entry(summary, "sgd-long")["versus_sam"]["seeds_needed"] == needed
    (warning,) = summarize(runs_with(tmp_path, sam=SAM, sgd_long=[60.0, 98.0, 99.0, 20.0, 97.0]))["warnings"]
    assert warning.endswith("the margin is 1; seeds needed: more than 100.")
    behind = [accuracy - off for accuracy, off in zip(SAM, (1.5, 0.6, 0.9, 1.6, 0.5), strict=True)]
    open_but_narrow = summarize(runs_with(tmp_path, sam=SAM, sgd_long=behind))
    versus = entry(open_but_narrow, "sgd-long")["versus_sam"]
    assert 0.5 < (versus["ci95"][1] - versus["ci95"][0]) / 2 < 1
    assert versus["non_inferior"] is versus["behind"] is False
    assert open_but_narrow["warnings"] == []


def test_shares_with_the_unit_of_percent(tmp_path):
    """Sees every method called non-inferior without a word, since accuracies are shares and the margin is one point."""
    sam, base = [0.97, 0.98, 0.96, 0.97], [0.84, 0.82, 0.86, 0.85]
    (found,) = summarize(runs_with(tmp_path / "shares", sam=sam, sgd=base))["warnings"]
    assert found.startswith("Every accuracy is at most 1, and its unit is %: if these are shares, report 100 times")
    unit = {"name": "accuracy", "unit": "", "goal": "max"}
    percent = {"sam": [100 * value for value in sam], "sgd": [100 * value for value in base]}
    for name, runs in (
        ("bare", runs_with(tmp_path / "bare", metric=unit, sam=sam, sgd=base)),
        ("percent", runs_with(tmp_path / "percent", **percent)),
    ):
        assert not [warning for warning in summarize(runs)["warnings"] if "shares" in warning], name


def test_undecided_methods_share_a_warning(tmp_path):
    """Sees: a sentence per method, ends of the range mixed up, methods of other numbers of seeds in the same one."""
    offsets = {"rst": (-9.0, 0.0, 9.0), "g_rst": (-5.0, 0.0, 5.0), "thrifty": (-2.0, 0.0, 2.0), "peer_sam": (-3.0, 3.0)}
    accuracies = {name: [90.0 + off for off in found] for name, found in offsets.items()}
    runs = runs_with(tmp_path, sam=[90.0] * 3, **accuracies)
    summary = summarize(runs)
    _, three, two = summary["warnings"]  # the first is on the seed without a run
    low, high = (spread * stats.t.ppf(0.975, 2) / math.sqrt(3) for spread in (2, 9))
    needed = seeds_needed(2.0, 1.0)
    assert three == (
        f"3 seeds are too few to decide on RST, G-RST and thrifty: their intervals reach ± {low:.3g} to ± {high:.3g} "
        f"points, the margin is 1; seeds needed: {needed} (thrifty) to more than 100 (RST)."
    )
    assert two.startswith("2 seeds are too few to decide on peer SAM: its interval reaches ± ")
    page = render(runs, summary)
    cells = re.findall(r"<td>([^<]*)</td></tr>", page[page.index("Seeds for ±&nbsp;margin</th>") :])
    assert cells[1:4] == ["more than 100", str(seeds_needed(5.0, 1.0) or "more than 100"), str(needed)]


def test_warnings_of_single_seeds_and_no_spread(tmp_path):
    """Sees: silence where nothing can be said, and where an interval has no width."""
    (warning,) = summarize(read_runs(make_folder(tmp_path / "one", seeds=1)))["warnings"]
    assert "There is no comparison of any method with SAM" in warning
    runs = runs_with(tmp_path, sam=[97.0, 97.0], rst=[97.0], g_rst=[97.0, 97.0])
    summary = summarize(runs)
    _, single, flat = summary["warnings"]
    assert "There is no comparison of RST, p = 0.5 with SAM" in single
    assert "G-RST, p = 0.5, γ = 2 minus SAM is the same with all 2 seeds" in flat
    rounded = runs_with(tmp_path / "rounded", sam=[96.4, 97.0, 96.8], rst=[96.6, 97.2, 97.0])  # 0.2 ± 1e-14
    assert "RST, p = 0.5 minus SAM is the same with all 3 seeds" in summarize(rounded)["warnings"][0]
    page = render(runs, summary)
    assert page.index(single) < page.index("<main>")
    assert page.index(flat) < page.index("<main>")


# Equal gradients, equal seconds


def spending(method: str, seed: int, spent: list[float], values: list[float]) -> dict[str, Any]:
    return make_record(method, seed, curve_passes=spent, passes=spent[-1], values=values)


def at_equal_gradients(folder, *records):
    return at_equal(by_method(read_runs(write_records(folder, list(records)))), lambda run: run.curve.passes)


def test_equal_gradients(tmp_path):
    """Sees: a later point, the best one, an interpolation, a point lost that ends on the budget."""
    found = at_equal_gradients(
        tmp_path,
        spending("sgd", 0, [10.0, 20.0, 30.0], [60.0, 75.0, 85.0]),
        spending("sgd", 1, [10.0, 20.0, 30.0], [60.0, 75.0, 83.0]),
        spending("sam", 0, [20.0, 40.0, 60.0], [50.0, 70.0, 97.0]),
        spending("sam", 1, [20.0, 40.0, 60.0], [54.0, 70.0, 98.0]),
        spending("rst", 0, [15.0, 30.0, 45.0], [80.0, 71.0, 92.0]),
        spending("rst", 1, [14.0, 29.9, 45.0], [80.0, 73.0, 91.0]),
        spending("g-rst", 0, [31.0, 61.0], [80.0, 97.0]),
        spending("g-rst", 1, [29.0, 61.0], [80.0, 97.0]),
    )
    assert (found["cheapest"], found["budget"]) == ("sgd", 30.0)
    root = pytest.approx(math.sqrt(2))
    assert found["reached"] == {
        "sgd": {"mean": 84.0, "std": root, "points": 3.0},
        "sam": {"mean": 52.0, "std": pytest.approx(math.sqrt(8)), "points": 1.0},
        "rst": {"mean": 72.0, "std": root, "points": 2.0},
        "g-rst": None,  # not even one point with seed 0
    }


def test_budgets_are_paired_by_seed(tmp_path):
    """Sees: the budget of another seed, or a seed that the cheapest method did not run."""
    found = at_equal_gradients(
        tmp_path,
        spending("rst", 0, [10.0, 20.0], [50.0, 60.0]),
        spending("rst", 1, [14.0, 28.0], [50.0, 62.0]),
        spending("sam", 0, [13.0, 27.0], [70.0, 99.0]),
        spending("sam", 1, [13.0, 27.0], [10.0, 80.0]),
        spending("sam", 5, [13.0, 27.0], [0.0, 0.0]),
    )
    assert found["budget"] == 24.0
    assert found["reached"]["rst"]["mean"] == 61.0
    assert (found["reached"]["sam"]["mean"], found["reached"]["sam"]["points"]) == (75.0, 1.5)


def test_equal_seconds_are_not_gradients(tmp_path):
    """Sees: the seconds read off the curve of gradients, and the cheapest taken for the quickest."""
    runs = read_runs(
        write_records(
            tmp_path,
            [
                make_record("sgd", 0, passes=2.0, curve_seconds=[5.0, 9.0], seconds=9.0, values=[80.0, 84.0]),
                make_record("sam", 0, passes=4.0, curve_seconds=[4.0, 8.0], seconds=8.0, values=[90.0, 97.0]),
            ],
        )
    )
    summary = summarize(runs)
    assert (summary["equal_gradients"]["cheapest"], summary["equal_seconds"]["cheapest"]) == ("sgd", "sam")
    assert summary["equal_gradients"]["reached"]["sam"] == {"mean": 90.0, "std": None, "points": 1}
    assert summary["equal_seconds"]["reached"]["sgd"] == {"mean": 80.0, "std": None, "points": 1}
    assert "2 gradients and 8.0 seconds are" in render(runs, summary)


def test_waiting_for_data(tmp_path):
    """Sees: a mean of shares, a share of unknown runs, 0 where nothing is known."""
    records = [
        make_record("sam", 0, seconds=10.0, data_seconds=1.0),
        make_record("sam", 1, seconds=30.0, data_seconds=9.0),
        make_record("sam", 2, seconds=99.0, data_seconds=None),
        make_record("sam", 3, seconds=50.0, data_seconds=0.0),  # of a task that measures nothing
    ]
    runs = read_runs(write_records(tmp_path, records))
    assert summarize(runs)["waiting_for_data"] == 0.25
    assert "25.0 % of the training time" in render(runs, summarize(runs))
    assert summarize(runs[2:])["waiting_for_data"] is None
    assert "waiting for data" not in render(runs[2:], summarize(runs[2:]))
