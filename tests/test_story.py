"""What the default comparison must show: the README's verdicts. It continues in the folder of `sharpless compare`."""

import json
from pathlib import Path

import pytest

from sharpless.cli import main
from sharpless.lab.studies.arguments import SEEDS


@pytest.mark.story
def test_the_papers_story():
    """Sees sharpness-awareness that buys nothing, a price other than the promised one, or too few seeds."""
    root = Path(__file__).parents[1] / "runs" / "compare"
    assert main(["compare", "--out", str(root)]) == 0
    summary = json.loads((root / "summary.json").read_text())
    methods = {method["method"]: method for method in summary["methods"]}
    accuracy = {name: method["value"]["mean"] for name, method in methods.items()}
    assert all(method["seeds"] >= SEEDS for method in methods.values())
    assert summary["sam_beats_base"]["verdict"]
    assert accuracy["sam"] - accuracy["sgd"] >= 8
    assert accuracy["sgd"] < accuracy["rst"] < accuracy["sam"]
    assert accuracy["sgd-long"] < accuracy["rst"]
    assert all(methods[name]["versus_sam"]["non_inferior"] for name in ("g-rst", "thrifty"))
    assert all(methods[name]["versus_sam"]["behind"] for name in ("sgd", "sgd-long", "rst"))
    assert methods["g-rst"]["cost"] <= 1.51
    assert methods["sam"]["cost"] == 2.0
    assert accuracy["thrifty"] > accuracy["rst"]
    assert 1 < methods["thrifty"]["cost"] < 1.11
