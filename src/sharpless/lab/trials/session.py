"""Torch's global settings: a run begins with those of the session that it belongs to, and leaves none behind."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["restored", "settings"]


def _set_default_device(device: torch.device) -> None:
    torch.set_default_device(None if device.type == "cpu" else device)  # torch's mode for a device slows every call


PAIRS: dict[str, Any] = {
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "default device": (torch.get_default_device, _set_default_device),
    "matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "determinism": (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
}


def settings() -> dict[str, Any]:
    """Return the settings of this process."""
    return {name: get() for name, (get, _) in PAIRS.items()}


@contextmanager
def restored(inside: Mapping[str, Any]) -> Iterator[None]:
    """Set torch's global settings within the block, with gradients; afterwards they are those of before."""
    before = settings()
    _apply(inside)
    try:
        with torch.enable_grad():
            yield
    finally:
        _apply(before)


def _apply(wanted: Mapping[str, Any]) -> None:
    for name, value in wanted.items():
        get, put = PAIRS[name]
        if get() != value:
            put(value)
