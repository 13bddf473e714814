"""What is handed out: the wheel, the source distribution, and the types that checkers read."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
PROGRAM = ROOT / "tests/typed_program.py"


def hatchling(hook, source, folder):
    """What pip and build do: call a hook of the build backend in the folder of the sources."""
    code = f"import sys; from hatchling.build import {hook}; print({hook}(sys.argv[1]))"
    ended = subprocess.run(
        [sys.executable, "-c", code, folder], cwd=source, capture_output=True, text=True, check=False, timeout=100
    )
    assert ended.returncode == 0, ended.stderr
    return folder / ended.stdout.split()[-1]


def files_of(folder):
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and not any(part.startswith(".") for part in path.parts[1:])
    }


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The unpacked source distribution."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(hatchling("build_sdist", ROOT, folder)) as archive:
        archive.extractall(folder, filter="data")
    (found,) = (path for path in folder.iterdir() if path.is_dir())
    return found


@pytest.fixture(scope="module")
def wheel(sources, tmp_path_factory):
    """The wheel, made from the source distribution as build does it."""
    with zipfile.ZipFile(hatchling("build_wheel", sources, tmp_path_factory.mktemp("wheel"))) as archive:
        yield {name: archive.read(name) for name in archive.namelist()}


def test_the_source_distribution_holds_what_its_tests_need(sources):
    """Sees a folder that tests open left out, or files of this machine taken along."""
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("*.py"))
    opened = set(re.findall(r'(?:parents\[1\]|ROOT) / "([^"/]+)', tests)) - {"runs"}
    opened = {name for name in opened if (ROOT / name).exists()}
    assert opened >= {"benchmarks", "docs", "examples"}
    folders = {name for name in opened if (ROOT / name).is_dir()} | {"src"}
    for name in folders:
        assert files_of(sources / name) == files_of(ROOT / name), name
    whole = {path.name for path in sources.iterdir()}
    assert whole >= opened
    other = whole - opened - {"PKG-INFO", ".gitignore"}
    assert other <= {"src", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "mkdocs.yml"}


def test_the_wheel(wheel):
    """Sees tests in the wheel, or the template of the page, the mark of typed packages or the license left out."""
    package = {name for name in wheel if name.startswith("sharpless/")}
    assert package == {f"sharpless/{name}" for name in files_of(ROOT / "src/sharpless")}
    assert "sharpless/py.typed" in package
    (info,) = {name.partition("/")[0] for name in wheel.keys() - package}
    assert info.endswith(".dist-info")
    assert wheel[f"{info}/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    assert b"sharpless = sharpless.cli:main" in wheel[f"{info}/entry_points.txt"]


def test_the_metadata(wheel):
    """Sees a package beside torch required of everybody, or a version of Python promised that is not tested."""
    metadata = message_from_bytes(next(text for name, text in wheel.items() if name.endswith("/METADATA")))
    assert [each for each in metadata.get_all("Requires-Dist") if "extra ==" not in each] == ["torch>=2.6"]
    pythons = [each for each in metadata.get_all("Classifier") if re.search(r":: 3\.\d+$", each)]
    assert min(pythons, key=lambda each: int(each.rpartition(".")[2])).endswith(
        metadata["Requires-Python"].removeprefix(">=")
    )
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (?:\[)?([\d.]+)", changes, re.MULTILINE)[1] == metadata["Version"]


def test_a_typed_program_runs():
    """Sees a program that type checkers take and Python does not."""
    names = runpy.run_path(str(PROGRAM))
    costs = names["of_every_kind"]()
    assert names["planned"](1.1) == names["planned"](1.125)  # the cheapest plan
    assert len(names["flatness"](torch.nn.Linear(3, 1))) == 2
    assert [cost.ratio for cost in costs[-2:]] == [2.0, 2.0]
    assert names["own_task"].__doc__


def test_mypy_takes_a_typed_program():
    """Sees a public name that is lost to type checkers, or an argument whose type refuses what is documented."""
    ended = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(PROGRAM)],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout


def test_pyright_takes_a_typed_program(tmp_path):
    """Sees what mypy lets pass: types that are partly unknown."""
    shutil.copy(PROGRAM, tmp_path)
    (tmp_path / "pyrightconfig.json").write_text(
        f'{{"typeCheckingMode": "strict", "extraPaths": ["{(ROOT / "src").as_posix()}"]}}'
    )
    ended = subprocess.run(
        [sys.executable, "-m", "pyright", "--project", str(tmp_path), "--pythonpath", sys.executable],
        env={**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},  # of newer versions, which it looks for on the net
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
