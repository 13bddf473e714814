"""The processes that share a batch: the leader runs the comparison, and the followers train the same runs."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sharpless.lab.faults import reason
from sharpless.lab.runs.pricing import Measured
from sharpless.lab.runs.stopping import Stopped
from sharpless.lab.tasks.images.setup import Setup, launched

__all__ = ["Team", "dismiss", "follow", "gathered"]

PATIENCE = 60.0  # seconds for the end of a follower after the leader


@dataclass(frozen=True)
class Team:
    """This process, among those that share a batch."""

    rank: int
    size: int
    device: torch.device

    def wrapped(self, model: nn.Module, *, sharded: bool) -> nn.Module:
        """Return `model`, which is on the device, wrapped so that its gradients are means over all processes."""
        if sharded:
            from torch.distributed.device_mesh import init_device_mesh  # noqa: PLC0415
            from torch.distributed.fsdp import fully_shard  # noqa: PLC0415

            mesh = init_device_mesh(self.device.type, (self.size,))
            for child in model.children():
                if any(True for _ in child.parameters()):
                    fully_shard(child, mesh=mesh)
            fully_shard(model, mesh=mesh)
            return model
        if self.size == 1:
            return model
        return DistributedDataParallel(model, device_ids=[self.device] if self.device.type == "cuda" else None)

    def total(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over the processes."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def maximum(self, *numbers: int) -> list[int]:
        """Return the maximum of each number over the processes. They do not wait for a GPU."""
        largest = torch.tensor(numbers)
        if self.size > 1:
            dist.all_reduce(largest, dist.ReduceOp.MAX)
        return [int(number) for number in largest]

    def all_of(self, value: Any) -> list[Any]:
        """Return the values of all processes."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def from_leader(self, value: Any) -> Any:
        """Return the value of the leader."""
        return _from_leader(value) if self.size > 1 else value


@contextmanager
def gathered(setup: Setup, job: Any) -> Iterator[Team]:
    """Lead a team within the block, whose other processes do the same job.

    Without torchrun this function starts the processes, and they end with the block.

    Args:
        setup: the number of processes, and their devices.
        job: the argument of `work` in the followers; anything that can be pickled.

    Yields:
        The team.
    """
    if setup.world_size == 1:
        yield Team(0, 1, torch.device(setup.device))
        return
    with nullcontext() if launched() else _started(setup.world_size):
        _join()
        _from_leader((setup.device, job))
        yield _team(setup.device)


def dismiss() -> None:
    """End the other processes of torchrun: there is no further work."""
    if int(os.environ["WORLD_SIZE"]) > 1:
        with suppress(RuntimeError):  # a failed process does not answer
            _join()
            _from_leader(None)
            dist.destroy_process_group()


def follow() -> NoReturn:
    """Do the jobs of the leader until there are no more, and end this process."""
    from sharpless.lab.tasks.images.training import work  # noqa: PLC0415

    for signum in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)  # the leader gets them too, and decides
    status = 0
    try:
        _join()
        while (order := _from_leader(None)) is not None:
            device, job = order
            with suppress(Stopped, Measured):
                work(_team(device), job)
        dist.destroy_process_group()
    except Exception as error:  # the leader probably raises it too, with details
        print(f"sharpless: process {os.environ['RANK']}: {reason(error)}", file=sys.stderr)
        status = 1
    sys.stderr.flush()
    os._exit(status)  # a normal exit would abort if a thread of gloo still works


def _follow_parent() -> NoReturn:
    """Follow the leader that started this process, and end when it ends."""

    def listen() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=listen, daemon=True).start()
    follow()


@contextmanager
def _started(size: int) -> Iterator[None]:
    """Start followers for the block.

    Raises:
        Stopped: the block raised it, and so did the followers.
    """
    # The system chooses the port. The server stays, and later groups of this process use it too.
    store = dist.TCPStore(  # type: ignore[attr-defined]
        "127.0.0.1", 0, is_master=True, wait_for_workers=False, multi_tenant=True
    )
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    command = [sys.executable, "-c", f"from {__name__} import _follow_parent; _follow_parent()"]
    followers = [
        subprocess.Popen(
            command, env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stdin=subprocess.PIPE
        )
        for rank in range(1, size)
    ]
    agreed = False
    try:
        address = f"tcp://127.0.0.1:{store.port}"
        dist.init_process_group(_backend(), init_method=address, rank=0, world_size=size)
        try:
            yield
            agreed = True
        except Stopped:
            agreed = True
            raise
        finally:
            if agreed:
                _from_leader(None)
            dist.destroy_process_group()
    finally:
        for follower in followers:
            with suppress(subprocess.TimeoutExpired):
                follower.wait(PATIENCE if agreed else 0)
            follower.kill()
            follower.communicate()


def _join() -> None:
    if not dist.is_initialized():
        dist.init_process_group(_backend())


def _backend() -> str:
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def _team(kind: str) -> Team:
    device = torch.device(kind)
    if kind == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    return Team(dist.get_rank(), dist.get_world_size(), device)


def _from_leader(value: Any) -> Any:
    """Return the value of the leader."""
    shared = [value]
    dist.broadcast_object_list(shared, device=torch.device("cpu"))
    return shared[0]
