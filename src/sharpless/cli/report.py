"""`sharpless report`: table, summary and page from run files."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from sharpless.cli import answer, arguments, extras
from sharpless.cli.terminal import console, shown
from sharpless.report.margin import read_margin

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["MARGIN", "add", "conclude", "tell"]

MARGIN: dict[str, Any] = {
    "metavar": "MARGIN",
    "help": "largest loss against SAM that counts as non-inferior: an amount in the unit of the metric, or a share of "
    "SAM's gain over the base optimizer, such as 25%% (default: 1 point if the unit is %%, else 25%%)",
}


def add(commands: Any) -> None:
    """Add the command to those of the parser."""
    command = commands.add_parser(
        "report",
        allow_abbrev=False,
        help="write table, summary and page from run files",
        description="Write table, summary and page from run files, also from several machines.",
    )
    command.set_defaults(command=_report)
    option = command.add_argument
    option("runs", nargs="+", type=arguments.place, metavar="RUNS", help="run files, or folders of compare or train")
    option("--out", type=arguments.place, default=Path(), metavar="FOLDER", help="output folder (default: this folder)")
    option("--margin", **MARGIN)


def _report(options: argparse.Namespace) -> int:
    summary, page = conclude(options.runs, options.out, options.margin)
    answer.give(options, summary | {"page": str(page)}, lambda: tell(summary, page))
    return 0


def conclude(runs: Sequence[Path], folder: Path, margin: str | float | None = None) -> tuple[dict[str, Any], Path]:
    """Write summary and page from run files.

    Args:
        runs: folders of compare or train, or run files.
        folder: output folder of summary and page.
        margin: the largest loss against SAM that counts as non-inferior, see `sharpless.report.summary.summarize`.

    Returns:
        The summary, and the path of the page.

    Raises:
        ModuleNotFoundError: a package that the report needs is not installed.
        ValueError: the margin is invalid, or the run files cannot be read or do not belong together.
    """
    extras.need("report")
    read_margin(margin)
    from sharpless.lab.studies.conclude import conclude as concluded  # noqa: PLC0415

    return concluded(runs, folder, margin), folder / "report.html"


def tell(summary: Mapping[str, Any], page: Path) -> None:
    """Print the table, as a list in a narrow terminal, and its explanations."""
    from sharpless.report.table import headings, legend, rows  # noqa: PLC0415
    from sharpless.report.verdict import verdict  # noqa: PLC0415

    terminal = console()
    titles = [shown(title) for title in headings(summary)]
    found = [[shown(cell) for cell in row] for row in rows(summary)]
    longest = max(len(method) for method, *_ in found)
    word = max(len(part) for method, *_ in found for part in method.split())
    tables = [_table(titles, found, gap) for gap in (1, 0)]
    needed = [terminal.measure(table, options=terminal.options.update(width=1000)).maximum for table in tables]
    # The names of the methods may be wrapped between their words.
    fitting = [table for table, width in zip(tables, needed, strict=True) if width - (longest - word) <= terminal.width]
    terminal.print()
    if fitting:
        terminal.print(fitting[0], "", soft_wrap=True)
    else:
        for method, *cells in found:
            lines = [f"  {title:18}{cell}" for title, cell in zip(titles[1:], cells, strict=True) if cell]
            terminal.print(method, *lines, "", sep="\n", soft_wrap=True)
    terminal.print(*map(shown, legend(summary)), sep="\n", soft_wrap=True)
    for mark, sentences in (("- ", verdict(summary)), ("! ", summary["warnings"])):
        lines = [fill(shown(one), terminal.width, initial_indent=mark, subsequent_indent="  ") for one in sentences]
        terminal.print(*([""] if lines else []), *lines, sep="\n", soft_wrap=True, end="\n" if lines else "")
    terminal.print("", f"The page: {shown(str(page))}", sep="\n", soft_wrap=True)


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]], gap: int) -> "Table":
    """Return the table with 1 + `gap` spaces between its columns."""
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap, 0, 0))
    table.add_column(titles[0], vertical="bottom")
    for title in titles[1:]:
        broken = title.replace("non-", "non-\n").replace(" seconds", "\nseconds")
        table.add_column(broken, justify="right", no_wrap=True, vertical="bottom")
    for row in rows:
        table.add_row(*row)
    return table
