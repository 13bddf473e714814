"""Sharpness-aware training for less: RST, G-RST and SAM around any PyTorch optimizer."""

from sharpless import ascent, schedules
from sharpless.cost import Cost
from sharpless.optimizer import GRST, RST, SAM

__all__ = ["GRST", "RST", "SAM", "Cost", "ascent", "schedules"]
