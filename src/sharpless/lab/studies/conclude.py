"""The end of a comparison: write the summary and the page."""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sharpless.lab import store
from sharpless.report.html import render
from sharpless.report.runs import read_runs
from sharpless.report.summary import summarize

__all__ = ["conclude"]


def conclude(runs: Sequence[Path], folder: Path, margin: float | str | None = None) -> dict[str, Any]:
    """Write summary.json and report.html from run files.

    Args:
        runs: folders of compare or train, or run files.
        folder: output folder of summary and page.
        margin: the largest loss against SAM that counts as non-inferior; by default that of the report.

    Returns:
        The summary.

    Raises:
        ValueError: the margin is invalid, or the run files cannot be read or do not belong together.
    """
    found = read_runs(*runs)
    summary = summarize(found, margin)
    date = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    store.write(folder / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False))
    store.write(folder / "report.html", render(found, summary, places=[str(path) for path in runs], date=date))
    return summary
