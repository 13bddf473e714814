"""Compare methods on a task, from Python: the same study, files and report as on the command line."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sharpless.lab import store
from sharpless.lab.conclude import conclude
from sharpless.lab.definition import Task
from sharpless.lab.kinds import DEFAULTS
from sharpless.lab.study import Study

__all__ = ["compare"]


def compare(
    task: str | Callable[..., Any],
    *,
    methods: Sequence[str] = DEFAULTS,
    rho: Sequence[float] | float | str = (),
    lr: Sequence[float] | float = (),
    weight_decay: Sequence[float] | float = (),
    seeds: int = 10,
    first_seed: int = 0,
    choice_seeds: int = 3,
    goal: str | None = None,
    metric: str | None = None,
    unit: str | None = None,
    margin: float | str | None = None,
    folder: str | Path = "runs/compare",
    jobs: int | None = None,
    on: str = "local",
    threads: int = 0,
    flatness: bool = False,
    options: Mapping[str, Any] | None = None,
    watch: Callable[[float, int], None] | None = None,
) -> dict[str, Any]:
    """Train a task with several methods and seeds, and return what each buys and what it costs.

    Stopped and called again, it continues and repeats no finished run. The folder gets the run files, `summary.json`,
    which is what is returned, and the page `report.html`.

    Args:
        task: a function of a `Trial`, or its name as on the command line, `FILE.py:function`.
        methods: the rows of the table, see `sharpless.lab.methods`.
        rho: radii to choose from, on validation data and for each method by itself; "auto" looks for a grid. One value
            is taken as it is, and none leaves the radius to the task.
        lr: learning rates to choose from, in the same way.
        weight_decay: weight decays to choose from.
        seeds: how many runs of each method are compared.
        first_seed: the first of their seeds.
        choice_seeds: how many runs of each point of the grid there are, with seeds of their own.
        goal: `max` where a higher metric is better, `min` where a lower one is; by default what the task says.
        metric: the name of the metric.
        unit: its unit, such as "%".
        margin: the loss that still counts as keeping up with SAM, in the unit of the metric, or a share of SAM's gain
            such as "25%".
        folder: where the files go.
        jobs: runs at a time; by default as many as the cores have room for.
        on: `local`, or `ray` for a cluster.
        threads: CPU threads of a run, 0 for one.
        flatness: whether to measure how flat the minimum of each run is, see docs/flatness.md.
        options: keyword arguments of the task.
        watch: is called now and then with the runs that are done and how many there are.

    Returns:
        The summary: metric and goal, and for each method its value, ρ, cost in gradients and in seconds, and how it
        compares with SAM.

    Raises:
        ValueError: an argument is out of range, or no run came to its end.
    """
    grid: dict[str, Any] = {"rho": rho, "lr": lr, "weight_decay": weight_decay}
    grid = {name: [values] if isinstance(values, int | float) else values for name, values in grid.items()}
    study = Study(
        Task.of(task, options, metric=metric, unit=unit, goal=goal),
        methods,
        range(first_seed, first_seed + seeds),
        Path(folder),
        grid={name: values for name, values in grid.items() if len(values)},
        choice_seeds=choice_seeds,
        threads=threads,
        flatness=flatness,
    )
    with store.locked(study.folder):
        study.open_folder()
        for _ in study.execute(jobs, on, watch):
            pass
        for failure in study.failures:
            warnings.warn(str(failure), stacklevel=2)
        if not study.finished:
            raise ValueError("no run came to its end: " + "; ".join(map(str, study.failures[:3])))
        return conclude([study.folder], study.folder, margin)
