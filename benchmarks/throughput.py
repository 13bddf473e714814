"""The speed of the laboratory's loop: images per second, relative to a bare PyTorch loop.

    python benchmarks/throughput.py [--device cuda] [--rounds 15] [--out benchmarks/results]

Both train the same network with plain SGD, on the same data in the memory of the device, in the same precision. The
bare loop only indexes, normalizes, runs forward and backward and steps. Epochs of both are interleaved.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import torch
from torch.nn.functional import cross_entropy

from sharpless.lab import Trial, store
from sharpless.lab.methods.kinds import DEFAULTS
from sharpless.lab.methods.method import Method
from sharpless.lab.studies.arguments import SEEDS
from sharpless.lab.tasks.images.data import Data, load
from sharpless.lab.tasks.images.examples import Resident
from sharpless.lab.tasks.images.networks import build
from sharpless.lab.tasks.images.ranks import Team
from sharpless.lab.tasks.images.recipe import Recipe
from sharpless.lab.tasks.images.setup import Setup
from sharpless.lab.tasks.images.step import Stepper
from sharpless.lab.tasks.images.training import run_epoch


@dataclass(frozen=True)
class Case:
    recipe: Recipe
    setup: Setup
    images: int  # random ones of 3 × 32 × 32, or 0 for the digits

    def data(self) -> Data:
        if not self.images:
            return load("digits", noise=self.recipe.noise)
        generator = torch.Generator().manual_seed(0)
        x = torch.randint(256, (self.images, 3, 32, 32), generator=generator, dtype=torch.uint8)
        y = torch.randint(10, (self.images,), generator=generator)
        examples = Resident(x, y, mean=torch.full((3, 1, 1), 128.0), std=torch.full((3, 1, 1), 64.0), host=x)
        return Data(examples, examples, classes=10, channels=3, fingerprint="random", split="test")


def cases(device: str) -> dict[str, Case]:
    there = Setup(accelerator=device)
    if device == "cpu":
        return {
            "convnet on the digits, batch 64": Case(Recipe(), there, 0),
            "ResNet-18 on 32 × 32, batch 16": Case(Recipe(network="resnet18", batch_size=16), there, 32),
        }
    plain = Recipe(network="resnet18", batch_size=256)
    fast = replace(there, compile="inductor", channels_last=True)
    return {
        "ResNet-18 on 32 × 32, batch 256": Case(plain, there, 50_000),
        "the same, bf16, channels last, compiled": Case(replace(plain, precision="bf16"), fast, 50_000),
    }


class Bare:
    """The bare loop, written for this purpose only."""

    def __init__(self, case: Case, data: Data, device: torch.device) -> None:
        self.case, recipe, examples = case, case.recipe, data.train
        torch.manual_seed(0)
        self.model = build(recipe.network, classes=data.classes, channels=data.channels, width=recipe.width).to(device)
        self.format = torch.channels_last if case.setup.channels_last else torch.contiguous_format
        self.model = self.model.to(memory_format=self.format)
        if case.setup.compile:
            self.model.compile(backend=case.setup.compile)
        self.opt = torch.optim.SGD(
            self.model.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
        self.x, self.y = examples.images.to(device), examples.labels.to(device)
        self.mean, self.std = examples.mean.to(device), examples.std.to(device)
        self.device = device
        self.autocast = (
            torch.autocast(device.type, dtype=torch.bfloat16) if recipe.precision == "bf16" else nullcontext()
        )

    def epoch(self) -> None:
        size = self.case.recipe.batch_size
        order = torch.randperm(len(self.y)).to(self.device)
        total = torch.zeros((), device=self.device)
        for rows in order[: len(order) // size * size].view(-1, size):
            x = ((self.x[rows] - self.mean) / self.std).contiguous(memory_format=self.format)
            with self.autocast:
                loss = cross_entropy(self.model(x), self.y[rows])
            loss.backward()
            self.opt.step()
            self.opt.zero_grad()
            total += loss.detach()
        float(total)


def ours(case: Case, data: Data, device: torch.device) -> Callable[[], None]:
    """Return a function that trains for an epoch with the laboratory's loop."""
    recipe, train_set = case.recipe, data.train.to(device)
    model = build(recipe.network, classes=data.classes, channels=data.channels, width=recipe.width)
    stepper = Stepper(Trial(Method("sgd")), recipe, case.setup, Team(0, 1, device), model, steps=10**9)
    epochs, per_epoch = count(), len(train_set) // recipe.batch_size

    def epoch() -> None:
        number = next(epochs)
        run_epoch(stepper, train_set, number, number * per_epoch, lambda _: None)
        float(stepper.loss)
        stepper.loss.zero_()

    return epoch


