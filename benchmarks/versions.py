"""Test the core with a version of Python and torch, in a separate environment.

    PYTHON benchmarks/versions.py TORCH [--quick] [--out benchmarks/results]

Makes a virtual environment of the Python that runs this, installs the version TORCH and this package, runs the tests of
the core in it, and writes versions.json and versions.md. Rows of other versions from earlier calls are kept. With
--quick it runs the group `quick` alone, on all cores, and writes nothing.

torch.compile needs a C++ compiler, and the headers of this Python (Debian: python3-dev).
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import venv
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
NEEDS = ("pytest", "pytest-xdist", "hypothesis", "numpy", "scipy", "timm", "schedulefree")
FURTHER = ("test_compile.py", "test_distributed.py", "test_flatness.py")
OUTCOME = re.compile(r"(\d+) (passed|failed|skipped|xfailed|error)")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("torch", metavar="TORCH")
    parser.add_argument("--quick", action="store_true", help="run the group `quick` alone, and write nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    options = parser.parse_args()
    row = tested(options.torch, options.quick)
    print(line(row))
    if not options.quick:
        write(row, options.out / "versions.json")
    return int(bool(row["failures"]))


def write(row, path):
    """Replace the row, or add it, and write both files."""
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    rows = [each for each in rows if (each["python"], each["torch"]) != (row["python"], row["torch"])] + [row]
    rows.sort(key=lambda each: [int(part) for part in f"{each['python']}.{each['torch']}".split(".")])
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(markdown(rows), encoding="utf-8")


def tests(quick_only):
    """Return the files of the group `quick`, and, unless it alone is asked for, of FURTHER."""
    files = sorted((ROOT / "tests").glob("test_*.py"))
    quick = [each for each in files if "pytestmark = pytest.mark.quick" in each.read_text(encoding="utf-8")]
    return quick + [each for each in files if each.name in FURTHER and not quick_only]


def tested(torch, quick):
    """Install and run, and return the row."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin/python"
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "--no-compile", f"torch=={torch}", *NEEDS, ROOT], check=True
        )
        cores = os.cpu_count() if quick else 0
        command = [python, "-m", "pytest", f"-n{cores}", "-q", "--tb=short", *tests(quick)]
        one = os.environ | {"OMP_NUM_THREADS": "1"}
        output = subprocess.run(command, cwd=ROOT, env=one, capture_output=True, text=True, check=False).stdout
        lines = output.splitlines()
        counts = {outcome: int(count) for count, outcome in OUTCOME.findall(lines[-1])}
        if "passed" not in counts:
            raise SystemExit(f"the tests cannot be run:\n{output}")
        failures = [text for text in lines if text.startswith(("FAILED tests", "ERROR tests"))]
        if failures:
            print(output)
        return {
            "python": platform.python_version(),
            "torch": torch,
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "date": datetime.now(UTC).date().isoformat(),
            "command": f"python{sys.version_info[0]}.{sys.version_info[1]} benchmarks/versions.py {torch}",
            **{outcome: counts.get(outcome, 0) for outcome in ("passed", "failed", "skipped", "xfailed")},
            "failures": failures,
            "left_out": [text.partition(": ")[2] for text in lines if text.startswith("SKIPPED")],
        }


def line(row):
    return f"| {row['python']} | {row['torch']} | {row['passed']} | {row['failed']} | {row['skipped']} |"


def markdown(rows):
    lines = [
        "# Versions of Python and torch",
        "",
        "The tests of the core (`pytest -m quick`), of several ranks, of compiled networks and of flatness, with the",
        "installed package, in an environment of its own for each row, on a CPU. Command: `PYTHON",
        "benchmarks/versions.py TORCH`. Date, machine and what was skipped are in versions.json.",
        "",
        "| Python | torch | passed | failed | skipped |",
        "|---|---|---|---|---|",
        *map(line, rows),
    ]
    failures = [f"- Python {row['python']}, torch {row['torch']}: `{one}`" for row in rows for one in row["failures"]]
    return "\n".join([*lines, *(["", "## What failed", "", *failures] if failures else [])]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
