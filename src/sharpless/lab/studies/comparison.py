"""Compare methods on a task, from Python: the same study, files and report as on the command line."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from sharpless.lab import store
from sharpless.lab.methods.kinds import DEFAULTS
from sharpless.lab.studies.arguments import SEEDS, check
from sharpless.lab.studies.conclude import conclude
from sharpless.lab.studies.study import Study
from sharpless.lab.trials.definition import Task

__all__ = ["compare"]


def compare(
    task: str | Callable[..., Any],
    methods: Sequence[str] = DEFAULTS,
    *,
    rho: Sequence[float] | float | str = (),
    lr: Sequence[float] | float = (),
    weight_decay: Sequence[float] | float = (),
    seeds: int = SEEDS,
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
    """Train a task with several methods and seeds, and return the results and costs of each method.

    The same call continues an interrupted comparison and repeats no finished run. The folder gets the run files, the
    returned summary as `summary.json`, and the page `report.html`.

    >>> import tempfile, torch
    >>> def train(trial):
    ...     torch.manual_seed(trial.seed)
    ...     model = torch.nn.Linear(3, 1)
    ...     opt = trial.optimizer(torch.optim.SGD(model.parameters(), lr=0.1), model=model)
    ...     for x in torch.randn(8, 16, 3):
    ...         for part in opt.passes(x):
    ...             (model(part) - part.sum(1, keepdim=True)).square().mean().backward()
    ...         opt.step()
    ...         opt.zero_grad()
    ...     with trial.evaluating(model):
    ...         trial.report(test=(model.weight - 1).norm())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     summary = compare(train, ["sgd", "sam"], seeds=2, goal="min", folder=folder, jobs=1)
    >>> [(row["label"], row["cost"]) for row in summary["methods"]]
    [('SGD', 1.0), ('SAM', 2.0)]

    Args:
        task: a function of a `Trial`, or its name as on the command line, `FILE.py:function`.
        methods: the rows of the table, such as "g-rst:p=0.25" (docs/tasks.md).
        rho: radii. Each method chooses the best one on validation data; "auto" searches for radii. A single value is
            used without a choice. By default the task sets the radius.
        lr: learning rates, in the same way.
        weight_decay: weight decays, in the same way.
        seeds: number of seeds for each method.
        first_seed: the first seed.
        choice_seeds: number of seeds for each choice of hyperparameters. They differ from the seeds of the results.
        goal: `max` if a higher metric is better, `min` if a lower one is; by default from the task.
        metric: the name of the metric.
        unit: its unit, such as "%".
        margin: the largest loss against SAM that counts as non-inferior, in the unit of the metric, or as a share of
            SAM's gain such as "25%".
        folder: output folder.
        jobs: number of parallel runs; by default cores ÷ threads.
        on: `local`, or `ray` for a cluster.
        threads: CPU threads of a run; 0 for those of the folder, or else OMP_NUM_THREADS, or else 1.
        flatness: whether to measure how flat the minimum of each run is, see docs/flatness.md.
        options: keyword arguments of the task.
        watch: called regularly with the number of finished runs and the number of all runs.

    Returns:
        The summary: metric and goal, and for each method its value, ρ, cost in gradients and in seconds, and the
        comparison with SAM.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: an argument is out of range, or no run finished.
    """
    given = {"rho": rho, "lr": lr, "weight_decay": weight_decay}
    grid = {name: values for name, one in given.items() if len(values := _values(name, one))}
    counts = {"seeds": seeds, "first_seed": first_seed, "choice_seeds": choice_seeds, "jobs": jobs, "threads": threads}
    check(methods, grid, counts, margin, on, Path(folder))
    study = Study(
        Task.of(task, options, metric=metric, unit=unit, goal=goal),
        methods,
        range(first_seed, first_seed + seeds),
        Path(folder),
        grid=grid,
        choice_seeds=choice_seeds,
        threads=threads,
        flatness=flatness,
    )
    with store.locked(study.folder):
        study.open_folder()
        if study.notice:
            warnings.warn(study.notice, stacklevel=2)
        for _ in study.execute(jobs, on, watch):
            pass
        for failure in study.failures:
            warnings.warn(str(failure), stacklevel=2)
        if not study.finished:
            raise ValueError("no run finished: " + "; ".join(map(str, study.failures[:3])))
        return conclude([study.folder], study.folder, margin)


def _values(name: str, given: Any) -> Sequence[Any] | str:
    """Return the values of an axis of the grid.

    Raises:
        TypeError: they are neither a number nor several.
    """
    if isinstance(given, str):
        return given
    try:
        return [given] if isinstance(given, Real) else list(given)
    except TypeError:
        raise TypeError(f"{name} = {given!r} is not a number: give one, or a list of them") from None
