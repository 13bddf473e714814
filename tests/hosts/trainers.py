"""A Trainer of transformers that trains what the reference trains, also on two ranks."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing
from accelerate import DistributedType, FullyShardedDataParallelPlugin
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.functional import cross_entropy
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments

from hosts import reference
from hosts.methods import wrapped
from sharpless.hosts.transformers import Sharpness


class Classifier(nn.Module):
    """A network as transformers wants it: it returns its loss, `factor` times."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, labels, factor):
        logits = self.network(x)
        return {"loss": factor * cross_entropy(logits, labels), "logits": logits}


class SharpTrainer(Sharpness, Trainer):
    """A Trainer that takes the examples one after the other."""

    method = "SAM"

    def _get_train_sampler(self, *_):
        return SequentialSampler(self.train_dataset)

    def wrap_optimizer(self, base):
        return wrapped(self.method, base)


class Begin(TrainerCallback):
    """Training begins with the noise of the reference."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:
            torch.manual_seed(0)


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)


def arguments(folder, **options):
    return TrainingArguments(
        **{
            "output_dir": str(folder), "use_cpu": True, "max_grad_norm": 0.0, "lr_scheduler_type": "constant",
            "per_device_train_batch_size": 1, "num_train_epochs": 1, "logging_steps": 1, "save_strategy": "no",
            "disable_tqdm": True, "report_to": "none", "remove_unused_columns": False,
        }
        | options
    )  # fmt: skip


def trainer(method, model, steps, folder, *, kind=SharpTrainer, factors=(), **options):
    """A Trainer whose data set is the micro-batches of `steps`, one after the other."""
    micros = [micro for step in steps for micro in step]
    factors = [*factors, *[1.0] * (len(micros) - len(factors))]
    data = [
        {"x": x, "labels": y, "factor": torch.tensor(factor)} for (x, y), factor in zip(micros, factors, strict=True)
    ]
    made = kind(
        model,
        arguments(folder, **{"gradient_accumulation_steps": len(steps[0])} | options),
        data_collator=lambda rows: rows[0],
        train_dataset=data,
        optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 0.3, "momentum": 0.9}),
        callbacks=[Begin()],
    )
    made.method = method
    return made


class Counting(SharpTrainer):
    """On several ranks: counts the all-reduces of a network whose gradients fit into one bucket."""

    def training_step(self, model, *args):
        if not hasattr(self, "reductions"):
            self.reductions = []
            model.register_comm_hook(self.reductions, reduced)
        return super().training_step(model, *args)


class Sharded(SharpTrainer):
    """On several ranks: with FSDP2, which accelerate keeps to GPUs."""

    def create_accelerator_and_postprocess(self):
        super().create_accelerator_and_postprocess()
        self.is_fsdp_enabled = True
        state, options = self.accelerator.state, {"auto_wrap_policy": "no_wrap", "cpu_ram_efficient_loading": False}
        state.distributed_type = DistributedType.FSDP
        state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2, **options)


def reduced(reductions, bucket):
    reductions.append(bucket.index())
    return allreduce_hook(None, bucket)


def on_ranks(folder, methods, steps, world=2):
    """Train by each method on `world` ranks, which take the micro-batches of `steps` in turn.

    The ranks are forked from a fresh process that has imported what they need, which takes longer than training does.

    Returns:
        For each rank and method the network, how many all-reduces it took part in, and the network under FSDP2.
    """
    (folder / "task.pkl").write_bytes(pickle.dumps((world, folder, methods, steps)))
    paths = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-m", "hosts.trainers", str(folder / "task.pkl")]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, check=True)
    return [pickle.loads((folder / f"{rank}.pkl").read_bytes()) for rank in range(world)]


def _rank(rank, world, folder, methods, steps):
    torch.set_num_threads(1)
    store = f"file://{folder / 'rendezvous'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="localhost")
    found = {}
    for method in methods:
        options = {"gradient_accumulation_steps": len(steps[0]) // world, "ddp_backend": "gloo"}
        host = trainer(method, Classifier(reference.network()), steps, folder, kind=Counting, **options)
        host.train()
        network, reductions = host.model.network, len(host.reductions)
        pairs, options = [micros[:2] for micros in steps], options | {"gradient_accumulation_steps": 1}
        host = trainer(method, Classifier(reference.network()), pairs, folder, kind=Sharded, **options)
        host.train()
        sharded = reference.network()
        weights = {name: weight.full_tensor() for name, weight in host.model.network.state_dict().items()}
        sharded.load_state_dict(weights)
        found[method] = network, reductions, sharded
    (folder / f"{rank}.pkl").write_bytes(pickle.dumps(found))
    dist.destroy_process_group()
    os._exit(0)


if __name__ == "__main__":
    task = pickle.loads(Path(sys.argv[1]).read_bytes())
    torch.multiprocessing.start_processes(_rank, task, nprocs=task[0], start_method="fork")
