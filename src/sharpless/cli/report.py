"""`sharpless report`: table, summary and page from run files."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["MARGIN", "add", "conclude"]

MARGIN: dict[str, Any] = {
    "type": float,
    "default": 1.0,
    "metavar": "POINTS",
    "help": "points of accuracy that a non-inferior method may lose to SAM (default: %(default)s)",
}


def add(commands: Any) -> None:
    """Add the command to those of the parser."""
    command = commands.add_parser(
        "report",
        allow_abbrev=False,
        help="make table, summary and page from run files",
        description="Make table, summary and page from run files alone, wherever they were trained.",
    )
    command.set_defaults(command=_report)
    option = command.add_argument
    option("runs", nargs="+", type=Path, metavar="RUNS", help="folders of compare or train, or run files")
    option("--out", type=Path, default=Path(), metavar="FOLDER", help="folder (default: this one)")
    option("--margin", **MARGIN)


def _report(options: argparse.Namespace) -> int:
    conclude(options.runs, options.out, options.margin)
    return 0


def conclude(runs: Sequence[Path], folder: Path, margin: float) -> None:
    """Write summary and page from run files, and print the table.

    Args:
        runs: folders of compare or train, or run files.
        folder: where summary and page go.
        margin: the accuracy, in percentage points, whose loss would still count as keeping up with SAM.

    Raises:
        ModuleNotFoundError: a package that the report needs is not installed.
        ValueError: the run files cannot be read, or do not belong together.
    """
    try:
        from rich import box  # noqa: PLC0415
        from rich.console import Console  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415

        from sharpless.lab import files  # noqa: PLC0415
        from sharpless.report.html import render  # noqa: PLC0415
        from sharpless.report.runs import read_runs  # noqa: PLC0415
        from sharpless.report.summary import summarize  # noqa: PLC0415
        from sharpless.report.table import HEADINGS, legend, rows  # noqa: PLC0415
        from sharpless.report.verdict import verdict  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"a report needs {error.name}: pip install 'sharpless[lab]'") from error
    found = read_runs(*runs)
    summary = summarize(found, margin)
    files.write(folder / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False))
    files.write(folder / "report.html", render(found, summary))

    table = Table(HEADINGS[0], box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in HEADINGS[1:]:
        table.add_column(heading.replace("non-", "non-\n"), justify="right", no_wrap=True, vertical="bottom")
    for row in rows(summary):
        table.add_row(*row)
    console = Console(highlight=False)
    console.print("", table, *legend(summary), sep="\n", soft_wrap=True)
    console.print("", verdict(summary), *summary["warnings"], sep="\n")
    console.print("", f"The page: {folder / 'report.html'}", sep="\n", soft_wrap=True)
