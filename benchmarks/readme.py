"""What the README takes from the results files: the table of packages, and the picture of the default comparison.

    python benchmarks/readme.py

Prints the rows of the table, to paste them into the README, and writes compare-digits.svg.
"""

import json
from pathlib import Path
from typing import Any

from sharpless.lab import store
from sharpless.report.drawing import standalone
from sharpless.report.figures import against_seconds

RESULTS = Path(__file__).parent / "results"
PICTURE = RESULTS / "compare-digits.svg"
ROWS = [  # package, name of the row, contestant in overhead-cpu.json, method in wallclock-cpu-1.json
    ("sharpless", "SAM", "sharpless SAM", "sam"),
    ("sharpless", "G-RST, p=0.5", "sharpless G-RST, γ = 2", "g-rst"),
    ("sharpless", "budget of 1.1", "", "thrifty:budget=1.1"),
    ("pytorch-optimizer", "SAM", "pytorch_optimizer SAM", "peer-sam"),
    ("pytorch-optimizer", "LookSAM, k=10", "", "peer-looksam"),
]
OVERHEADS = ("resnet18", "tiny")
CLOCKS = ("resnet18, 16", "forecaster, 256", "digits, 64")


def read(name: str) -> Any:
    """Return a results file."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def packages() -> tuple[list[str], str]:
    """Return the rows of measured packages (conformance, overhead, × seconds), and the conformance of the others."""
    conformance = read("conformance.json")
    scores, versions = dict(conformance["score"]), conformance["versions"]
    overhead = {(row["network"], row["contestant"]): row["overhead"] for row in read("overhead-cpu.json")["rows"]}
    studies = read("wallclock-cpu-1.json")["studies"]
    seconds = {(study["network"], row["method"]): row["ratio"] for study in studies for row in study["rows"]}
    rows = []
    for package, name, contestant, method in ROWS:
        passed = f"{scores[package]} of {len(conformance['cases'])}" if name == "SAM" else ""
        measured = [overhead.get((network, contestant)) for network in OVERHEADS]
        measured += [seconds.get((network, method)) for network in CLOCKS]
        cells = [f"{package} {versions[package]}, {name}", passed]
        rows.append(f"| {' | '.join([*cells, *('' if value is None else f'{value:.2f}' for value in measured)])} |")
    others = scores.keys() - {package for package, *_ in ROWS}
    best = sorted(others, key=lambda package: -scores[package])
    return rows, ", ".join(f"{package} {versions[package]} passes {scores[package]}" for package in best)


def picture() -> str:
    """Return the default comparison as a figure: accuracy against seconds."""
    figure = against_seconds(read("compare-digits.json"))
    assert figure is not None
    return standalone(figure) + "\n"


if __name__ == "__main__":
    store.write(PICTURE, picture())
    rows, others = packages()
    print(*rows, others, sep="\n")
