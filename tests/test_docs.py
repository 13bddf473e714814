"""The pages under docs say what is so."""

import json
import re
import textwrap
from pathlib import Path
from statistics import fmean

import pytest
import torch
from torch import distributed, nn

from sharpless.cli import main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
RESULTS = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "benchmarks/results").glob("*.md")))
PAGES = sorted(DOCS.rglob("*.md"))
GUIDES = [page for page in PAGES if page.parent.name in {"concepts", "how-to"} or page.stem in {"index", "start"}]
IN_SECTIONS = DOCS / "how-to/distributed.md"  # whose networks cannot be wrapped twice


def examples(text):
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def named(page):
    return str(page.relative_to(DOCS))


@pytest.fixture
def group_of_one(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("page", [page for page in GUIDES if examples(page.read_text("utf-8"))], ids=named)
def test_examples(page, tmp_path, monkeypatch, request):
    """Sees an example that a user cannot run, and a number beside a `print` that is not what it prints."""
    monkeypatch.chdir(tmp_path)
    text = page.read_text("utf-8")
    if page == IN_SECTIONS:
        request.getfixturevalue("group_of_one")
    for section in text.split("\n## ") if page == IN_SECTIONS else [text]:
        printed, code = [], "\n".join(examples(section))
        names = {
            "model": nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)),
            "loader": [(torch.randn(64, 1, 8, 8), torch.randint(10, (64,))) for _ in range(4)],
            **{"loss_fn": nn.CrossEntropyLoss(), "epochs": 2, "device": "cpu", "torch": torch},
            "print": lambda *words, seen=printed: seen.append(" ".join(map(str, words))),
        }
        exec(compile(code, named(page), "exec"), names)
        comments = re.findall(r"^print\(.*\)(?: +# (.*))?$", code, re.MULTILINE)
        assert len(printed) >= len(comments)
        for comment, output in zip(comments, printed, strict=False):
            if comment[:1].isdigit():
                assert output == comment.partition(": ")[0], comment


def test_every_page_of_guides_is_run():
    """Sees pages that are moved to where their examples no longer run."""
    assert sum(len(examples(page.read_text("utf-8"))) for page in GUIDES) >= 25


def test_rows_of_results():
    """Sees a measured row in a page that is in no committed results file."""
    lines = [line for page in PAGES for line in page.read_text(encoding="utf-8").splitlines()]
    rows = [line for line in lines if re.match(r"\|.* ± .*\|", line)]
    assert len(rows) > 20
    assert all(row in RESULTS for row in rows), [row for row in rows if row not in RESULTS]


