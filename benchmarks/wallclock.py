"""The training time for a budget: plans in seconds and in gradients, G-RST, SAM and the peers, against plain training.

    python benchmarks/wallclock.py [--threads 1] [--device cuda] [--rounds 15] [--networks NAME …] [--out …]

Run it in the root of the repository. For each network, the steps and the noise of parts are measured first, for the
plans. Then all contestants train copies of it in one process, in turns. A round times each kind of step of each
contestant, plain and sharpness-aware, weighted by frequency. A ratio is this time ÷ the time of plain training in the
same round. The table has medians and quartiles over the rounds.
"""

import argparse
import copy
import json
import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

from networks import BY_THE_CLOCK, Task
from overhead import plain, seconds, through_passes
from sharpless import RST, part_noise, step_seconds
from sharpless.lab import store
from sharpless.lab.methods.method import Method
from sharpless.schedules import Periodic

METHODS = (
    "thrifty:budget=1.05", "thrifty:budget=1.1", "thrifty:budget=1.25", "thrifty:budget=1.1,unit=gradients",
    "g-rst", "sam", "peer-sam", "peer-looksam",
)  # fmt: skip
WITHOUT = "SAM, without model="
Kind = tuple[float, int, Callable[[], float]]
"""The frequency of a kind of step, the number of steps timed at once, and the function that times them."""


def timed(step: Any, steps: int, device: str) -> Callable[[], float]:
    return lambda: seconds(step, steps, device) / steps


def kinds(method: Method, task: Task, device: str, *, with_model: bool = True) -> list[Kind]:
    """Return the kinds of step of a method, each with a copy of the network.

    Without its model, an optimizer keeps no statistics of BatchNorm and no noise for the second pass, as the peers.
    """
    settings = method.settings(len(task.y))

    def own() -> tuple[Task, torch.optim.Optimizer]:
        mine = Task(copy.deepcopy(task.model), task.x, task.y, task.steps, task.criterion)
        return mine, torch.optim.SGD(mine.model.parameters(), lr=0.01, momentum=0.9)

    if method.kind.package:
        every = settings.schedule.every if isinstance(settings.schedule, Periodic) else 1
        mine, base = own()
        opt = method.wrap(base, 0.05, model=mine.model, total_steps=10**9, batch_size=len(task.y), seed=0)
        steps = every * -(-task.steps // every)
        return [(1.0, steps, timed(through_passes(opt, mine), steps, device))]
    found = []
    for p, share in ((0.0, 1.0 - settings.schedule.mean()), (1.0, settings.schedule.mean())):
        if share > 0:
            mine, base = own()
            known = mine.model if with_model else None
            opt = RST(base, p, 0.05, settings.gamma, model=known, batch_fraction=settings.batch_fraction)
            found.append((share, task.steps, timed(through_passes(opt, mine), task.steps, device)))
    return found


def measure(name: str, device: str, rounds: int) -> dict[str, Any]:
    """Return the measurements on one network, with one row for each contestant."""
    torch.manual_seed(0)
    task = BY_THE_CLOCK[name](device)
    n = len(task.y)

    def run(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        task.loss(*batch).backward()

    noise = part_noise(run, (task.x, task.y), task.model)
    prices = step_seconds(run, (task.x, task.y), task.model)
    methods = [Method(name).measured(prices, noise) for name in METHODS]
    methods = [method for method in methods if not method.kind.package or find_spec(method.kind.package)]
    base = plain(Task(copy.deepcopy(task.model), task.x, task.y, task.steps, task.criterion))
    contestants = {"plain": [(1.0, task.steps, timed(base, task.steps, device))]}
    contestants |= {method.name: kinds(method, task, device) for method in methods}
    contestants[WITHOUT] = kinds(Method("sam"), task, device, with_model=False)
    for found in contestants.values():
        for _, _, once in found:
            once()
    times: dict[str, list[float]] = {contestant: [] for contestant in contestants}
    for turn in range(rounds):
        order = list(contestants)
        for contestant in order[turn % len(order) :] + order[: turn % len(order)]:
            times[contestant].append(sum(share * once() for share, _, once in contestants[contestant]))
    rows = [row(method, n, times[method.name], times["plain"]) for method in methods]
    rows.append(row(Method("sam"), n, times[WITHOUT], times["plain"]) | {"method": WITHOUT, "label": WITHOUT})
    milliseconds = 1000 * median(times["plain"])
    return {"network": name, "plain_ms": milliseconds, "step_seconds": prices, "part_noise": noise, "rows": rows}


def row(method: Method, n: int, mine: list[float], base: list[float]) -> dict[str, Any]:
    settings, ratios = method.settings(n), [own / other for own, other in zip(mine, base, strict=True)]
    low, _, high = quantiles(ratios, n=4)
    return {
        "method": method.name,
        "label": method.label("SGD", n, None),
        "gradients": 1 + settings.schedule.mean() * settings.batch_fraction,
        "planned": settings.plan and settings.plan.seconds,
        "ratio": median(ratios),
        "quartiles": [low, high],
    }


def page(studies: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = ["# The clock", "", ", ".join(f"{name} {value}" for name, value in facts.items()) + ".", ""]
    lines += ["Ratios are seconds per step ÷ those of plain training, median [quartiles] over the rounds. *Planned* is "
              "what the plan expects by the steps that were measured before.", ""]  # fmt: skip
    lines += [
        "| network, batch | plain ms | contestant | gradients | planned | × seconds |",
        "|---|---|---|---|---|---|",
    ]
    for study in studies:
        for one in study["rows"]:
            planned = "" if one["planned"] is None else f"{one['planned']:.2f}"
            asked = f" ({one['method'].partition(':')[2]})" if one["method"].startswith("thrifty") else ""
            lines.append(
                f"| {study['network']} | {study['plain_ms']:.1f} | {one['label']}{asked} | {one['gradients']:.2f} | "
                f"{planned} | {one['ratio']:.2f} [{one['quartiles'][0]:.2f}, {one['quartiles'][1]:.2f}] |"
            )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--networks", nargs="+", choices=list(BY_THE_CLOCK), default=list(BY_THE_CLOCK))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    place = "cuda" if options.device == "cuda" else f"cpu-{options.threads}"
    packages = [name for name in ("sharpless", "torch", "pytorch_optimizer") if find_spec(name)]
    named = "".join(f' "{name}"' for name in options.networks)
    facts = {
        "command": f"`python benchmarks/wallclock.py --device {options.device} --threads {options.threads} "
        f"--rounds {options.rounds} --networks{named}`",
        "machine": torch.cuda.get_device_name()
        if options.device == "cuda"
        else f"{platform.machine()}, {options.threads} of {os.cpu_count()} cores",
        **{name: version(name) for name in packages},
    }
    studies = []
    for name in options.networks:
        studies.append(measure(name, options.device, options.rounds))
        described = json.dumps({"facts": facts, "studies": studies}, indent=1, ensure_ascii=False)
        store.write(options.out / f"wallclock-{place}.json", described + "\n")
        store.write(options.out / f"wallclock-{place}.md", page(studies, facts))
    print(page(studies, facts))


if __name__ == "__main__":
    main()
