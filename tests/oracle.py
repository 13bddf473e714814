"""RST and G-RST as the paper writes them, slowly and on their own: this file must not import sharpless."""

import torch


def gradient(model, loss, batch):
    """∇L at the weights as they stand; None for a parameter that has none."""
    x, y = batch
    return torch.autograd.grad(loss(model(x), y), list(model.parameters()), allow_unused=True)


def sharpness_aware_gradient(model, loss, batch, rho, gamma):
    """(1−γ)∇L(θ) + γ∇L(θ + ρ∇L(θ)/‖∇L(θ)‖)."""
    weights = [w.detach().clone() for w in model.parameters()]
    clean = gradient(model, loss, batch)
    norm = sum((g**2).sum() for g in clean if g is not None) ** 0.5
    for w, g in zip(model.parameters(), clean, strict=True):
        if g is not None and norm > 0:
            w.data = w.data + rho * g / norm
    perturbed = gradient(model, loss, batch)
    for w, before in zip(model.parameters(), weights, strict=True):
        w.data = before
    mixed = []
    for g, h in zip(clean, perturbed, strict=True):
        terms = [c * t for c, t in ((1 - gamma, g), (gamma, h)) if t is not None and c != 0]
        mixed.append(sum(terms) if terms else None)
    return mixed


def split_gradient(model, loss, batch, rho, gamma, size, keep_strength=True):
    """(m/n)∇L_S + (1−m/n)∇L_R + γ(∇L_S(θ + ρ√(m/n)·∇L_S/‖∇L_S‖) − ∇L_S): S the first m = `size` of n.

    Without `keep_strength` the radius is ρ.
    """
    x, y = batch
    part, rest = (x[:size], y[:size]), (x[size:], y[size:])
    share = size / len(x)
    radius = rho * share**0.5 if keep_strength else rho
    weights = [w.detach().clone() for w in model.parameters()]
    clean = gradient(model, loss, part)
    norm = sum((g**2).sum() for g in clean if g is not None) ** 0.5
    for w, g in zip(model.parameters(), clean, strict=True):
        if g is not None and norm > 0:
            w.data = w.data + radius * g / norm
    perturbed = gradient(model, loss, part)
    for w, before in zip(model.parameters(), weights, strict=True):
        w.data = before
    others = gradient(model, loss, rest)
    mixed = []
    for g, h, o in zip(clean, perturbed, others, strict=True):
        weighed = (share - gamma, g), (gamma, h), (1 - share, o)
        terms = [c * t for c, t in weighed if t is not None and c != 0]
        mixed.append(sum(terms) if terms else None)
    return mixed


def train(model, loss, steps, base, coins, rho, gamma, climb=sharpness_aware_gradient):
    """One optimizer step for each list of micro-batches in `steps`; sharpness-aware where the coin says so.

    `climb` is what computes the gradient of a micro-batch then.
    """
    for micro_batches, heads in zip(steps, coins, strict=True):
        total = [None for _ in model.parameters()]
        for batch in micro_batches:
            grads = climb(model, loss, batch, rho, gamma) if heads else gradient(model, loss, batch)
            total = [h if g is None else g if h is None else g + h for g, h in zip(total, grads, strict=True)]
        for w, g in zip(model.parameters(), total, strict=True):
            w.grad = g
        base.step()
