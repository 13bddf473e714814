"""When to be sharpness-aware: every scheduling function, as RST and as G-RST, at equal cost and with tests.

    python benchmarks/schedules.py digits [--jobs 1] [--seeds 10] [--runs runs/schedules] [--out benchmarks/results]
    python benchmarks/schedules.py forecast --data ETTh1.csv

From the root of the repository. Every method gets its ρ from one grid, on validation data and with seeds of their own.
What is compared is said before it is run, in `schedule_parts.py`: pairs of methods, with differences paired by seed
and corrected by Holm for all pairs of the part. Stopped and started again, it continues.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from schedule_parts import PARTS, Part
from sharpless.lab import compare, store


def study(part: Part, folder: Path, seeds: int, jobs: int, data: str | None) -> dict[str, dict[str, Any]]:
    """Execute what is missing of a part, and return a summary for each of its cases."""
    given = {} if data is None else {"data": data}
    return {
        name: compare(
            part.task,
            methods=case.methods or part.methods,
            rho=case.rho or part.rho,
            seeds=seeds,
            choice_seeds=part.choice_seeds,
            folder=folder / str(number),
            jobs=jobs,
            threads=1,
            options=part.options | case.options | given,
        )
        for number, (name, case) in enumerate(part.cases.items())
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--data", help="the CSV file of ETTh1, for forecast")
    parser.add_argument("--runs", type=Path, default=Path("runs/schedules"), help="folder of the runs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(arguments)
    part = PARTS[options.part]
    found = study(part, options.runs / options.part, options.seeds, options.jobs, options.data)
    store.write(options.out / f"schedules-{options.part}.json", json.dumps(found, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
