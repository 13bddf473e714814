"""A comparison: a task with every method and every seed, in a folder that can be continued."""

import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sharpless.lab import store
from sharpless.lab.faults import Failure
from sharpless.lab.methods.kinds import BASE
from sharpless.lab.methods.method import Method
from sharpless.lab.runs.execute import execute
from sharpless.lab.runs.pricing import Measurement
from sharpless.lab.runs.run import Run
from sharpless.lab.studies.choice import AUTO, AXES, CHOICE_SEEDS, Grid, Point, best, check_grid, more, points
from sharpless.lab.threads import settled
from sharpless.lab.trials.definition import Task
from sharpless.report.runs import fault

__all__ = ["Study"]

Chosen = tuple[Point | None, dict[str, Any] | None]
"""The hyperparameters of a method, and the record of their choice. The point is None if there is none to train."""


class Study:
    """All runs of a comparison, whether they have been executed or not.

    Args:
        task: the task.
        methods: the names of the methods.
        seeds: the seeds of the compared runs.
        folder: output folder. If it holds runs of the same study, the study continues.
        grid: values of `rho`, `lr` and `weight_decay` to choose from. A single value is used without a choice.
        choice_seeds: number of seeds for each choice of hyperparameters.
        threads: CPU threads of a run; 0 for those of the folder, or else OMP_NUM_THREADS, or else 1.
        flatness: whether to measure the flatness of each minimum.

    Raises:
        ValueError: an argument is out of range, or the folder holds another study.
    """

    def __init__(
        self,
        task: Task,
        methods: Sequence[str],
        seeds: Sequence[int],
        folder: Path,
        *,
        grid: Grid | None = None,
        choice_seeds: int = 3,
        threads: int = 0,
        flatness: bool = False,
    ) -> None:
        if not methods:
            raise ValueError("methods = nothing: give one or more")
        if not seeds or min(seeds) < 0 or max(seeds) >= CHOICE_SEEDS:
            wrong = next((seed for seed in seeds if not 0 <= seed < CHOICE_SEEDS), "nothing")
            raise ValueError(f"seed = {wrong} is out of range: give 0 to {CHOICE_SEEDS - 1}")
        if choice_seeds < 1:
            raise ValueError(f"choice_seeds = {choice_seeds} is out of range: give 1 or more")
        self.task, self.flatness = task, flatness
        self.methods = [Method(name) for name in dict.fromkeys(methods)]
        """The rows. Planned methods get the measurements once there are some."""
        self.seeds, self.folder = list(dict.fromkeys(seeds)), folder.absolute()
        check_grid(grid or {})
        self.grid: dict[str, Any] = {
            name: values if isinstance(values, str) else list(map(float, values))
            for name, values in (grid or {}).items()
        }
        self.choice_seeds = range(CHOICE_SEEDS, CHOICE_SEEDS + choice_seeds)
        check = getattr(task.function, "check", None)
        self.facts: dict[str, Any] = (check and check(task.options, self.methods)) or {}
        """Facts on the data. They are the same for all runs of the folder."""
        known = store.known(self.folder, self._description, self._identity(), threads)
        self.threads = settled(threads, known.get("threads", 0))
        self._know(known)
        self._code = known.get("code") or task.fingerprint
        self.failures: list[Failure] = []
        """The failed runs of the last execution."""

    def execute(
        self, jobs: int | None = None, on: str = "local", watch: Callable[[float, int], None] | None = None
    ) -> Generator[tuple[Run, dict[str, Any] | Failure], None, None]:
        """Yield each missing run with its record, as soon as it is finished and its file is written.

        The runs that choose hyperparameters come first, in one or more rounds. The compared runs follow.

        Args:
            jobs: number of parallel runs; by default cores ÷ threads, or one for each GPU.
            on: `local` for processes on this machine, or `ray` for a cluster.
            watch: called regularly with the number of finished runs, shares of running ones included, and the number
                of all runs known so far.
        """
        self.failures = []
        self.measure(on)
        standing = _standing(self.finished)
        chosen = {method: standing[method.name] for method in self.methods if method.name in standing}
        tried = {method: points(method, self.grid) for method in self.methods if method not in chosen}
        final = len(self.methods) * len(self.seeds)
        while True:
            runs = [run for method, found in tried.items() for run in self._trials(method, found)]
            yield from self._execute(runs, final, jobs, on, watch)
            if not sum(self._extend(method, found) for method, found in tried.items()):
                break
        before = len(runs)
        chosen |= {method: self._choose(method, found) for method, found in tried.items()}
        runs = [
            Run(self.task, method, seed, self.folder, self.threads, point, choice, flatness=self.flatness)
            for seed in self.seeds
            for method in self.methods
            for point, choice in [chosen[method]]
            if point is not None
        ]
        yield from self._execute(runs, before, jobs, on, watch)

    def measure(self, on: str = "local") -> None:
        """Measure passes and parts of a batch, if a method needs it for its plan. A failure leaves its runs out.

        Args:
            on: see `execute`; `here` for this process.
        """
        if self.measured or not any(method.is_planned for method in self.methods):
            return
        measurement = Measurement(self.task, self.folder, self.threads)
        if on == "here":
            found = measurement.train(measurement.trial())
        else:
            found = next(found for _, found in execute([measurement], 1, on))
        if isinstance(found, Failure):
            self.failures.append(found)
            self.methods = [method for method in self.methods if not method.is_planned]
        else:
            self._know(found)
            self.open_folder()

    def _know(self, there: Mapping[str, Any]) -> None:
        """Give the measurements to the methods, if there are any."""
        self.measured = {name: there[name] for name in ("step_seconds", "part_noise") if there.get(name)}
        if len(self.measured) == 2:
            seconds, noise = ({int(m): value for m, value in each.items()} for each in self.measured.values())
            self.methods = [method.measured(seconds, noise) for method in self.methods]

    @property
    def finished(self) -> list[Path]:
        """The existing run files."""
        return sorted(self.folder.glob("runs/*.json"))

    def _execute(
        self,
        runs: Sequence[Run],
        others: int,
        jobs: int | None,
        on: str,
        watch: Callable[[float, int], None] | None,
    ) -> Iterator[tuple[Run, dict[str, Any] | Failure]]:
        """Yield the results of the missing ones of `runs`, executed here. `others` counts the study's other runs."""
        failed = {failure.run for failure in self.failures}  # in an earlier round
        missing = [run for run in runs if run.name not in failed and not run.path.exists()]
        ended, earlier = len(runs) - len(missing), others if runs and not runs[0].choosing else 0

        def see(under_way: float) -> None:
            if watch is not None:
                watch(earlier + ended + under_way, len(runs) + others)

        see(0.0)
        for run, found in execute(missing, jobs, on, see):
            ended += 1
            result = found if isinstance(found, Failure) else self._kept(run, found)
            if isinstance(result, Failure):
                self.failures.append(result)
            see(0.0)
            yield run, result

    def _kept(self, run: Run, found: dict[str, Any]) -> dict[str, Any] | Failure:
        """Return a record after writing it, or a failure if the record does not fit the report or the earlier runs."""
        if why := fault(json.loads(json.dumps(found))):  # now, and not after the last run
            return Failure(run.name, f"the report cannot read its record ({why}): change what the task reports")
        names = _reported(found)
        before = self._before(run) or names
        if names != before:
            return Failure(
                run.name,
                f"it reported {' and '.join(names)}, and an earlier run {' and '.join(before)}: report the same",
            )
        base = store.read(replace(run, method=Method(BASE), point={}).path)
        if base is not None and run.method.is_longer and found["steps"] <= base["steps"]:
            return Failure(
                run.name,
                f"it took {found['steps']} steps, and {BASE} {base['steps']}: train for trial.epochs(…) epochs",
            )
        run.conclude(found)
        return found

    def _before(self, run: Run) -> list[str]:
        """Return the metrics of the earlier runs, from one of them; an empty list if there is none."""
        other = next((found for path in run.path.parent.glob("*.json") if (found := store.read(path))), None)
        return _reported(other) if other else []

    def _trials(self, method: Method, tried: Sequence[Point]) -> list[Run]:
        """Return the runs that choose a method's hyperparameters; none if there is nothing to choose."""
        if len(tried) < 2:
            return []
        return [
            Run(self.task, method, seed, self.folder, self.threads, point, choosing=True)
            for point in tried
            for seed in self.choice_seeds
        ]

    def _results(self, method: Method, tried: Sequence[Point]) -> list[dict[str, Any]]:
        """Return the points with their values on validation data, one for each seed."""
        values: dict[tuple[float, ...], list[float | None]] = {}
        for run in self._trials(method, tried):
            values.setdefault(tuple(run.point.values()), []).append(run.validation)
        return [{**point, "values": values.get(tuple(point.values()), [])} for point in tried]

    def _extend(self, method: Method, tried: list[Point]) -> bool:
        """Return whether an automatic grid has further points, and add these to the tried ones."""
        if self.grid.get("rho") != AUTO or not method.is_sharp:
            return False
        following = [
            point for point in more(self._results(method, tried), self.task.measure.goal) if point not in tried
        ]
        tried += following
        return bool(following)

    def _choose(self, method: Method, tried: Sequence[Point]) -> Chosen:
        """Return the best point, and the record of the choice. A single point needs no choice."""
        if len(tried) == 1:
            return tried[0], None
        results = self._results(method, tried)
        chosen = best(results, self.task.measure.goal)
        if chosen is None:
            self.failures.append(Failure(method.name, "no point of the grid finished with every seed"))
        records = [found for run in self._trials(method, tried) if (found := run.read())]
        cost = sum(found["passes"] / found["plain_passes"] for found in records)
        return chosen, {"seeds": list(self.choice_seeds), "cost": cost, "tried": results}

    @property
    def _description(self) -> Path:
        return self.folder / "study.json"

    def _identity(self) -> dict[str, Any]:
        """Return the description of the study, which is the same for all runs of a folder."""
        identity = {
            "task": self.task.name,
            "options": self.task.identity,
            "data": self.facts,
            "metric": vars(self.task.measure),
            "grid": self.grid,
            "choice_seeds": len(self.choice_seeds),
            "flatness": self.flatness,
        }
        read: dict[str, Any] = json.loads(json.dumps(identity, default=str))
        return read

    @property
    def notice(self) -> str | None:
        """A sentence for a folder that was begun with other code of the task; None if the code is the same."""
        if self._code == self.task.fingerprint:
            return None
        return (
            f"{self.task.name} has changed since {self.folder} was begun: its finished runs are kept, choose another "
            "folder to repeat them"
        )

    def open_folder(self) -> None:
        """Make the folder, and write the description of the study."""
        description = {**self._identity(), "code": self._code, "threads": self.threads, **self.measured}
        store.write(self._description, json.dumps(description, indent=1, ensure_ascii=False))


def _standing(finished: Sequence[Path]) -> dict[str, Chosen]:
    """Return the choice of each method with a finished run, by its name.

    It stands, also if runs of the choice succeed later that had failed.
    """
    records = [found for found in map(store.read, finished) if found and fault(found) is None and found["choice"]]
    return {
        found["method"]: (
            {axis: found["hyperparameters"][axis] for axis in AXES if axis in found["choice"]["tried"][0]},
            found["choice"],
        )
        for found in records
    }


def _reported(found: Mapping[str, Any]) -> list[str]:
    """Return the metrics of a record."""
    return sorted(dict(found.get("curve", {})).keys() & {"validation", "test", "loss"})
