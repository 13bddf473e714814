"""Cases: the two gradients, parameters without one, and gradients without a direction."""

import copy

import torch
from torch.nn.functional import mse_loss

from . import reference
from .adapters import RHO
from .problems import TOLERANCE, Skipping, batches, check_same, compare_steps, distance, evaluation, network
from .verdicts import case, check, check_error


@case
def perturbation(adapter):
    """The second pass runs at w + ρ∇L/‖∇L‖, and a step makes two passes."""
    model, batch = network(), batches(1)[0]
    weights = [p.detach().clone() for p in model.parameters()]
    expected = reference.sam(weights, reference.gradient(model, evaluation(model, batch)), RHO)
    seen = []

    def evaluate():
        seen.append([p.detach().clone() for p in model.parameters()])
        return evaluation(model, batch)()

    adapter.step(adapter.make(model, lr=0.1), evaluate)
    check(len(seen) == 2, f"{len(seen)} passes")
    error = max(float((p - w - e).norm()) for p, w, e in zip(seen[1], weights, expected, strict=True)) / RHO
    check_error(error, TOLERANCE, "the perturbation differs, relative to ρ")


@case
def momentum(adapter):
    """Six steps around SGD with momentum and weight decay are the reference's."""
    compare_steps(adapter, network(), batches(6), lr=0.05, momentum=0.9, weight_decay=0.01)


@case
def adamw(adapter):
    """Six steps around AdamW are the reference's."""
    compare_steps(adapter, network(), batches(6), kind="AdamW", lr=0.01, weight_decay=0.1)


@case
def double_precision(adapter):
    """With float64 weights everything is computed in float64: twelve digits."""
    compare_steps(adapter, network(), batches(6), lr=0.05, tolerance=1e-12)


@case
def rho_of_zero(adapter):
    """ρ = 0 is the base optimizer bit for bit."""
    model = network()
    twin = copy.deepcopy(model)
    opt, base = adapter.make(model, rho=0.0, lr=0.05), adapter.base("SGD", list(twin.parameters()), lr=0.05)
    for batch in batches(4):
        adapter.step(opt, evaluation(model, batch))
        base.zero_grad()
        evaluation(twin, batch)()
        base.step()
    check_same(model, twin, tolerance=0)


@case
def group_learning_rates(adapter):
    """Two parameter groups with learning rates of their own; one norm over both."""

    def groups(model):
        return [{"params": list(model[:2].parameters()), "lr": 0.1}, {"params": list(model[2:].parameters())}]

    compare_steps(adapter, network(), batches(6), groups=groups, lr=0.01)


@case
def group_without_rho(adapter):
    """A group with ρ = 0 is not displaced, the other one is displaced along its gradient."""
    model, batch, seen = network(), batches(1)[0], []
    groups = [{"params": list(model[:2].parameters())}, {"params": list(model[2:].parameters()), "rho": 0.0}]
    weights = [p.detach().clone() for p in model.parameters()]
    grads = reference.gradient(model, evaluation(model, batch))

    def evaluate():
        seen.append([p.detach().clone() for p in model.parameters()])
        return evaluation(model, batch)()

    adapter.step(adapter.make(model, groups=groups, lr=0.1), evaluate)
    moves = [p - w for p, w in zip(seen[1], weights, strict=True)]
    check(not any(bool(move.any()) for move in moves[2:]), "the group with ρ = 0 is displaced")
    expected = adapter.perturbation(weights[:2], grads[:2], RHO)
    got, expected = (torch.cat([m.flatten() for m in side]) for side in (moves[:2], expected))
    check_error(1 - torch.cosine_similarity(got, expected, 0), TOLERANCE, "the displacement has another direction")


@case
def skipped_in_the_perturbed_pass(adapter):
    """A branch that only the clean pass goes through: its weights come back."""
    compare_steps(adapter, Skipping(takes_part_in=0), batches(4), lr=0.05)


@case
def skipped_in_the_clean_pass(adapter):
    """A branch that only the perturbed pass goes through: it is not displaced, and trained."""
    compare_steps(adapter, Skipping(takes_part_in=1), batches(4), lr=0.05)


@case
def unfrozen_later(adapter):
    """A layer without gradient in both passes, frozen at first and trained later."""
    model = network()
    twin = copy.deepcopy(model)
    opt, base = adapter.make(model, lr=0.05), adapter.base("SGD", list(twin.parameters()), lr=0.05)
    for number, batch in enumerate(batches(4)):
        model[0].requires_grad_(number >= 2)
        twin[0].requires_grad_(number >= 2)
        adapter.step(opt, evaluation(model, batch))
        reference.step(twin, base, [evaluation(twin, batch)], adapter.perturbation, RHO)
    check_same(model, twin)


@case
def zero_gradient(adapter):
    """A gradient of zero perturbs nothing and leaves every weight finite and where it was."""
    model = network()
    before = copy.deepcopy(model)
    adapter.step(adapter.make(model, lr=0.1), evaluation(model, batches(1)[0], lambda out, y: 0 * mse_loss(out, y)))
    check_same(model, before, tolerance=0)


@case
def non_finite_gradient(adapter):
    """The loop sees NaN in the final gradient and sets it to zero: the weights are what they were, and train on."""
    model = network()
    before, opt = copy.deepcopy(model), adapter.make(model, lr=0.05)

    def without_nan():
        for p in model.parameters():
            if p.grad is not None and not p.grad.isfinite().all():
                p.grad.zero_()

    x, y = batches(1)[0]
    adapter.step(opt, evaluation(model, (x * float("inf"), y)), without_nan)
    check_same(model, before, "the weights differ after the step that was skipped", tolerance=0)
    adapter.step(opt, evaluation(model, (x, y)))
    check(distance(model, before) > 0, "the weights do not move afterwards")
