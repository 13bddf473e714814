"""Which framework calls the optimizer, found from the frames when there is something to say about it."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import util

__all__ = ["Host", "host", "host_of_closure", "is_called_by", "modules"]


@dataclass(frozen=True)
class Host:
    """A framework that calls `step`.

    Attributes:
        title: what it is called.
        name: of its page in docs/hosts, and of its module in sharpless.hosts where it needs one.
        in_closure: what its closures do beside forward and backward, where it hands some to `step`.
    """

    title: str
    name: str
    in_closure: str = "clips and logs"

    @property
    def cure(self) -> str:
        """What makes its steps sharpness-aware."""
        page = f"docs/hosts/{self.name}.md"
        if util.find_spec(f"sharpless.hosts.{self.name}") is None:
            return f"see {page}"
        return f"use sharpless.hosts.{self.name} ({page})"


LIGHTNING = Host("Lightning", "lightning", "clips, logs and runs the last of accumulated micro-batches alone")
SKORCH = Host("skorch", "skorch")
COMPOSER = Host("Composer", "composer")
FABRIC = Host("Fabric", "fabric")
HOSTS = {
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
    "accelerate": Host("Accelerate", "accelerate"),
    "deepspeed": Host("DeepSpeed", "deepspeed"),
}
"""By the modules that they call `step` from; those that others are built on come last."""
CLOSURES = {
    "lightning.pytorch.loops.optimization.automatic": LIGHTNING,
    "pytorch_lightning.loops.optimization.automatic": LIGHTNING,
    "skorch.net": SKORCH,
    "composer.trainer": COMPOSER,
}
"""By the modules in which they call `step` with a closure that clips and logs."""


def modules() -> Iterator[str]:
    """Yield the names of the modules of the calling frames."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        yield str(frame.f_globals.get("__name__"))


def host() -> Host | None:
    """Return the host that is among the callers."""
    return _first(HOSTS)


def host_of_closure() -> Host | None:
    """Return the host among the callers that hands over closures which do more than forward and backward."""
    return _first(CLOSURES)


def is_called_by(package: str) -> bool:
    """Return whether a module of `package` is among the callers."""
    return any(f"{name}.".startswith(f"{package}.") for name in modules())


def _first(hosts: dict[str, Host]) -> Host | None:
    calling = {f"{name}." for name in modules()}
    return next((hosts[name] for name in hosts if any(each.startswith(f"{name}.") for each in calling)), None)
