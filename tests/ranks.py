"""What runs on the ranks of tests/test_distributed.py: sharpless against one process on the union of the data."""

import copy
import json
import multiprocessing
import os
import tempfile
import traceback
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.checkpoint import load, save
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel, parallelize_module
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

import oracle
from problems import batches, distance, network, train
from sharpless import RST, ascent, part_noise, schedules, step_seconds
from sharpless.coin import uniform

# All ranks are forked from one process that has imported torch, which takes longer than most cases do.
multiprocessing.set_forkserver_preload(
    ["torch._dynamo", "torch.distributed.checkpoint", "torch.distributed.fsdp", "torch.distributed.tensor.parallel"]
)

STEPS, RHO, P, SEED = 6, 0.1, 0.6, 18
COINS = [uniform(SEED, step) < P for step in range(STEPS)]
assert COINS[:3] == [True, True, False]  # the first backward, and that on new buckets, are climbed along


def run(folder, world, cases):
    """Run cases, name → (function, options), one after the other on `world` gloo ranks of this machine, in `folder`.

    Returns:
        name → the traceback of the first rank that failed, "" where none did.
    """
    store = Path(tempfile.mkdtemp(dir=folder))
    torch.multiprocessing.start_processes(_rank, (world, store, cases), nprocs=world, start_method="forkserver")
    outcomes = [json.loads((store / f"{rank}.json").read_text()) for rank in range(world)]
    return {name: next((of[name] for of in outcomes if of[name]), "") for name in cases}


def _rank(rank, world, store, cases):
    torch.set_num_threads(1)
    os.chdir(store.parent)
    method, patience = f"file://{store / 'rendezvous'}", timedelta(minutes=10)
    dist.init_process_group("gloo", init_method=method, rank=rank, world_size=world, timeout=patience)
    outcomes = {}
    for name, (case, options) in cases.items():
        try:
            case(**options)
            outcomes[name] = ""
        except BaseException:  # what pytest.raises raises is no Exception
            outcomes[name] = traceback.format_exc()
    (store / f"{rank}.json").write_text(json.dumps(outcomes))
    dist.destroy_process_group()
    os._exit(0)  # what there is to say is written, and torch's threads now and then abort an interpreter that ends


def share(steps, rank, world):
    """The micro-batches of one rank: its share of each batch."""
    return [[(x.chunk(world)[rank], y.chunk(world)[rank]) for x, y in micro] for micro in steps]


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)


def wrap(model, gamma, **options):
    return RST(sgd(model), p=P, rho=RHO, gamma=gamma, seed=SEED, model=model, **options)


def splitting(size):
    """The oracle's gradient of a batch whose first `size` examples are climbed with; None: all of them."""
    return oracle.sharpness_aware_gradient if size is None else partial(oracle.split_gradient, size=size)


def union(steps, world, size):
    """The batches of all ranks as one process has to see them: the `size` first examples of each rank come first."""

    def reordered(tensor):
        shares = tensor.chunk(world)
        return torch.cat([s[:size] for s in shares] + [s[size:] for s in shares])

    return [[(reordered(x), reordered(y)) for x, y in micro] for micro in steps]


def climb_together(model, steps, base, gamma, world, size=None):
    """One process on the union of the data, which climbs along the gradient of all ranks' parts."""
    together = None if size is None else world * size
    steps = steps if size is None else union(steps, world, size)
    oracle.train(model, mse_loss, steps, base, COINS[: len(steps)], RHO, gamma, splitting(together))


