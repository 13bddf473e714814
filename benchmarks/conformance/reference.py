"""SAM as its paper writes it, slowly and on its own: what every library is compared with."""

import torch


def sam(weights, grads, rho):
    """ρ∇L/‖∇L‖, computed in double precision; nothing along a gradient of zero."""
    norm = sum(float(g.double().pow(2).sum()) for g in grads) ** 0.5
    return [rho * g.double() / norm if norm > 0 else torch.zeros_like(g, dtype=torch.float64) for g in grads]


def squared_weights(weights, grads, rho):
    """ρ·w²·∇L, the perturbation that HeavyBall documents."""
    return [rho * w.double() ** 2 * g.double() for w, g in zip(weights, grads, strict=True)]


def gradient(model, evaluate):
    """∇L at the weights as they stand, dense; None for a parameter that has none."""
    for p in model.parameters():
        p.grad = None
    evaluate()
    grads = [None if p.grad is None else p.grad.to_dense() for p in model.parameters()]
    for p in model.parameters():
        p.grad = None
    return grads


def sharpness_aware_gradient(model, evaluate, climb, rho):
    """∇L(θ + ε(∇L(θ))); the perturbed pass repeats the noise of the clean one and leaves the buffers alone."""
    weights = [p.detach().clone() for p in model.parameters()]
    noise = torch.get_rng_state()
    clean = gradient(model, evaluate)
    buffers = [b.clone() for b in model.buffers()]
    with_gradient = [(p, g) for p, g in zip(model.parameters(), clean, strict=True) if g is not None]
    steps = climb([p.detach() for p, _ in with_gradient], [g for _, g in with_gradient], rho)
    for (p, _), step in zip(with_gradient, steps, strict=True):
        p.data = (p.detach().double() + step).to(p.dtype)
    torch.set_rng_state(noise)
    perturbed = gradient(model, evaluate)
    for p, before in zip(model.parameters(), weights, strict=True):
        p.data = before
    for b, after_clean_pass in zip(model.buffers(), buffers, strict=True):
        b.copy_(after_clean_pass)
    return perturbed


def step(model, base, evaluations, climb, rho, final=lambda: None):
    """One step of `base` with the sum of the gradients of `evaluations`, each of which climbs alone."""
    total = [None for _ in model.parameters()]
    for evaluate in evaluations:
        grads = sharpness_aware_gradient(model, evaluate, climb, rho)
        total = [g if t is None else t if g is None else t + g for t, g in zip(total, grads, strict=True)]
    for p, g in zip(model.parameters(), total, strict=True):
        p.grad = g
    final()
    base.step()
