"""Where to climb: each ascent against its paper, written out here, alone and with p, γ and a part of the batch."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import oracle
from problems import batches, distance, identical, network, snapshot, train
from sharpless import GRST, RST, SAM
from sharpless.ascent import Friendly, asam, normalization_parameters, sam
from sharpless.coin import uniform

pytestmark = pytest.mark.quick

RHO, ETA, STEPS = 0.1, 0.01, 12


def asam_by_hand(weights, grads, memory):
    scaled = [(w.abs() + ETA) * g for w, g in zip(weights, grads, strict=True)]
    norm = sum((s**2).sum() for s in scaled) ** 0.5
    return [RHO * (w.abs() + ETA) ** 2 * g / norm for w, g in zip(weights, grads, strict=True)]


def friendly_by_hand(weights, grads, memory):
    if "mean" in memory:
        d = [g - 0.8 * m for g, m in zip(grads, memory["mean"], strict=True)]
        memory["mean"] = [0.7 * m + 0.3 * g for g, m in zip(grads, memory["mean"], strict=True)]
    else:
        d = memory["mean"] = grads
    norm = sum((t**2).sum() for t in d) ** 0.5
    return [RHO * t / norm for t in d]


def signs_by_hand(weights, grads, memory):
    return [RHO * g.sign() for g in grads]


def signs(weights, grads, rho):
    return [radius * grad.sign() for grad, radius in zip(grads, rho, strict=True)]


WHERE = {
    "asam": (partial(asam, eta=ETA), asam_by_hand),
    "friendly": (partial(Friendly, 0.8, 0.7), friendly_by_hand),
    "the user's": (signs, signs_by_hand),
}


def train_by_hand(model, direction, base, p, gamma, q, steps):
    """G-RST with a part of the batch, along `direction`, as its formula says."""
    memory = {}
    for step, ((x, y),) in enumerate(steps):
        whole = oracle.gradient(model, mse_loss, (x, y))
        if uniform(3, step) < p:
            m = round(q * len(x))
            clean = oracle.gradient(model, mse_loss, (x[:m], y[:m]))
            eps = direction([w.detach() for w in model.parameters()], clean, memory)
            before = [w.detach().clone() for w in model.parameters()]
            for w, e in zip(model.parameters(), eps, strict=True):
                w.data = w.data + q**0.5 * e
            perturbed = oracle.gradient(model, mse_loss, (x[:m], y[:m]))
            for w, b in zip(model.parameters(), before, strict=True):
                w.data = b
            whole = [g + gamma * (h - c) for g, h, c in zip(whole, perturbed, clean, strict=True)]
        for w, g in zip(model.parameters(), whole, strict=True):
            w.grad = g
        base.step()


def the_ascent(name):
    ours = WHERE[name][0]
    return ours() if name == "friendly" else ours


@pytest.mark.parametrize("q", [1.0, 0.25])
@pytest.mark.parametrize(("p", "gamma"), [(1.0, 1.0), (0.6, 2.0)])
@pytest.mark.parametrize("name", WHERE)
def test_each_is_its_papers(name, p, gamma, q):
    """Sees another direction, norm or running mean than the paper's, and one that forgets γ, the coin or the part."""
    ours, theirs = network(), network()
    base = torch.optim.Adam(ours.parameters(), lr=0.01)
    options = {"ascent": the_ascent(name), "batch_fraction": q, "seed": 3}
    train(ours, GRST(base, p, gamma=gamma, rho=RHO, **options), batches(STEPS))
    base = torch.optim.Adam(theirs.parameters(), lr=0.01)
    train_by_hand(theirs, WHERE[name][1], base, p, gamma, q, batches(STEPS))
    assert distance(ours, theirs) < 1e-9
    train_by_hand(theirs := network(), lambda w, g, m: [0 * t for t in g], base, 0, 1, 1, batches(STEPS))
    assert distance(ours, theirs) > 1e-4


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_asam_does_not_care_how_layers_are_scaled(scale):
    """Sees T left out, or used once: two ReLU layers scaled against each other are the same network."""
    torch.manual_seed(0)
    x, y = torch.randn(16, 5, dtype=torch.float64), torch.randn(16, 1, dtype=torch.float64)
    moved = []
    for factor in (1.0, scale):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 8, bias=False), nn.ReLU(), nn.Linear(8, 1, bias=False)).double()
        model[0].weight.data *= factor
        model[2].weight.data /= factor
        opt = SAM(torch.optim.SGD(model.parameters(), lr=0.0), rho=0.5, ascent=partial(asam, eta=0.0))
        outputs = []
        for a, b in opt.passes((x, y)):
            outputs.append(model(a))
            mse_loss(outputs[-1], b).backward()
        moved.append(outputs[1].detach())
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-9, atol=1e-12)


