"""The peers, driven in the loop of the library's own methods, against their own closures."""

import pytest
import pytorch_optimizer
import temperon
import torch

from sharpless.grst import SAM
from sharpless.lab.methods.method import Method

BATCHES = torch.randn(11, 6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Counted(torch.nn.Sequential):
    """A small smooth network in float64 that counts how often it runs."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        self.double()
        self.runs = 0

    def forward(self, x):
        self.runs += 1
        return super().forward(x)


def loss_of(model, x):
    return torch.nn.functional.mse_loss(model(x), x.prod(1, keepdim=True))


def flat(model):
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach()


def peer(name, base, model):
    return Method(name).wrap(base, 0.3, model=model, total_steps=len(BATCHES), batch_size=6, seed=0)


def trained(wrap):
    """The network after one step for each batch, with a falling learning rate, and its optimizer."""
    model = Counted()
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    opt = wrap(base, model)
    scheduler = torch.optim.lr_scheduler.LinearLR(opt, 1.0, 0.1, len(BATCHES))
    for batch in BATCHES:
        for x in opt.passes(batch):
            loss_of(model, x).backward()
        opt.step()
        opt.zero_grad()
        scheduler.step()
    return model, opt


def by_closure(make):
    """The network after the same steps by the peer's own closure form."""
    model = Counted()
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    opt = make(base)
    scheduler = torch.optim.lr_scheduler.LinearLR(base, 1.0, 0.1, len(BATCHES))
    for batch in BATCHES:

        def closure(batch=batch):
            base.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            return loss

        closure()
        opt.step(closure)
        scheduler.step()
    return model


def test_peer_sam_is_sam():
    """Sees a peer that is driven wrongly: a half-step left out, weights not put back, a learning rate that stays."""
    theirs, opt = trained(lambda base, model: peer("peer-sam", base, model))
    ours, sam = trained(lambda base, model: SAM(base, rho=0.3, model=model))
    plain, _ = trained(lambda base, model: SAM(base, rho=0.0, model=model))
    torch.testing.assert_close(flat(theirs), flat(ours), rtol=0, atol=1e-7)  # their norm is in float32
    assert (flat(ours) - flat(plain)).abs().max() > 1e-3
    assert opt.cost == sam.cost
    assert theirs.runs == opt.cost.passes == 22


@pytest.mark.parametrize("k", [1, 4])
def test_looksam_is_what_its_closure_does(k):
    """Sees a saved gradient that is missed, one that is computed but not booked, or the reused correction left out."""
    theirs, opt = trained(lambda base, model: peer(f"peer-looksam:budget={1 + 1 / k}", base, model))
    other = by_closure(lambda base: pytorch_optimizer.LookSAM(base.param_groups, lambda *_: base, rho=0.3, k=k))
    assert torch.equal(flat(theirs), flat(other))
    assert opt.cost.sharp_steps == -(-len(BATCHES) // k)  # the steps 0, k, 2k, …
    assert theirs.runs == opt.cost.passes == 11 + opt.cost.sharp_steps


def test_temperon_is_what_its_closure_does():
    """Sees its tail begin at another step, a step that it does not count, or weights that are not put back."""
    theirs, opt = trained(lambda base, model: peer("temperon:tail=0.3", base, model))
    other = by_closure(lambda base: temperon.Temperon(base, len(BATCHES), 0.3, 0.3))
    assert torch.equal(flat(theirs), flat(other))
    assert (opt.cost.sharp_steps, theirs.runs) == (3, 14)


def test_peer_keeps_batchnorm_still():
    """Sees running statistics that the perturbed pass of a peer has changed."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    opt = peer("peer-sam", torch.optim.SGD(model.parameters(), lr=0.1), model)
    means = []
    for part in opt.passes(torch.randn(8, 3)):
        (model(part) ** 3).sum().backward()
        means.append(model[1].running_mean.clone())
    assert torch.equal(*means)
    assert model[1].momentum == 0.1


def test_a_peer_that_is_not_there(monkeypatch):
    """Sees a missing package end in a traceback."""
    monkeypatch.setitem(__import__("sys").modules, "temperon", None)
    model = Counted()
    with pytest.raises(ModuleNotFoundError, match="this peer needs temperon: pip install temperon, or leave"):
        peer("temperon", torch.optim.SGD(model.parameters(), lr=0.1), model)
