"""The script that runs the tests of hosts in environments of their own."""

import runpy
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

SCRIPT = Path(__file__).parents[2] / "benchmarks/host_versions.py"


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
