"""Which framework calls the optimizer: read from the call stack, only when a message needs it."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import util
from typing import Any

__all__ = ["Host", "host", "host_of_closure", "is_called_by", "modules", "variables"]


@dataclass(frozen=True)
class Host:
    """A framework that calls `step`.

    Attributes:
        title: its name in messages.
        name: the name of its page in docs/hosts, and of its module in sharpless.hosts if it has one.
        in_closure: what its closures do besides forward and backward, if it passes closures to `step`.
        own_loop: whether the user writes the loop, so that a module of sharpless.hosts cannot help.
    """

    title: str
    name: str
    in_closure: str = "clips and logs"
    own_loop: bool = False

    @property
    def remedy(self) -> str:
        """How to make its steps sharpness-aware."""
        page = f"docs/hosts/{self.name}.md"
        if self.own_loop or util.find_spec(f"sharpless.hosts.{self.name}") is None:
            return f"see {page}"
        return f"use sharpless.hosts.{self.name} ({page})"


LIGHTNING = Host("Lightning", "lightning", "clips, logs and runs the last of accumulated micro-batches alone")
ACCELERATE = Host("Accelerate", "accelerate", "runs the last of accumulated micro-batches alone")
SKORCH = Host("skorch", "skorch")
COMPOSER = Host("Composer", "composer")
FABRIC = Host("Fabric", "fabric")
MANUAL = Host("Lightning", "lightning", own_loop=True)
HOSTS = {
    "lightning.pytorch.loops.optimization.manual": MANUAL,
    "pytorch_lightning.loops.optimization.manual": MANUAL,
    "lightning.pytorch": LIGHTNING,
    "pytorch_lightning": LIGHTNING,
    "transformers": Host("Transformers", "transformers"),
    "timm": Host("timm", "timm"),
    "skorch": SKORCH,
    "ignite": Host("Ignite", "ignite"),
    "fastai": Host("fastai", "fastai"),
    "keras": Host("Keras", "keras"),
    "composer": COMPOSER,
    "lightning.fabric": FABRIC,
    "lightning_fabric": FABRIC,
    "accelerate": ACCELERATE,
    "deepspeed": Host("DeepSpeed", "deepspeed"),
}
"""Frameworks by the modules that call `step`; parts come before the whole, and what others are built on comes last."""
CLOSURES = {
    "lightning.pytorch.loops.optimization.automatic": LIGHTNING,
    "pytorch_lightning.loops.optimization.automatic": LIGHTNING,
    "skorch.net": SKORCH,
    "composer.trainer": COMPOSER,
    "accelerate.optimizer": ACCELERATE,
}
"""Frameworks by the modules that call `step` with a closure that clips and logs, or drops micro-batches."""


def modules() -> Iterator[str]:
    """Yield the names of the modules of the calling frames."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        yield str(frame.f_globals.get("__name__"))


def variables() -> list[Any]:
    """Return the values of the variables of the calling frame that runs a loop over passes, and of its `self`."""
    between, frame = {"sharpless", "contextlib", "torch"}, sys._getframe()
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).split(".")[0] in between:
        frame = frame.f_back
    mine = frame.f_locals
    return [*mine.values(), *frame.f_globals.values(), *getattr(mine.get("self"), "__dict__", {}).values()]


def host() -> Host | None:
    """Return the framework among the callers, or None."""
    return _first(HOSTS)


def host_of_closure() -> Host | None:
    """Return the framework among the callers whose closures do more or less than forward and backward, or None."""
    found = _first(CLOSURES)
    if found is ACCELERATE and sys.modules["accelerate.state"].GradientState().num_steps == 1:
        return None  # without accumulation, nothing is dropped
    return found


def is_called_by(package: str) -> bool:
    """Return whether a module of `package` is among the callers."""
    return any(f"{name}.".startswith(f"{package}.") for name in modules())


def _first(hosts: dict[str, Host]) -> Host | None:
    calling = {f"{name}." for name in modules()}
    return next((hosts[name] for name in hosts if any(each.startswith(f"{name}.") for each in calling)), None)
