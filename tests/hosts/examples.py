"""The examples as modules, and what they train: what the reference trains."""

import importlib.util
from pathlib import Path

import torch

FOLDER = Path(__file__).parents[2] / "examples" / "hosts"


def load(name):
    """Return the example of a host as a module."""
    spec = importlib.util.spec_from_file_location(f"{name}_digits", FOLDER / f"{name}_digits.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
