"""Cases: half precision, mixed precision and gradient scaling."""

import copy

import torch
from torch import nn
from torch.nn.functional import mse_loss

from . import reference
from .adapters import RHO
from .problems import batches, check_same, compare_steps, evaluation, network
from .verdicts import case, check, check_error


@case
def autocast(adapter):
    """Under bfloat16 autocast, steps are the reference's under the same autocast."""

    class Autocast(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network(torch.float32)

        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return self.network(x).float()

    compare_steps(adapter, Autocast(), batches(3, dtype=torch.float32), lr=0.05, tolerance=1e-5)


@case
def mixed_dtypes(adapter):
    """Float32 and float64 parameters in one network, one norm over both."""

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = network(torch.float32)[:4], network()[4]

        def forward(self, x):
            return self.head(self.body(x.float()).double())

    compare_steps(adapter, Mixed(), batches(4), lr=0.05)


@case
def norm_beyond_float16(adapter):
    """A float16 gradient with a norm of 128000, which float16 cannot hold: the perturbation is right to 1 %."""
    torch.manual_seed(0)
    model = nn.Linear(4096, 1, bias=False)
    nn.init.normal_(model.weight, std=0.01)
    model.half()
    before, seen = model.weight.detach().clone(), []
    gradient = torch.full_like(before, 2000.0)

    def evaluate():
        seen.append(model.weight.detach().double())
        loss = (model.weight * gradient).float().sum()
        loss.backward()
        return loss.detach()

    adapter.step(adapter.make(model, lr=0.0), evaluate)
    (expected,) = adapter.perturbation([before], [gradient], RHO)
    error = float((seen[1] - before.double() - expected).norm() / expected.norm())
    check_error(error, 0.01, "the perturbation differs, relative to itself")


def _scaled(scaler, model, batch):
    return evaluation(model, batch, lambda out, y: scaler.scale(mse_loss(out, y)))


def _scaler():
    return torch.amp.GradScaler("cpu", init_scale=1024.0)


@case
def gradient_scaling(adapter):
    """Steps with a GradScaler are the steps without."""
    model, scaler = network(torch.float32), _scaler()
    twin = copy.deepcopy(model)
    opt, base = adapter.make(model, lr=0.05), adapter.base("SGD", list(twin.parameters()), lr=0.05)
    for batch in batches(4, dtype=torch.float32):
        adapter.step_with_scaler(opt, scaler, _scaled(scaler, model, batch))
        reference.step(twin, base, [evaluation(twin, batch)], adapter.perturbation, RHO)
    check_same(model, twin)


@case
def gradient_scaling_overflow(adapter):
    """After an overflow the GradScaler halves its scale once and the weights are bit for bit what they were."""
    model, scaler = network(torch.float32), _scaler()
    before, opt = copy.deepcopy(model), adapter.make(model, lr=0.05)
    x, y = batches(1, dtype=torch.float32)[0]
    adapter.step_with_scaler(opt, scaler, _scaled(scaler, model, (x * float("inf"), y)))
    check_same(model, before, "the weights differ after the step that was skipped", tolerance=0)
    check(scaler.get_scale() == 512.0, f"the scale went from 1024 to {scaler.get_scale():g}")
