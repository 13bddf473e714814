"""Which framework, in which version, comes to two gradients by hand: the tests of hosts in environments of their own.

    python benchmarks/host_versions.py [HOST | HOST==VERSION …] [--base-site FOLDER] [--out benchmarks/results]

Makes a virtual environment for each host and version (by default of all, the newest and the oldest that is supported),
runs the host's tests in it, and writes hosts.json and hosts.md; rows of other hosts and versions, from former calls,
stay.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
TESTS = ("pytest", "pytest-xdist", "hypothesis", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Host:
    """A host: its distribution, the oldest version that is supported, and what its tests need beside it."""

    package: str
    oldest: str
    further: tuple[str, ...] = ()


HOSTS = {
    "lightning": Host("lightning", "2.4.0", ("schedulefree", "heavyball")),
    "fabric": Host("lightning", "2.4.0"),
    "accelerate": Host("accelerate", "1.0.1"),
    "transformers": Host("transformers", "5.8.0", ("accelerate", "trl", "peft", "datasets")),
    "timm": Host("timm", "1.0.12"),
    "skorch": Host("skorch", "1.1.0", ("accelerate",)),
    "ignite": Host("pytorch-ignite", "0.5.1"),
    "fastai": Host("fastai", "2.8.1", ("accelerate",)),
    "keras": Host("keras", "3.7.0"),
    "deepspeed": Host("deepspeed", "0.19.0"),  # 0.18.0 trains something else on two ranks
    "composer": Host("mosaicml", "0.29.0"),
}


def main(argv=None):
    options = arguments(argv)
    path = options.out / "hosts.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    for host, version in options.hosts:
        row = tested(host, version, options.base_site)
        rows = [each for each in rows if (each["host"], each["version"]) != (row["host"], row["version"])] + [row]
        print(line(row), flush=True)
        options.out.mkdir(parents=True, exist_ok=True)
        report = {"command": options.command, "rows": sorted(rows, key=lambda row: (row["host"], row["version"]))}
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        path.with_suffix(".md").write_text(markdown(report), encoding="utf-8")
    return int(any(row["failed"] for row in rows))


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("hosts", nargs="*", type=wanted, metavar="HOST[==VERSION]", help=", ".join(HOSTS))
    parser.add_argument("--base-site", type=Path, help="site-packages with what need not be installed again: torch")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    options = parser.parse_args(argv)
    present = [name for name in HOSTS if tests_of(name)]
    named = [name if version is None else f"{name}=={version}" for name, version in options.hosts]
    site = ["--base-site", "FOLDER"] if options.base_site else []
    options.command = " ".join(["python benchmarks/host_versions.py", *named, *site])
    options.hosts = options.hosts or [(name, of) for name in present for of in (None, HOSTS[name].oldest)]
    return options


def wanted(text):
    """Return host and version of an argument; no version for the newest one."""
    name, _, version = text.partition("==")
    if name not in HOSTS or not tests_of(name):
        raise argparse.ArgumentTypeError(f"{name} is unknown: choose from {', '.join(HOSTS)}")
    return name, version or None


def tests_of(name):
    return sorted((ROOT / "tests/hosts").glob(f"test_{name}*.py"))


def tested(name, version, base_site):
    """Run the tests of a host in an environment of its own, and return what held."""
    host = HOSTS[name]
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "bin/python"
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        if base_site is not None:
            (site,) = Path(folder).glob("lib/python*/site-packages")
            (site / "base.pth").write_text(f"{base_site.resolve()}\n")
        needs = [f"{host.package}=={version}" if version else host.package, *host.further, *TESTS, "torch>=2.6"]
        subprocess.run([python, "-m", "pip", "install", "-q", *needs], check=True)
        places = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
        results = Path(folder) / "results.xml"
        command = [python, "-m", "pytest", "-n0", "-q", "--tb=short", f"--junitxml={results}", *tests_of(name)]
        told = subprocess.run(
            command, cwd=ROOT, env=os.environ | places, capture_output=True, text=True, check=False
        ).stdout
        held = properties(ElementTree.parse(results)) if results.exists() else {"passed": 0}
        if held["passed"] == 0:
            raise SystemExit(f"the tests of {name} {version or ''} cannot be run:\n{told}")
        found = subprocess.run([python, "-c", ASKED, host.package], capture_output=True, text=True, check=True).stdout
        return {
            "host": name,
            **json.loads(found),
            "date": datetime.now(UTC).date().isoformat(),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            **held,
            "failures": [text for text in told.splitlines() if text.startswith(("FAILED", "ERROR"))],
        }


ASKED = """
import json, platform, sys
from importlib.metadata import version
print(json.dumps({"version": version(sys.argv[1]), "torch": version("torch"), "python": platform.python_version()}))
"""


def properties(tree):
    """Return how many tests passed, and which properties held: those of which no test failed, by the tests' names."""
    outcomes = {}
    for case in tree.iter("testcase"):
        name = case.get("name").partition("[")[0].removeprefix("test_").replace("_", " ")
        outcomes.setdefault(name, []).append({child.tag for child in case})
    broken = [name for name, tags in outcomes.items() if any(tag & {"failure", "error"} for tag in tags)]
    skipped = [name for name, tags in outcomes.items() if all("skipped" in tag for tag in tags)]
    return {
        "passed": sum(not tag & {"failure", "error", "skipped"} for tags in outcomes.values() for tag in tags),
        "failed": sum(bool(tag & {"failure", "error"}) for tags in outcomes.values() for tag in tags),
        "held": [name for name in outcomes if name not in broken + skipped],
        "broken": broken,
        "skipped": skipped,
    }


def line(row):
    held, broken = ", ".join(row["held"]), ", ".join(row["broken"]) or "–"
    return f"| {row['host']} | {row['version']} | {row['torch']} | {row['passed']} | {held} | {broken} |"


def markdown(report):
    lines = [
        "# Hosts",
        "",
        "The tests of hosts, in an environment of its own for each host and version: SAM, RST, G-RST and a budget of",
        "1.25 against two gradients by hand, over six steps in float32. A property held if all its tests passed.",
        "",
        f"Last command: `{report['command']}`. Python, date and machine of each row are in hosts.json.",
        "",
        "| host | version | torch | tests passed | held | did not hold |",
        "|---|---|---|---|---|---|",
        *[line(row) for row in report["rows"]],
    ]
    failures = [f"- {row['host']} {row['version']}: `{text}`" for row in report["rows"] for text in row["failures"]]
    return "\n".join([*lines, *(["", "## What did not hold", "", *failures] if failures else [])]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