def climb_each_alone(model, steps, gamma, world, *, zeros=False, together=0, size=None):
    """One process: the mean over ranks of what each computes on its share, climbing along its own gradient.

    With `zeros`, a gradient missing in the perturbed pass alone counts as zero; the first `together` steps are
    climbed along the common gradient; with `size`, a rank climbs with so many of its examples.
    """
    base = sgd(model)
    climb_together(model, steps[:together], base, gamma, world, size)
    for micro, heads in zip(steps[together:], COINS[together:], strict=True):
        for p in model.parameters():
            p.grad = None
        for rank in range(world):
            for batch in share([micro], rank, world)[0]:
                model.calls = 0
                if heads:
                    grads = splitting(size)(model, mse_loss, batch, RHO, gamma)
                else:
                    grads = oracle.gradient(model, mse_loss, batch)
                if zeros:
                    model.calls = 0
                    clean = oracle.gradient(model, mse_loss, batch)
                    grads = [g if c is None or g is not None else 0 * c for g, c in zip(grads, clean, strict=True)]
                for p, g in zip(model.parameters(), grads, strict=True):
                    if g is not None:
                        p.grad = g / world if p.grad is None else p.grad + g / world
        base.step()


class Gated(nn.Module):
    """A network with two branches that take turns: for one pass, or for two."""

    def __init__(self, turn=1):
        super().__init__()
        self.trunk, self.first, self.second = network(0), network(1), network(2)
        self.calls, self.turn = 0, turn

    def forward(self, x):
        self.calls += 1
        return self.trunk(x) + (self.second(x) if (self.calls - 1) // self.turn % 2 else self.first(x))


def ddp(gamma, micro=1, make=network, zeros=False, fraction=1.0, given="parallel", **options):
    """DDP, each rank climbing alone: the reference, and one all-reduce a step; `given` is what the optimizer knows."""
    rank, world = dist.get_rank(), dist.get_world_size()
    steps = batches(STEPS, micro, size=8)
    ours = make()
    theirs = copy.deepcopy(ours)
    parallel = DistributedDataParallel(ours, **options)
    reductions = []

    def counting_hook(state, bucket):
        reductions.append(bucket.index())
        return allreduce_hook(None, bucket)

    parallel.register_comm_hook(None, counting_hook)
    opt = wrap({"parallel": parallel, "model": ours}[given], gamma, batch_fraction=fraction)
    for batches_of_step in share(steps, rank, world):
        *first, last = batches_of_step
        with parallel.no_sync():
            for batch in first:
                ours.calls = 0
                for x, y in opt.passes(batch):
                    mse_loss(parallel(x), y).backward()
        ours.calls = 0
        for x, y in opt.passes(last):
            mse_loss(parallel(x), y).backward()
        opt.step()
        opt.zero_grad()
    together = int(options.get("static_graph", False))
    size = None if fraction == 1 else round(fraction * 8 / world)
    climb_each_alone(theirs, steps, gamma, world, zeros=zeros, together=together, size=size)
    assert distance(ours, theirs) < 1e-12, distance(ours, theirs)
    assert reductions.count(0) == STEPS + together * (1 if size is None else 2), reductions


def ddp_twice():
    """A model in two wrappers: the optimizer has to be told which one the loop calls."""
    model = network()
    both = [DistributedDataParallel(model) for _ in range(2)]
    opt = wrap(model, 1.0)
    with pytest.raises(RuntimeError, match=r"model is wrapped by 2 DistributedDataParallel modules: set opt\.model"):
        list(opt.passes())
    opt.model = both[0]
    assert len(list(opt.passes())) == 2


def ddp_gated(gamma, turn=1, **options):
    """Parameters that no pass, or some passes only, go through."""
    ddp(gamma, make=lambda: Gated(turn), zeros=gamma == 1.0, find_unused_parameters=True, **options)


def ddp_synchronized(gamma, micro=1, body="", fraction=1.0, known=True, **options):
    """DDP with a synchronized perturbation, or not `known` to the optimizer: one process on the union of the data."""
    rank, world = dist.get_rank(), dist.get_world_size()
    steps = batches(STEPS, micro, size=8)
    ours, theirs = network(), network()
    parallel = DistributedDataParallel(ours, **options)
    opt = wrap(parallel, gamma, climb_locally=False, batch_fraction=fraction)
    opt.model = parallel if known else None
    for batches_of_step in share(steps, rank, world):
        for batch in batches_of_step:

            def closure(batch=batch):
                opt.zero_grad()
                loss = mse_loss(parallel(batch[0]), batch[1])
                loss.backward()
                return loss

            if body == "closure":
                opt.step(closure)
                continue
            for x, y in opt.passes(batch):
                if body == "clears":
                    opt.zero_grad()
                mse_loss(parallel(x), y).backward()
        if body != "closure":
            opt.step()
            opt.zero_grad()
    climb_together(theirs, steps, sgd(theirs), gamma, world, None if fraction == 1 else round(fraction * 8 / world))
    assert distance(ours, theirs) < 1e-12, distance(ours, theirs)


def ddp_clears(gamma, clear, fraction=1.0, **options):
    """Ranks that climb alone, in loops or closures that clear gradients before every backward and nowhere else."""
    rank, world = dist.get_rank(), dist.get_world_size()
    steps = batches(STEPS, size=8)
    ours, theirs = network(), network()
    parallel = DistributedDataParallel(ours, **options)
    opt = wrap(parallel, gamma, batch_fraction=fraction)

    def run(x, y):
        if clear in {"opt", "closure"}:
            opt.zero_grad()
        elif clear == "in place":
            parallel.zero_grad(set_to_none=False)
        else:
            for p in ours.parameters():
                if p.grad is not None:
                    p.grad.data.zero_()
        loss = mse_loss(parallel(x), y)
        loss.backward()
        return loss

    for ((x, y),) in share(steps, rank, world):
        if clear == "closure":
            opt.step(partial(run, x, y))
            continue
        for a, b in opt.passes((x, y)):
            run(a, b)
        opt.step()
    climb_each_alone(theirs, steps, gamma, world, size=None if fraction == 1 else round(fraction * 8 / world))
    assert distance(ours, theirs) < 1e-12, distance(ours, theirs)


def ddp_skips(gamma, skipped, fraction=1.0):
    """A pass whose backward all ranks skip: they stay equal, and take a plain step or none."""
    rank, world = dist.get_rank(), dist.get_world_size()
    ours = network()
    parallel = DistributedDataParallel(ours)
    opt = RST(sgd(parallel), p=1.0, rho=RHO, gamma=gamma, model=parallel, batch_fraction=fraction)
    for micro in share(batches(4, size=8), rank, world):
        for number, (x, y) in enumerate(opt.passes(micro[0])):
            if number != skipped:
                mse_loss(parallel(x), y).backward()
        opt.step()
        opt.zero_grad()
    weights = [None] * world
    dist.all_gather_object(weights, [p.detach().tolist() for p in ours.parameters()])
    assert weights[0] == weights[1]


def ddp_assigned(gamma):
    """Gradients that a body assigns and reduces by hand: right for SAM, one sentence where some wait to be reduced."""
    rank, world = dist.get_rank(), dist.get_world_size()
    ours = network()
    parallel = DistributedDataParallel(ours)
    opt = RST(sgd(parallel), p=1.0, rho=RHO, gamma=gamma, model=parallel)
    ((x, y),) = share(batches(1, size=8), rank, world)[0]
    message = ""
    try:
        for a, b in opt.passes((x, y)):
            grads = torch.autograd.grad(mse_loss(ours(a), b), list(ours.parameters()))
            for p, g in zip(ours.parameters(), grads, strict=True):
                p.grad = g
    except RuntimeError as error:
        message = str(error)
    assert ("set climb_locally=False" in message) == (gamma != 1.0), message


class Counting(nn.Module):
    """A network with a buffer that every forward moves, by what the rank sees."""

    def __init__(self):
        super().__init__()
        self.body = network()
        self.register_buffer("mean", torch.zeros(5, dtype=torch.float64))
        self.found = []

    def forward(self, x):
        self.found.append(self.mean.clone())
        self.mean.lerp_(x.mean(0), 0.5)
        return self.body(x - self.mean)


def ddp_buffers():
    """The buffers of the first rank, which DDP broadcasts before a forward, are what both passes of all ranks find."""
    rank, world = dist.get_rank(), dist.get_world_size()
    ours = Counting()
    parallel = DistributedDataParallel(ours)
    opt = RST(sgd(parallel), p=1.0, rho=RHO, gamma=2.0, model=parallel)
    for micro in share(batches(4, size=8), rank, world):
        ours.found.clear()
        for x, y in opt.passes(micro[0]):
            mse_loss(parallel(x), y).backward()
        opt.step()
        opt.zero_grad()
        assert torch.equal(*ours.found)
        assert torch.equal(ours.mean, ours.found[0].lerp(micro[0][0].mean(0), 0.5))


def gathered(model):
    """A plain copy of a model whose parameters may be sharded."""
    plain = network(dtype=next(model.parameters()).dtype)
    with torch.no_grad():
        for p, q in zip(plain.parameters(), model.parameters(), strict=True):
            p.copy_(q.full_tensor() if isinstance(q, DTensor) else q)
    return plain


def sharded(mesh=None, **options):
    model = network()
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


def fsdp(gamma, micro=1, kind="plain", fraction=1.0, clears=False):
    """FSDP2: one process on the union of the data."""
    rank, world = dist.get_rank(), dist.get_world_size()
    steps = batches(STEPS, micro, size=8)
    theirs = network()
    options = {"offload_policy": CPUOffloadPolicy(pin_memory=False)} if kind == "offload" else {}
    tolerance = 1e-12
    if kind == "mixed":
        options = {"mp_policy": MixedPrecisionPolicy(param_dtype=torch.float32, reduce_dtype=torch.float64)}
        tolerance = 1e-5
    if kind == "hybrid":
        mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("replicate", "shard"))
    else:
        mesh = init_device_mesh("cpu", (world,))
    ours = sharded(mesh, **options)
    storage = [p.to_local().data_ptr() for p in ours.parameters()]
    opt = wrap(ours, gamma, batch_fraction=fraction)

    def loss(prediction, y):
        if clears:
            opt.zero_grad()
        return mse_loss(prediction, y)

    train(ours, opt, share(steps, rank, world), loss)
    climb_together(theirs, steps, sgd(theirs), gamma, world, None if fraction == 1 else round(fraction * 8 / world))
    far = distance(gathered(ours), theirs)
    assert far < tolerance, far
    assert kind == "mixed" or storage == [p.to_local().data_ptr() for p in ours.parameters()]


