"""The benchmark scripts, run as they are meant to be run, as short as they can be."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sharpless.lab.methods.kinds import DEFAULTS
from sharpless.lab.methods.method import Method
from sharpless.lab.tasks.images import parts, step
from sharpless.lab.tasks.images.data import load
from sharpless.report.runs import read_runs

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def results_of(script, folder, *arguments):
    command = [sys.executable, BENCHMARKS / script, *arguments, "--out", folder]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert ended.returncode == 0, ended.stderr
    (path,) = folder.glob("*.json")
    return json.loads(path.read_text(encoding="utf-8"))


def test_overhead(tmp_path):
    """Sees a benchmark that no longer runs, or that measures plain training as anything but 1."""
    results = results_of("overhead.py", tmp_path, "--networks", "tiny", "--rounds", "2")
    rows = {row["contestant"]: row for row in results["rows"]}
    assert rows["plain"]["overhead"] == 1.0
    assert rows["plain"]["operations"] == 0
    assert rows["sharpless SAM"]["operations"] < 20
    assert all(row["milliseconds"] > 0 for row in rows.values())
    assert {"command", "machine", "torch", "sharpless"} <= results["facts"].keys()


def test_wallclock(tmp_path):
    """Sees a ratio to something else than plain training, or a plan that is not the one of what was measured."""
    results = results_of("wallclock.py", tmp_path, "--networks", "digits, 64", "--rounds", "2")
    (study,) = results["studies"]
    rows = {row["method"]: row for row in study["rows"]}
    assert list(study["step_seconds"]) == ["0", "4", "8", "16", "32", "64"]
    assert rows["sam"]["gradients"] == 2
    assert all(row["ratio"] > 0 for row in rows.values())
    assert rows["thrifty:budget=1.1,unit=gradients"]["gradients"] == pytest.approx(1.1)
    assert rows["thrifty:budget=1.25"]["planned"] >= rows["thrifty:budget=1.25"]["gradients"] - 1e-9
    assert (tmp_path / "wallclock-cpu-1.md").exists()


def test_gpu_script_without_a_gpu(tmp_path):
    """Sees a script that fails at the first GPU it meets, and results of a CPU passed off as a GPU's."""
    results = results_of("gpu.py", tmp_path, "--device", "cpu", "--steps", "5")
    assert results["synchronization"] == "not looked for on CPU"
    assert results["graphs"]["speed_up"] is None
    assert results["graphs"]["largest_difference"] == 0.0


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_frontier(scripts, tmp_path, monkeypatch):
    """Sees a study that cannot be run, a method that climbs with another part, or a task that is left out."""
    import frontier

    tasks = {"clean": {"noise": 0.0, "epochs": 1, "width": 4}, "noisy": {"epochs": 1, "width": 4}}
    study = frontier.Study(tasks, ("sgd", "sam", *frontier.grid((1, 1 / 4))), (0.1,), seeds=2)
    monkeypatch.setitem(frontier.STUDIES, "when", study)
    frontier.main(["when", "--jobs", "1", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path)])
    found = json.loads((tmp_path / "frontier-when.json").read_text(encoding="utf-8"))
    assert found["tasks"].keys() == tasks.keys()
    assert found["tasks"]["clean"]["options"]["noise"] == 0.0
    for summary in found["tasks"].values():
        costs = {row["method"]: round(row["cost"], 3) for row in summary["methods"]}
        assert costs == {"sgd": 1.0, "sam": 2.0, "g-rst:p=1,batch_fraction=0.25": 1.25}
        assert summary["margin"]["value"] == frontier.MARGIN
    page = (tmp_path / "frontier-when.md").read_text(encoding="utf-8")
    assert page.count("| G-RST, p=1, q=0.25, γ=1") + page.count("| **G-RST, p=1, q=0.25, γ=1") == 2


def test_studies_of_frontier(scripts):
    """Sees a method or an option of a study that there is not."""
    import frontier

    for study in frontier.STUDIES.values():
        assert all(Method(method) for method in study.methods)
        assert all(parts(options) for options in study.tasks.values())


def test_variance(scripts):
    """Sees moments that are not those of the draws: of a part that is all, D has no variance."""
    import variance

    few = next(load("digits").train.batches([torch.arange(8)]))
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    before = [p.detach().clone() for p in model.parameters()]
    found = variance.moments(model, *few, 0.5, size=8, draws=3)
    assert found["second"] > 0
    assert found["second"] == pytest.approx(found["mean"], rel=1e-5)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    spread = variance.moments(model, *few, 0.5, size=2, draws=50)
    assert spread["second"] > 1.5 * spread["mean"]


