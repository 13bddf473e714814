"""The arguments of a comparison, checked before any work."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from numbers import Integral
from pathlib import Path
from typing import Any

from sharpless.lab import store
from sharpless.lab.methods.kinds import KINDS
from sharpless.lab.methods.method import Method
from sharpless.lab.studies.choice import CHOICE_SEEDS, Grid, check_grid
from sharpless.lab.threads import settled
from sharpless.report.margin import read_margin

__all__ = ["LEAST", "PLACES", "SEEDS", "check"]

SEEDS = 12
"""Enough for the same verdicts of the default comparison with any seeds."""
MOST_SEEDS = 10_000
LEAST = {"seeds": 1, "first_seed": 0, "choice_seeds": 1, "jobs": 1, "threads": 0}
"""The counts of a comparison, and the least of each."""
PLACES = ("local", "ray")
"""Where runs are executed."""


def check(
    methods: Sequence[str], grid: Grid, counts: Mapping[str, Any], margin: float | str | None, on: str, folder: Path
) -> None:
    """Check the arguments of a comparison, without the slow imports.

    Args:
        methods: the names of the methods.
        grid: the hyperparameters that are varied.
        counts: seeds, first_seed, choice_seeds, jobs and threads; `jobs` may be None.
        margin: the margin.
        on: where runs are executed.
        folder: the output folder.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: an argument is out of range, or the folder is not a folder.
        ModuleNotFoundError: the package of a peer is not installed.
    """
    for name, least in LEAST.items():
        value = counts[name]
        if name == "jobs" and value is None:
            continue
        if not isinstance(value, Integral):
            raise TypeError(f"{name} = {value!r} is not a whole number: give {least} or more")
        if int(value) < least:
            raise ValueError(f"{name} = {value} is out of range: give {least} or more")
    seeds, first = counts["seeds"], counts["first_seed"]
    if seeds > MOST_SEEDS:
        raise ValueError(f"seeds = {seeds} is out of range: give at most {MOST_SEEDS} at once")
    if first + seeds > CHOICE_SEEDS:
        raise ValueError(f"first_seed = {first} is out of range: seeds end at {CHOICE_SEEDS - 1}, give less")
    settled(counts["threads"])
    check_grid(grid)
    read_margin(margin)
    if on not in PLACES:
        raise ValueError(f"on = {on} is unknown: choose from {', '.join(PLACES)}")
    if isinstance(methods, str) or not isinstance(methods, Sequence):
        raise TypeError(f"methods = {methods!r} is not a list: give {[methods if isinstance(methods, str) else 'sam']}")
    if not methods:
        raise ValueError(f"methods = nothing: choose from {', '.join(KINDS)}")
    for method in map(Method, methods):
        if method.kind.package and find_spec(method.kind.package) is None:
            package = method.kind.package
            raise ModuleNotFoundError(f"method {method.name} needs {package}: pip install {package}, or leave it out")
    store.check_folder(folder)
