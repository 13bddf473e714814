"""Loops that are as they should be: no check may stop one or warn, and each step is that of two gradients by hand."""

import io
from itertools import count

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss, softplus

from problems import batches, distance, network
from sharpless import GRST, RST, SAM
from sharpless.coin import uniform
from sharpless.schedules import Piecewise

pytestmark = pytest.mark.quick

RHO = 0.1
KINDS = {
    "SAM": lambda base, **options: SAM(base, rho=RHO, **options),
    "RST": lambda base, **options: RST(base, 0.5, rho=RHO, **options),
    "GRST": lambda base, **options: GRST(base, 0.5, rho=RHO, **options),
    "part": lambda base, **options: GRST(base, 0.5, rho=RHO, batch_fraction=0.25, **options),
}
STEPS = [batch for (batch,) in batches(10)]


def sgd(*networks):
    return torch.optim.SGD([p for each in networks for p in each.parameters()], lr=0.05, momentum=0.9)


class ByHand:
    """The same loops, with the gradients of a step by hand."""

    def __init__(self, kind, base):
        self.kind, self.base, self.steps = kind, base, count()
        self.parameters = base.param_groups[0]["params"]

    def gradient(self, batch, body):
        for p in self.parameters:
            p.grad = None
        body(batch)
        return [p.grad for p in self.parameters]

    def climbed(self, batch, body, clean, rho):
        before, norm = [p.detach().clone() for p in self.parameters], sum(g.square().sum() for g in clean).sqrt()
        for p, g in zip(self.parameters, clean, strict=True):
            p.data = p + rho * g / norm
        grads = self.gradient(batch, body)
        for p, old in zip(self.parameters, before, strict=True):
            p.data = old
        return grads

    def run(self, batch, body):
        kept, gamma = [p.grad for p in self.parameters], 1.0 if self.kind in ("SAM", "RST") else 2.0
        n = len(batch[0])
        m = round(n / 4) if self.kind == "part" else n
        if self.kind != "SAM" and uniform(0, next(self.steps)) >= 0.5:
            terms = [(1.0, self.gradient(batch, body))]
        else:
            part, rest = [t[:m] for t in batch], [t[m:] for t in batch]
            clean = self.gradient(part, body)
            terms = [(m / n - gamma, clean), (gamma, self.climbed(part, body, clean, RHO * (m / n) ** 0.5))]
            terms += [(1 - m / n, self.gradient(rest, body))] if m < n else []
        for p, old, *grads in zip(self.parameters, kept, *(grads for _, grads in terms), strict=True):
            p.grad = sum(w * g for (w, _), g in zip(terms, grads, strict=True)) + (0 if old is None else old)


class Loop:
    """A loop over passes, in the form of `ByHand`."""

    def __init__(self, opt):
        self.base, self.opt = opt, opt

    def run(self, batch, body):
        for same in self.opt.passes(batch):
            body(same)


CLEARS = {
    "zero_grad": lambda half, net: half.base.zero_grad(),
    "zeros": lambda half, net: half.base.zero_grad(set_to_none=False),
    "model": lambda half, net: net.zero_grad(),
}


def adversaries(make, clear):
    """A generator's loss goes backward through the critic, whose gradients are cleared before its own loss."""
    generator, critic = network(0), nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    critic.load_state_dict({name: torch.ones_like(w).cumsum(0) / 5 for name, w in critic.state_dict().items()})
    losses = {
        critic: lambda x, real: softplus(critic(generator(x).detach())) + softplus(-critic(real)),
        generator: lambda x, real: softplus(-critic(generator(x))),
    }
    halves = {net: make(net) for net in losses}
    for batch in STEPS:
        for net, loss in losses.items():
            CLEARS[clear](halves[net], net)
            halves[net].run(batch, lambda same, loss=loss: loss(*same).mean().backward())
            halves[net].base.step()
    return nn.ModuleList(losses)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clear", CLEARS)
