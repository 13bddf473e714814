"""What a sharpness-aware step costs beside its two gradients: operations and memory, not time."""

from collections import Counter
from functools import cache
from itertools import accumulate

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode

from sharpless import RST

pytestmark = pytest.mark.quick


class Operations(TorchDispatchMode):
    """Counts what reaches the dispatcher and computes: no views."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.counts[str(operation)] += not operation.is_view
        return operation(*args, **(kwargs or {}))


def tiny(layers):
    return nn.Sequential(*(nn.Linear(8, 8) for _ in range(layers)))


def operations(layers, gamma):
    """The operations of one sharpness-aware step that are neither the model's nor the base's."""
    model = tiny(layers)
    opt = RST(torch.optim.SGD(model.parameters(), lr=0.1), p=1.0, gamma=gamma, model=model)
    for batch in opt.passes(torch.randn(4, 8)):  # the first loop also makes the checks that a run makes once
        model(batch).sum().backward()
    opt.zero_grad()
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


@cache
def held(gamma, earlier=False, fraction=1.0):
    """Memory beyond that before a step, in copies of the parameters: around each pass, at the end, at most."""
    model = nn.Sequential(*(nn.Linear(256, 256) for _ in range(8)))
    opt = RST(torch.optim.SGD(model.parameters(), lr=0.1), p=1.0, gamma=gamma, model=model, batch_fraction=fraction)
    x = torch.randn(4, 256)
    one_copy = sum(p.nbytes for p in model.parameters())

    def step(mark):
        if earlier:
            for batch in opt.passes(x):
                model(batch).sum().backward()
        for count, batch in enumerate(opt.passes(x)):
            mark(f"pass {count}")
            model(batch).sum().backward()
            mark(f"after {count}")
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
    marks = {"start", "end", *(f"{when} {number}" for when in ("pass", "after") for number in range(3))}
    moments = {e.name(): e.start_ns() for e in events if e.name() in marks}
    changes = sorted((e.start_ns(), e.nbytes() / one_copy) for e in events if e.name() == "[memory]")
    amounts = {name: sum(change for at, change in changes if at < moment) for name, moment in moments.items()}
    amounts["peak"] = max(accumulate(change for _, change in changes))
    return {name: amount - amounts["start"] for name, amount in amounts.items()}


@pytest.mark.parametrize(("gamma", "earlier"), [(1.0, False), (2.0, False), (2.0, True)])
def test_memory(gamma, earlier):
    """Sees more in the perturbed pass than a copy of the weights and, for γ ≠ 1, one of the gradients; or any after it.

    Gradients of an earlier micro-batch were there before.
    """
    memory = held(gamma, earlier)
    clean = 0 if gamma == 1.0 else 1
    assert memory["pass 1"] == pytest.approx(1 + clean + earlier, abs=0.02)
    assert memory["after 1"] == pytest.approx(2 + clean, abs=0.02)
    assert memory["end"] == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("gamma", [0.25, 2.0])
def test_memory_with_a_part_of_the_batch(gamma, earlier):
    """Sees more than the sum so far beside the gradients of a pass, or the copy of the weights kept for the rest.

    Gradients of an earlier micro-batch were there before.
    """
    memory = held(gamma, earlier, fraction=0.25)
    clean = 0 if gamma == 0.25 else 1
    expected = {
        "pass 0": int(earlier),
        "pass 1": 1 + clean + earlier,
        "after 1": 2 + clean + earlier,
        "pass 2": 1 + earlier,
        "after 2": 2,
        "end": 0,
    }
    assert {name: memory[name] for name in expected} == pytest.approx(expected, abs=0.02)
    assert memory["peak"] <= held(2.0, earlier)["peak"] + 0.02
