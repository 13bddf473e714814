"""The flatness of the minima of a method's runs."""

from collections.abc import Sequence
from typing import Any

from sharpless.report.record import Run
from sharpless.report.statistics import estimate

__all__ = ["flatness"]


def flatness(runs: Sequence[Run]) -> dict[str, Any] | None:
    """Return the measures of flatness with their spread over the runs of a method; None if there are none.

    A measure that is not finite in one run has no mean. The reasons for missing measures are kept.
    """
    known = [run.flatness for run in runs if run.flatness is not None]
    if not known:
        return None
    values: dict[str, list[float | None]] = {}
    for found in known:
        for name, value in found.measures.items():
            values.setdefault(name, []).append(value)
    return {
        "examples": max(found.examples for found in known),
        "measures": {
            name: estimate([] if None in each else [value for value in each if value is not None])
            for name, each in values.items()
        },
        "refused": sorted({found.refused for found in known if found.refused}),
    }
