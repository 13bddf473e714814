"""The flatness of the minima of schedules, and its correlation with test error: after `schedules.py digits`.

    python benchmarks/schedule_flatness.py [--seeds 6] [--runs runs/schedules] [--out benchmarks/results]

Methods are trained again with the chosen ρ, on the same seeds. The same command continues an interrupted study.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
from scipy.stats import rankdata

from schedule_parts import PARTS
from schedule_questions import EARLY, LATE
from sharpless.lab import compare, store
from sharpless.report.runs import read_runs

METHODS = (
    "sgd", "sam", "rst:p=0.5", "g-rst:p=0.5", "g-rst:p=0.25",
    f"rst:p={LATE}0.5", f"rst:p={EARLY}0.5", f"rst:p={LATE}0.75",
)  # fmt: skip
MEASURES = {
    "trace": "trace", "eigenvalue": "largest eigenvalue", "sharpness": "sharpness, ρ = 0.05",
    "adaptive": "adaptive sharpness, ρ = 0.5",
}  # fmt: skip
"""The last one stays the same when the weights of ReLU layers are rescaled."""
DRAWS = 2000

Table = numpy.ndarray[Any, Any]
"""The measure and the error (methods, seeds, 2) of every run."""

Runs = Mapping[str, Sequence[Mapping[str, float]]]


def correlation(runs: Runs, measure: str) -> dict[str, Any]:
    """Return Spearman's rank correlation of a measure with test error, over all runs and within methods.

    The intervals are from a bootstrap over seeds: the runs of a seed share data and labels, and are drawn together.
    """
    table = numpy.array([[(run[measure], run["error"]) for run in group] for group in runs.values()])
    generator, seeds = numpy.random.default_rng(0), table.shape[1]
    drawn = [table[:, generator.integers(seeds, size=seeds)] for _ in range(DRAWS)]
    found = {}
    for name, of in {"over methods and seeds": overall, "within methods": within}.items():
        low, high = numpy.nanquantile([of(one) for one in drawn], (0.025, 0.975))
        found[name] = {"correlation": of(table), "ci95": [float(low), float(high)]}
    return found


def spearman(points: Table) -> float:
    """Return Spearman's rank correlation of points (N, 2); NaN if one coordinate is constant."""
    ranks = rankdata(points, axis=0)
    return float(numpy.corrcoef(ranks.T)[0, 1]) if numpy.ptp(ranks, axis=0).all() else math.nan


def overall(table: Table) -> float:
    return spearman(table.reshape(-1, 2))


def within(table: Table) -> float:
    known = [found for group in table if not math.isnan(found := spearman(group))]
    return sum(known) / len(known) if known else math.nan


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--runs", type=Path, default=Path("runs/schedules"), help="folder of the runs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(arguments)
    part = PARTS["digits"]
    known = json.loads((options.out / "schedules-digits.json").read_text(encoding="utf-8"))
    rows = {row["method"]: row for row in next(iter(known["cases"].values()))}
    groups: dict[float, list[str]] = {}
    for method in METHODS:
        groups.setdefault(rows[method]["rho"] or part.rho[0], []).append(method)
    runs: dict[str, list[dict[str, float]]] = {}
    for rho, methods in groups.items():
        folder = options.runs / f"flatness-{rho:g}"
        summary = compare(
            part.task, methods=methods, rho=rho, seeds=options.seeds, folder=folder, jobs=options.jobs, threads=1,
            flatness=True, options=part.options,
        )  # fmt: skip
        for run in read_runs(folder / "runs"):
            if run.seed < options.seeds and run.value is not None and run.flatness is not None:
                measured = {name: run.flatness.measures[long] for name, long in MEASURES.items()}
                runs.setdefault(run.method, []).append({"seed": run.seed, "error": 100 - run.value, **measured})
    results = {
        "command": f"python benchmarks/schedule_flatness.py --jobs {options.jobs} --seeds {options.seeds}",
        "versions": summary["versions"],
        "machines": summary["machines"],
        "labels": {method: rows[method]["label"] for method in METHODS},
        "rho": {method: rows[method]["rho"] for method in METHODS},
        "correlations": {name: correlation(runs, name) for name in MEASURES},
        "runs": {method: runs[method] for method in METHODS},
    }
    store.write(options.out / "schedules-flatness.json", json.dumps(results, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