def test_finetune(scripts, tmp_path, monkeypatch):
    """Sees a finished run repeated or taken over from other facts, or a method that climbs with another part."""
    import finetune

    monkeypatch.setitem(finetune.SETTING, "epochs", 1)
    picked = ("sgd", 0.0), ("g-rst p=1 q=0.1", 0.05), ("g-rst p=1 q=0.5", 0.02)
    chosen = [method for method in finetune.METHODS if (method.name, method.rho) in picked]
    monkeypatch.setattr(finetune, "METHODS", tuple(chosen))
    test = torch.randint(256, (20, 3, 8, 8), dtype=torch.uint8), torch.zeros(20, dtype=torch.int64)
    ran = []

    def run(method, seed):
        torch.manual_seed(seed)
        images = torch.randint(256, (100, 3, 8, 8), dtype=torch.uint8)
        model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2))
        ran.append((method, seed))
        return finetune.finetune(model, (images, torch.zeros(100, dtype=torch.int64)), test, method, seed)

    known = finetune.facts(threads=1)
    finetune.execute(tmp_path, known, 1, run)
    found = finetune.execute(tmp_path, known, 2, run)
    assert ran == [(method, seed) for seed in (0, 1) for method in chosen]
    assert [results[1]["cost"] for results in found.values()] == pytest.approx([1.0, 1.1, 1.5])
    assert [method.part for method in chosen] == [0, 5, 25]
    assert found[chosen[0]][0]["accuracy"] > 90.0  # all labels are one
    with pytest.raises(SystemExit, match="threads = 1, not 2"):
        finetune.execute(tmp_path, finetune.facts(threads=2), 2, run)
    for method, shift in zip(chosen, (0.0, -10.0, 1.0), strict=True):
        found[method] = {
            seed: {**found[method][seed], "accuracy": 60.0 + 5 * seed + shift, "cost": 1.0, "seconds": 2.0}
            for seed in (1, 0)
        }
    finetune.report(found, {"command": "this", **known}, tmp_path / "out")
    page = (tmp_path / "out/finetune-batchnorm.md").read_text(encoding="utf-8")
    assert "| g-rst p=1 q=0.1 | 5 of 50 | 0.05 | 2 | 52.5 ± 3.5 | 1.00 | 2 | -10.0 [-10.0, -10.0] |" in page
    written = json.loads((tmp_path / "out/finetune-batchnorm.json").read_text(encoding="utf-8"))
    assert len(written["runs"]) == 6
    assert {"command", "machine", "versions", "threads"} <= written.keys()


def test_lite0(scripts):
    """Sees weights loaded into the wrong layers, or a quick gradient that is not the convolution's."""
    import timm

    import lite0

    torch.manual_seed(0)
    usual = timm.create_model("tf_efficientnet_lite0").eval()
    weights = {f"tensor {number}": tensor for number, tensor in enumerate(usual.state_dict().values())}
    quick = lite0.network(weights, classes=10).eval()
    x = torch.rand(2, 3, 64, 64)
    features, expected = quick.forward_features(x), usual.forward_features(x)
    torch.testing.assert_close(features, expected)
    aim = torch.rand_like(expected)
    (features * aim).mean().backward()
    (expected * aim).mean().backward()
    for mine, theirs in list(zip(quick.parameters(), usual.parameters(), strict=True))[:-2]:  # all but the last layer's
        torch.testing.assert_close(mine.grad, theirs.grad)
    assert quick.classifier.out_features == 10