def test_friendly_without_sigma_is_sam():
    """Sees a running mean that reaches the direction when it has no weight."""
    one, other = network(), network()
    train(one, SAM(torch.optim.SGD(one.parameters(), lr=0.05), rho=RHO, ascent=Friendly(sigma=0.0)), batches(STEPS))
    train(other, SAM(torch.optim.SGD(other.parameters(), lr=0.05), rho=RHO), batches(STEPS))
    assert distance(one, other) < 1e-12


def friendly(model, base=torch.optim.Adam):
    return RST(base(model.parameters(), lr=0.01), 0.6, RHO, ascent=Friendly(), seed=3)


@pytest.mark.parametrize("stop", [1, 5])
def test_friendly_resumes(stop):
    """Sees a running mean that a checkpoint loses, before or after the base has a state of its own."""
    whole = network()
    train(whole, friendly(whole), batches(STEPS))
    first = network()
    opt = friendly(first)
    train(first, opt, batches(STEPS)[:stop])
    weights, state = snapshot(first), copy.deepcopy(opt.state_dict())
    second = network(seed=1)
    second.load_state_dict(weights)
    opt = friendly(second)
    opt.load_state_dict(state)
    train(second, opt, batches(STEPS)[stop:])
    assert identical(snapshot(whole), snapshot(second))


def test_friendly_survives_an_overflow():
    """Sees one gradient that is not finite spoil the running mean, and with it every climb that follows."""
    model = network()
    opt = SAM(torch.optim.SGD(model.parameters(), lr=0.05), rho=RHO, ascent=Friendly())
    for ((x, y),), factor in zip(batches(4), (float("inf"), 1.0, float("nan"), 1.0), strict=True):
        for a, b in opt.passes((x, y)):
            (factor * mse_loss(model(a), b)).backward()
        if factor == 1.0:
            assert all(p.grad.isfinite().all() for p in model.parameters())
            opt.step()
        opt.zero_grad()


def test_friendly_leaves_the_bases_state_to_the_base():
    """Sees a memory that is there before Adam's own state, which Adam then never makes."""
    model = network()
    opt = friendly(model)
    train(model, opt, batches(STEPS))
    assert all({"step", "exp_avg", "friendly_mean"} <= set(opt.state[p]) for p in model.parameters())


