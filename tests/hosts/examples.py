"""The examples as modules, and what they train: what the reference trains."""

import importlib.util
import re
from pathlib import Path

from torch.optim import lr_scheduler

from sharpless import RST

FOLDER = Path(__file__).parents[2] / "examples" / "hosts"


def load(name):
    """Return the example of a host as a module."""
    spec = importlib.util.spec_from_file_location(f"{name}_digits", FOLDER / f"{name}_digits.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def schedules(monkeypatch, module=lr_scheduler):
    """Return a list that gets the cosine schedules of an example, which takes their class from `module`."""
    made = []

    class Recorded(lr_scheduler.CosineAnnealingLR):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr(module, "CosineAnnealingLR", Recorded)
    return made


def assert_ended(made):
    """See a schedule that is stepped too often or too rarely, or twice: it is one, and training ends at its end."""
    (schedule,) = made
    assert schedule.last_epoch == schedule.T_max


def optimizers(monkeypatch):
    """Return a list that gets the optimizers of an example."""
    made, begin = [], RST.__init__

    def recorded(self, *args, **options):
        begin(self, *args, **options)
        made.append(self)

    monkeypatch.setattr(RST, "__init__", recorded)
    return made


def assert_whole(made, steps):
    """See an optimizer that was not given its network, and training that is longer or shorter, or in plain steps."""
    (opt,) = made
    assert opt.model is not None
    assert opt.cost.steps == steps
    assert 0 < opt.cost.sharp_steps < steps


def run_page(name, **names):
    """Run the code of a host's page, without the dots that stand for what else a user writes; return its names."""
    page = (FOLDER.parents[1] / "docs" / "hosts" / f"{name}.md").read_text(encoding="utf-8")
    code = re.findall(r"^```python\n(.*?)^```", page.replace(", …", ""), re.DOTALL | re.MULTILINE)
    exec(compile("\n".join(code), f"{name}.md", "exec"), names)
    return names
