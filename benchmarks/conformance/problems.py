"""Small networks, data, and the two ways to train on them: a library's and the reference's."""

import copy

import torch
from torch import nn
from torch.nn.functional import mse_loss

from . import reference
from .adapters import RHO, nothing
from .verdicts import check_error

# Far below what any defect costs, and above the rounding of single precision that some libraries compute norms in.
TOLERANCE = 1e-6


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 1)).to(dtype)


def batches(count, size=8, dtype=torch.float64):
    """One (x, y) for each step, the same in every call."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(count, size, 5, generator=generator, dtype=torch.float64)
    y = x.sum(2, keepdim=True).sin() + 0.1
    return list(zip(x.to(dtype), y.to(dtype), strict=True))


def evaluation(model, batch, loss=mse_loss):
    """Forward and backward on one batch."""
    x, y = batch

    def evaluate():
        value = loss(model(x), y)
        value.backward()
        return value.detach()

    return evaluate


def clipped(model):
    return lambda: nn.utils.clip_grad_norm_(model.parameters(), 0.05)


class Skipping(nn.Module):
    """A network one branch of which takes part in the clean (0) or the perturbed (1) pass of a step only."""

    def __init__(self, takes_part_in):
        super().__init__()
        self.trunk, self.branch = network(), network()
        self.takes_part_in, self.calls = takes_part_in, 0

    def forward(self, x):
        takes_part = self.calls % 2 == self.takes_part_in
        self.calls += 1
        return self.trunk(x) + self.branch(x) if takes_part else self.trunk(x)


def distance(model, other):
    """The largest difference between the parameters of two models, relative to the largest parameter; NaN with NaN."""
    ours, theirs = (torch.cat([p.detach().double().flatten() for p in m.parameters()]) for m in (model, other))
    return float((ours - theirs).abs().max() / theirs.abs().max())


def check_same(model, other, detail="the weights differ", tolerance=TOLERANCE):
    check_error(distance(model, other), tolerance, detail)


def compare_steps(
    adapter, model, steps, kind="SGD", groups=None, tolerance=TOLERANCE, loss=mse_loss, clip=False, **options
):
    """Train `model` by the library and a copy by the reference, and compare; `groups` makes groups of a model."""
    twin = copy.deepcopy(model)
    opt = adapter.make(model, kind, groups(model) if groups else None, **options)
    base = adapter.base(kind, groups(twin) if groups else list(twin.parameters()), **options)
    for number, batch in enumerate(steps):
        torch.manual_seed(number)
        adapter.step(opt, evaluation(model, batch, loss), clipped(model) if clip else nothing)
        torch.manual_seed(number)
        final = clipped(twin) if clip else nothing
        reference.step(twin, base, [evaluation(twin, batch, loss)], adapter.perturbation, RHO, final)
    check_same(model, twin, tolerance=tolerance)
    return opt, twin
