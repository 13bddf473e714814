"""Sharpness-aware training for less: RST, G-RST and SAM around any PyTorch optimizer."""

from sharpless import ascent, schedules
from sharpless.cost import Cost
from sharpless.grst import GRST, SAM
from sharpless.optimizer import RST

__all__ = ["GRST", "RST", "SAM", "Cost", "ascent", "schedules"]
