"""The page on migration: its loops run, and do what it says."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from sharpless import GRST, RST

PAGE = (Path(__file__).parents[1] / "docs" / "migrate.md").read_text(encoding="utf-8")
SECTIONS = {section.partition("\n")[0]: section for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]}


def snippet(section, which):
    (found,) = re.findall(rf"^```python\n# {which}\n(.*?)```", SECTIONS[section], re.DOTALL | re.MULTILINE)
    return found


@pytest.mark.parametrize("section", SECTIONS)
def test_after(section, tmp_path, monkeypatch):
    """Sees a loop that a user cannot run, that takes no sharpness-aware step, or that leaves weights displaced."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {
        "torch": torch,
        "model": nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 3)),
        "loader": [(torch.randn(16, 6), torch.randint(3, (16,))) for _ in range(20)],
        "loss_fn": nn.CrossEntropyLoss(), "epochs": 2, "device": "cpu",
        "generator": nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6)), "discriminator": nn.Linear(6, 1),
        "actor": nn.Linear(6, 3), "critic": nn.Linear(6, 1),
    }  # fmt: skip
    exec(compile(snippet(section, "after"), "migrate.md", "exec"), names)
    optimizers = [value for value in names.values() if isinstance(value, RST)]
    assert optimizers
    for opt in optimizers:
        assert opt.cost.steps >= 5
        assert opt.cost.sharp_steps > 0
        assert not opt.perturbed


@pytest.mark.parametrize("section", SECTIONS)
def test_before(section):
    """Sees a section without a loop to compare with, or one that is no Python."""
    compile(snippet(section, "before").replace("…", "**options"), "migrate.md", "exec")


def test_contents():
    """Sees a link of the page to a section that is not there."""
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in SECTIONS}
    for anchor in re.findall(r"\]\(#([^)]+)\)", PAGE):
        assert anchor in anchors, anchor


@pytest.mark.parametrize(("which", "share"), [("before", 16 * (0.25**2 + 0.75**2)), ("after", 1.0)])
def test_sums(which, share):
    """Sees a page that is wrong on sums: where all examples are alike, the gradient of the step is plain for means."""
    torch.manual_seed(0)
    model, x, y = nn.Linear(6, 3), torch.randn(1, 6).expand(16, 6), torch.ones(16, dtype=torch.long)
    cross_entropy = nn.functional.cross_entropy
    plain = torch.autograd.grad(cross_entropy(model(x), y), model.weight)[0]
    code = snippet("Parts of a batch, and a loss that is no mean", which).replace("rho=0.05", "rho=1e-7")
    names = {"torch": torch, "model": model, "loader": [(x, y)], "cross_entropy": cross_entropy, "GRST": GRST}
    names["base"] = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    exec(
        compile(code.replace("    opt.step()", "    seen.append(model.weight.grad)"), "migrate.md", "exec"),
        names | {"seen": seen},
    )
    assert torch.allclose(seen[0], share * plain, rtol=1e-3)
