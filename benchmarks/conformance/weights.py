"""Cases: the weights come back, and nothing else stays behind, in memory or in checkpoints."""

import copy
import io
from contextlib import suppress

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._pytree import tree_leaves

from .problems import batches, check_same, evaluation, network
from .verdicts import case, check


def _restore(adapter, dtype):
    model = network(dtype)
    before, opt = copy.deepcopy(model), adapter.make(model, lr=0.0)
    for batch in batches(100, dtype=dtype):
        adapter.step(opt, evaluation(model, batch))
    check_same(model, before, "the weights drift at a learning rate of zero", tolerance=0)


@case
def restore_in_float32(adapter):
    """With a learning rate of zero the weights stay bit for bit what they were, in float32."""
    _restore(adapter, torch.float32)


@case
def restore_in_bfloat16(adapter):
    """With a learning rate of zero the weights stay bit for bit what they were, in bfloat16."""
    _restore(adapter, torch.bfloat16)


@case
def storage(adapter):
    """The weights keep their storage, so that views, flat buffers and captured graphs stay valid."""
    model = network()
    views, opt = [p.detach().view(-1) for p in model.parameters()], adapter.make(model, lr=0.05)
    for batch in batches(2):
        adapter.step(opt, evaluation(model, batch))
    same = all(v.data_ptr() == p.data_ptr() for v, p in zip(views, model.parameters(), strict=True))
    check(same, "the weights have new storage")


@case
def exceptions(adapter):
    """An exception or Ctrl-C in the perturbed pass leaves the unperturbed weights behind."""
    for kind in (RuntimeError, KeyboardInterrupt):
        model, calls = network(), 0
        before, opt = copy.deepcopy(model), adapter.make(model, lr=0.05)

        def evaluate(model=model, kind=kind):
            nonlocal calls
            calls += 1
            if calls == 2:
                raise kind
            return evaluation(model, batches(1)[0])()

        with suppress(kind):
            adapter.step(opt, evaluate)
        check_same(model, before, f"the weights stay displaced after {kind.__name__}", tolerance=0)


def _resume(adapter, kind, **options):
    steps, whole = batches(8, dtype=torch.float32), network(torch.float32)
    opt = adapter.make(whole, kind, **options)
    for number, batch in enumerate(steps):
        if number == len(steps) // 2:
            file = io.BytesIO()
            torch.save({"model": whole.state_dict(), "opt": adapter.save(opt)}, file)
        adapter.step(opt, evaluation(whole, batch))
    file.seek(0)
    saved, resumed = torch.load(file, weights_only=True), network(torch.float32)
    opt = adapter.make(resumed, kind, **options)
    resumed.load_state_dict(saved["model"])
    adapter.load(opt, saved["opt"])
    for batch in steps[len(steps) // 2 :]:
        adapter.step(opt, evaluation(resumed, batch))
    check_same(resumed, whole, "the resumed run differs", tolerance=0)


@case
def resume_momentum(adapter):
    """Stopped and resumed through a file, SGD with momentum trains on bit for bit."""
    _resume(adapter, "SGD", lr=0.05, momentum=0.9)


@case
def resume_adamw(adapter):
    """Stopped and resumed through a file, AdamW trains on bit for bit."""
    _resume(adapter, "AdamW", lr=0.01)


@case
def checkpoint_size(adapter):
    """A checkpoint holds the base optimizer's state and no copy of the weights."""
    model = network()
    twin = copy.deepcopy(model)
    opt, base = adapter.make(model, lr=0.05), adapter.base("SGD", list(twin.parameters()), lr=0.05)
    adapter.step(opt, evaluation(model, batches(1)[0]))
    evaluation(twin, batches(1)[0])()
    base.step()
    sizes = []
    for state in (adapter.save(opt), base.state_dict()):
        leaves = tree_leaves(state)
        sizes.append(sum(leaf.numel() for leaf in leaves if isinstance(leaf, torch.Tensor)))
    weights = sum(p.numel() for p in model.parameters())
    check(sizes[0] - sizes[1] < weights / 2, f"{(sizes[0] - sizes[1]) / weights:.1f} copies of the weights")


@case
def memory(adapter):
    """After a step, nothing is left in memory but the base optimizer's state."""

    options = {"lr": 0.05, "momentum": 0.9}

    def plain_step(base, evaluate):
        evaluate()
        base.step()
        base.zero_grad()

    def kept(make, step):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            model = network()
            opt = make(model)
            for batch in batches(2):
                step(opt, evaluation(model, batch))
        return sum(event.self_cpu_memory_usage for event in recorded.key_averages())

    ours = kept(lambda model: adapter.make(model, **options), adapter.step)
    plain = kept(lambda model: adapter.base("SGD", list(model.parameters()), **options), plain_step)
    copies = (ours - plain) / sum(p.nbytes for p in network().parameters())
    check(copies < 0.5, f"{copies:.1f} copies of the weights")
