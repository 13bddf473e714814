"""The overhead of sharpness-aware steps beyond their two gradients: time, operations, bytes and memory.

    python benchmarks/overhead.py [--device cuda] [--rounds 15] [--out benchmarks/results]

Every contestant trains a copy of the same network in one process, in turns. A round times each of them once. The
overhead is time ÷ ((1 + p) × the time of plain training in the same round), as median and quartiles over the rounds.
"""

import argparse
import copy
import importlib.metadata
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

import torch
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from networks import TASKS, Task
from sharpless import GRST, RST, SAM

Mark = Callable[[str], None]
Step = Callable[[Mark], None]


def sgd(task: Task) -> torch.optim.Optimizer:
    return torch.optim.SGD(task.model.parameters(), lr=0.01, momentum=0.9)


def plain(task: Task) -> Step:
    opt = sgd(task)

    def step(mark: Mark) -> None:
        mark("pass")
        task.loss(task.x, task.y).backward()
        mark("after")
        opt.step()
        opt.zero_grad()

    return step


def through_passes(opt: RST, task: Task) -> Step:
    def step(mark: Mark) -> None:
        for x, y in opt.passes((task.x, task.y)):
            mark("pass")
            task.loss(x, y).backward()
            mark("after")
        opt.step()
        opt.zero_grad()

    return step


def in_two_steps(opt: torch.optim.Optimizer, task: Task) -> Step:
    """The interface of `davda54/sam` and of most later packages."""

    def step(mark: Mark) -> None:
        for finish in (opt.first_step, opt.second_step):
            mark("pass")
            task.loss(task.x, task.y).backward()
            mark("after")
            finish(zero_grad=True)

    return step


def through_closure(opt: torch.optim.Optimizer, task: Task) -> Step:
    def step(mark: Mark) -> None:
        def closure() -> torch.Tensor:
            opt.zero_grad()
            mark("pass")
            loss = task.loss(task.x, task.y)
            loss.backward()
            mark("after")
            return loss

        opt.step(closure)
        opt.zero_grad()

    return step


def pytorch_optimizer_sam(task: Task) -> Step:
    from pytorch_optimizer import SAM as PeerSAM

    return in_two_steps(PeerSAM(task.model.parameters(), torch.optim.SGD, rho=0.05, lr=0.01, momentum=0.9), task)


def zij_sam(task: Task) -> Step:
    from zij import SAM as PeerSAM

    return in_two_steps(PeerSAM(task.model.parameters(), torch.optim.SGD, rho=0.05, lr=0.01, momentum=0.9), task)


def sam_pytorch(task: Task) -> Step:
    from sam import SAM as PeerSAM

    return through_closure(PeerSAM(task.model.parameters(), sgd(task), rho=0.05), task)


# name → (p, function that makes a step, required package)
CONTESTANTS: dict[str, tuple[float, Callable[[Task], Step], str]] = {
    "plain": (0.0, plain, "torch"),
    "sharpless p = 0": (0.0, lambda task: through_passes(RST(sgd(task), p=0.0, model=task.model), task), "sharpless"),
    "sharpless SAM": (1.0, lambda task: through_passes(SAM(sgd(task), model=task.model), task), "sharpless"),
    "sharpless G-RST, γ = 2": (
        1.0,
        lambda task: through_passes(GRST(sgd(task), p=1.0, gamma=2.0, model=task.model), task),
        "sharpless",
    ),
    "pytorch_optimizer SAM": (1.0, pytorch_optimizer_sam, "pytorch_optimizer"),
    "zij SAM": (1.0, zij_sam, "zij"),
    "sam-pytorch SAM": (1.0, sam_pytorch, "sam-pytorch"),
}


def unmarked(name: str) -> None:
    pass


def seconds(step: Step, steps: int, device: str) -> float:
    """The duration of `steps` steps: from the clock on a CPU, between two events on a GPU."""
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(steps):
            step(unmarked)
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000
    begin = time.perf_counter()
    for _ in range(steps):
        step(unmarked)
    return time.perf_counter() - begin


