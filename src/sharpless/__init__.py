"""Sharpness-aware training for less: RST, G-RST and SAM around any PyTorch optimizer."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["GRST", "RST", "SAM", "Cost", "ascent", "part_noise", "schedules", "step_seconds"]

if TYPE_CHECKING:
    from sharpless import ascent, schedules
    from sharpless.cost import Cost
    from sharpless.grst import GRST, SAM
    from sharpless.noise import part_noise
    from sharpless.optimizer import RST
    from sharpless.timing import step_seconds
else:
    # Imported when they are asked for (PEP 562): the command line draws a plan, and helps, without waiting for torch.
    MODULE_OF = {
        **{"GRST": "grst", "SAM": "grst", "RST": "optimizer", "Cost": "cost"},
        **{"part_noise": "noise", "step_seconds": "timing"},
    }

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = import_module(f"{__name__}.{MODULE_OF.get(name, name)}")
        return getattr(module, name) if name in MODULE_OF else module

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
