"""The pages under docs say what is so."""

import re
from pathlib import Path

import pytest
import torch

from sharpless import GRST, pass_seconds
from sharpless.cli import main

ROOT = Path(__file__).parents[1]
RESULTS = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "benchmarks/results").glob("*.md")))
PAGES = sorted((ROOT / "docs").rglob("*.md"))


def test_rows_of_results():
    """Sees a measured row in a page that is in no committed results file."""
    lines = [line for page in PAGES for line in page.read_text(encoding="utf-8").splitlines()]
    rows = [line for line in lines if re.match(r"\|.* ± .*\|", line)]
    assert len(rows) > 20
    assert all(row in RESULTS for row in rows), [row for row in rows if row not in RESULTS]


def test_the_task_of_the_documentation(tmp_path, monkeypatch):
    """Sees a task in the documentation that cannot be compared, or a summary without what it prints."""
    monkeypatch.chdir(tmp_path)
    train, compare = re.findall(r"^```python\n(.*?)```", (ROOT / "docs/tasks.md").read_text("utf-8"), re.DOTALL | re.M)
    names = {"__name__": "__main__"}
    exec(compile(train + compare.replace("seeds=4", "seeds=2, choice_seeds=1"), "tasks.md", "exec"), names)
    assert [row["label"].split(",")[0] for row in names["summary"]["methods"]] == ["AdamW", "SAM", "thrifty"]
    assert names["summary"]["metric"]["goal"] == "min"


def test_the_budget_in_seconds():
    """Sees an example of a budget in seconds that a user cannot run."""
    (example,) = re.findall(
        r"^```python\n(seconds = .*?)```", (ROOT / "docs/cheaper.md").read_text("utf-8"), re.DOTALL | re.M
    )
    model = torch.nn.Linear(3, 2)
    names = {"model": model, "x": torch.randn(64, 3), "y": torch.randint(2, (64,)), "GRST": GRST}
    names |= {"base": torch.optim.SGD(model.parameters(), lr=0.1), "loss_fn": torch.nn.CrossEntropyLoss()}
    exec(compile(example.replace("1.1", "2.0"), "cheaper.md", "exec"), names | {"pass_seconds": pass_seconds})


def test_flatness_of_a_network_of_ones_own(tmp_path, monkeypatch, capsys):
    """Sees an example of measuring flatness that a user cannot run, in Python or by its name."""
    monkeypatch.chdir(tmp_path)
    mine, calls = re.findall(r"^```python\n(.*?)```", (ROOT / "docs/flatness.md").read_text("utf-8"), re.DOTALL | re.M)
    names = {}
    exec(compile(mine + calls, "flatness.md", "exec"), names)
    assert names["objective"].examples == 400
    (tmp_path / "my_nets.py").write_text(mine, encoding="utf-8")
    assert main(["flatness", "my_nets.py:mine", "--vectors", "2", "--points", "3", "--eigenvalues", "1"]) == 0
    assert "adaptive sharpness, ρ = 0.5" in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page):
    """Sees a link to a file that is not there."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
