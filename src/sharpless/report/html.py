"""The report as one self-contained page: no network, no scripts, nothing beside the file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sharpless import schedules
from sharpless.cost import expected_cost
from sharpless.report import figures
from sharpless.report.runs import Run, by_method
from sharpless.report.verdict import MISSING, interval, signed, verdict

__all__ = ["render"]


def render(runs: Sequence[Run], summary: Mapping[str, Any]) -> str:
    """Return the page of a comparison as HTML.

    Args:
        runs: the runs, as `read_runs` returns them.
        summary: what `summarize` made of the same runs.

    Returns:
        A whole document, to be written to a file in UTF-8.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(signed=signed, interval=interval, number=_number)
    return environment.get_template("page.html.jinja").render(
        summary=summary,
        verdict=verdict(summary),
        seeds=sorted({run.seed for run in runs}),
        ledger=[_ledger(group) for group in by_method(runs).values()],
        figures={
            "cost": figures.accuracy_against_cost(summary),
            "seconds": figures.accuracy_against_seconds(summary),
            "loss": figures.training_loss(runs),
            "accuracy": figures.test_accuracy(runs),
            "coin": figures.coin(runs),
        },
    )


def _ledger(runs: Sequence[Run]) -> dict[str, Any]:
    """Return what the runs of one method spent, and what its schedule lets expect."""
    run = runs[0]
    schedule = schedules.parse(run.schedule)
    expected_passes = run.steps * expected_cost(schedule, run.steps, run.batch_fraction)
    passes = fmean(run.passes for run in runs)
    return {
        "label": run.label,
        "schedule": f"{schedule.mean():.4g}" if isinstance(schedule, schedules.Constant) else run.schedule,
        "batch_fraction": run.batch_fraction,
        "steps": run.steps,
        "sharp_steps": fmean(len(run.sharp_steps) for run in runs),
        "passes": passes,
        "plain_passes": run.plain_passes,
        "cost": passes / run.plain_passes,
        "expected_cost": expected_passes / run.plain_passes,
    }


def _number(value: float | None, digits: int) -> str:
    return MISSING if value is None else f"{value:,.{digits}f}"
