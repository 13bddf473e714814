"""The benchmark scripts, run as they are meant to be run, as short as they can be."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def results_of(script, folder, *arguments):
    command = [sys.executable, BENCHMARKS / script, *arguments, "--out", folder]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
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


def test_gpu_script_without_a_gpu(tmp_path):
    """Sees a script that fails at the first GPU it meets, and results of a CPU passed off as a GPU's."""
    results = results_of("gpu.py", tmp_path, "--device", "cpu", "--steps", "5")
    assert results["synchronization"] == "not looked for on CPU"
    assert results["graphs"]["speed_up"] is None
    assert results["graphs"]["largest_difference"] == 0.0
