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
from sharpless.report.seeds import enough
from sharpless.report.verdict import MISSING, interval, outcome, signed, verdict, word

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
    environment.filters.update(
        signed=signed,
        interval=interval,
        enough=enough,
        number=_number,
        spread=_spread,
        probability=_probability,
        sentence=_sentence,
    )
    compared = [entry for entry in summary["methods"] if entry["versus_sam"]]
    return environment.get_template("page.html.jinja").render(
        summary=summary,
        verdict=verdict(summary),
        compared=[(entry, word(entry["versus_sam"], summary)) for entry in compared],
        outcomes=[outcome(entry["versus_sam"], summary["margin"]) for entry in compared],
        where={"test": "the test set"}.get(summary["split"], f"the {summary['split']} split"),
        seeds=sorted({run.seed for run in runs}),
        labels={entry["method"]: entry["label"] for entry in summary["methods"]},
        equals=_equals(summary),
        ledger=[_ledger(group) for group in by_method(runs).values()],
        figures={
            "cost": figures.accuracy_against_cost(summary),
            "seconds": figures.accuracy_against_seconds(summary),
            "loss": figures.training_loss(runs),
            "accuracy": figures.accuracy(runs),
            "coin": figures.coin(runs),
        },
    )


def _equals(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what the methods had reached for as many gradients, and in as many seconds, where that is known."""
    labels = {entry["method"]: entry["label"] for entry in summary["methods"]}
    return [
        {**equal, "cheapest": labels[equal["cheapest"]], "limit": f"{_number(equal['budget'], digits)} {unit}"}
        for equal, unit, digits in (
            (summary["equal_gradients"], "gradients", 0),
            (summary["equal_seconds"], "seconds", 1),
        )
        if equal["cheapest"]
    ]


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


def _spread(found: Mapping[str, Any] | None, digits: int = 2) -> str:
    """Return mean ± standard deviation over seeds.

    >>> _spread({"mean": 97.0, "std": 0.5}), _spread({"mean": 97.0, "std": None}, 1), _spread(None)
    ('97.00 ± 0.50', '97.0', '—')
    """
    if found is None or found["std"] is None:
        return _number(None if found is None else found["mean"], digits)
    return f"{found['mean']:.{digits}f} ± {found['std']:.{digits}f}"


def _probability(p: float | None) -> str:
    """Return a p-value as reports print it.

    >>> _probability(0.0004), _probability(0.0249), _probability(None)
    ('<0.001', '0.025', '—')
    """
    return MISSING if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _sentence(facts: Mapping[str, Any]) -> str:
    """Return what a dict of facts says.

    >>> _sentence({"devices": 2, "batch_size": [64, 64], "precision": None, "compile": ""})
    'devices 2, batch size 64 and 64'
    """
    told = {name: value for name, value in facts.items() if value not in (None, "")}
    return ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in told.items())


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({_sentence(value)})"
    return " and ".join(map(_plain, value)) if isinstance(value, list) else str(value)
