"""What flatness is measured of: a network with its loss and examples, trained here or by anyone."""

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
from sharpless.lab.definition import imported
from sharpless.lab.faults import culprit, is_out_of_memory, reason
from sharpless.lab.tasks.images import networks, parts
from sharpless.lab.tasks.images.checkpoints import JUNK
from sharpless.lab.tasks.images.data import load
from sharpless.lab.tasks.images.sample import Sample

__all__ = ["listed", "objective"]

Found = TypeVar("Found")


@dataclass(frozen=True)
class _Trained:
    """What a checkpoint of the images task holds."""

    options: Mapping[str, Any]  # the fields of the recipe
    seed: int
    fingerprint: str  # of the data
    weights: Mapping[str, Tensor]


def listed(names: Iterable[str]) -> list[str]:
    """Return the names of checkpoints, each once, with those in a folder of `sharpless train` in its place.

    Raises:
        ValueError: a folder holds none, or there is no such file.
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
    """Return the loss of a checkpoint, as a function of its weights, after two passes over the examples agreed.

    Args:
        name: a file `weights/METHOD-seedN.pt` or `work/METHOD-seedN/step-….pt` of `sharpless train`, or
            `FILE.py:function` or `module:function`: a function that returns (model, loss, data), see `Objective`.
        examples: how many, at most. Of a checkpoint, training examples with the labels that it was trained on.
        batch_size: how many at once; a function of the user's has batches of its own.
        data_dir: the local folder of the data of a checkpoint, where they are not from the hub.

    Raises:
        ValueError: it is none, or cannot be measured.
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
        raise ValueError(f"checkpoint = {name} was trained on other data than {recipe.data} is here: get the same ones")
    model = networks.build(recipe.network, classes=data.classes, channels=data.channels, width=recipe.width)
    try:
        model.load_state_dict(dict(trained.weights))
    except JUNK as error:
        raise ValueError(f"checkpoint = {name} does not fit its network {recipe.network}: {reason(error)}") from None
    batches = Sample(data.train.to(setup.device), examples, batch_size)
    loss = partial(cross_entropy, label_smoothing=recipe.label_smoothing)
    return _measurable(name, recipe.network, lambda: Objective(model.to(setup.device), loss, batches, examples))


def _of_function(name: str, examples: int) -> Objective:
    told = f"checkpoint = {name}"
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    function = imported(name, Path.cwd(), told)
    if not callable(function):
        raise ValueError(f"{told} is no function: give one that returns (model, loss, data)")  # noqa: TRY004
    found: Any = _measurable(name, name, function)
    if not isinstance(found, tuple) or len(found) != 3 or not isinstance(found[0], nn.Module) or not callable(found[1]):
        raise ValueError(f"{told} returned {_kind(found)}: let it return (model, loss, data), a torch.nn.Module first")
    return _measurable(name, name, lambda: Objective(*found, examples))


def _measurable(name: str, spec: str, make: Callable[[], Found]) -> Found:
    """Return what `make` returns, or say in one sentence why it does not.

    Raises:
        ValueError: it raised something.
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
        raise ValueError(f"checkpoint = {name} raised {reason(error)}{place}: mend it there") from error


def _kind(found: Any) -> str:
    return f"({', '.join(type(one).__name__ for one in found)})" if isinstance(found, tuple) else type(found).__name__


def _read(path: Path) -> _Trained:
    """Return what a file of `sharpless train` holds.

    Raises:
        ValueError: it is none.
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
            f"checkpoint = {path} is not as sharpless train leaves it, with its record in ../runs: give such a file, "
            "or FILE.py:function that returns (model, loss, data)"
        ) from None
