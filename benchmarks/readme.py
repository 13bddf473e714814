"""What the README takes from the results files: the table of packages, and the picture of the default comparison.

    python benchmarks/readme.py

Prints the table's rows and the notes below it, to copy them into the README, and writes compare-digits.svg.
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
CLOCKS = {
    "resnet18, 16": "ResNet-18 with batches of 16",
    "forecaster, 256": "the forecaster",
    "digits, 64": "the digits",
}


def read(name: str) -> Any:
    """Return a results file."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def clocked() -> dict[tuple[str, str], Any]:
    """Return the rows of wallclock-cpu-1.json by network and method."""
    studies = read("wallclock-cpu-1.json")["studies"]
    return {(study["network"], row["method"]): row for study in studies for row in study["rows"]}


def packages() -> list[str]:
    """Return the rows of the table: conformance, overhead, and seconds relative to plain training."""
    conformance = read("conformance.json")
    scores, versions = dict(conformance["score"]), conformance["versions"]
    overhead = {(row["network"], row["contestant"]): row["overhead"] for row in read("overhead-cpu.json")["rows"]}
    seconds = {key: row["ratio"] for key, row in clocked().items()}
    rows = []
    for package, name, contestant, method in ROWS:
        passed = f"{scores[package]} of {len(conformance['cases'])}" if name == "SAM" else ""
        measured = [overhead.get((network, contestant)) for network in OVERHEADS]
        measured += [seconds.get((network, method)) for network in CLOCKS]
        cells = [f"{package} {versions[package]}, {name}", passed]
        rows.append(f"| {' | '.join([*cells, *('' if value is None else f'{value:.2f}' for value in measured)])} |")
    return rows


def notes() -> list[str]:
    """Return what is said below the table: other packages, the version of the overhead, and budgets without a plan."""
    conformance = read("conformance.json")
    scores = dict(conformance["score"])
    others = sorted(scores.keys() - {package for package, *_ in ROWS}, key=lambda package: -scores[package])
    planned = {network: clocked()[network, "thrifty:budget=1.1"]["planned"] for network in CLOCKS}
    dear = [CLOCKS[network] for network, ratio in planned.items() if ratio > 1.105]
    return [
        ", ".join(f"{package} {conformance['versions'][package]} passes {scores[package]}" for package in others) + ".",
        f"for sharpless {read('overhead-cpu.json')['facts']['sharpless']}.",
        f"no plan as cheap as 1.1 exists for {' and '.join(dear)}.",
    ]


def picture() -> str:
    """Return the default comparison as a figure: accuracy against seconds."""
    figure = against_seconds(read("compare-digits.json"))
    assert figure is not None
    return standalone(figure) + "\n"


if __name__ == "__main__":
    store.write(PICTURE, picture())
    print(*packages(), *notes(), sep="\n")