def fsdp_lazy(gamma, lazy, fraction=1.0):
    """FSDP2 told to do less than in every backward until the last micro-batch, or a forward after the backward."""
    rank, world = dist.get_rank(), dist.get_world_size()
    steps = batches(STEPS, 2, size=8)
    ours, theirs = network(), network()
    fully_shard(ours[0])
    fully_shard(ours)
    opt = RST(sgd(ours), 1.0, RHO, gamma, model=ours, batch_fraction=fraction)
    for micro_batches in share(steps, rank, world):
        for number, batch in enumerate(micro_batches):
            if "gradients" in lazy:
                ours.set_requires_gradient_sync(number == 1)
                ours.set_is_last_backward(number == 1)
            if "weights" in lazy:
                ours.set_reshard_after_backward(number == 1)
            for x, y in opt.passes(batch):
                mse_loss(ours(x), y).backward()
                if "forward" in lazy:
                    with torch.no_grad():
                        ours(x)
        opt.step()
        opt.zero_grad()
        for module in (ours, ours[0]):  # or the next forward uses the weights of before the step, as in plain training
            module.reshard()
    size = None if fraction == 1 else round(fraction * 8 / world)
    together = None if size is None else world * size
    union_of = steps if size is None else union(steps, world, size)
    oracle.train(theirs, mse_loss, union_of, sgd(theirs), [True] * STEPS, RHO, gamma, splitting(together))
    far = distance(gathered(ours), theirs)
    assert far < 1e-12, far