def test_normalization_layers_only():
    """Sees other layers moved, or counted in the norm (SAM-ON)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 1)).double()
    chosen = normalization_parameters(model)
    assert [id(p) for p in chosen] == [id(model[1].weight), id(model[1].bias)]
    opt = SAM(torch.optim.SGD(model.parameters(), lr=0.05), rho=RHO, only=chosen)
    seen = []
    for x, y in opt.passes(batches(1)[0][0]):
        seen.append(snapshot(model))
        mse_loss(model(x), y).backward()
    moved = {name: float((seen[1][name] - seen[0][name]).norm()) for name in seen[0]}
    assert moved["0.weight"] == moved["0.bias"] == moved["3.weight"] == moved["3.bias"] == 0.0
    assert (moved["1.weight"] ** 2 + moved["1.bias"] ** 2) ** 0.5 == pytest.approx(RHO, rel=1e-9)


def test_gradients_removed_before_the_base_met_them():
    """Sees a memory stand in the state of a parameter that Adam has yet to make one for."""
    model = network()
    opt = SAM(torch.optim.Adam(model.parameters()), rho=RHO, ascent=Friendly())
    for step, (batch,) in enumerate(batches(4)):
        for x, y in opt.passes(batch):
            mse_loss(model(x), y).backward()
        if step < 2:
            model[4].weight.grad = None
        opt.step()
        opt.zero_grad()
    assert {"exp_avg", "friendly_mean"} <= set(opt.state[model[4].weight])


def test_a_base_that_has_its_state_from_the_start():
    """Sees slots that are missing in a checkpoint before the first step, which distributed loading then skips."""
    model = network()
    opt = SAM(torch.optim.Adagrad(model.parameters()), rho=RHO, ascent=Friendly())
    assert all("friendly_mean" in opt.state[p] for p in model.parameters())


def test_an_ascent_that_hands_back_the_gradients():
    """Sees ε change when the gradient that it is gets its weight in the mixture."""
    model = network()
    opt = GRST(torch.optim.SGD(model.parameters(), lr=0.1), 1.0, gamma=2.0, rho=RHO, ascent=lambda w, g, r: g)
    seen = []
    for x, y in opt.passes(batches(1)[0][0]):
        seen.append(model[0].weight.detach().clone())
        mse_loss(model(x), y).backward()
        if len(seen) == 1:
            clean = model[0].weight.grad.clone()
    torch.testing.assert_close(seen[1] - seen[0], clean)
    opt = SAM(torch.optim.SGD(model.parameters(), lr=0.1), ascent=lambda w, g, r: g[1:])
    with pytest.raises(ValueError, match=r"^ascent returned 5 perturbations for 6 weights"):
        train(model, opt, batches(1))


def test_groups_with_radii_of_their_own():
    """Sees one ρ for all groups, and a group with ρ = 0 counted in the norm or given a memory."""
    for climb in (asam, Friendly()):
        model = network()
        groups = [{"params": [p]} | {"rho": r} for p, r in zip(model.parameters(), [0.1, 0.2, 0, 0, 0, 0], strict=True)]
        opt = SAM(torch.optim.SGD(groups, lr=0.05), ascent=climb)
        seen, grads = [], oracle.gradient(model, mse_loss, batches(1)[0][0])
        for x, y in opt.passes(batches(1)[0][0]):
            seen.append([p.detach().clone() for p in model.parameters()])
            mse_loss(model(x), y).backward()
        t = [(p.abs() + ETA) if climb is asam else torch.ones_like(p) for p in seen[0][:2]]
        norm = sum(((s * g) ** 2).sum() for s, g in zip(t, grads, strict=False)) ** 0.5
        for i, rho in enumerate((0.1, 0.2)):
            torch.testing.assert_close(seen[1][i] - seen[0][i], rho * t[i] ** 2 * grads[i] / norm)
        assert all(torch.equal(a, b) for a, b in zip(seen[0][2:], seen[1][2:], strict=True))
        opt.step()
        assert "friendly_mean" not in opt.state[model[4].weight]


def test_bad_choices():
    """Sees parameters of another network, or a network without such layers, perturb nothing and say nothing."""
    model = network()
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"^only has no parameter in common with base"):
        SAM(base, only=network().parameters())
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(5, 1))
    norms = torch.optim.SGD(layer.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"^only has a tensor that is computed from parameters"):
        SAM(norms, only=[layer.weight, layer.bias])
    with pytest.raises(ValueError, match=r"^model has no normalization layer"):
        normalization_parameters(model)
    for wrong in (Friendly, "asam", None):
        with pytest.raises(TypeError, match=r"^ascent = .* is not a function: give ascent.asam"):
            SAM(base, ascent=wrong)
    with pytest.raises(ValueError, match=r"^sigma = -1 is out of range"):
        Friendly(sigma=-1)
    with pytest.raises(ValueError, match=r"^decay = 1.0 is out of range"):
        Friendly(decay=1.0)


@pytest.mark.parametrize("ascent", [sam, asam, Friendly()], ids=["sam", "asam", "friendly"])
def test_half_precision_and_zeros(ascent):
    """Sees ε overflow, underflow or turn to nan in the half precisions, or at a zero gradient."""
    for dtype in (torch.float16, torch.bfloat16):
        weights = [torch.full((4,), 0.5, dtype=dtype)]
        for size in (1e-4, 100.0):
            memory = [[{"friendly_mean": torch.zeros(4, dtype=dtype)}]] if isinstance(ascent, Friendly) else []
            (eps,) = ascent(weights, [torch.full((4,), size, dtype=dtype)], [0.1], *memory)
            assert eps.dtype == dtype
            # ASAM's T is the same for all weights here: ε = ρ·T·g/‖g‖.
            length = 0.1 * (0.51 if ascent is asam else 1.0)
            assert float(eps.float().norm()) == pytest.approx(length, rel=0.02)
        memory = [[{"friendly_mean": torch.zeros(4, dtype=dtype)}]] if isinstance(ascent, Friendly) else []
        (eps,) = ascent(weights, [torch.zeros(4, dtype=dtype)], [0.1], *memory)
        assert torch.equal(eps, torch.zeros(4, dtype=dtype))


def test_only_parameters_that_were_replaced():
    """Sees plain training without a word, where a host has put other parameters into the groups since."""
    model, other = network(), network()
    opt = SAM(torch.optim.SGD(model.parameters(), lr=0.1), only=[model[0].weight])
    opt.param_groups[0]["params"] = list(other.parameters())
    with pytest.raises(RuntimeError, match="base no longer has any of the parameters in only"):
        list(opt.passes())
