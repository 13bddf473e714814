"""The objective of a flatness measurement: a network with its loss and examples."""

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sharpless.flatness import Objective
from sharpless.lab import store
from sharpless.lab.faults import culprit, is_out_of_memory, reason
from sharpless.lab.tasks.images import networks, parts
from sharpless.lab.tasks.images.checkpoints import JUNK
from sharpless.lab.tasks.images.data import load
from sharpless.lab.tasks.images.sample import Sample
from sharpless.lab.trials.imports import imported

__all__ = ["listed", "objective"]

Found = TypeVar("Found")


@dataclass(frozen=True)
class _Trained:
    """The content of a checkpoint of the images task."""

    options: Mapping[str, Any]  # the fields of the recipe
    seed: int
    fingerprint: str  # of the data
    weights: Mapping[str, Tensor]


def listed(names: Iterable[str]) -> list[str]:
    """Return the names of checkpoints, each once. A folder of `sharpless train` is replaced by its checkpoints.

    Raises:
        ValueError: a folder holds no checkpoint, or there is no such file.
    """
    found: list[str] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            inside = sorted(path.glob("weights/*.pt"))
            if not inside:
                raise ValueError(f"checkpoint = {name} is a folder without weights/*.pt: give one of sharpless train")
            found += map(str, inside)
        elif path.is_file() or ":" in name:
            found.append(name)
        else:
            raise ValueError(f"checkpoint = {name} is not there: give a file of sharpless train, or FILE.py:function")
    return list(dict.fromkeys(found))


def objective(name: str, examples: int, batch_size: int, data_dir: str = "") -> Objective:
    """Return the loss of a checkpoint as a function of its weights. Two passes over the examples have to agree.

    Args:
        name: a file `weights/METHOD-seedN.pt` or `work/METHOD-seedN/step-….pt` of `sharpless train`, or
            `FILE.py:function` or `module:function`: a function that returns (model, loss, data), see `Objective`.
        examples: largest number of examples. For a checkpoint, they are training examples with their training labels.
        batch_size: examples in a batch, for checkpoints of `sharpless train`.
        data_dir: folder of the data of a checkpoint, in place of the hub.

    Raises:
        ValueError: the checkpoint is invalid, or cannot be measured.
    """
    if not Path(name).is_file():
        return _of_function(name, examples)
    trained = _read(Path(name))
    recipe, setup = parts({**trained.options, "data_dir": data_dir, "workers": 0})
    data = load(
        recipe.data,
        noise=recipe.noise,
        seed=trained.seed,
        held_out=recipe.validation,
        examples=recipe.examples,
        image_size=recipe.image_size,
        data_dir=setup.data_dir or None,
    )
    if data.fingerprint != trained.fingerprint:
        raise ValueError(f"checkpoint = {name} was trained on other data than {recipe.data} here: get the same data")
    model = networks.build(recipe.network, classes=data.classes, channels=data.channels, width=recipe.width)
    try:
        model.load_state_dict(dict(trained.weights))
    except JUNK as error:
        raise ValueError(f"checkpoint = {name} does not fit its network {recipe.network}: {reason(error)}") from None
    batches = Sample(data.train.to(setup.device), examples, batch_size)
    loss = partial(cross_entropy, label_smoothing=recipe.label_smoothing)
    return _measurable(name, recipe.network, lambda: Objective(model.to(setup.device), loss, batches, examples))


def _of_function(name: str, examples: int) -> Objective:
    prefix = f"checkpoint = {name}"
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    function = imported(name, Path.cwd(), prefix)
    if not callable(function):
        raise ValueError(f"{prefix} is not a function: give one that returns (model, loss, data)")  # noqa: TRY004
    found: Any = _measurable(name, name, function)
    if not isinstance(found, tuple) or len(found) != 3 or not isinstance(found[0], nn.Module) or not callable(found[1]):
        raise ValueError(f"{prefix} returned {_kind(found)}: return (model, loss, data), with a torch.nn.Module first")
    return _measurable(name, name, lambda: Objective(*found, examples))


def _measurable(name: str, spec: str, make: Callable[[], Found]) -> Found:
    """Return the result of `make`, or one sentence about its error.

    Raises:
        ValueError: `make` raised an error.
    """
    try:
        return make()
    except Exception as error:
        if is_out_of_memory(error):
            raise
        where = culprit(error, spec)
        if where is None and isinstance(error, ValueError):
            raise ValueError(f"checkpoint = {name}: {error}") from error
        place = "" if where is None else f" ({where})"
        raise ValueError(f"checkpoint = {name} raised {reason(error)}{place}: fix it there") from error


def _kind(found: Any) -> str:
    return f"({', '.join(type(one).__name__ for one in found)})" if isinstance(found, tuple) else type(found).__name__


def _read(path: Path) -> _Trained:
    """Return the content of a file of `sharpless train`.

    Raises:
        ValueError: it is not such a file.
    """
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except JUNK as error:
        raise ValueError(
            f"checkpoint = {path} cannot be read ({reason(error, 80)}): give one of sharpless train"
        ) from None
    try:
        if path.parent.name == "weights":
            record = store.read(path.parents[1] / "runs" / f"{path.stem}.json") or {}
            return _Trained(record["options"], record["seed"], record["data"]["fingerprint"], held)
        run, state = held["run"], held["state"]
        average = state["trial"]["average"] or {}
        averaged = {name.removeprefix("module."): value for name, value in average.items() if name != "n_averaged"}
        return _Trained(run["recipe"], run["seed"], run["data"], averaged or state["model"])
    except JUNK:
        raise ValueError(
            f"checkpoint = {path} is not a file of sharpless train with its record in ../runs: give such a file, "
            "or FILE.py:function that returns (model, loss, data)"
        ) from None