def fsdp_like_one(**options):
    """FSDP2 with another ascent or policy: one process on the union of the data, which other tests compare by hand."""
    rank, world = dist.get_rank(), dist.get_world_size()
    steps = batches(STEPS, size=8)
    ours, theirs = sharded(), network()
    build = {"friendly": ascent.Friendly, "asam": lambda: ascent.asam}
    taken = []
    for model, data in ((ours, share(steps, rank, world)), (theirs, steps)):
        extra = {"ascent": build[options["ascent"]]()} if "ascent" in options else {}
        p = options.get("p", P)
        opt = RST(sgd(model), p, RHO, 2.0, total_steps=STEPS, seed=SEED, model=model, **extra)
        train(model, opt, data)
        taken.append(opt.cost.sharp_steps)
    assert taken[0] == taken[1] > 0
    far = distance(gathered(ours), theirs)
    assert far < 1e-9, far


def ddp_adaptive(fraction):
    """Ranks with gradients of their own decide alike, and train alike, by the mean of their squared norms."""
    rank, world = dist.get_rank(), dist.get_world_size()
    steps = batches(12, size=8)
    ours, theirs = network(), network()
    parallel = DistributedDataParallel(ours)
    opt = RST(sgd(parallel), schedules.Adaptive(), RHO, 2.0, 12, parallel, batch_fraction=fraction)
    taken, base, moments = [], sgd(theirs), (None, 0.0)
    for step, micro in enumerate(steps):
        before = opt.cost.sharp_steps
        train(parallel, opt, share([micro], rank, world))
        taken.append(opt.cost.sharp_steps > before)
        shares = [share([micro], other, world)[0][0] for other in range(world)]
        size = round(fraction * 8 / world)
        if fraction == 1:
            square = sum(float((g**2).sum()) for g in oracle.gradient(theirs, mse_loss, micro[0]))
        else:
            parts = [oracle.gradient(theirs, mse_loss, (x[:size], y[:size])) for x, y in shares]
            square = sum(float((g**2).sum()) for part in parts for g in part) / world
        heads, moments = schedules.Adaptive().takes(step, 12, square, *moments)
        assert heads == taken[-1], (step, square)
        if fraction == 1:
            grad = oracle.sharpness_aware_gradient(theirs, mse_loss, micro[0], RHO, 2.0 if heads else 0.0)
        else:
            grads = [oracle.split_gradient(theirs, mse_loss, b, RHO, 2.0 if heads else 0.0, size=size) for b in shares]
            grad = [sum(g) / world for g in zip(*grads, strict=True)]
        for p, g in zip(theirs.parameters(), grad, strict=True):
            p.grad = g
        base.step()
    assert 0 < sum(taken) < 12
    assert distance(ours, theirs) < 1e-10, distance(ours, theirs)


