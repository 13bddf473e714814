"""The record of a run: the content of its file, ready for JSON."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sharpless.cost import Plan
from sharpless.lab import store
from sharpless.lab.trials.trial import Trial
from sharpless.report.record import MOST_RESULT

if TYPE_CHECKING:
    from sharpless.lab.runs.run import Run

__all__ = ["record"]


def record(run: "Run", trial: Trial) -> dict[str, Any]:
    """Return the record of a finished run."""
    method, settings = run.method, run.method.settings(trial.batch_size)
    cost = trial.cost
    package = method.kind.package
    return {
        "format": 2,
        "task": run.task.name,
        "options": run.task.identity,
        "metric": vars(run.task.measure),
        "method": method.name,
        "label": trial.label,
        "rank": method.rank,
        "look": vars(method.kind.look),
        "seed": run.seed,
        "hyperparameters": trial.hyperparameters,
        "choice": run.choice,
        "steps": cost.steps,
        "sharp_steps": trial.sharp_steps,
        "schedule": str(settings.schedule),
        "gamma": settings.gamma,
        "batch_fraction": settings.batch_fraction,
        "plan": None if settings.plan is None else _planned(method.own["budget"], settings.plan),
        "passes": cost.passes,
        "plain_passes": trial.plain_passes,
        "seconds": trial.seconds,
        "data_seconds": trial.data_seconds,
        "curve": {
            name: [_finite(value) for value in values] if name in {"validation", "test", "loss"} else values
            for name, values in trial.curve.items()
        },
        "flatness": trial.flat,
        "data": store.plain(trial.facts),
        "setup": {"threads": run.threads, "device": trial.device.type, **store.plain(trial.setup)},
        "versions": {name: version(name) for name in ("sharpless", "torch", *([package] if package else []))}
        | {"python": platform.python_version()},
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": os.cpu_count(),
            **({"gpu": torch.cuda.get_device_name()} if trial.device.type == "cuda" else {}),
        },
    }


def _planned(budget: float, plan: Plan) -> dict[str, Any]:
    unit, cost = ("gradients", plan.cost) if plan.seconds is None else ("seconds", plan.seconds)
    return {"budget": budget, "cost": cost, "unit": unit, "why": plan.why}


def _processor() -> str:
    """Return the model of the processor, if the system knows it."""
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        if cpuinfo.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def _finite(value: float) -> float | None:
    """Return a result for the record: None if it is not finite, or too large for a report.

    >>> _finite(0.5), _finite(float("nan")), _finite(1e150)
    (0.5, None, None)
    """
    return value if abs(value) <= MOST_RESULT else None
