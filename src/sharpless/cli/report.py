"""`sharpless report`: table, summary and page from run files."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sharpless.cli import extras, recipe
from sharpless.cli.terminal import console, shown

__all__ = ["MARGIN", "add", "conclude"]

NARROW = 14  # characters

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
    option("runs", nargs="+", type=recipe.place, metavar="RUNS", help="folders of compare or train, or run files")
    option("--out", type=recipe.place, default=Path(), metavar="FOLDER", help="folder (default: this one)")
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
    extras.need("report")
    from sharpless.lab import store as files  # noqa: PLC0415
    from sharpless.report.html import render  # noqa: PLC0415
    from sharpless.report.runs import read_runs  # noqa: PLC0415
    from sharpless.report.summary import summarize  # noqa: PLC0415

    found = read_runs(*runs)
    summary = summarize(found, margin)
    files.write(folder / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False))
    files.write(folder / "report.html", render(found, summary))

    _tell(summary, folder / "report.html")


def _tell(summary: Mapping[str, Any], page: Path) -> None:
    """Print the table, in a narrow terminal one row below the other, and what is to be said of it."""
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from sharpless.report.table import HEADINGS, legend, rows  # noqa: PLC0415
    from sharpless.report.verdict import verdict  # noqa: PLC0415

    terminal = console()
    found = [[shown(cell) for cell in row] for row in rows(summary)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column(HEADINGS[0])
    for heading in HEADINGS[1:]:
        table.add_column(heading.replace("non-", "non-\n"), justify="right", no_wrap=True, vertical="bottom")
    for row in found:
        table.add_row(*row)
    terminal.print()
    needed = terminal.measure(table, options=terminal.options.update(width=1000)).maximum
    longest = max(len(method) for method, *_ in found)
    if needed - max(longest - NARROW, 0) <= terminal.width:  # the names of the methods may be wrapped, so far
        terminal.print(table, soft_wrap=True)
    else:
        for method, *cells in found:
            told = [f"  {heading:18}{cell}" for heading, cell in zip(HEADINGS[1:], cells, strict=True) if cell]
            terminal.print(method, *told, "", sep="\n", soft_wrap=True)
    terminal.print(*map(shown, legend(summary)), sep="\n", soft_wrap=True)
    terminal.print("", *map(shown, (verdict(summary), *summary["warnings"])), sep="\n")
    terminal.print("", f"The page: {shown(str(page))}", sep="\n", soft_wrap=True)
