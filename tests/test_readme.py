"""The README says what is so."""

import json
import re
import textwrap
from pathlib import Path
from statistics import fmean

import torch
from torch import nn

from sharpless.report.table import rows

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_lines_of_user_code():
    """Sees an example that a user cannot run."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    loader = [(torch.randn(16, 1, 8, 8), torch.randint(10, (16,)))] * 20
    examples = re.findall(r"^ *```python\n(.*?)```", README, re.DOTALL | re.MULTILINE)
    assert len(examples) == 1
    for example in map(textwrap.dedent, examples):
        names = {"model": model, "loader": loader, "loss_fn": nn.CrossEntropyLoss(), "torch": torch}
        names["device"] = "cpu"
        exec(compile(example, "README.md", "exec"), names)
        assert names["opt"].cost.steps == 20


def test_the_table():
    """Sees a figure in the README that is not the one in the committed results file."""
    summary = json.loads((ROOT / "benchmarks/results/compare-digits.json").read_text(encoding="utf-8"))
    for cells in rows(summary):
        row = " | ".join(cells)
        assert f"| {row} |" in README, row


def test_beside_other_packages(monkeypatch):
    """Sees a score, an overhead or a time in the README that is not the one in the committed results files."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import readme

    assert len(readme.packages()) == 5
    assert "\n".join(readme.packages()) in README, "run benchmarks/readme.py"
    assert not [note for note in readme.notes() if note not in " ".join(README.split())], "run benchmarks/readme.py"


def test_the_picture(monkeypatch):
    """Sees a picture of the default comparison that is not drawn from the committed results file."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import readme

    drawn, committed = (
        re.findall(r"<title>.*</title>", svg) for svg in (readme.picture(), readme.PICTURE.read_text("utf-8"))
    )
    assert len(drawn) > 8
    assert drawn == committed, "run benchmarks/readme.py"


def test_the_caution():
    """Sees a figure in the caveat on small parts that is not the one in the committed results file."""
    runs = json.loads((ROOT / "benchmarks/results/finetune-batchnorm.json").read_text(encoding="utf-8"))["runs"]
    sgd, sam, small = (
        fmean(run["accuracy"] for run in runs if (run["method"], run["rho"]) == row)
        for row in (("sgd", 0.0), ("sam", 0.05), ("g-rst p=1 q=0.1", 0.05))
    )
    text = " ".join(README.split())
    assert f"{sgd:.1f} % with SGD, {sam:.1f} % with SAM, and {small:.1f} % with parts of five examples" in text


def test_real_tasks(monkeypatch):
    """Sees the README say more for SAM on real tasks than the committed results files do."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import real_page

    paths = sorted((ROOT / "benchmarks/results").glob("real-*.json"))
    studies = real_page.fair({path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths})
    found = [row for name, study in studies.items() for row in real_page.rows(name, study)]
    verdicts = {
        method: [row["verdict"] for row in found if row["method"] == method]
        for method in ("sam", "thrifty:budget=1.05,unit=gradients")
    }
    sam, thrifty = verdicts.values()
    numbers = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    counts = (len(sam), *(each.count(verdict) for each in (sam, thrifty) for verdict in ("better", "worse")))
    said = "On {} real tasks with clean labels, where every method chose both, SAM is shown to beat the base on {} "
    said += "and to lose on {}, and a budget of 1.05 gradients to beat it on {} and to lose on {}."
    assert said.format(*(numbers[count] for count in counts)) in " ".join(README.split())


def test_what_it_links_to():
    """Sees a link to a file that is not there."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_citation():
    """Sees a citation of another version than that of the package."""
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)[1]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
