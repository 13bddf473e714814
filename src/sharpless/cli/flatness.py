"""`sharpless flatness`: curvature, sharpness and slices of the loss around trained weights."""

import argparse
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharpless.cli import answer, arguments, extras
from sharpless.cli.terminal import console, shown
from sharpless.lab import store
from sharpless.report.numbers import measure, significant

if TYPE_CHECKING:
    from sharpless.flatness import Objective, Settings

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command to those of the parser."""
    command = commands.add_parser(
        "flatness",
        allow_abbrev=False,
        usage="%(prog)s CHECKPOINT ... [OPTION ...]",
        help="measure curvature and sharpness around trained weights, and draw slices of the loss",
        description="Measure the largest eigenvalues and the trace of the Hessian, and SAM's sharpness, average "
        "sharpness and adaptive sharpness, and draw slices of the loss. The examples are fixed, and the network is in "
        "evaluation mode. CHECKPOINT is a file of `sharpless train`, weights/METHOD-seedN.pt, or its folder for all "
        "files in it, or a function, FILE.py:function or module:function. The function returns (model, loss, data). "
        "The loss is called as loss(model(x), y), and data are batches (x, y), the same ones in every iteration.",
    )
    command.set_defaults(command=_flatness)
    option = command.add_argument
    option(
        "checkpoints", nargs="+", metavar="CHECKPOINT", help="weights to measure; the slices of several have one scale"
    )
    whole, real = arguments.whole, float
    option(
        "--examples", type=whole, default=2000, metavar="N", help="largest number of examples (default: %(default)s)"
    )
    option(
        "--rho", type=real, nargs="*", default=[0.05, 0.1], metavar="X", help="radii of sharpness (default: 0.05 0.1)"
    )
    option(
        "--adaptive-rho",
        type=real,
        nargs="*",
        default=[0.5, 1.0],
        metavar="X",
        help="radii of adaptive sharpness, about ten times as large (default: 0.5 1)",
    )
    for name, default, what in (
        ("eigenvalues", 3, "the N largest eigenvalues of the Hessian, 0 for none"),
        ("vectors", 30, "random vectors for the trace of the Hessian, 0 for none"),
        ("ascent-steps", 20, "steps of gradient ascent for each radius, 0 for no worst-case sharpness"),
        ("directions", 10, "random directions for each radius, 0 for no average-case sharpness"),
        ("points", 21, "points of a slice of the loss, 0 for no pictures"),
        ("seed", 0, "seed of the random directions"),
        ("batch-size", 125, "examples in a batch, for checkpoints of `sharpless train`"),
    ):
        option(f"--{name}", type=whole, default=default, metavar="N", help=f"{what} (default: %(default)s)")
    option("--data-dir", default="", metavar="FOLDER", help="folder of the data, in place of the hub")
    out = Path("runs/flatness")
    option("--out", type=arguments.place, default=out, metavar="FOLDER", help="output folder (default: %(default)s)")


def _flatness(options: argparse.Namespace) -> int:
    extras.need("flatness")
    if options.examples < 1:
        raise ValueError(f"examples = {options.examples} is out of range: give 1 or more")
    if options.batch_size < 1:
        raise ValueError(f"batch_size = {options.batch_size} is out of range: give 1 or more")
    store.check_folder(options.out)
    for name in ("flatness.json", "slice.svg", "surface.svg"):
        store.check_file(options.out / name)
    # The following imports take seconds.
    print(f"up to {options.examples} examples, in {shown(str(options.out))}", flush=True)

    from sharpless.flatness import Settings  # noqa: PLC0415
    from sharpless.lab.measured import listed, objective  # noqa: PLC0415

    settings = Settings(
        tuple(options.rho),
        tuple(options.adaptive_rho),
        options.eigenvalues,
        options.vectors,
        options.directions,
        options.ascent_steps,
        options.points,
        options.seed,
    )
    checkpoints = listed(options.checkpoints)

    def load(checkpoint: str) -> "Objective":
        return objective(checkpoint, options.examples, options.batch_size, options.data_dir)

    for checkpoint in checkpoints:  # find the errors of all checkpoints before the first measurement
        load(checkpoint)
    with store.locked(options.out):
        written = _measured(checkpoints, settings, load, options.out)
        _draw(written["checkpoints"], options.out)
    answer.give(options, written, lambda: _tell(written["checkpoints"], options.out / "flatness.json"))
    return 0


def _measured(
    checkpoints: Sequence[str], settings: "Settings", load: "Callable[[str], Objective]", folder: Path
) -> dict[str, Any]:
    """Return the measurements of all checkpoints, and write each one at once."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    from sharpless import flatness  # noqa: PLC0415

    found: list[dict[str, Any]] = []
    written: dict[str, Any] = {}
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console()) as progress:
        for checkpoint, name in zip(checkpoints, _names(checkpoints), strict=True):
            bar = progress.add_task(shown(name), total=None)

            def watch(what: str, done: int, total: int | None, bar: Any = bar, name: str = name) -> None:
                progress.update(bar, total=total, completed=done, description=f"{shown(name)}: {what}")

            loss = load(checkpoint)
            found.append({"name": name, "checkpoint": checkpoint, **flatness.measure(loss, settings, watch)})
            progress.update(bar, total=1, completed=1, description=shown(name))
            written = {
                **{"format": 1, "settings": vars(settings), "checkpoints": found},
                "versions": {package: version(package) for package in ("sharpless", "torch", "scipy")},
                "machine": f"{platform.system()} {platform.machine()}",
            }
            store.write(folder / "flatness.json", json.dumps(written, ensure_ascii=False, allow_nan=False))
    return written