QUOTED = {  # what a page says: the file and the row that it is from
    "13.8 %": ("repetitions.md", "| 5 | 0.138 |"),
    "97.5 %": ("repetitions.md", "| 12 | 0.975 |"),
    "7.4 seconds": ("frontier-digits.md", "| **thrifty** | 0.4 | 98.54 ± 0.42 | 1.100 | 7.4 |"),
    "plain training 4.0": ("frontier-digits.md", "| **sgd** |  | 83.56 ± 1.45 | 1.000 | 4.0 |"),
    "13 points below SGD": ("finetune-batchnorm.md", "| -13.0 [-15.4, -10.5] |"),
    "12.7 of SAM's 13.3 points": ("frontier-groupnorm.md", "| **thrifty** | 0.2 | 96.88 ± 0.65 |"),
    "both reach 99.50 %": ("frontier-digits-noise.md", "| sam | 0.1 | 99.50 ± 0.22 |"),
    "gains 3, 15 and 29 points": ("frontier-digits-noise.md", "| no | 0.0 |"),
    "4.7 points below SAM": ("frontier-digits.md", "| -4.66 [-7.93, -1.39] |"),
    "1.4 and 2.5 points below SAM": ("frontier-where.md", "| -2.54 [-3.03, -2.05] |"),
    "drifts: 7·10⁻³ in bfloat16": ("conformance.md", "**wrong** (7e-03)"),
    "0.3727 instead of Adam's 0.3875": ("real-tasks.md", "| thrifty, p=0.8, q=0.0625, γ=1.25 | 0.3727 ± "),
    "SAM has 0.3969 and Adam 0.3881": ("real-tasks.md", "| SAM | 0.3969 ± 0.00076 |"),
    "SAM from 39.85 to 39.67": ("real-tasks.md", "| SAM | 39.85 ± 1.3 |  | 0.001 | 0.3 | +8.58 ["),
    "0.0069 [0.0038, 0.0099], also after": ("real-etth1-96.json", "-0.0038474108202562972"),
    "by 0.78 [0.42, 1.13] points on": ("real-tasks.md", "| -0.777 [-1.13, -0.424] | worse |"),
    "by 3.71 [2.69, 4.74] on": ("real-tasks.md", "| -3.71 [-4.74, -2.69] | worse |"),
    "is 14.6 points better on": ("real-tasks.md", "| +14.6 [+12.6, +16.6] | better |"),
    "SAM has 0.3796": ("real-tasks.md", "| SAM | 0.3796 ± "),
    "0.0080 [0.0016, 0.0143], is not shown": ("real-tasks.md", "| 1.0 | -0.00796 [-0.0143, -0.00161] |  |"),
    "SAM gains 0.64 [0.56, 0.72] points": ("real-tasks.md", "| +0.643 [+0.564, +0.722] | better |"),
    "0.68 [0.62, 0.74]. SAM in": ("real-tasks.md", "| +0.679 [+0.619, +0.739] | better | 106% |"),
    "0.4342 instead of Adam's 0.4518": ("real-tasks.md", "| SAM | 0.4342 ± 0.0015 | 0.4379 ± 0.0039 | 0.003 | 1.0 |"),
    "budget keeps 66 % of that gain": ("real-tasks.md", "| 0.01 | 1.0 | -0.0116 [-0.0158, -0.00733] | better | 66% |"),
    "best, with 0.4278": ("real-tasks.md", "| thrifty, p=0.8, q=0.0625, γ=1.25, EMA 0.99 | 0.4278 ± "),
    "for 1.08 in seconds instead of 2.09": ("real-tasks.md", "| better | 137% | 1.05 | 1.08 |"),
    "the pair has 0.3742": ("real-tasks.md", "| thrifty, p=0.8, q=0.0625, γ=1.25, EMA 0.99 | 0.3742 ± "),
    "0.63 [0.16, 1.10] points less": ("real-tasks.md", "| -0.632 [-1.1, -0.162] |  |"),
    "SAM gains 9.30 points over SGD": ("schedules-digits.md", "| sam | sgd | +9.30 [+8.15, +10.45] |"),
    "the last quarter reached 96.68 %": ("schedules-digits.md", "| RST, p=piecewise:0,1@0.75 | 0.8* | 96.68 ± 0.73 |"),
    "beats SAM by 0.0114 [0.0106, 0.0122]": ("schedules-forecast.md", "| sam | -0.0114 [-0.0122, -0.0106] |"),
    "is 2.44 [1.83, 3.05] points worse": ("schedules-digits.md", "| -2.44 [-3.05, -1.83] |"),
    "ends 3.32 [2.57, 4.07] points below SAM": ("schedules-anneal.md", "| -3.32 [-4.07, -2.57] | 3.7e-06 |"),
    "the tail ends at 97.20 %": ("schedules-anneal.md", "| temperon, last 30% | 0.8* | 97.20 ± 0.88 |"),
    "0.68 [0.08, 1.28] below SAM": ("schedules-anneal.md", "| -0.68 [-1.28, -0.08] | 0.03 | 0.059 |"),
    "SAM gains 2.14 [1.42, 2.86] points over SGD": ("schedules-labels.md", "| sam | sgd | +2.14 [+1.42, +2.86] |"),
    "it is 0.72 [0.38, 1.06] points better than SAM": ("schedules-labels.md", "| +0.72 [+0.38, +1.06] |"),
    "SAM ends at 95.46 % and SGD at 95.50 %": ("schedules-labels.md", "| SAM | 0.1 | 95.46 ± 1.12 |"),
    "by 0.0058 [0.0048, 0.0068]": ("schedules-forecast.md", "| +0.0058 [+0.0048, +0.0068] | 3.2e-07 | 3.9e-06 |"),
    "by 0.0007 [0.0002, 0.0012]": ("schedules-forecast.md", "| -0.0007 [-0.0012, -0.0002] | 0.009 | 0.045 |"),
    "by 0.0189 [0.0149, 0.0228]": ("schedules-forecast.md", "| +0.0189 [+0.0149, +0.0228] |"),
    "SAM is 0.81 [0.53, 1.10] points worse": ("schedules-images.md", "| sam | sgd | -0.81 [-1.10, -0.53] |"),
    "0.86 [0.60, 1.12] better than SAM": ("schedules-images.md", "| sam | +0.86 [+0.60, +1.12] |"),
    "37.4 [24.9, 49.8] points better": ("schedules-vit.md", "| +37.36 [+24.92, +49.80] | 8e-05 | 0.00024 |"),
    "it ended at 51.9 %, and SGD at 55.9 %": ("real-tasks.md", "| SGD | 55.87 ± 1.3 |  | 0.02 |"),
    "at 55.3 % (*images-lr*, −0.6 [−2.2, 1.0])": (
        "real-tasks.md",
        "| SAM | 55.31 ± 2.1 |  | 0.02 | 0.1 | -0.56 [-2.17, +1.05]",
    ),
    "57.7 % with 12 epochs of SGD": ("real-tasks.md", "| SGD, 12 epochs | 57.66 ± 1 |  | 0.02 |"),
    "loses 7 points on average": ("finetune-batchnorm.md", "| 25 of 50 | 0.05 | 3 | 55.7 ± 2.9 | 1.12 | 103 | -7.0 ["),
    "| forecaster, 256 | 1.10 | 1.01 |": ("wallclock-cpu-1.md", "γ=1.23 (budget=1.1) | 1.05 | 1.10 | 1.01 ["),
    "| transformer, 32 | 1.10 | 1.10 |": ("wallclock-cpu-1.md", "γ=1.55 (budget=1.1) | 1.08 | 1.10 | 1.10 ["),
    "| ResNet-18, 16 | 1.15 | 1.15 |": ("wallclock-cpu-1.md", "γ=4 (budget=1.1) | 1.11 | 1.15 | 1.15 ["),
    "| digits network, 64 | 1.25 | 1.35 |": ("wallclock-cpu-1.md", "γ=4 (budget=1.1) | 1.05 | 1.25 | 1.35 ["),
    "| 60 tiny tensors, 16 | 1.45 | 1.54 |": ("wallclock-cpu-1.md", "γ=4 (budget=1.1) | 1.25 | 1.45 | 1.54 ["),
    "17 to 58 % on top": ("overhead-cpu.md", "| tables | sharpless G-RST, γ = 2 | 5.96 | 1.583"),
}


