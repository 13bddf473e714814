"""Parts of a batch and BatchNorm: the noise of the parts, and the results of training with them.

    python benchmarks/parts.py [--seeds 5] [--jobs 2] [--runs runs/parts] [--out benchmarks/results]

The digits with 30 % label noise, as in the default comparison, on networks whose last BatchNorm has 16, 4 or 1 values
per channel and example, and on a perceptron with BatchNorm. Each trains with parts of m of 64 examples at every step,
p = γ = 1. The noise of parts, E‖D‖² ÷ E‖D of the whole batch‖², is measured before training and after a third of plain
training. `finetune.py` does the same on a pretrained network.
"""

import argparse
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sharpless import part_noise
from sharpless.lab import Trial, compare, store, task

N, SIZES, RHO = 64, (4, 7, 16, 32), 0.3
METHODS = ("sgd", "sam", *(f"g-rst:p=1,batch_fraction={m / N}" for m in SIZES))
NETWORKS = ("4 × 4", "2 × 2", "1 × 1", "perceptron")


def digits(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return 1,280 images and noisy labels for training, and the others for testing."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    generator = torch.Generator().manual_seed(seed)
    replaced = torch.rand(1280, generator=generator) < 0.3
    noisy = torch.where(replaced, torch.randint(10, (1280,), generator=generator), y[:1280])
    return x[:1280], noisy, x[1280:], y[1280:]


def network(name: str) -> nn.Module:
    if name == "perceptron":
        hidden = [layer for width in (64, 128) for layer in (nn.Linear(width, 128), nn.BatchNorm1d(128), nn.ReLU())]
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(128, 10))

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    pools = [nn.MaxPool2d(2)] * {"4 × 4": 1, "2 × 2": 2, "1 × 1": 3}[name]
    body = [*block(1, 16), *block(16, 32), *pools, *block(32, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(32, 10))


@task(metric="accuracy", unit="%", goal="max")
def train(trial: Trial, name: str = "4 × 4", epochs: int = 30) -> None:
    """Train on the digits."""
    x, y, test_x, test_y = digits(trial.seed)
    torch.manual_seed(trial.seed)
    model = network(name)
    base = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    steps = trial.epochs(epochs) * (len(y) // N)
    opt = trial.optimizer(base, model=model, total_steps=steps, batch_size=N, rho=RHO)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(base, steps)
    for _ in range(trial.epochs(epochs)):
        for rows in torch.randperm(len(y)).split(N):
            for part_x, part_y in opt.passes((x[rows], y[rows])):
                cross_entropy(model(part_x), part_y).backward()
            opt.step()
            opt.zero_grad()
            scheduler.step()
    with trial.evaluating(model):
        trial.report(test=100 * (model(test_x).argmax(1) == test_y).float().mean())


def noise(name: str, epochs: int, batches: int = 8) -> dict[int, float]:
    """Return the noise of parts, averaged over batches, after some epochs of plain training."""
    x, y, _, _ = digits(0)
    torch.manual_seed(0)
    model = network(name)
    base = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(epochs):
        for rows in torch.randperm(len(y)).split(N):
            cross_entropy(model(x[rows]), y[rows]).backward()
            base.step()
            base.zero_grad()

    def run(batch: tuple[Tensor, Tensor]) -> None:
        cross_entropy(model(batch[0]), batch[1]).backward()

    found = [
        part_noise(run, (x[i : i + N], y[i : i + N]), model, rho=RHO, sizes=SIZES) for i in range(0, batches * N, N)
    ]
    return {m: sum(each[m] for each in found) / len(found) for m in (*SIZES, N)}


def page(studies: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    lines = [
        "# Parts of a batch and BatchNorm",
        "",
        ", ".join(f"{key} {value}" for key, value in facts.items()) + ".",
        "",
    ]
    lines += [
        "| last BatchNorm | climbs with | noise at the start | after a third | accuracy % | minus SAM [95 %] |",
        "|---|---|---|---|---|---|",
    ]
    for study in studies:
        for row in study["rows"]:
            first, later = ("" if value is None else f"{value:.1f}" for value in row["noise"])
            against = row["versus_sam"]
            minus = (
                ""
                if against is None
                else f"{against['difference']:+.1f} [{against['ci95'][0]:+.1f}, {against['ci95'][1]:+.1f}]"
            )
            who = f"{row['part']} of {N}" if row["part"] else row["label"]
            lines.append(
                f"| {study['network']} | {who} | {first} | {later} | {row['mean']:.1f} ± {row['std']:.1f} | {minus} |"
            )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--runs", type=Path, default=Path("runs/parts"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    studies = []
    for name in NETWORKS:
        summary = compare(
            "benchmarks/parts.py:train",
            methods=METHODS,
            seeds=options.seeds,
            folder=options.runs / name.replace(" ", ""),
            jobs=options.jobs,
            options={"name": name, "epochs": options.epochs},
        )
        at_start, later = noise(name, 0), noise(name, options.epochs // 3)
        rows = []
        for entry in summary["methods"]:
            part = round(N * float(entry["method"].partition("batch_fraction=")[2] or 0)) or None
            part = N if entry["method"] == "sam" else part
            noisy = [None, None] if part is None else [at_start[part], later[part]]
            known = {key: entry[key] for key in ("method", "label", "versus_sam")}
            rows.append({**known, "part": part, "noise": noisy, **entry["value"]})
        studies.append({"network": name, "rows": rows})
    facts = {
        "command": f"`python benchmarks/parts.py --seeds {options.seeds}`",
        "seeds": options.seeds,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        **{package: version(package) for package in ("sharpless", "torch")},
    }
    described = json.dumps({"facts": facts, "studies": studies}, indent=1, ensure_ascii=False)
    store.write(options.out / "parts.json", described + "\n")
    store.write(options.out / "parts.md", page(studies, facts))
    print(page(studies, facts))


if __name__ == "__main__":
    main()
