"""Small problems that the tests train on, and the loops that train on them."""

import copy

import torch
from torch import nn
from torch.nn.functional import mse_loss


def network(seed=0, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 1)).to(dtype)


def noisy_network(seed=0):
    """A network with BatchNorm and dropout, in float32."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(5, 8),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(8, 6),
            nn.ReLU(),
            nn.Linear(6, 1),
        )


def batches(count, micro=1, size=8, dtype=torch.float64):
    """`count` steps of `micro` batches each, the same for every call."""
    generator = torch.Generator().manual_seed(7)

    def draw():
        x = torch.randn(size, 5, generator=generator, dtype=torch.float64)
        return x.to(dtype), (x.sum(1, keepdim=True).sin() + 0.1).to(dtype)

    return [[draw() for _ in range(micro)] for _ in range(count)]


def train(model, opt, steps, loss=mse_loss):
    """The loop of the README over lists of micro-batches."""
    for micro_batches in steps:
        for batch in micro_batches:
            for x, y in opt.passes(batch):
                loss(model(x), y).backward()
        opt.step()
        opt.zero_grad()


def train_plainly(model, opt, steps, loss=mse_loss):
    """The same loop without sharpless."""
    for micro_batches in steps:
        for x, y in micro_batches:
            loss(model(x), y).backward()
        opt.step()
        opt.zero_grad()


def scaled_steps(model, opt, scaler, steps, clip=None, spoil=()):
    """The loop of torch's AMP recipe; `spoil` names (step, pass) whose loss overflows."""
    for step, (batch,) in enumerate(steps):
        for count, (x, y) in enumerate(opt.passes(batch)):
            loss = mse_loss(model(x), y)
            if (step, count) in spoil:
                loss = loss * float("inf")
            scaler.scale(loss).backward()
        if clip is not None:
            scaler.unscale_(opt)
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        scaler.step(opt)
        scaler.update()
        opt.zero_grad()


def snapshot(model):
    return copy.deepcopy(model.state_dict())


def identical(one, other):
    """Whether two state dicts agree bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def distance(one, other):
    """The largest relative difference between the parameters of two models."""
    pairs = list(zip(one.parameters(), other.parameters(), strict=True))
    scale = max(float(p.detach().abs().max()) for p, _ in pairs)
    return max(float((p - q).detach().abs().max()) for p, q in pairs) / scale
