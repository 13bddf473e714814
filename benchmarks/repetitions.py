"""The reliability of the default comparison's verdicts: repetitions with other seeds.

    python benchmarks/repetitions.py [--repetitions 10] [--seeds 12] [--jobs 2] [--runs runs/repetitions] [--out …]

Repetition k is `sharpless compare --first-seed K` with K = k × seeds: the same methods on the same data, with other
label noise, initial weights, order of batches and coins. The same command continues an interrupted study. Draws from
all seeds, with replacement, estimate the verdicts for other numbers of seeds.
"""

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sharpless.lab import store
from sharpless.lab.methods.kinds import DEFAULTS
from sharpless.lab.studies.arguments import SEEDS
from sharpless.lab.studies.study import Study
from sharpless.lab.trials.definition import Task
from sharpless.report.runs import Run, read_runs
from sharpless.report.statistics import estimate
from sharpless.report.summary import summarize
from sharpless.report.verdict import outcome

README = {
    "sam": "better than SGD",
    "sgd": "behind",
    "sgd-long": "behind",
    "ema": "behind",
    "late": "behind",
    "rst": "behind",
    "g-rst": "non-inferior",
    "thrifty": "non-inferior",
}
WORDS = {
    "better": "non-inferior",
    "kept": "non-inferior",
    "behind": "behind",
    "alone": "alone only",
    "open": "not shown",
}
DRAWS, SIZES = 400, (5, 6, 8, 10, 11, 12)


def verdicts(runs: Sequence[Run]) -> dict[str, str]:
    """Return the verdicts of a comparison: SAM against SGD, and the other methods against SAM."""
    summary = summarize(runs)
    found = {"sam": "better than SGD" if summary["sam_beats_base"]["verdict"] else "not better than SGD"}
    for entry in summary["methods"]:
        if entry["versus_sam"] is not None:
            found[entry["method"]] = WORDS.get(outcome(entry, summary) or "open", "not shown")
    return {method: found[method] for method in README}


def of(runs: Sequence[Run], seeds: Sequence[int]) -> list[Run]:
    return [run for run in runs if run.seed in seeds]


def drawn(runs: Sequence[Run], seeds: Sequence[int], size: int) -> float:
    """Return the share of DRAWS comparisons, with `size` seeds drawn with replacement, with the README's verdicts."""
    generator, by_seed = random.Random(size), {seed: of(runs, [seed]) for seed in seeds}
    agreed = 0
    for _ in range(DRAWS):
        chosen = enumerate(generator.choices(seeds, k=size))
        seen = [run.model_copy(update={"seed": number}) for number, seed in chosen for run in by_seed[seed]]
        agreed += verdicts(seen) == README
    return agreed / DRAWS


def study(runs: Sequence[Run], repetitions: int, seeds: int) -> dict[str, Any]:
    """Return the verdicts of each repetition, and the share of repetitions with all verdicts of the README."""
    everything = range(repetitions * seeds)
    accuracy = {method: {run.seed: run.value for run in runs if run.method == method} for method in DEFAULTS}
    rows = []
    for first in everything[::seeds]:
        words = verdicts(of(runs, range(first, first + seeds)))
        rows.append({"first seed": first, "verdicts": words, "as in the README": words == README})
    return {
        "runs": len(runs),
        "seeds": seeds,
        "repetitions": rows,
        "share": sum(row["as in the README"] for row in rows) / repetitions,
        "minus SAM, all seeds": {
            method: estimate([accuracy[method][seed] - accuracy["sam"][seed] for seed in everything])
            for method in DEFAULTS
            if method != "sam"
        },
        "share by seeds, drawn": {size: drawn(runs, everything, size) for size in SIZES},
        "seconds, summed up": sum(run.seconds for run in runs),
        "machines": summarize(runs)["machines"],
        "versions": summarize(runs)["versions"],
    }


def page(found: dict[str, Any]) -> list[str]:
    rows, (machine, *_), (versions, *_) = found["repetitions"], found["machines"], found["versions"]
    lines = [
        "# The verdicts of the default comparison, with other seeds each time",
        "",
        f"`{found['command']}`, {found['runs']} runs, sharpless {versions['sharpless']}, torch {versions['torch']}, "
        f"Python {versions['python']}, {machine['processor']}, {machine['cores']} cores, "
        f"threads of a run: {found['threads']}. Each row is a default comparison of its own, with {found['seeds']} "
        "seeds that no other one has.",
        "",
        f"**{sum(row['as in the README'] for row in rows)} of {len(rows)}** come to all verdicts of the README.",
        "",
        f"| first seed | {' | '.join(README)} | all |",
        "|---" * (len(README) + 2) + "|",
    ]
    for row in rows:
        words = " | ".join(row["verdicts"].values())
        lines.append(f"| {row['first seed']} | {words} | {'yes' if row['as in the README'] else 'no'} |")
    lines += [
        "",
        f"Differences to SAM, paired by seed, over all {len(rows) * found['seeds']} seeds:",
        "",
        "| method | mean | standard deviation |",
        "|---|---|---|",
    ]
    for method, each in found["minus SAM, all seeds"].items():
        spread = "" if each["std"] is None else f"{each['std']:.2f}"
        lines.append(f"| {method} | {each['mean']:+.2f} | {spread} |")
    lines += [
        "",
        f"Share of comparisons that come to all verdicts, by their number of seeds; {DRAWS} draws with replacement:",
        "",
        "| seeds | share |",
        "|---|---|",
        *(f"| {size} | {share:.3f} |" for size, share in found["share by seeds, drawn"].items()),
        "",
    ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="number of seeds of each repetition")
    parser.add_argument("--epochs", type=int, help="epochs, fewer for tests")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--runs", type=Path, default=Path("runs/repetitions"), help="folder of the runs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    seeds = range(options.repetitions * options.seeds)
    task = Task.of("digits", {"epochs": options.epochs} if options.epochs else {})
    comparison = Study(task, DEFAULTS, seeds, options.runs)
    with store.locked(options.runs):
        comparison.open_folder()
        for _ in comparison.execute(options.jobs):
            if len(comparison.finished) % 20 == 0:
                print(f"{len(comparison.finished)} runs", flush=True)
    runs = [run for run in read_runs(options.runs) if run.seed in seeds and run.method in DEFAULTS]
    shortened = f" --epochs {options.epochs}" if options.epochs else ""
    command = f"python benchmarks/repetitions.py --repetitions {options.repetitions} --seeds {options.seeds}{shortened}"
    found = {"command": command, "threads": comparison.threads, **study(runs, options.repetitions, options.seeds)}
    store.write(options.out / "repetitions.json", json.dumps(found, ensure_ascii=False, indent=1) + "\n")
    store.write(options.out / "repetitions.md", "\n".join(page(found)))
    print("\n".join(page(found)))


if __name__ == "__main__":
    main()
