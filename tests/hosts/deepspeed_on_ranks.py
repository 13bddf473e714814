"""What runs on two gloo ranks in the tests of DeepSpeed."""

import sys
import warnings
from contextlib import nullcontext

import torch.distributed as dist
from torch.nn.functional import cross_entropy

from hosts import reference
from hosts.methods import wrapped
from hosts.on_ranks import check, own, prepared
from hosts.reference import sgd
from sharpless import RST, schedules


def train(method, sizes):
    """Train by DeepSpeed, without ZeRO."""
    rank, net = prepared(), reference.network()
    opt = wrapped(method, sgd(net), model=net)
    engine = deepspeed_engine(net, opt, gradient_accumulation_steps=len(sizes) // 2)
    deepspeed_loop(engine, opt, own(reference.batches(sizes), rank))
    check(net, method, sizes, reductions=0)  # the engine's own, which no hook counts


def deepspeed_engine(net, opt, scheduler=None, **options):
    """Return an engine of DeepSpeed, which else would compile an all-reduce for CPUs, for minutes."""
    import deepspeed.comm.torch

    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None
    config = {"train_micro_batch_size_per_gpu": 8, "zero_allow_untested_optimizer": True, **options}
    return deepspeed.initialize(model=net, optimizer=opt, lr_scheduler=scheduler, config=config)[0]


def deepspeed_loop(engine, opt, steps):
    """The loop of DeepSpeed's page."""
    for micro in (micro for micros in steps for micro in micros):
        with engine.no_sync():
            for x, y in opt.passes(micro):
                engine.backward(cross_entropy(engine(x).float(), y))
        engine.allreduce_gradients()
        engine.step()


def adaptive():
    """Ranks with gradients of their own decide alike, by the mean of their squared norms."""
    rank = prepared()
    net = reference.network()
    opt = RST(sgd(net), schedules.Adaptive(), 0.1, 2.0, 12, net)
    deepspeed_loop(deepspeed_engine(net, opt), opt, own(reference.batches((8, 8), steps=12), rank))
    told = [None, None]
    dist.all_gather_object(told, (opt.cost, opt.param_groups[0]["norm_mean"], net[0].weight.tolist()))
    assert told[0] == told[1]
    assert 0 < opt.cost.sharp_steps < 12


def without_no_sync():
    """One warning, which names the remedy, where the loop leaves out `no_sync` and was not asked to; else none."""
    rank = prepared()
    steps = own(reference.batches((8, 8)), rank)
    everywhere, nowhere, but_for_the_last = (True, True), (False, False), (True, False)  # DDP's idiom is the third
    cases = ((everywhere, True), (nowhere, True), (but_for_the_last, True), (nowhere, False))
    for blocks, locally in cases:
        net = reference.network()
        opt = wrapped("SAM", sgd(net), model=net, climb_locally=locally)
        engine = deepspeed_engine(net, opt, gradient_accumulation_steps=2)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            for (batch,) in steps:
                for block in blocks:
                    with engine.no_sync() if block else nullcontext():
                        for x, y in opt.passes(batch):
                            engine.backward(cross_entropy(engine(x), y))
                    if all(blocks):
                        engine.allreduce_gradients()
                    engine.step()
        told = [str(each.message) for each in found if "averages the gradient of each pass" in str(each.message)]
        assert len(told) == (locally and not all(blocks)), (blocks, told)
        assert all("engine.no_sync()" in text for text in told)
