"""What the default comparison must show. It continues in the folder that `sharpless compare` writes to."""

import json
from pathlib import Path

import pytest

from sharpless.cli import main


@pytest.mark.story
def test_the_papers_story():
    """Sees sharpness-awareness that buys nothing, or a price that is not the promised one."""
    root = Path(__file__).parents[1] / "runs" / "compare"
    assert main(["compare", "--out", str(root)]) == 0
    summary = json.loads((root / "summary.json").read_text())
    methods = {method["method"]: method for method in summary["methods"]}
    accuracy = {name: method["accuracy"]["mean"] for name, method in methods.items()}
    assert all(method["seeds"] >= 5 for method in methods.values())
    assert accuracy["sam"] - accuracy["sgd"] >= 8
    assert accuracy["sgd"] < accuracy["rst"] < accuracy["sam"]
    assert accuracy["sgd-long"] < accuracy["rst"]
    assert methods["g-rst"]["versus_sam"]["non_inferior"]
    assert methods["g-rst"]["cost"] <= 1.51
    assert methods["sam"]["cost"] == 2.0
    assert accuracy["thrifty"] > accuracy["rst"]
    assert 1.09 < methods["thrifty"]["cost"] < 1.11
