"""Two gradients by hand over six steps, in float32: what a host has to arrive at. It must not import sharpless."""

from contextlib import nullcontext

import torch
from torch import nn
from torch.nn.functional import cross_entropy

STEPS = 6
SEED = 4
FALLS = (False, False, True, False, True, True)
"""How the coin of p = 0.5 falls with seed 4."""
METHODS = {
    "SAM": {"rho": 0.1, "gamma": 1.0, "coins": (True,) * STEPS, "share": 1.0},
    "RST": {"rho": 0.1, "gamma": 1.0, "coins": FALLS, "share": 1.0},
    "G-RST": {"rho": 0.1, "gamma": 2.0, "coins": FALLS, "share": 1.0},
    "parts": {"rho": 0.1, "gamma": 2.0, "coins": FALLS, "share": 0.5},  # a budget of 1.25, of batches of 8
}
"""ρ, γ, on which steps to climb, and with which share of the batch."""


def network(seed=0):
    """A network in float32: 5 numbers to 3 classes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def noisy_network(seed=0):
    """The same with BatchNorm and dropout."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 3))


def batches(sizes=(8,), steps=STEPS):
    """A list of micro-batches of these sizes for each step, the same in every call."""
    generator = torch.Generator().manual_seed(7)

    def draw(size):
        x = torch.randn(size, 5, generator=generator)
        return x, (x.sum(1) > 0).long() + (x[:, 0] > 0.5).long()

    return [[draw(size) for size in sizes] for _ in range(steps)]


def sgd(model):
    """The base optimizer."""
    return torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)


def by_norm(limit):
    """Return what clips the gradients of parameters by their norm."""
    return lambda parameters: nn.utils.clip_grad_norm_(parameters, limit)


def by_value(limit):
    """Return what clips the gradients of parameters one number at a time."""
    return lambda parameters: nn.utils.clip_grad_value_(parameters, limit)


def expected(method, net, sizes=(8,), **options):
    """Train `net` with `sgd` on `batches(sizes)`, and return the losses."""
    return train(net, sgd(net), batches(sizes), method, **options)


def train(
    model, base, steps, method, *, weights=None, clip=None, scheduler=None, autocast=None, scale=1.0, spoiled=(), seed=0
):
    """Train as `METHODS[method]` says, one step of `base` for each list of micro-batches in `steps`.

    Args:
        model: the network; its parameters are those of `base`.
        base: the optimizer.
        steps: lists of micro-batches (x, y).
        method: a name in METHODS.
        weights: the factor of each micro-batch's loss; by default one over their number.
        clip: is called on the parameters when the gradient of a step is complete.
        scheduler: is stepped after each step.
        autocast: the dtype of mixed precision on a CPU.
        scale: the factor of the loss in a backward, taken back afterwards.
        spoiled: the steps that overflow: they move nothing, but a coin falls and buffers are updated.
        seed: of torch's generator when training begins.

    Returns:
        The clean loss of each step, the sum over its micro-batches with their weights.
    """
    torch.manual_seed(seed)
    model.train()
    chosen = METHODS[method]
    losses = []
    for step, micros in enumerate(steps):
        total, clean = [torch.zeros_like(w) for w in model.parameters()], 0.0
        for micro, factor in zip(micros, weights or [1 / len(micros)] * len(micros), strict=True):
            grads, loss = _gradient_of_step(model, micro, chosen, chosen["coins"][step], autocast, scale * factor)
            total = [t + g / scale for t, g in zip(total, grads, strict=True)]
            clean += factor * loss
        losses.append(clean)
        if step not in spoiled:
            for w, g in zip(model.parameters(), total, strict=True):
                w.grad = g
            if clip is not None:
                clip(list(model.parameters()))
            base.step()
            model.zero_grad()
        if scheduler is not None:
            scheduler.step()
    return losses


def _gradient_of_step(model, batch, chosen, sharp, autocast, scale):
    """(q−γ)g(S) + γg⁺(S) + (1−q)g(R) of a micro-batch where `sharp`, else its gradient; and its clean loss."""
    if not sharp:
        return _gradient(model, batch, autocast, scale)
    x, y = batch
    q, gamma = chosen["share"], chosen["gamma"]
    size = round(q * len(x))
    q = size / len(x)
    found, noise = [b.clone() for b in model.buffers()], torch.get_rng_state()
    clean, loss = _gradient(model, (x[:size], y[:size]), autocast, scale)
    left, drawn = [b.clone() for b in model.buffers()], torch.get_rng_state()
    norm = sum((g**2).sum() for g in clean) ** 0.5
    weights = [w.detach().clone() for w in model.parameters()]
    with torch.no_grad():
        for w, g in zip(model.parameters(), clean, strict=True):
            w.add_(chosen["rho"] * q**0.5 * g / norm)
        _put(model, found)
    torch.set_rng_state(noise)
    perturbed, _ = _gradient(model, (x[:size], y[:size]), autocast, scale)
    with torch.no_grad():
        for w, before in zip(model.parameters(), weights, strict=True):
            w.copy_(before)
        _put(model, left)
    torch.set_rng_state(drawn)
    mixed = [(q - gamma) * g + gamma * h for g, h in zip(clean, perturbed, strict=True)]
    if size < len(x):
        others, other_loss = _gradient(model, (x[size:], y[size:]), autocast, scale)
        mixed = [m + (1 - q) * g for m, g in zip(mixed, others, strict=True)]
        loss = q * loss + (1 - q) * other_loss
    return mixed, loss


def _gradient(model, batch, autocast, scale):
    x, y = batch
    with torch.autocast("cpu", dtype=autocast) if autocast else nullcontext():
        loss = cross_entropy(model(x), y)
    grads = torch.autograd.grad(loss * scale, list(model.parameters()))
    return [g.float() for g in grads], float(loss.detach())


def _put(model, buffers):
    for buffer, value in zip(model.buffers(), buffers, strict=True):
        buffer.copy_(value)


def distance(one, other):
    """The largest difference between the floating-point entries of two models' state dicts."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs)