def test_adversarial_training(kind, clear):
    """Sees a critic refused that gets gradients from the generator's loss, or a part of them in its step."""
    found = adversaries(lambda net: Loop(KINDS[kind](sgd(net), model=net)), clear)
    expected = adversaries(lambda net: ByHand(kind, sgd(net)), clear)
    assert distance(found, expected) < 1e-10


def penalized(make, every):
    """A penalty outside the loop over passes, whose batch is left out now and then."""
    model = network()
    half = make(model)

    def body(batch):
        if step % every:
            mse_loss(model(batch[0]), batch[1]).backward()

    for step, batch in enumerate(STEPS, 1):  # noqa: B007
        half.run(batch, body)
        (0.01 * sum(p.square().sum() for p in model.parameters())).backward()
        half.base.step()
        half.base.zero_grad()
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_a_penalty_outside_the_loop(kind):
    """Sees training end at the first batch that is left out, where a penalty is computed outside the loop."""

    class Half(ByHand):
        def gradient(self, batch, body):
            super().gradient(batch, body)
            return [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]

        def climbed(self, batch, body, clean, rho):
            return super().climbed(batch, body, clean, rho) if any(g.any() for g in clean) else clean

    found = penalized(lambda net: Loop(KINDS[kind](sgd(net), model=net)), 4)
    assert distance(found, penalized(lambda net: Half(kind, sgd(net)), 4)) < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_batches_that_are_left_out(kind):
    """Sees a warning of an optimizer that never trains, where two batches in a row are not finite."""
    model = network()
    opt = KINDS[kind](sgd(model), model=model)
    for step, batch in enumerate(STEPS):
        for x, y in opt.passes(batch):
            if step not in (3, 4, 5):
                mse_loss(model(x), y).backward()
        opt.step()
        opt.zero_grad()
    assert opt.cost.plain_passes == len(STEPS) - 3


@pytest.mark.parametrize("kind", ["SAM", "RST", "GRST"])
def test_a_closure_that_skips_a_batch(kind):
    """Sees a closure that returns early taken for one that never does anything, and a warning of plain steps."""
    model = network()
    opt = KINDS[kind](sgd(model), model=model)

    def closure():
        if step == 4:
            return torch.tensor(0.0)
        opt.zero_grad()
        loss = mse_loss(model(x), y)
        loss.backward()
        return loss

    for step, (x, y) in enumerate(STEPS):  # noqa: B007
        opt.step(closure)
    assert opt.cost.steps == len(STEPS)


@pytest.mark.parametrize("kind", KINDS)
def test_an_optimizer_that_is_saved_whole(kind):
    """Sees an optimizer that cannot be saved, since a batch was left out after another one of the same step."""
    model = network()
    opt = KINDS[kind](sgd(model), model=model)
    for batch in STEPS:
        for skipped in (False, True, False):
            for x, y in opt.passes(batch):
                if not skipped:
                    mse_loss(model(x), y).backward()
            file = io.BytesIO()
            torch.save(opt, file)
            torch.load(io.BytesIO(file.getvalue()), weights_only=False)
        opt.step()
        opt.zero_grad()


def fail(now):
    if now:
        raise MemoryError


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clear", ["opt", "model", "nothing"])
def test_out_of_memory(kind, clear):
    """Sees training end, or warn, after a pass that failed and a loop that goes on with the next batch."""
    model = network()
    opt = KINDS[kind](sgd(model), model=model)
    for step, batch in enumerate(STEPS):
        try:
            for number, (x, y) in enumerate(opt.passes(batch)):
                fail(step % 3 == 1 and number == step // 3 % 2)
                mse_loss(model(x), y).backward()
        except MemoryError:
            {"opt": opt, "model": model}.get(clear, nn.Identity()).zero_grad()
            continue
        opt.step()
        opt.zero_grad()


def test_sam_for_the_last_tenth():
    """Sees a weight of 10, SAM's strength at a tenth of its extra cost, warned of where its tenth is rounded."""
    GRST(sgd(network()), Piecewise((0, 1), (0.9,)), total_steps=100)
    GRST(sgd(network()), 0.1)
