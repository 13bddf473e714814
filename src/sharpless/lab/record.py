"""The record of a run: what its file holds, ready for JSON."""

import math
import os
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sharpless.lab.recipes import PEERS

if TYPE_CHECKING:
    from sharpless.lab.train import Training

__all__ = ["record"]


def record(training: "Training") -> dict[str, Any]:
    """Return the record of a run that has come to its end."""
    recipe, opt, done = training.recipe, training.opt, training.progress
    return {
        "method": training.method,
        "label": recipe.describe(training.method),
        "seed": training.seed,
        "recipe": asdict(recipe),
        "data": {"fingerprint": training.data.fingerprint},
        "split": training.data.split,
        "epochs": training.epochs,
        "steps": opt.cost.steps,
        "schedule": str(opt.schedule),
        "gamma": opt.gamma,
        "batch_fraction": opt.batch_fraction,
        "passes": training.passes,
        "plain_passes": float(recipe.epochs * training.steps_per_epoch),
        "sharp_steps": done.sharp_steps,
        "train_loss": [loss if math.isfinite(loss) else None for loss in done.train_loss],
        "test_accuracy": done.test_accuracy,
        "epoch_passes": done.epoch_passes,
        "epoch_seconds": done.epoch_seconds,
        "seconds": done.seconds,
        "data_seconds": done.data_seconds,
        "versions": {
            "sharpless": version("sharpless"),
            "torch": str(torch.__version__),
            "python": platform.python_version(),
            **({"pytorch_optimizer": version("pytorch_optimizer")} if training.method in PEERS else {}),
        },
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": os.cpu_count(),
            **({"gpu": torch.cuda.get_device_name()} if training.device.type == "cuda" else {}),
        },
        "setup": {
            **{name: value for name, value in asdict(training.setup).items() if name != "data_dir"},
            "accelerator": training.device.type,
            "processes": training.world,
        },
        "threads": training.threads,
    }


def _processor() -> str:
    """Return the model of the processor, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        if cpuinfo.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()
