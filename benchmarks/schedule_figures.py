"""The figures of docs/results/schedules.md, from the results of `schedules.py` and `schedule_flatness.py`.

python benchmarks/schedule_figures.py [--results benchmarks/results]
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from schedule_curves import flatness, strength, warmup
from schedule_plots import SCHEDULES, panels, rows_of, schedules
from schedule_questions import FALLING, PARTIAL, RISING, SHORTER
from sharpless.lab import store
from sharpless.report.drawing import STYLE, standalone, to_svg

PLACES = {
    "sgd": "base", "rst:p=piecewise:1,0@0.25": "first quarter, γ = 1", "rst:p=0.25": "p = 0.25, γ = 1",
    "rst:p=piecewise:0,1@0.75": "last quarter, γ = 1", "g-rst:p=0.25": "p = 0.25, γ = 4", "sam": "SAM",
}  # fmt: skip
OF_PARTS = {
    "sgd": "base", PARTIAL[0]: "last fifth, γ = 1", PARTIAL[1]: "last fifth, γ = 5", PARTIAL[2]: "p = 0.2, γ = 5",
    "sam": "SAM",
}  # fmt: skip
CONTROL = {
    "rst:p=periodic:2": "every 2nd step, γ = 1", "rst:p=piecewise:0,1@0.5": "last half, γ = 1",
    "g-rst:p=0.5": "p = 0.5, γ = 2", "sam:shorter": "SAM, ¾ of the steps", "sam": "SAM",
}  # fmt: skip
COMPARED = {
    "digits, 30 % wrong labels": ("digits", ""), "digits, 10 % wrong labels": ("labels", "10 % wrong labels"),
    "160 clean digits": ("labels", "160 examples, no wrong labels"), "ETTh1": ("forecast", ""),
    "4,000 images of CIFAR-10, 16 × 16": ("images", ""),
}  # fmt: skip
TAILS = {"sgd": "base", "rst:p=0.3": "p = 0.3, γ = 1", "temperon:tail=0.3": "last 30 %", "sam": "SAM"}


def figures(folder: Path) -> dict[str, tuple[Figure, str]]:
    """Return the figures for existing results, with their descriptions."""
    paths = {path.stem.removeprefix("schedules-"): path for path in folder.glob("schedules-*.json")}
    found = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items()}
    made: dict[str, tuple[Figure, str]] = {}
    places, control = {}, {}
    for title, (name, case) in COMPARED.items():
        if name in found:
            rows, metric = rows_of(found[name], case), found[name]["metric"]
            unit = "accuracy %" if metric["unit"] == "%" else f"{metric['name']}, lower is better"
            places[title] = rows, PLACES, unit
            shorter = {"sam:shorter": rows_of(found[name], SHORTER)["sam"]} if SHORTER in found[name]["cases"] else {}
            control[title] = {**rows, **shorter}, CONTROL, unit
    if "digits" in found:
        digits = found["digits"]
        places["digits, a quarter of the batch, cost 1.05"] = rows_of(digits), OF_PARTS, "accuracy %"
        made["strength"] = strength(digits), "Accuracy against the mean of p, at γ = 1, 1/p and 2/p"
        rows, title = rows_of(digits), "digits, 30 % wrong labels"
        every = schedules({title: (rows, list(SCHEDULES), "accuracy %")})
        made["all"] = every, "Accuracy of every scheduling function, with each weight γ"
        of = {title: (rows, ["0.5", RISING, FALLING, "linear:0,1", "linear:1,0"], "accuracy %")}
        if "forecast" in found:
            varying = ["0.5", RISING, FALLING, "linear:0,1"]
            of["ETTh1"] = rows_of(found["forecast"]), varying, "MSE, lower is better"
        made["weights"] = schedules(of), "Results of schedules that vary, with each weight γ"
    if places:
        made["place"] = panels(places), "Late, early and constant at a cost of 1.25, and of 1.05"
        made["control"] = panels(control), "Temperon's control, a tail and G-RST at a cost of 1.5, and SAM"
    tails = {
        f"{title}: {case}": (rows_of(found[name], case), TAILS, unit)
        for name, title, unit in (("anneal", "digits", "accuracy %"), ("forecast", "ETTh1", "MSE, lower is better"))
        if name in found
        for case, rows in found[name]["cases"].items()
        if "temperon:tail=0.3" in {row["method"] for row in rows}
    }
    if tails:
        made["anneal"] = panels(tails), "A tail of 30 % that owns the fall of the learning rate, and one that does not"
    warmed = {"warmup": "a perceptron, SGD", "vit": "a vision transformer, AdamW"}
    if there := {title: found[name] for name, title in warmed.items() if name in found}:
        made["warmup"] = warmup(there), "Accuracy against ρ, with p = 0 in warm-up and without"
    if "flatness" in found:
        made["flatness"] = (
            flatness(found["flatness"]),
            "Test error against the trace of the Hessian, by method and seed",
        )
    return made


@matplotlib.rc_context(STYLE)
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    folder = parser.parse_args(arguments).results
    for name, (figure, description) in figures(folder).items():
        store.write(folder / f"schedules-{name}.svg", standalone(to_svg(figure, description)) + "\n")


if __name__ == "__main__":
    main()
