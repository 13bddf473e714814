"""The machine of a run: devices, processes and what makes them faster; of all this an experiment fixes the threads."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sharpless.lab.tasks.images.recipe import option

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import nn
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["Setup", "barrier", "computing_with", "is_main_process"]

STRATEGIES = ("auto", "ddp", "fsdp2")
MOST_THREADS = 1024
RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")


@dataclass(frozen=True)
class Setup:
    """Where a run is executed. Results differ between setups by rounding, and by what DDP makes of the batch.

    >>> Setup(devices=2, strategy="ddp").world_size
    2
    """

    accelerator: str = option("auto", "cpu, cuda, mps, or auto for the best one there is")
    devices: int = option(1, "devices of this node that share a batch; under torchrun, as many as it started")
    nodes: int = option(1, "nodes that share a batch; under torchrun, as many as it started")
    strategy: str = option("auto", "how several devices work together: ddp (auto) or fsdp2")
    threads: int = option(
        0, "CPU threads of a run; 0 for those its folder was opened with, in a new one OMP_NUM_THREADS or else 1"
    )
    compile: str = option("", "backend to torch.compile the network with, inductor say; none by default")
    channels_last: bool = option(False, "keep images and convolutions in the channels-last memory format")
    data_dir: str = option("", "folder of the data, where they should not come from the hub")
    workers: int = option(4, "processes for each device that load images too large to be kept on it")
    checkpoint_every: float = option(600.0, "seconds between checkpoints")

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy = {self.strategy} is unknown: give {', '.join(STRATEGIES)}")
        if self.accelerator not in {"auto", "cpu", "cuda", "mps"}:
            raise ValueError(f"accelerator = {self.accelerator} is unknown: give auto, cpu, cuda or mps")
        for check, name, remedy in (
            (self.devices >= 1, "devices", "give 1 or more"),
            (self.nodes >= 1, "nodes", "give 1 or more"),
            (0 <= self.threads <= MOST_THREADS, "threads", f"give 1 to {MOST_THREADS}, or 0 for the usual number"),
            (self.workers >= 0, "workers", "give 0 or more"),
            (self.checkpoint_every >= 0, "checkpoint_every", "give a number of seconds"),
        ):
            if not check:
                raise ValueError(f"{name} = {getattr(self, name)} is out of range: {remedy}")
        told = _under_torchrun() or "SLURM_NTASKS" in os.environ or all(name in os.environ for name in RENDEZVOUS)
        if self.nodes > 1 and not told:
            raise ValueError(
                f"nodes = {self.nodes} would wait for the other nodes for ever: start it by torchrun, or set "
                f"{', '.join(RENDEZVOUS)}"
            )
        if self.devices == 1 and self.accelerator in {"auto", "cpu"} and not self.compile:
            return  # which holds on every machine, and is known without torch
        import torch  # noqa: PLC0415

        if self.compile and self.compile not in torch.compiler.list_backends(exclude_tags=()):
            known = ", ".join(torch.compiler.list_backends())
            raise ValueError(f"compile = {self.compile} is no backend of torch.compile: give {known}")
        there = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(self.device, 0)
        if self.device != "cpu" and self.devices > there:
            raise ValueError(f"devices = {self.devices} is out of range: of {self.device} there are {there} here")

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
        if _under_torchrun():
            return int(os.environ["WORLD_SIZE"])
        return self.devices * self.nodes

    def settled(self, there: int = 0) -> "Setup":
        """Return the setup with a number of threads: its own, or else `there`, or else OMP_NUM_THREADS, or else 1.

        How many threads add numbers up decides how the sum is rounded, so that the number must follow from nothing that
        another machine, or the same one when it is busy, would answer differently.
        """
        told = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
        usual = min(int(told), MOST_THREADS) if told.isdecimal() else 0
        return replace(self, threads=self.threads or there or usual or 1)

    def fabric(self, precision: str) -> "Fabric":
        """Return Lightning's Fabric for this setup, before its launch.

        Args:
            precision: 32, bf16 or 16.

        Raises:
            ModuleNotFoundError: Lightning Fabric is not installed.
        """
        try:
            from lightning_fabric import Fabric  # noqa: PLC0415
            from lightning_fabric.plugins.precision import MixedPrecision, Precision  # noqa: PLC0415
            from lightning_fabric.strategies.model_parallel import ModelParallelStrategy  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"training needs {error.name}: pip install 'sharpless[lab]'") from error
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        # As a plugin, not by name: Fabric would turn float16 on a CPU, and any mixture under FSDP2, down.
        plugin = Precision() if precision == "32" else MixedPrecision(_fabric_name(precision), self.device)
        devices, nodes = self.devices, self.nodes
        if _under_torchrun():
            devices = int(os.environ["LOCAL_WORLD_SIZE"])
            nodes = self.world_size // devices
        strategy: Any = "auto" if self.strategy == "auto" and self.world_size == 1 else "ddp"
        if self.strategy == "fsdp2":
            strategy = ModelParallelStrategy(_shard, data_parallel_size=self.world_size, tensor_parallel_size=1)
        return Fabric(accelerator=self.device, devices=devices, num_nodes=nodes, strategy=strategy, plugins=[plugin])


@contextmanager
def computing_with(threads: int) -> Iterator[None]:
    """Compute with a number of CPU threads within the block."""
    import torch  # noqa: PLC0415

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def is_main_process() -> bool:
    """Return whether this is the process, of those that share a batch, that writes and prints."""
    ranks = ("RANK",) if _under_torchrun() else ("LOCAL_RANK", "NODE_RANK")
    return all(os.environ.get(name, "0") == "0" for name in ranks)


def barrier() -> None:
    """Wait for the processes that share a batch. One that ends early would end those that still write."""
    import torch.distributed  # noqa: PLC0415

    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def _under_torchrun() -> bool:
    """Return what `torch.distributed.is_torchelastic_launched` does, without torch."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def _fabric_name(precision: str) -> Any:
    return f"{precision}-mixed"


def _shard(model: "nn.Module", mesh: "DeviceMesh") -> "nn.Module":
    """Return `model` with its children, and what remains, sharded over the processes."""
    from torch.distributed.fsdp import fully_shard  # noqa: PLC0415

    for child in model.children():
        if any(True for _ in child.parameters()):
            fully_shard(child, mesh=mesh["data_parallel"])
    fully_shard(model, mesh=mesh["data_parallel"])
    return model
