"""The progress of a comparison: a bar, and a line for each run that ends."""

from contextlib import closing
from typing import TYPE_CHECKING, Any

from sharpless.cli.terminal import console, shown

if TYPE_CHECKING:
    from sharpless.lab.runs.run import Run
    from sharpless.lab.studies.study import Study

__all__ = ["watched"]


def watched(study: "Study", jobs: int | None, on: str) -> None:
    """Execute the missing runs, with a progress bar and a line for each finished run."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=console()) as progress:
        say = progress.console.print
        if done := len(study.finished):
            say(f"{done} runs are in {shown(str(study.folder))} already", soft_wrap=True)
        bar = progress.add_task("", total=None)
        width = max(12, *(len(method.name) for method in study.methods)) + 1
        headed = False

        def watch(done: float, total: int) -> None:
            progress.update(bar, total=total, completed=done, description=f"{int(done)}/{total} runs")

        # Closing waits for the workers, so that the caller can count their files.
        with closing(study.execute(jobs, on, watch)) as results:
            for run, found in results:
                if not headed:
                    metric = f"{study.task.measure.name} {study.task.measure.unit}".strip()
                    say(f"{'method':{width}}{'seed':>8}{metric:>12}{'cost':>6}{'seconds':>8}", style="bold")
                    headed = True
                say(_line(run, found, width), soft_wrap=True)


def _line(run: "Run", found: Any, width: int) -> str:
    """Return the line of a finished run."""
    start = f"{run.method.name:{width}}{run.seed:8d}"
    if not isinstance(found, dict):
        return f"{start}  failed: {shown(found.why)}"
    curve = found["curve"]
    value = curve.get("validation" if run.choosing or "test" not in curve else "test")[-1]
    shown_value = f"{'diverged':>12}" if value is None else f"{value:12.4g}"
    tried = " ".join(f"{name} {value:g}" for name, value in run.point.items()) if run.choosing else ""
    return (
        f"{start}{shown_value}{found['passes'] / found['plain_passes']:6.2f}{found['seconds']:8.1f}  {tried}".rstrip()
    )
