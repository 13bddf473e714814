"""The script that runs the tests of hosts in environments of their own."""

import json
import re
import runpy
import tomllib
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks/host_versions.py"
HOSTS = runpy.run_path(str(SCRIPT))["HOSTS"]
ROWS = json.loads((ROOT / "benchmarks/results/hosts.json").read_text("utf-8"))["rows"]


def rows_of(name):
    """The rows of a host, the oldest version first."""
    return sorted((row for row in ROWS if row["host"] == name), key=lambda row: Version(row["version"]))


@pytest.mark.parametrize("name", HOSTS)
def test_rows(name):
    """Sees a host that was not run in its oldest version and a newer one, and rows of tests that are others by now."""
    oldest, newest = rows_of(name)
    assert oldest["version"] == HOSTS[name].oldest
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests/hosts").glob(f"test_{name}*.py"))
    properties = {found.replace("_", " ") for found in re.findall(r"^def test_(\w+)", tests, re.MULTILINE)}
    for row in (oldest, newest):
        assert set(row["held"] + row["skipped"]) == properties, row["version"]


def test_bounds():
    """Sees a framework supported, by pyproject.toml, in a version that is older than any that was tested."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    bounds = {}
    for requirement in map(Requirement, chain.from_iterable(extras.values())):
        bounds.setdefault(requirement.name, []).extend(
            Version(each.version) for each in requirement.specifier if each.operator == ">="
        )
    oldest = {host.package: Version(host.oldest) for host in HOSTS.values() if host.package in bounds}
    assert len(oldest) == 6
    assert oldest == {package: min(bounds[package]) for package in oldest}


@pytest.mark.parametrize("name", HOSTS)
def test_page(name):
    """Sees versions in the table of the documentation that are not those of the results."""
    versions = ", ".join(row["version"] for row in rows_of(name))
    assert f"({name}.md) | {versions} | " in (ROOT / "docs/hosts/index.md").read_text("utf-8")


def test_hosts():
    """Sees a property that is said to hold although a test of it failed, or was left out."""
    hosts = SimpleNamespace(**runpy.run_path(str(SCRIPT)))
    cases = {"right[SAM]": "", "right[RST]": "", "fp16_overflow": "failure", "resume[SAM]": "", "resume[RST]": "error"}
    tags = {name: f"<{tag}/>" * bool(tag) for name, tag in {**cases, "fsdp2": "skipped"}.items()}
    tree = "".join(f'<testcase name="test_{name}">{tag}</testcase>' for name, tag in tags.items())
    found = hosts.properties(ElementTree.fromstring(f"<testsuite>{tree}</testsuite>"))
    assert found == {
        "passed": 3, "failed": 2, "held": ["right"], "broken": ["fp16 overflow", "resume"], "skipped": ["fsdp2"]
    }  # fmt: skip
    options = hosts.arguments(["lightning==2.4.0", "fabric", "--base-site", "/a"])
    assert options.hosts == [("lightning", "2.4.0"), ("fabric", None)]
    assert options.command == "python benchmarks/host_versions.py lightning==2.4.0 fabric --base-site FOLDER"
