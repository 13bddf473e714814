"""What runs on two gloo ranks in the tests of hosts, and how often they communicate."""

import multiprocessing
import os

import pytest
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.functional import cross_entropy

import ranks
from hosts import reference
from hosts.methods import wrapped
from hosts.reference import sgd

# Hosts take seconds to import, in one process from which all ranks are forked.
multiprocessing.set_forkserver_preload(
    ["torch._dynamo", "lightning.pytorch", "lightning.fabric", "accelerate", "transformers.trainer"]
)
REDUCED = []


def outcomes(cases):
    """Return a fixture: what `ranks.run` returns of `cases` on two ranks."""

    @pytest.fixture(scope="module")
    def run(tmp_path_factory):
        return ranks.run(tmp_path_factory.mktemp("ranks"), 2, cases)

    return run


def counting_hook(state, bucket):
    """Average a bucket over the ranks, and count."""
    REDUCED.append(bucket.index())
    return allreduce_hook(state, bucket)


def prepared():
    """Say where this rank is, as torchrun would, and return its number."""
    rank = dist.get_rank()
    places = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ.update({name: str(value) for name, value in places.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29500", ACCELERATE_USE_CPU="true")
    REDUCED.clear()
    return rank


def own(steps, rank):
    """The micro-batches of one rank: every second one."""
    return [micros[rank::2] for micros in steps]


def check(net, method, sizes, reductions=reference.STEPS, weights=None):
    """Compare with one process in which each micro-batch of each rank climbs alone; one all-reduce a step."""
    theirs = reference.network()
    reference.expected(method, theirs, sizes, weights=weights)
    assert reference.distance(net, theirs) < 1e-6
    assert len(REDUCED) == reductions, REDUCED


def lightning(method, sizes, kind="Automatic"):
    """Train by Lightning's strategy "ddp"."""
    from lightning.pytorch import Callback
    from lightning.pytorch.plugins.environments import TorchElasticEnvironment
    from lightning.pytorch.strategies import DDPStrategy

    from hosts import lightning_fits
    from sharpless.hosts.lightning import Sharpness

    class Hook(Callback):
        def on_train_start(self, trainer, pl_module):
            trainer.strategy.model.register_comm_hook(None, counting_hook)

    rank, net, micros = prepared(), reference.network(), len(sizes) // 2
    options = {"strategy": DDPStrategy(), "plugins": [TorchElasticEnvironment()]}
    hook = Hook()
    options["callbacks"] = [hook] if kind == "Manual" else [hook, Sharpness()]
    module = getattr(lightning_fits, kind)(net, lambda net: wrapped(method, sgd(net), model=net))
    options |= {"devices": 2, "accumulate_grad_batches": micros, "use_distributed_sampler": False}
    lightning_fits.trainer(**options).fit(module, lightning_fits.Loader(own(reference.batches(sizes), rank)))
    check(net, method, sizes)


def lightning_fsdp(method):
    """Train by Lightning's ModelParallelStrategy with FSDP2."""
    from lightning.pytorch.plugins.environments import TorchElasticEnvironment
    from lightning.pytorch.strategies import ModelParallelStrategy
    from torch.distributed.fsdp import fully_shard

    from hosts import lightning_fits

    class Sharded(lightning_fits.Automatic):
        def configure_model(self):
            fully_shard(self.net, mesh=self.device_mesh["data_parallel"])

    rank, net = prepared(), reference.network()
    strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    module = Sharded(net, lambda net: wrapped(method, sgd(net)))
    options = {"strategy": strategy, "plugins": [TorchElasticEnvironment()], "use_distributed_sampler": False}
    lightning_fits.trainer(devices=2, **options).fit(module, lightning_fits.Loader(halves(rank)))
    check_sharded(net, method)


def fabric(method, sizes):
    """Train by Fabric's strategy "ddp"."""
    from lightning.fabric import Fabric
    from lightning.fabric.plugins.environments import TorchElasticEnvironment
    from lightning.fabric.strategies import DDPStrategy

    rank, net = prepared(), reference.network()
    one = Fabric(accelerator="cpu", devices=2, strategy=DDPStrategy(), plugins=[TorchElasticEnvironment()])
    one.launch()
    model, opt = one.setup(net, wrapped(method, sgd(net), model=net))
    model._forward_module.register_comm_hook(None, counting_hook)
    for micros in own(reference.batches(sizes), rank):
        for number, micro in enumerate(micros, 1):
            with one.no_backward_sync(model, enabled=number < len(micros)):
                for x, y in opt.passes(micro):
                    one.backward(cross_entropy(model(x), y) / len(micros))
        opt.step()
        opt.zero_grad()
    check(net, method, sizes)


def accelerate(method, sizes):
    """Train by Accelerate with DistributedDataParallel."""
    rank, net, one = prepared(), reference.network(), accelerator(gradient_accumulation_steps=len(sizes) // 2)
    model, prepared_opt = one.prepare(net, wrapped(method, sgd(net), model=net))
    model.register_comm_hook(None, counting_hook)
    accelerate_loop(one, model, prepared_opt, own(reference.batches(sizes), rank))
    check(net, method, sizes)


def accelerate_fsdp(method):
    """Train by Accelerate with FSDP2."""
    rank, net = prepared(), reference.network()
    one = accelerator()
    shard_by(one)
    opt = wrapped(method, sgd(net), model=net)
    model, prepared_opt = one.prepare(net, opt)
    accelerate_loop(one, model, prepared_opt, halves(rank))
    check_sharded(model, method)


def shard_by(one):
    """Let an Accelerator shard by FSDP2, which it keeps to GPUs."""
    from accelerate import DistributedType, FullyShardedDataParallelPlugin

    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="no_wrap", cpu_ram_efficient_loading=False)
    one.state.distributed_type, one.state.fsdp_plugin = DistributedType.FSDP, plugin


def accelerator(**options):
    """Return an Accelerator that knows nothing of former ones."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return Accelerator(cpu=True, **options)


def accelerate_loop(one, model, opt, steps):
    """The loop of Accelerate's documentation, and one line."""
    for micro in (micro for micros in steps for micro in micros):
        with one.accumulate(model):
            for x, y in opt.optimizer.passes(micro):
                one.backward(cross_entropy(model(x), y))
            opt.step()
            opt.zero_grad()


def transformers(method, sizes):
    """Train by the Trainer of transformers with DistributedDataParallel."""
    from hosts import trainers

    class Hooked(trainers.SharpTrainer):
        hooked = False

        def training_step(self, model, *args):
            if not self.hooked:
                model.register_comm_hook(None, counting_hook)
            self.hooked = True
            return super().training_step(model, *args)

    prepared()
    net, options = trainers.Classifier(reference.network()), {"gradient_accumulation_steps": len(sizes) // 2}
    trainers.trainer(method, net, reference.batches(sizes), ".", kind=Hooked, ddp_backend="gloo", **options).train()
    check(net.network, method, sizes)


def transformers_fsdp(method):
    """Train by the Trainer of transformers with FSDP2."""
    from hosts import trainers

    class Sharded(trainers.SharpTrainer):
        def create_accelerator_and_postprocess(self):
            super().create_accelerator_and_postprocess()
            self.is_fsdp_enabled = True
            shard_by(self.accelerator)

    prepared()
    net, options = trainers.Classifier(reference.network()), {"gradient_accumulation_steps": 1, "ddp_backend": "gloo"}
    in_turn = [one + other for one, other in zip(halves(0), halves(1), strict=True)]
    host = trainers.trainer(method, net, in_turn, ".", kind=Sharded, **options)
    host.train()
    check_sharded(host.model.network, method)


def halves(rank):
    """Every second example of each batch."""
    return [[(x[rank::2], y[rank::2]) for x, y in micros] for micros in reference.batches()]


def check_sharded(net, method):
    """Compare with one process that sees the union of the batches."""
    theirs = reference.network()
    reference.expected(method, theirs)
    whole = {name: tensor.full_tensor() for name, tensor in net.state_dict().items()}
    assert max(float((whole[name] - tensor).abs().max()) for name, tensor in theirs.state_dict().items()) < 1e-6