class Traffic(TorchDispatchMode):
    """Counts the operations of torch's dispatcher while it is active, and the bytes that they read and write.

    Views are left out: they compute nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.on, self.operations, self.bytes = False, 0, 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        if self.on and not operation.is_view:
            self.operations += 1
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
            self.bytes += sum(tensor.nbytes for tensor in tensors)
        return result

    def mark(self, name: str) -> None:
        self.on = name == "after"


def traffic(step: Step) -> tuple[int, int]:
    """Operations and bytes of one step outside forward and backward, including those of the base optimizer."""
    with Traffic() as counter:
        counter.on = True
        step(counter.mark)
    return counter.operations, counter.bytes


def extra_memory(step: Step, parameters: int, device: str) -> tuple[float, float]:
    """Memory of a step at the beginning of its last pass and after its end, in copies of the parameters."""
    passes = []

    def mark(name: str) -> None:
        if name == "pass":
            passes.append(f"pass {len(passes)}")
            with record_function(passes[-1]):
                pass

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    with profile(activities=activities, profile_memory=True) as profiler:
        step(mark)
        with record_function("end"):
            pass
    events = profiler.profiler.kineto_results.events()
    names = {passes[0], passes[-1], "end"}
    when = {event.name(): event.start_ns() for event in events if event.name() in names}
    changes = [event for event in events if event.name() == "[memory]"]

    def held(name: str) -> float:
        return sum(event.nbytes() for event in changes if event.start_ns() < when[name]) / parameters

    return held(passes[-1]) - held(passes[0]), held("end")


def installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def measure(name: str, device: str, rounds: int) -> list[dict[str, object]]:
    """One row for each contestant on one network."""
    torch.manual_seed(0)
    original = TASKS[name](device)
    steps, rows = {}, {}
    for contestant, (p, make, package) in CONTESTANTS.items():
        if installed(package):
            task = Task(copy.deepcopy(original.model), original.x, original.y, original.steps)
            steps[contestant] = (p, make(task))
    for _, step in steps.values():
        for _ in range(3):
            step(unmarked)
    times = {contestant: [] for contestant in steps}
    for turn in range(rounds):
        order = list(steps)[turn % len(steps) :] + list(steps)[: turn % len(steps)]
        for contestant in order:
            times[contestant].append(seconds(steps[contestant][1], original.steps, device))
    parameters = sum(parameter.nbytes for parameter in original.model.parameters())
    plain_operations, plain_bytes = traffic(steps["plain"][1])
    for contestant, (p, step) in steps.items():
        ratios = [mine / ((1 + p) * base) for mine, base in zip(times[contestant], times["plain"], strict=True)]
        low, _, high = quantiles(ratios, n=4)
        operations, moved = traffic(step)
        during, after = extra_memory(step, parameters, device)
        rows[contestant] = {
            "network": name,
            "contestant": contestant,
            "milliseconds": 1000 * median(times[contestant]) / original.steps,
            "overhead": median(ratios),
            "quartiles": [low, high],
            "operations": operations - plain_operations,
            "copies_moved": (moved - plain_bytes) / parameters,
            "copies_held_in_pass_2": during,
            "copies_held_after": after,
        }
    return list(rows.values())


def table(rows: list[dict[str, object]], facts: dict[str, object]) -> str:
    """The results as Markdown."""
    lines = [
        "# Overhead of sharpness-aware steps",
        "",
        ", ".join(f"{name} {value}" for name, value in facts.items()) + ".",
        "",
        "Overhead is time ÷ ((1 + p) × plain training), median [quartiles] over the rounds. Operations are those "
        "outside forward and backward beyond plain training's, and copies moved what they read and write, in copies "
        "of the parameters. Copies held are what is there when the last pass begins beyond the first one's "
        "beginning, a kept gradient included, and what stays after the step.",
        "",
        "| network | contestant | ms per step | overhead | operations | copies moved | held in pass 2 | held after |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["quartiles"]
        lines.append(
            f"| {row['network']} | {row['contestant']} | {row['milliseconds']:.2f} "
            f"| {row['overhead']:.3f} [{low:.3f}, {high:.3f}] | {row['operations']} | {row['copies_moved']:.1f} "
            f"| {row['copies_held_in_pass_2']:.2f} | {row['copies_held_after']:.2f} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--networks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    packages = {package for _, _, package in CONTESTANTS.values() if installed(package)}
    facts = {
        "command": f"`python benchmarks/overhead.py --device {options.device} --rounds {options.rounds}`",
        "rounds": options.rounds,
        "machine": torch.cuda.get_device_name() if options.device == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        **{package: importlib.metadata.version(package) for package in sorted(packages)},
    }
    rows = []
    for name in options.networks:
        rows += measure(name, options.device, options.rounds)
        print(table(rows, facts))
    options.out.mkdir(parents=True, exist_ok=True)
    stem = options.out / f"overhead-{options.device}"
    stem.with_suffix(".json").write_text(json.dumps({"facts": facts, "rows": rows}, indent=1, ensure_ascii=False))
    stem.with_suffix(".md").write_text(table(rows, facts))


if __name__ == "__main__":
    main()
