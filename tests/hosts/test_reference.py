"""The reference against the library's own loop: hosts are held to it."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from hosts import reference
from hosts.methods import wrapped


@pytest.mark.parametrize("method", reference.METHODS)
@pytest.mark.parametrize("make", [reference.network, reference.noisy_network])
@pytest.mark.parametrize("sizes", [(8,), (8, 6, 4)])
def test_reference(method, make, sizes):
    """Sees a reference that is another method than its name says, by which hosts would be judged wrongly."""
    ours, theirs = make(), make()
    base = torch.optim.SGD(theirs.parameters(), lr=0.3, momentum=0.9)
    expected = reference.train(theirs, base, reference.batches(sizes), method)
    opt = wrapped(method, torch.optim.SGD(ours.parameters(), lr=0.3, momentum=0.9), model=ours)
    torch.manual_seed(0)
    for step in reference.batches(sizes):
        for micro in step:
            for x, y in opt.passes(micro):
                (cross_entropy(ours(x), y) / len(step)).backward()
        opt.step()
        opt.zero_grad()
    assert reference.distance(ours, theirs) < 1e-6
    assert len(expected) == reference.STEPS
    assert opt.cost.sharp_steps == sum(reference.METHODS[method]["coins"])
