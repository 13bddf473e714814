"""The bound of docs/convergence.md and measured gradient norms, on problems with known constants.

    OMP_NUM_THREADS=1 python benchmarks/convergence.py [--steps 800] [--out benchmarks/results]

Every run is one of the library's optimizers around torch's SGD, in float64, with γ = 1/p. It starts at the minimum, to
show the effect of the ascent on a solution. In the double well it starts on the slope, where SAM does not move. In all
problems β = 1 and ρ = 1: SAM's floor β²ρ² is 1, and the learning rate is αβ.
"""

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import matplotlib
import numpy
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from torch import nn

from sharpless import GRST, SAM
from sharpless.lab import store
from sharpless.report.drawing import FAINT, INK, STYLE, WIDTH, standalone, to_svg
from smooth_problems import Problem, double_well, fixed_direction, logistic, skewed_quadratic

RUNS = 4
GRID = [(p, rate) for p in (1.0, 0.5, 0.25, 0.1) for rate in (2**-1, 2**-3, 2**-5, 2**-7)]
WELL = [(1.0, 2**-3), (0.5, 2**-9), (0.25, 2**-10)]  # learning rates at which random steps do not move θ over the ridge
PROBLEMS = {
    "quadratic": (skewed_quadratic, GRID),
    "logistic regression": (logistic, GRID),
    "fixed direction": (fixed_direction, GRID),
    "double well": (double_well, WELL),
}
LOOKS = {1.0: ("#2288aa", "o"), 0.5: ("#4d8b31", "s"), 0.25: ("#d1618f", "^"), 0.1: ("#b5651d", "D")}


def run(problem: Problem, p: float, rate: float, steps: int, seed: int) -> dict[str, float]:
    """Return means over the steps of one run: ‖∇L(θ)‖², squared noise of the batches, ‖d‖² of ascents, and the cost."""
    w = nn.Parameter(problem.start.clone())
    base, options = torch.optim.SGD([w], lr=rate), {"rho": 1.0, "ascent": problem.climb, "seed": seed}
    opt = SAM(base, **options) if p == 1 else GRST(base, p, **options)
    examples, square, noise, climb = problem.examples, 0.0, 0.0, 0.0
    drawn = torch.randint(len(examples), (steps, problem.batch), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for where in drawn:
            full, found = problem.gradient(w, examples), []
            for (some,) in opt.passes((examples[where] if problem.batch else examples,)):
                w.grad = problem.gradient(w, some)
                found.append(w.grad.clone())
            opt.step()
            opt.zero_grad()
            square += float((full**2).sum()) / steps
            noise += float(((found[0] - full) ** 2).sum()) / steps
            climb += float(((found[-1] - found[0]) ** 2).sum())
    return {"square": square, "noise": noise, "climb": climb / max(opt.cost.sharp_steps, 1), "cost": opt.cost.ratio}


def measure(problem: Problem, p: float, rate: float, steps: int) -> dict[str, float]:
    """Return the mean of ‖∇L(θ)‖² over RUNS runs, and its bounds, from the known and from the measured constants."""
    runs = [run(problem, p, rate, steps, seed) for seed in range(RUNS)]
    square, noise, climb, cost = (numpy.array([each[key] for each in runs]) for key in runs[0])
    row = {"measured": square.mean(), "error": square.std(ddof=1) / RUNS**0.5}
    for name, known, variance in ("bound as met", climb.mean(), noise.mean()), ("bound", 1.0, problem.variance):
        price = rate * (variance / (1 - rate) + known * (1 - p) / p)
        row[name] = 2 * problem.above / (rate * steps) + known + price
    return {name: float(value) for name, value in (row | {"cost": cost.mean()}).items()}


@matplotlib.rc_context(STYLE)
def figure(rows: list[dict[str, Any]]) -> str:
    """Return measured means and bounds against the learning rate, a panel for each problem with a grid."""
    names = list(dict.fromkeys(row["problem"] for row in rows if row["problem"] != "double well"))
    drawn = Figure(figsize=(2 * WIDTH, 2.8), dpi=72, layout="constrained")
    for axes, name in zip(drawn.subplots(1, len(names)), names, strict=True):
        axes.axhline(1.0, color=FAINT, linewidth=0.8)
        for p, (color, marker) in LOOKS.items():
            found = [row for row in rows if row["problem"] == name and row["p"] == p]
            rates, measured, bound = ([row[key] for row in found] for key in ("rate", "measured", "bound"))
            axes.loglog(rates, bound, color=color, linestyle=(0, (3, 2)), linewidth=1.0)
            axes.loglog(rates, measured, color=color, marker=marker, ms=4, label=f"p = {p:g}" + " (SAM)" * (p == 1))
        axes.set(title=name, xlabel="learning rate αβ")
        axes.yaxis.set(major_locator=LogLocator(subs=(1, 3)), major_formatter="{x:g}")
        axes.set_xticks([rate for _, rate in GRID[:4]], ["1/2", "1/8", "1/32", "1/128"])
        axes.minorticks_off()
    drawn.axes[0].set_ylabel("mean ‖∇L‖² ÷ β²ρ²", color=INK)
    drawn.axes[1].legend(frameon=False, handlelength=1.4, loc=(0.02, 0.36))
    what = "Mean squared gradients, measured (solid) and bounded (dashed), against the learning rate."
    return standalone(to_svg(drawn, what))


def page(facts: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    """Return the lines of the table."""
    lines = [
        f"# The convergence bound\n\n`{facts['command']}`, torch {torch.__version__}, {RUNS} runs a row. Squared "
        "gradients and bounds are in units of SAM's floor β²ρ²; ± is the standard error. *Bound as met* has the mean "
        "of ‖d‖² and of the squared noise of the runs in place of β²ρ² and σ².\n\n![measured](convergence.svg)\n",
        "| problem | p | αβ | steps | measured | bound as met | bound | bound ÷ measured | cost |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        first = f"{row['problem']} | {row['p']:g} | 1/{1 / row['rate']:g} | {row['steps']}"
        numbers = f"{row['measured']:.3g} ± {row['error']:.1g} | {row['bound as met']:.3g} | {row['bound']:.4g}"
        lines.append(f"| {first} | {numbers} | {row['bound'] / row['measured']:.3g} | {row['cost']:.2f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=800, help="steps of a run; more for small learning rates")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    rows = []
    for name, (make, grid) in PROBLEMS.items():
        problem = make()
        for p, rate in grid:
            steps = max(options.steps, int(options.steps / 50 / rate))
            rows.append({"problem": name, "p": p, "rate": rate, "steps": steps, **measure(problem, p, rate, steps)})
    facts = {
        "command": f"OMP_NUM_THREADS=1 python benchmarks/convergence.py --steps {options.steps}",
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
        "versions": {"torch": torch.__version__, "python": platform.python_version(), "numpy": numpy.__version__},
        "runs": RUNS,
    }
    results = json.dumps({**facts, "rows": rows}, ensure_ascii=False, indent=1)
    store.write(options.out / "convergence.json", results + "\n")
    store.write(options.out / "convergence.md", "\n".join(page(facts, rows)) + "\n")
    store.write(options.out / "convergence.svg", figure(rows) + "\n")


if __name__ == "__main__":
    main()
