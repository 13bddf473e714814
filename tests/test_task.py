"""Tasks: where they come from, what they measure, and their options."""

from functools import partial

import pytest
import torch

from sharpless.lab.trials.definition import Measure, Task, task


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside.py").write_text("NUMBER = 3\n")
    (tmp_path / "mine.py").write_text(
        "import beside\n"
        "def train(trial, size: int = beside.NUMBER, *, name='a'):\n    return size, name\n"
        "def wants(trial, data): ...\n"
        "def none(): ...\n"
        "three = 3\n"
        "class Kind: ...\n"
    )
    (tmp_path / "broken.py").write_text("x = 1\nraise KeyError('lost')\n")
    return tmp_path


@pytest.mark.parametrize("name", ["mine.py:train", "mine:train"])
def test_a_task_of_a_file(folder, name):
    """Sees a file that cannot import what lies beside it, or options that do not reach the function."""
    assert Task.of(name)(None) == (3, "a")
    assert Task.of(name, {"size": 5})(None) == (5, "a")
    assert Task.of(name, {"size": 5}).options == {"size": 5, "name": "a"}


def test_what_a_task_measures():
    """Sees a measure of the task that a comparison cannot replace, that is lost, or that no report takes at the end."""

    @task(metric="MSE", goal="min")
    def train(trial): ...

    assert Task.of(train).measure == Measure("MSE", "", "min")
    assert Task.of(train, metric="error", goal="max", unit="%").measure == Measure("error", "%", "max")
    assert Task.of("digits").measure == Measure("accuracy", "%", "max")
    for given, message in (
        ({"goal": "up"}, "goal = up is unknown: give min or max"),
        ({"metric": ""}, "metric = '' has 0 characters: give 1 to 60"),
        ({"metric": "m" * 61}, "has 61 characters: give 1 to 60"),
        ({"unit": "u" * 21}, "has 21 characters: give 0 to 20"),
    ):
        with pytest.raises(ValueError, match=message):
            Task.of(train, **given)


def test_a_partial_function_is_its_task():
    """Sees the goal of a task lost, and so the worst method called the best, where functools.partial sets an option."""

    @task(metric="MSE", goal="min")
    def train(trial, hidden=32): ...

    found = Task.of(partial(train, hidden=8))
    assert found.measure == Measure("MSE", "", "min")
    assert (found.name, found.fingerprint) == (Task.of(train).name, Task.of(train).fingerprint)
    assert found.options == {"hidden": 8}


def test_the_decorator_without_parentheses():
    """Sees Python's own words, or a task that is a decorator, where the parentheses or the names are missing."""

    def train(trial): ...

    for given, name in ((train, "train"), ("MSE", "'MSE'")):
        with pytest.raises(
            TypeError, match=f"^@task got {name}, and takes its arguments by name: write @task\\(metric="
        ):
            task(given)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mine.py:three", {}, "task = mine.py:three is not a function: give a function of a trial"),
        ("mine.py:Kind", {}, "task = mine.py:Kind is not a function"),
        ("mine.py:none", {}, "task = mine.py:none takes no trial"),
        ("mine.py:trian", {}, "task = mine.py:trian: mine.py has no 'trian'"),
        ("other.py:train", {}, "task = other.py:train: there is no file other.py"),
        ("other:train", {}, "task = other:train: there is no module other"),
        ("broken.py:train", {}, r"raised KeyError: .lost. on import \(.*broken.py, line 2\)"),
        ("digit", {}, "task = digit is unknown: give FILE.py:function, module:function or one of digits"),
        ("mine.py:train", {"width": 1}, "width is no option of mine.py:train: it has size, name"),
        ("mine.py:wants", {}, "data is missing: mine.py:wants needs it, give --data"),
    ],
)  # fmt: skip
def test_bad_tasks(folder, name, options, message):
    """Sees a task accepted that no trial can be given, or a sentence that does not name what is wrong."""
    with pytest.raises(ValueError, match=message):
        Task.of(name, options)


def test_a_task_that_cannot_travel():
    """Sees a traceback of pickle where a task holds what no process can be handed."""
    generator = (x for x in range(3))
    with pytest.raises(ValueError, match=r"cannot be sent to another process .*make data and models inside"):
        Task.of(lambda trial: next(generator))
    model = torch.nn.Linear(1, 1)
    assert Task.of(lambda trial: model.in_features)(None) == 1
