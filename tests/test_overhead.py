"""What a sharpness-aware step costs beside its two gradients: operations and memory, not time."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode

from sharpless import RST


class Operations(TorchDispatchMode):
    """Counts what reaches the dispatcher."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.counts[str(operation)] += 1
        return operation(*args, **(kwargs or {}))


def tiny(layers):
    return nn.Sequential(*(nn.Linear(8, 8) for _ in range(layers)))


def operations(layers, gamma):
    """The operations of one sharpness-aware step that are neither the model's nor the base's."""
    model = tiny(layers)
    opt = RST(torch.optim.SGD(model.parameters(), lr=0.1), p=1.0, gamma=gamma, model=model)
    mode, loop = Operations(), opt.passes(torch.randn(4, 8))
    for _ in range(2):
        with mode:
            batch = next(loop)
        model(batch).sum().backward()
    with mode:
        assert next(loop, None) is None
    return sum(mode.counts.values())


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_operations_do_not_grow_with_the_number_of_tensors(gamma):
    """Sees one loop over tensors where a foreach operation should stand."""
    if not hasattr(torch, "_foreach_clone"):
        pytest.xfail("this torch copies a list of tensors one by one")
    assert operations(2, gamma) == operations(30, gamma) <= 16


@pytest.mark.parametrize(("gamma", "earlier"), [(1.0, False), (2.0, False), (2.0, True)])
def test_memory(gamma, earlier):
    """Sees more than one copy of the weights beside the gradients in the perturbed pass, or any copy after the step."""
    model = nn.Sequential(nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 256))
    opt = RST(torch.optim.SGD(model.parameters(), lr=0.1), p=1.0, gamma=gamma, model=model)
    x = torch.randn(4, 256)
    one_copy = sum(p.nbytes for p in model.parameters())

    def step(mark):
        if earlier:
            for batch in opt.passes(x):
                model(batch).sum().backward()
        for count, batch in enumerate(opt.passes(x)):
            mark(f"pass {count}")
            model(batch).sum().backward()
        opt.step()
        opt.zero_grad()
        mark("end")

    def mark(name):
        with record_function(name):
            pass

    step(lambda name: None)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        mark("start")
        step(mark)
    events = profiler.profiler.kineto_results.events()
    when = {event.name(): event.start_ns() for event in events if event.name() in {"start", "pass 0", "pass 1", "end"}}

    def allocated(name):
        return sum(e.nbytes() for e in events if e.name() == "[memory]" and e.start_ns() < when[name]) / one_copy

    assert len(when) == 4
    gradients = 0 if gamma == 1.0 and not earlier else 1
    assert allocated("pass 1") - allocated("start") == pytest.approx(1 + gradients, abs=0.02)
    assert allocated("end") == pytest.approx(allocated("start"), abs=0.02)
