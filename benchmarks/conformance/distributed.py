"""Cases: two gloo ranks on this machine against one process."""

import json
import multiprocessing
import os
import tempfile
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

from . import reference
from .adapters import RHO
from .problems import batches, check_same, evaluation, network
from .verdicts import Verdict, case, check, record_of

WORLD = 2
multiprocessing.set_forkserver_preload(["torch.distributed.fsdp", "torch.distributed.tensor.parallel"])


def _on_ranks(function, adapter):
    """Run a function of the adapter on every rank, and report the first that does not pass."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = (os.getpgrp(), folder, function, type(adapter))
        torch.multiprocessing.start_processes(_rank, arguments, nprocs=WORLD, start_method="forkserver")
        records = [json.loads((Path(folder) / str(rank)).read_text()) for rank in range(WORLD)]
    for record in records:
        if record["outcome"] != "passes":
            raise Verdict(**record)


def _rank(rank, group, folder, function, adapter):
    os.setpgid(0, group)  # whoever ends the case ends its ranks
    torch.set_num_threads(1)
    store, patience = f"file://{folder}/rendezvous", timedelta(seconds=100)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD, timeout=patience)
    record = record_of(function, adapter())
    (Path(folder) / str(rank)).write_text(json.dumps(record))
    dist.destroy_process_group()


def _share(batch, rank):
    return [part.chunk(WORLD)[rank] for part in batch]


def _train_and_compare(adapter, model, gathered, steps, evaluations, **options):
    """Train `model` on this rank's steps, and a whole copy in this process on `evaluations(copy, batch)`."""
    twin = network()
    opt = adapter.make(model, lr=0.05, momentum=0.9, **options)
    base = adapter.base("SGD", list(twin.parameters()), lr=0.05, momentum=0.9)
    for ours, whole in zip(steps, batches(4), strict=True):
        adapter.step(opt, evaluation(model, ours))
        reference.step(twin, base, evaluations(twin, whole), adapter.perturbation, RHO)
    check_same(gathered(model), twin)


def _on_the_union(twin, batch):
    return [evaluation(twin, batch)]


def _each_rank_alone(twin, batch):
    return [evaluation(twin, _share(batch, rank), lambda out, y: mse_loss(out, y) / WORLD) for rank in range(WORLD)]


def _whole(model):
    """A plain copy of a network whose parameters may be DTensors."""
    plain = network()
    with torch.no_grad():
        for p, q in zip(plain.parameters(), model.parameters(), strict=True):
            p.copy_(q.full_tensor() if isinstance(q, DTensor) else q)
    return plain


def _data_parallel(adapter, evaluations, climb_locally):
    model, reductions = network(), []
    parallel = DistributedDataParallel(model)

    def counting_hook(_, bucket):
        reductions.append(bucket.index())
        return allreduce_hook(None, bucket)

    parallel.register_comm_hook(None, counting_hook)
    steps = [_share(batch, dist.get_rank()) for batch in batches(4)]
    _train_and_compare(adapter, parallel, _whole, steps, evaluations, climb_locally=climb_locally)
    expected = 4 if climb_locally else 8
    check(reductions.count(0) == expected, f"{reductions.count(0)} all-reduces in 4 steps")


def _ddp_climbing_alone(adapter):
    _data_parallel(adapter, _each_rank_alone, climb_locally=True)


def _ddp_climbing_together(adapter):
    _data_parallel(adapter, _on_the_union, climb_locally=False)


def _fsdp(adapter):
    model = network()
    for layer in (*(layer for layer in model if isinstance(layer, nn.Linear)), model):
        fully_shard(layer, mesh=init_device_mesh("cpu", (WORLD,)))
    steps = [_share(batch, dist.get_rank()) for batch in batches(4)]
    _train_and_compare(adapter, model, _whole, steps, _on_the_union)


def _tensor_parallel(adapter, **last_layer):
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel(), **last_layer}
    model = parallelize_module(network(), init_device_mesh("cpu", (WORLD,)), plan)
    _train_and_compare(adapter, model, _whole, batches(4), _on_the_union)


def _tensor_parallel_throughout(adapter):
    _tensor_parallel(adapter, **{"4": RowwiseParallel(input_layouts=Replicate())})


@case
def ddp_each_rank_alone(adapter):
    """DistributedDataParallel, each rank climbs along its own gradient, with one all-reduce a step."""
    _on_ranks(_ddp_climbing_alone, adapter)


@case
def ddp_together(adapter):
    """DistributedDataParallel, one climb for all ranks: one process on the union of the data."""
    _on_ranks(_ddp_climbing_together, adapter)


@case
def fsdp2(adapter):
    """Parameters sharded by FSDP2: one process on the union of the data."""
    _on_ranks(_fsdp, adapter)


@case
def tensor_parallel(adapter):
    """All layers under tensor parallelism: one process."""
    _on_ranks(_tensor_parallel_throughout, adapter)


@case
def tensor_parallel_in_part(adapter):
    """Two layers under tensor parallelism and a plain one, DTensors and tensors in one norm: one process."""
    _on_ranks(_tensor_parallel, adapter)