def ddp_adaptive_accumulates():
    """Ranks that decide under no_sync(), each with a gradient of its own, decide alike."""
    rank, world = dist.get_rank(), dist.get_world_size()
    ours = network()
    parallel = DistributedDataParallel(ours)
    opt = RST(sgd(parallel), schedules.Adaptive(), RHO, 2.0, 12, parallel)
    for first, second in share(batches(12, micro=2, size=8), rank, world):
        with parallel.no_sync():
            for x, y in opt.passes(first):
                mse_loss(parallel(x), y).backward()
        train(parallel, opt, [[second]])
    told = [None] * world
    dist.all_gather_object(
        told, (opt.cost, opt.param_groups[0]["norm_mean"], ours[0].weight.detach().numpy().tobytes())
    )
    assert told[0] == told[1]
    assert 0 < opt.cost.sharp_steps < 12


def tensor_parallel(gamma, sequence=False):
    """DTensors of tensor parallelism, replicated ones whose gradients are partial sums among them."""
    world = dist.get_world_size()
    steps = batches(STEPS, size=8)
    torch.manual_seed(0)
    layers = [nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4), nn.LayerNorm(4), nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)]
    theirs = nn.Sequential(*layers).double()
    ours = copy.deepcopy(theirs)
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel(), "4": ColwiseParallel(), "6": RowwiseParallel()}
    if sequence:
        plan |= {
            "2": RowwiseParallel(output_layouts=Shard(0)),
            "3": SequenceParallel(sequence_dim=0, use_local_output=True),
            "4": ColwiseParallel(input_layouts=Shard(0)),
        }
    parallelize_module(ours, init_device_mesh("cpu", (world,)), plan)
    # torch 2.6 adds partial sums to momentum as if they were whole, in plain training too.
    base = partial(torch.optim.SGD, lr=0.05, momentum=0.0 if sequence else 0.9, weight_decay=0.01)
    train(ours, RST(base(ours.parameters()), P, RHO, gamma, seed=SEED), steps)
    oracle.train(theirs, mse_loss, steps, base(theirs.parameters()), COINS, RHO, gamma)
    with torch.no_grad():
        for p, q in zip(theirs.parameters(), ours.parameters(), strict=True):
            whole = q.full_tensor() if isinstance(q, DTensor) else q
            torch.testing.assert_close(whole, p, rtol=1e-12, atol=1e-13)