def _names(checkpoints: Sequence[str]) -> list[str]:
    """Return short names, all different.

    >>> _names(["a/weights/sam-seed0.pt", "nets.py:mine"]), _names(["a/weights/sam.pt", "b/weights/sam.pt"])
    (['sam-seed0', 'nets.py:mine'], ['a/weights/sam.pt', 'b/weights/sam.pt'])
    """
    short = [checkpoint if ":" in checkpoint else Path(checkpoint).stem for checkpoint in checkpoints]
    return short if len({*short}) == len(short) else list(checkpoints)


def _draw(found: Sequence[Mapping[str, Any]], folder: Path) -> None:
    from sharpless.report import landscape  # noqa: PLC0415

    for name, picture in (("slice.svg", landscape.slices(found)), ("surface.svg", landscape.surfaces(found))):
        if picture is None:
            (folder / name).unlink(missing_ok=True)  # it shows other networks
        else:
            store.write(folder / name, picture)


def _tell(found: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Print a column for each checkpoint, as many per table as fit into the terminal, and the path of the file."""
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    terminal = console()
    columns = [[shown(cell) for cell in (one["name"], *(value for _, value in _rows(one)))] for one in found]
    titles = ["", *(title for title, _ in _rows(found[0]))]
    first = max(map(len, titles)) + 2
    start = 0
    while start < len(columns):
        end, width = start, first
        while end < len(columns) and (end == start or width + max(map(len, columns[end])) + 2 <= terminal.width):
            width += max(map(len, columns[end])) + 2
            end += 1
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("")
        for column in columns[start:end]:
            table.add_column(column[0], justify="right", no_wrap=True)
        for row in zip(titles[1:], *(column[1:] for column in columns[start:end]), strict=True):
            table.add_row(*row)
        terminal.print("", table, sep="\n", soft_wrap=True)
        start = end
    if any(one["worst"] and one["worst"]["still_rising"] for each in found for one in each["sharpness"]):
        print("\n↑ the loss was still rising: more --ascent-steps give a larger value")
    print(f"\n{shown(str(file))}")


def _rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the rows of a checkpoint: names and numbers."""
    rows = [("examples", str(found["examples"])), ("training loss", _number(found["loss"]))]
    if (eigen := found["eigenvalues"]) is not None:
        missing = [None] * (eigen["wanted"] - len(eigen["values"]))
        values = enumerate([*eigen["values"], *missing], 1)
        rows += [(f"eigenvalue {place}", "not found" if value is None else _number(value)) for place, value in values]
        rows.append(("residual, at most", _number(max(eigen["residuals"], default=None))))
    if found["trace"] is not None:
        rows.append(("trace", _estimate(found["trace"])))
    for one in found["sharpness"]:
        name = f"{'adaptive ' * one['adaptive']}sharpness, ρ = {one['rho']:g}"
        if (worst := one["worst"]) is not None:
            rows.append((name, _number(worst["value"]) + " ↑" * worst["still_rising"]))
        if one["average"] is not None:
            rows.append((f"{name}, average", _estimate(one["average"])))
    return rows


def _number(value: float | None) -> str:
    return "not finite" if value is None else significant(value, 4)


def _estimate(found: Mapping[str, Any]) -> str:
    return "not finite" if found["mean"] is None else measure(found, "standard_error")
