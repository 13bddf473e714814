"""What runs on two gloo ranks in the tests of the smaller frameworks."""

from contextlib import nullcontext

import torch
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from hosts import examples, reference
from hosts.methods import wrapped
from hosts.on_ranks import accelerator, check, counting_hook, own, prepared
from hosts.reference import sgd


def micros(sizes, rank):
    """The micro-batches of one rank, one after the other."""
    return [micro for step in own(reference.batches(sizes), rank) for micro in step]


def counted(parallel):
    """Count the all-reduces of a DistributedDataParallel."""
    parallel.register_comm_hook(None, counting_hook)
    return parallel


def timm(method, sizes):
    """Train by the example's loop, with DistributedDataParallel as in timm's train.py."""
    from timm.utils import AverageMeter, ModelEmaV3, NativeScaler

    rank, net = prepared(), reference.network()
    opt = wrapped(method, sgd(net), model=net)
    parallel, scaler, ema = counted(DistributedDataParallel(net)), NativeScaler("cpu"), ModelEmaV3(net)
    none = type("Constant", (), {"step_update": lambda *_: None})()
    tools = scaler, nullcontext(), ema, none, AverageMeter(), float("inf")
    accumulate = len(sizes) // 2
    examples.load("timm").sharp_epoch(parallel, micros(sizes, rank), opt, *tools, accumulate=accumulate)
    check(net, method, sizes)


def ignite(method, sizes):
    """Train the model of `auto_model`."""
    import ignite.distributed as idist
    from ignite.engine import Engine

    rank, net = prepared(), reference.network()
    opt = wrapped(method, sgd(net), model=net)
    parallel, scaler = counted(idist.auto_model(net)), torch.amp.GradScaler("cpu", enabled=False)
    tools = parallel, opt, cross_entropy, nullcontext(), scaler, lambda _: None, len(sizes) // 2
    Engine(lambda *now: examples.load("ignite").sharp_update(*now, *tools)).run(micros(sizes, rank))
    check(net, method, sizes)


def skorch(method, sizes):
    """Train by skorch's mixin for Accelerate, on batches of one rank."""
    from skorch.hf import AccelerateMixin

    class Net(AccelerateMixin, examples.load("skorch").SharpClassifier):
        def wrap_optimizer(self, base):
            return wrapped(method, base, model=self.module_)

    rank, net = prepared(), reference.network()
    mine, one = micros(sizes, rank), accelerator(gradient_accumulation_steps=len(sizes) // 2)
    # On a CPU, Accelerate would wrap a module as well, and refuses those without parameters.
    options = {"criterion": lambda: cross_entropy, "lr": 0.3, "optimizer__momentum": 0.9, "train_split": None}
    host = Net(net, accelerator=one, iterator_train=lambda *_, **__: mine, verbose=0, **options).initialize()
    counted(host.module_)
    host.partial_fit(*mine[0], epochs=1)
    check(net, method, sizes)


def fastai(method, sizes):
    """Train in `distrib_ctx`."""
    from fastai.callback.training import GradientAccumulation
    from fastai.data.core import DataLoaders
    from fastai.distributed import DistributedTrainer
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper

    class OnCpu(DistributedTrainer):
        """DistributedTrainer with the batches of one rank, which it divides on GPUs alone."""

        def before_fit(self):
            accelerator()
            super().before_fit()
            counted(self.learn.model)

        def _wrap_dl(self, loader):
            return loader

    rank, net = prepared(), reference.network()
    mine, each = micros(sizes, rank), sizes[rank::2]
    opt, loaders = wrapped(method, sgd(net), model=net), DataLoaders(mine, mine)
    callbacks = [examples.load("fastai").Sharpness(), OnCpu(cpu=True), GradientAccumulation(sum(each))]
    learn = Learner(loaders, net, cross_entropy, lambda *_, **__: OptimWrapper(opt=opt), lr=0.3, cbs=callbacks)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
    weights = [size / sum(sizes[number % 2 :: 2]) / 2 for number, size in enumerate(sizes)]
    check(net, method, sizes, reductions=reference.STEPS * len(each), weights=weights)


def keras(method, sizes):
    """Train with `fit`, by DistributedDataParallel around the model."""
    from hosts.keras_models import back, compiled, translated

    rank, model = prepared(), translated(reference.network())
    compiled(method, model, counted(DistributedDataParallel(model)))
    model.fit((micro for micro in micros(sizes, rank)), verbose=0)
    check(back(model, reference.network()), method, sizes)


def composer(method, sizes):
    """Train by composer's Trainer, which divides each batch into micro-batches of at most three examples."""
    from composer import Trainer
    from composer.models import ComposerClassifier

    rank, net = prepared(), reference.network()
    model = ComposerClassifier(net, loss_fn=cross_entropy, num_classes=3)
    opt = wrapped(method, sgd(net), model=model)
    opt.__class__ = type("SharpOptimizer", (examples.load("composer").InClosures, type(opt)), {})
    options = {"max_duration": "1ep", "device": "cpu", "progress_bar": False, "log_to_console": False}
    loader = micros(sizes, rank)
    host = Trainer(model=model, train_dataloader=loader, optimizers=opt, device_train_microbatch_size=3, **options)
    counted(host.state.model)
    host.fit()
    check(net, method, sizes)