def test_repetitions(scripts, tmp_path, monkeypatch):
    """Sees a repetition with the seeds of another one, a verdict that is not the report's, or runs repeated."""
    import repetitions

    arguments = ["--repetitions", "2", "--seeds", "2", "--epochs", "1", "--jobs", "1", "--runs", tmp_path / "runs"]
    monkeypatch.setattr(repetitions, "DRAWS", 2)
    monkeypatch.setattr(sys, "argv", ["repetitions.py", *map(str, arguments), "--out", str(tmp_path / "out")])
    repetitions.main()
    found = json.loads((tmp_path / "out/repetitions.json").read_text(encoding="utf-8"))
    assert found["runs"] == 32
    assert found["command"].endswith("repetitions.py --repetitions 2 --seeds 2 --epochs 1")
    assert [row["first seed"] for row in found["repetitions"]] == [0, 2]
    assert found["repetitions"][0]["verdicts"].keys() == repetitions.README.keys()
    assert found["threads"] >= 1
    runs = read_runs(tmp_path / "runs")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs/runs").glob("*.json")}
    means = dict.fromkeys(DEFAULTS, 80.0) | {"sam": 98.0, "rst": 95.0, "g-rst": 98.2, "thrifty": 98.0}

    def told(**changes):
        """The runs, with other accuracies: each method's mean, and a bit more or less by the seed."""
        found = []
        for run in runs:
            value = changes.get(f"{run.method}_{run.seed}", means[run.method]) + run.seed % 2 / 10
            found.append(run.model_copy(update={"curve": run.curve.model_copy(update={"test": [value]})}))
        return found

    assert repetitions.verdicts(repetitions.of(told(), (0, 1))) == repetitions.README
    study = repetitions.study(told(**{"thrifty_2": 90.0}), 2, 2)
    assert [row["as in the README"] for row in study["repetitions"]] == [True, False]
    assert study["repetitions"][1]["verdicts"]["thrifty"] == "not shown"
    assert study["share"] == 0.5
    assert study["minus SAM, all seeds"]["g-rst"]["mean"] == pytest.approx(0.2)
    repetitions.main()
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_throughput(scripts, monkeypatch):
    """Sees a comparison of loops that do not do the same: other examples, other steps, or nothing at all."""
    import throughput

    case, seen = throughput.cases("cpu")["convnet on the digits, batch 64"], [0]

    def counting(logits, y, **options):
        seen[0] += len(y)
        return torch.nn.functional.cross_entropy(logits, y, **options)

    for module in (throughput, step):
        monkeypatch.setattr(module, "cross_entropy", counting)
    monkeypatch.setattr(throughput, "perf_counter", lambda: seen[0] / 1000)  # a thousand examples a second, by both
    found = throughput.measure(case, rounds=2)
    assert found["rounds"] == 2
    assert list(found["images per second"].values()) == pytest.approx([1000, 1000])
    assert found["ratio"] == pytest.approx(1)
    loop = throughput.Bare(case, case.data(), torch.device("cpu"))
    before = [p.detach().clone() for p in loop.model.parameters()]
    loop.epoch()
    assert all(not torch.equal(p, b) for p, b in zip(loop.model.parameters(), before, strict=True))


def test_parts(scripts):
    """Sees a part that is measured with the noise of another, or a task that trains another network."""
    import parts
    from sharpless.lab.trials.trial import Trial

    noise = parts.noise("1 × 1", 0, batches=2)
    assert list(noise) == [4, 7, 16, 32, 64]
    assert noise[4] > noise[16] > noise[64] == 1.0
    trial = Trial(Method("g-rst:p=1,batch_fraction=0.0625"), 0)
    parts.train(trial, "perceptron", epochs=1)
    assert trial.cost.ratio == pytest.approx(1 + 4 / 64)
    row = {"label": "SAM", "part": 64, "noise": [1.0, 1.0], "versus_sam": None, "mean": 90.0, "std": 1.0}
    assert "| 1 × 1 | 64 of 64 | 1.0 | 1.0 | 90.0 ± 1.0 |  |" in parts.page([{"network": "1 × 1", "rows": [row]}], {})


def test_convergence(scripts, tmp_path, monkeypatch):
    """Sees a benchmark that no longer runs, a bound that is broken, or a worst case that is far from it."""
    import convergence

    monkeypatch.setattr(convergence, "RUNS", 2)
    monkeypatch.setattr(sys, "argv", ["convergence.py", "--steps", "40", "--out", str(tmp_path)])
    few = {name: (make, convergence.GRID[::12]) for name, (make, _) in convergence.PROBLEMS.items()}
    few["double well"] = (few["double well"][0], convergence.WELL[:1])
    monkeypatch.setattr(convergence, "PROBLEMS", few)
    convergence.main()
    found = json.loads((tmp_path / "convergence.json").read_text(encoding="utf-8"))
    assert {"command", "machine", "versions", "runs"} <= found.keys()
    assert [row["p"] for row in found["rows"]] == [1.0, 0.1] * 3 + [1.0]
    assert all(row["measured"] < row["bound as met"] for row in found["rows"] if row["p"] == 1)
    assert found["rows"][-1]["measured"] > found["rows"][-1]["bound"] / 2
    assert "</svg>" in (tmp_path / "convergence.svg").read_text(encoding="utf-8")
