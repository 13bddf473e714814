"""The machine of a run: devices, processes, and options for speed."""

import os
from dataclasses import dataclass

from sharpless.lab.tasks.images.recipe import option

__all__ = ["Setup", "is_follower", "launched"]

STRATEGIES = ("auto", "ddp", "fsdp2")
RENDEZVOUS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Setup:
    """The machine of a run. Results differ between setups by rounding, and by the split of the batch in DDP.

    >>> Setup(devices=2, strategy="ddp").world_size
    2
    """

    accelerator: str = option("auto", "cpu, cuda, mps, or auto for the best available one")
    devices: int = option(1, "devices of this node that share a batch; under torchrun, the number that it started")
    nodes: int = option(1, "nodes that share a batch; under torchrun, the number that it started")
    strategy: str = option("auto", "parallelism of several devices: ddp (auto) or fsdp2")
    compile: str = option("", "backend of torch.compile for the network, such as inductor; none by default")
    channels_last: bool = option(False, "keep images and convolutions in the channels-last memory format")
    data_dir: str = option("", "folder of the data, in place of the hub")
    workers: int = option(4, "loader processes per device, for images that are too large to stay on it")
    checkpoint_every: float = option(600.0, "seconds between checkpoints")

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy = {self.strategy} is unknown: give {', '.join(STRATEGIES)}")
        if self.accelerator not in {"auto", "cpu", "cuda", "mps"}:
            raise ValueError(f"accelerator = {self.accelerator} is unknown: give auto, cpu, cuda or mps")
        for check, name, remedy in (
            (self.devices >= 1, "devices", "give 1 or more"),
            (self.nodes >= 1, "nodes", "give 1 or more"),
            (self.workers >= 0, "workers", "give 0 or more"),
            (self.checkpoint_every >= 0, "checkpoint_every", "give a number of seconds"),
        ):
            if not check:
                raise ValueError(f"{name} = {getattr(self, name)} is out of range: {remedy}")
        if self.nodes > 1 and not launched():
            raise ValueError(f"nodes = {self.nodes} would wait for the other nodes forever: start it with torchrun")
        if self.strategy == "fsdp2" and self.world_size == 1:
            raise ValueError("strategy = fsdp2 shards a network over several devices: give devices, or leave it out")
        if self.devices == 1 and self.accelerator in {"auto", "cpu"} and not self.compile:
            return  # valid on every machine: no need to import torch
        import torch  # noqa: PLC0415

        if self.compile and self.compile not in torch.compiler.list_backends(exclude_tags=()):
            known = ", ".join(torch.compiler.list_backends())
            raise ValueError(f"compile = {self.compile} is not a backend of torch.compile: give {known}")
        there = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(self.device, 0)
        if self.device != "cpu" and self.devices > there:
            raise ValueError(f"devices = {self.devices} is out of range: {self.device} has {there} here, give fewer")

    @property
    def device(self) -> str:
        """The kind of device: cpu, cuda or mps."""
        if self.accelerator != "auto":
            return self.accelerator
        import torch  # noqa: PLC0415

        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"

    @property
    def world_size(self) -> int:
        """The number of processes that share a batch."""
        return int(os.environ["WORLD_SIZE"]) if launched() else self.devices


def launched() -> bool:
    """Return whether torchrun or a similar launcher started this process."""
    return all(name in os.environ for name in RENDEZVOUS)


def is_follower() -> bool:
    """Return whether this process follows a leader, which reads the command line, writes and prints."""
    return launched() and os.environ["RANK"] != "0"