def measure(case: Case, rounds: int) -> dict[str, object]:
    data, device = case.data(), torch.device(case.setup.device)
    loops = {"sharpless": ours(case, data, device), "bare": Bare(case, data, device).epoch}
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(rounds + 2):
        for name in sorted(loops, reverse=bool(number % 2)):
            start = perf_counter()
            loops[name]()
            if number >= 2:
                seconds[name].append(perf_counter() - start)
    images = len(data.train) // case.recipe.batch_size * case.recipe.batch_size
    ratios = sorted(b / s for b, s in zip(seconds["bare"], seconds["sharpless"], strict=True))
    return {
        "images per second": {name: images / median(times) for name, times in seconds.items()},
        "ratio": median(ratios),
        "quartiles": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
        "rounds": rounds,
    }


def sweep() -> dict[str, float]:
    """Return the wall-clock seconds of the default comparison: with one thread per run, and with all cores per run."""
    seconds, cores = {}, str(os.cpu_count())
    for name, options in (("as it is", []), ("one after another on all cores", ["--jobs", "1", "--threads", cores])):
        with TemporaryDirectory() as folder:
            start = perf_counter()
            subprocess.run(
                [sys.executable, "-m", "sharpless", "compare", "--out", folder, *options],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            seconds[name] = perf_counter() - start
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    found = {}
    for name, case in cases(options.device).items():
        found[name] = measure(case, options.rounds * (5 if not case.images else 1))  # an epoch of digits is short
        print(name, json.dumps(found[name]), flush=True)
    chosen = sweep() if options.device == "cpu" else {}
    gpu = {"gpu": torch.cuda.get_device_name()} if options.device == "cuda" else {}
    facts = {
        "command": f"python benchmarks/throughput.py --device {options.device} --rounds {options.rounds}",
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), **gpu},
        "threads": torch.get_num_threads(),
        "versions": {"torch": str(torch.__version__), "python": platform.python_version()},
        "cases": found,
        "seconds of the default comparison": chosen,
    }
    store.write(options.out / f"throughput-{options.device}.json", json.dumps(facts, ensure_ascii=False, indent=1))
    gpu_name = f", {gpu['gpu']}" if gpu else ""
    lines = [
        f"# Throughput of the laboratory's loop, {options.device}",
        "",
        f"`{facts['command']}`, torch {torch.__version__}, {os.cpu_count()} cores{gpu_name}, "
        f"{facts['threads']} threads, {options.rounds} interleaved rounds "
        "of an epoch (of the digits five times as many); median ratio and its quartiles. "
        "A ratio above 1 means that the laboratory is faster than the bare loop.",
        "",
        "| case | images per second | bare loop | ratio | quartiles |",
        "|---|---|---|---|---|",
    ]
    for name, row in found.items():
        (low, high), speed = row["quartiles"], [f"{value:.0f}" for value in row["images per second"].values()]
        lines.append(f"| {name} | {speed[0]} | {speed[1]} | {row['ratio']:.3f} | {low:.3f} to {high:.3f} |")
    if chosen:
        times = ", ".join(f"{name} {seconds:.0f}" for name, seconds in chosen.items())
        size = f"{len(DEFAULTS)} methods with {SEEDS} seeds"
        lines += ["", f"Seconds of `sharpless compare`, {size}, started once each: {times}."]
    store.write(options.out / f"throughput-{options.device}.md", "\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