SCHEDULE = {"p": schedules.Linear(0.3, 0.9), "total_steps": STEPS, "rho": RHO, "gamma": 2.0}


def checkpoint_first_half():
    """Train half of a run under FSDP2 and save a distributed checkpoint."""
    rank, world = dist.get_rank(), dist.get_world_size()
    model = sharded()
    opt = RST(sgd(model), **SCHEDULE, seed=SEED, model=model, ascent=ascent.Friendly())
    train(model, opt, share(batches(STEPS, size=8)[: STEPS // 2], rank, world))
    weights, state = get_state_dict(model, opt)
    save({"model": weights, "optimizer": state}, checkpoint_id="checkpoint")


def checkpoint_second_half():
    """Load it on another number of ranks and go on: the run in one process that never stopped."""
    rank, world = dist.get_rank(), dist.get_world_size()
    model = sharded()
    opt = RST(sgd(model), **SCHEDULE, seed=99, model=model, ascent=ascent.Friendly())
    weights, state = get_state_dict(model, opt)
    load({"model": weights, "optimizer": state}, checkpoint_id="checkpoint")
    set_state_dict(model, opt, model_state_dict=weights, optim_state_dict=state)
    assert opt.cost.steps == STEPS // 2
    train(model, opt, share(batches(STEPS, size=8)[STEPS // 2 :], rank, world))
    whole = network()
    opt_of_whole = RST(sgd(whole), **SCHEDULE, seed=SEED, ascent=ascent.Friendly())
    train(whole, opt_of_whole, batches(STEPS, size=8))
    assert distance(gathered(model), whole) < 1e-12
    assert opt.cost == opt_of_whole.cost


def measured():
    """Prices and noise are the same on all ranks, though each has data of its own, and no rank waits for another."""
    torch.manual_seed(3)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1)).double())
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(dist.get_rank())).double()

    def run(part):
        mse_loss(model(part), part.sum(1, keepdim=True)).backward()

    found = [part_noise(run, x, model, sizes=[4, 16]), step_seconds(run, x, model, repeats=2)]
    both = [None, None]
    dist.all_gather_object(both, found)
    assert both[0] == both[1]
    alone = part_noise(lambda part: mse_loss(model.module(part), part.sum(1, keepdim=True)).backward(), x, model.module)
    own = [None, None]
    dist.all_gather_object(own, (alone[4] * 1, alone[16] * 1))
    assert found[0][64] == 1
    assert own[0] != own[1]