@pytest.mark.parametrize("said", QUOTED)
def test_figures_in_sentences(said):
    """Sees a figure in a sentence whose results file has been measured again, and one that is gone from the pages."""
    file, row = QUOTED[said]
    assert any(said in " ".join(page.read_text("utf-8").replace("**", "").split()) for page in PAGES)
    assert row in (ROOT / "benchmarks/results" / file).read_text("utf-8")


def test_flatness_in_sentences():
    """Sees correlations on the page of schedules that are not those of the results file."""
    said = " ".join((DOCS / "results/schedules.md").read_text("utf-8").split())
    results = json.loads((ROOT / "benchmarks/results/schedules-flatness.json").read_text("utf-8"))
    for found in (each for measure in results["correlations"].values() for each in measure.values()):
        low, high = found["ci95"]
        assert f"{found['correlation']:.2f} [{low:.2f}, {high:.2f}]".replace("-", "−") in said
    for method, runs in results["runs"].items():
        if method in {"g-rst:p=0.25", "rst:p=0.5", "sam"}:
            trace, error = (fmean(run[key] for run in runs) for key in ("trace", "error"))
            assert re.search(rf"{trace:.0f} and (an error of )?{error:.2f} %", said)


def test_the_task_of_the_documentation(tmp_path, monkeypatch):
    """Sees a task in the documentation that cannot be compared, or a summary without what it prints."""
    monkeypatch.chdir(tmp_path)
    train, compare = examples((DOCS / "tasks.md").read_text("utf-8"))
    names = {"__name__": "__main__"}
    exec(compile(train + compare.replace("seeds=4", "seeds=2, choice_seeds=1"), "tasks.md", "exec"), names)
    assert [row["label"].split(",")[0] for row in names["summary"]["methods"]] == ["AdamW", "SAM", "thrifty"]
    assert names["summary"]["metric"]["goal"] == "min"


def test_flatness_of_a_network_of_ones_own(tmp_path, monkeypatch, capsys):
    """Sees an example of measuring flatness that a user cannot run, in Python or by its name."""
    monkeypatch.chdir(tmp_path)
    mine, calls = examples((DOCS / "flatness.md").read_text("utf-8"))
    names = {}
    exec(compile(mine + calls, "flatness.md", "exec"), names)
    assert names["objective"].examples == 400
    (tmp_path / "my_nets.py").write_text(mine, encoding="utf-8")
    assert main(["flatness", "my_nets.py:mine", "--vectors", "2", "--points", "3", "--eigenvalues", "1"]) == 0
    assert "adaptive sharpness, ρ = 0.5" in capsys.readouterr().out


def test_weights_of_the_laboratory(tmp_path, monkeypatch):
    """Sees an example of loading weights that a user cannot run."""
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"^  ```python\n(.*?)^  ```", (DOCS / "laboratory.md").read_text("utf-8"), re.DOTALL | re.M)
    importing, building, loading = textwrap.dedent(example).strip().replace("\n\n", "\n").splitlines()
    names = {"torch": torch}
    exec(f"{importing}\n{building}", names)
    Path("runs/train/weights").mkdir(parents=True)
    torch.save(names["model"].state_dict(), "runs/train/weights/thrifty-seed0.pt")
    exec(loading, names)


def test_every_result_is_linked():
    """Sees results that were measured, and that no page says anything of."""
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    files = [path.name for path in (ROOT / "benchmarks/results").glob("*.md")]
    assert not [name for name in files if f"benchmarks/results/{name}" not in text]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links(page):
    """Sees a link to a file that is not there."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
