"""The house: what is public, who imports whom, and what a plain installation needs."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import FunctionType

import pytest

import sharpless

SOURCE = Path(sharpless.__file__).parent
# Imports point down: a module may import those on lower floors only.
FLOORS = [
    {"schedules", "coin", "callers"},
    {"cost", "when"},
    {"batches", "tensors", "bases"},
    {"gradients", "ascent", "displaced", "wrapper", "ddp", "fsdp"},
    {"rng", "climb", "options"},
    {"memory"},
    {"misuse", "diagnosis", "batchnorm"},
    {"scene", "closures"},
    {"passes"},
    {"optimizer"},
    {"grst", "timing"},
    {"noise"},
    {"flatness", "hosts"},
    {"report"},
    {"lab"},
    {"cli"},
    {"__main__"},
]
LAB = [{"threads", "faults"}, {"store"}, {"methods"}, {"trials"}, {"runs"}, {"studies"}, {"tasks"}, {"measured"}]
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
LAB_FLOOR_OF = {name: floor for floor, names in enumerate(LAB) for name in names}
WITHOUT_TORCH = {"callers", "schedules", "coin", "cost", "when", "report", "cli"}


def modules():
    return sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def room(path):
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_public_list():
    """Sees a name that is public by accident, or listed and missing."""
    assert sorted(sharpless.__all__) == sorted(
        ["GRST", "RST", "SAM", "Cost", "ascent", "part_noise", "schedules", "step_seconds"]
    )
    assert all(getattr(sharpless, name).__doc__ for name in sharpless.__all__)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path):
    """Sees a lower floor import a higher one, report lab, or torch where it has no place."""
    for name in imports(path):
        if name.startswith("sharpless."):
            other = name.split(".")[1]
            assert other == room(path) or FLOOR_OF[other] < FLOOR_OF[room(path)], f"{path.name} imports {name}"
        if name.split(".")[0] == "torch":
            assert room(path) not in WITHOUT_TORCH, f"{path.name} imports {name}"


def test_imports_of_the_lab_point_down():
    """Sees a folder of the lab import a higher one, or a new one that nobody placed."""
    for path in modules():
        if room(path) != "lab" or path == SOURCE / "lab/__init__.py":
            continue
        own = path.relative_to(SOURCE / "lab").parts[0].removesuffix(".py")
        others = {name.split(".")[2] for name in imports(path) if name.startswith("sharpless.lab.")}
        higher = {other for other in others if other != own and LAB_FLOOR_OF[other] >= LAB_FLOOR_OF[own]}
        assert not higher, f"{path} imports {higher}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_class_is_long(path):
    """Sees a class that has taken on more than one thing."""
    classes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
    lengths = {node.name: node.end_lineno - node.lineno + 1 for node in classes}
    assert not {name: lines for name, lines in lengths.items() if lines > 250}


def test_no_module_without_a_floor():
    """Sees a new room that nobody placed, such as utils.py."""
    assert {room(path) for path in modules()} == set(FLOOR_OF)


def test_the_core_needs_torch_alone():
    """Sees an optional dependency imported on the way to the optimizer."""
    extras = ["sklearn", "scipy", "matplotlib", "jinja2", "rich", "timm", "datasets", "lightning_fabric", "ray"]
    extras += ["lightning", "accelerate", "transformers"]
    code = (
        "import sys, torch; before = {*sys.modules}; from sharpless import *\n"
        "print([m for m in {*sys.modules} - before if m.split('.')[0] in sys.argv[1:]])"
    )
    loaded = subprocess.run([sys.executable, "-c", code, *extras], capture_output=True, text=True, check=True).stdout
    assert loaded == "[]\n"


@pytest.mark.parametrize(
    "name", ["", ".ascent", ".cost", ".flatness", ".hosts.lightning", ".hosts.transformers", ".lab", ".schedules"]
)
def test_every_public_name_has_an_example(name):
    """Sees a public class or function whose documentation does not show how it is used."""
    module = import_module(f"sharpless{name}")
    public = {each: getattr(module, each) for each in module.__all__}
    documented = {each: found for each, found in public.items() if isinstance(found, type | FunctionType)}
    assert documented
    assert not [each for each, found in documented.items() if ">>> " not in (found.__doc__ or "")]
