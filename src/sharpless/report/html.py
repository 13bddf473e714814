"""The report as one self-contained page, without network, scripts or other files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sharpless import schedules
from sharpless.cost import expected_cost
from sharpless.report import curves, figures
from sharpless.report.choice import base_validation
from sharpless.report.numbers import MISSING, Digits, enough, measure, number, probability
from sharpless.report.runs import Run, by_method
from sharpless.report.verdict import margin_words, metric_words, outcome, verdict, word

__all__ = ["render"]

OFF: tuple[Any, ...] = (None, "", 0, "none", [], {})
"""Values of unused options, which the page lists in one line."""


def render(runs: Sequence[Run], summary: Mapping[str, Any], *, places: Sequence[str] = (), date: str = "") -> str:
    """Return the page of a comparison as HTML.

    Args:
        runs: the runs, as `read_runs` returns them.
        summary: the summary of the same runs, from `summarize`.
        places: the folders and files of the runs, for the page.
        date: the date of the page.

    Returns:
        A complete document, for a file in UTF-8.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    digits = Digits.of(summary)
    environment.filters.update(
        value=digits.value,
        signed=digits.signed,
        interval=digits.interval,
        spread=digits.spread,
        enough=enough,
        number=number,
        probability=probability,
        measure=measure,
        sentence=_sentence,
        plain=_plain,
    )
    options, groups = summary["options"], by_method(runs)
    return environment.get_template("page.html.jinja").render(
        summary=summary,
        places=places,
        date=date,
        verdict=verdict(summary),
        metric=metric_words(summary),
        margin=margin_words(summary),
        answers={entry["method"]: word(entry, summary) for entry in summary["methods"]},
        outcomes={outcome(entry, summary) for entry in summary["methods"]},
        where={"test": "the test set"}.get(summary["split"], f"the {summary['split']} split"),
        seeds=_seeds(sorted({run.seed for run in runs})),
        labels={entry["method"]: entry["label"] for entry in summary["methods"]},
        measured=dict.fromkeys(
            name for entry in summary["methods"] if entry.get("flatness") for name in entry["flatness"]["measures"]
        ),
        chosen=[entry for entry in summary["methods"] if entry["choice"]],
        equals=_equals(summary),
        plain=base_validation(groups.get("sgd", ())),
        ledger=[_ledger(group) for group in groups.values()],
        shown={name: value for name, value in options.items() if value not in OFF},
        folded={name: value for name, value in options.items() if value in OFF},
        figures={
            "forest": figures.forest(summary),
            "cost": figures.against_cost(summary),
            "seconds": figures.against_seconds(summary),
            "values": curves.values(runs, summary),
            "loss": curves.loss(runs, summary),
            "choice": curves.choice(runs, summary),
            "coin": curves.coin(runs, summary),
        },
    )


def _equals(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the results of the methods at equal gradients, and at equal seconds."""
    labels = {entry["method"]: entry["label"] for entry in summary["methods"]}
    return [
        {**equal, "cheapest": labels[equal["cheapest"]], "limit": f"{number(equal['budget'], places)} {unit}"}
        for equal, unit, places in (
            (summary["equal_gradients"], "gradients", 0),
            (summary["equal_seconds"], "seconds", 1),
        )
    ]


def _ledger(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the cost of the runs of one method, and the expected cost of its schedule."""
    run = runs[0]
    schedule = schedules.parse(run.schedule)
    lengths = {run.steps for run in runs}  # different ones if runs stop early
    expected = {steps: steps * expected_cost(schedule, steps, run.batch_fraction) for steps in lengths}
    passes, plain_passes = fmean(run.passes for run in runs), fmean(run.plain_passes for run in runs)
    return {
        "label": run.label,
        "schedule": f"{schedule.mean():.4g}" if isinstance(schedule, schedules.Constant) else run.schedule,
        "gamma": run.gamma,
        "batch_fraction": run.batch_fraction,
        "steps": fmean(run.steps for run in runs),
        "sharp_steps": fmean(len(run.sharp_steps) for run in runs),
        "passes": passes,
        "plain_passes": plain_passes,
        "cost": passes / plain_passes,
        "expected_cost": fmean(expected[run.steps] for run in runs) / plain_passes,
    }


def _seeds(seeds: Sequence[int]) -> str:
    """Return seeds as text, as a range if possible.

    >>> _seeds([0, 1, 2, 3]), _seeds([0, 7])
    ('0 to 3', '0, 7')
    """
    if len(seeds) > 2 and seeds[-1] - seeds[0] == len(seeds) - 1:
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def _sentence(facts: Mapping[str, Any]) -> str:
    """Return a dict of facts as text.

    >>> _sentence({"devices": 2, "batch_size": [64, 64], "precision": None, "compile": ""})
    'devices 2, batch size 64 and 64'
    """
    found = {name: value for name, value in facts.items() if value not in (None, "")}
    return ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in found.items())


def _plain(value: Any) -> str:
    if value is None or value == "":
        return MISSING
    if isinstance(value, Mapping):
        return f"({_sentence(value)})"
    return " and ".join(map(_plain, value)) if isinstance(value, list) else str(value)
