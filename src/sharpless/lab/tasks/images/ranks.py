"""The processes that share a batch: one leads, which knows of the comparison, and the others train what it says."""

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
from sharpless.lab.pricing import Measured
from sharpless.lab.stopping import Stopped
from sharpless.lab.tasks.images.setup import Setup, launched

__all__ = ["Team", "dismiss", "follow", "gathered"]

PATIENCE = 60.0  # seconds in which a follower ends after the leader


@dataclass(frozen=True)
class Team:
    """This process, among those that share a batch."""

    rank: int
    size: int
    device: torch.device

    def wrapped(self, model: nn.Module, *, sharded: bool) -> nn.Module:
        """Return `model`, which is on the device, so that its gradients are those of all processes."""
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

    def told(self, *numbers: int) -> list[int]:
        """Return the largest that any process says, of each number; they do not wait for a GPU."""
        said = torch.tensor(numbers)
        if self.size > 1:
            dist.all_reduce(said, dist.ReduceOp.MAX)
        return [int(number) for number in said]

    def all_of(self, value: Any) -> list[Any]:
        """Return what each process says."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def from_leader(self, value: Any) -> Any:
        """Return what the first process says."""
        return _from_leader(value) if self.size > 1 else value


@contextmanager
def gathered(setup: Setup, job: Any) -> Iterator[Team]:
    """Lead a team within the block, whose other processes do the same job.

    Without torchrun they are started here, and end with the block.

    Args:
        setup: how many there are, and on which devices.
        job: what `follow` hands to those who do it; anything that can be pickled.

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
    """Let those end whom torchrun has started beside this process: it leads them to nothing more."""
    if int(os.environ["WORLD_SIZE"]) > 1:
        with suppress(RuntimeError):  # one that has failed does not listen
            _join()
            _from_leader(None)
            dist.destroy_process_group()


def follow() -> NoReturn:
    """Do what the leader says until it says no more, and end this process."""
    from sharpless.lab.tasks.images.training import work  # noqa: PLC0415

    for signum in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)  # the leader, who gets them too, says what follows from them
    status = 0
    try:
        _join()
        while (told := _from_leader(None)) is not None:
            device, job = told
            with suppress(Stopped, Measured):
                work(_team(device), job)
        dist.destroy_process_group()
    except Exception as error:  # which the leader most likely meets as well, and tells of at length
        print(f"sharpless: process {os.environ['RANK']}: {reason(error)}", file=sys.stderr)
        status = 1
    sys.stderr.flush()
    os._exit(status)  # at its own end Python would abort where a thread of gloo's has still something to do


def _obey() -> NoReturn:
    """Follow a leader who has started this process, and end when it does."""

    def listen() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=listen, daemon=True).start()
    follow()


@contextmanager
def _started(size: int) -> Iterator[None]:
    """Let followers be there within the block.

    Raises:
        Stopped: the block raised it, as those of the followers did.
    """
    # A port that the system chooses; the server stays, and whoever joins in this process uses it too.
    store = dist.TCPStore(  # type: ignore[attr-defined]
        "127.0.0.1", 0, is_master=True, wait_for_workers=False, multi_tenant=True
    )
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    command = [sys.executable, "-c", f"from {__name__} import _obey; _obey()"]
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
    """Return what the first process says."""
    said = [value]
    dist.broadcast_object_list(said, device=torch.device("cpu"))
    return said[0]
