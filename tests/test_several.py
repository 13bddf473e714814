"""Several bases under one wrapper: one coin, one norm, one ledger, one checkpoint."""

import copy
import io

import pytest
import torch
from torch import nn, optim
from torch.nn.functional import mse_loss

import oracle
from problems import batches, distance, identical, network, scaled_steps, snapshot, train
from sharpless import GRST, RST, SAM, ascent
from sharpless.coin import uniform

pytestmark = pytest.mark.quick

STEPS, RHO, P, SEED = 8, 0.1, 0.6, 3
COINS = [uniform(SEED, step) < P for step in range(STEPS)]


def pair(model):
    """One optimizer for matrices, another for the rest, as people train in 2026."""
    matrices = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() != 2]
    first = optim.Muon(matrices, lr=0.01) if hasattr(optim, "Muon") else optim.SGD(matrices, lr=0.01, momentum=0.9)
    return [first, optim.AdamW(others, lr=0.01)]


class Both:
    """For the oracle: two optimizers that take a step."""

    def __init__(self, bases):
        self.bases = bases

    def step(self):
        for base in self.bases:
            base.step()


@pytest.mark.parametrize("kind", [RST, GRST])
def test_against_the_oracle(kind):
    """Sees a norm, a coin or a mixture for each optimizer in place of one for all."""
    gamma = 1.0 if kind is RST else 2.0
    ours, theirs = network(), network()
    opt = kind(pair(ours), P, rho=RHO, gamma=gamma, seed=SEED, model=ours)
    train(ours, opt, batches(STEPS, micro=2))
    oracle.train(theirs, mse_loss, batches(STEPS, micro=2), Both(pair(theirs)), COINS, RHO, gamma)
    assert distance(ours, theirs) < 1e-12
    assert (opt.cost.steps, opt.cost.sharp_steps) == (STEPS, sum(COINS))


def test_p_0_is_the_bases():
    """Sees a step taken otherwise than by the optimizers themselves."""
    ours, theirs = network(), network()
    train(ours, RST(pair(ours), 0.0), batches(STEPS))
    oracle.train(theirs, mse_loss, batches(STEPS), Both(pair(theirs)), [False] * STEPS, RHO, 1.0)
    assert identical(snapshot(ours), snapshot(theirs))


def test_a_list_of_one():
    """Sees a list treated otherwise than what is in it."""
    model = network()
    base = optim.SGD(model.parameters(), lr=0.1)
    assert SAM([base]).base is base


def resumed(opt):
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("climb", [ascent.sam, ascent.Friendly()], ids=["sam", "friendly"])
@pytest.mark.parametrize("stop", [0, 1, 5])
def test_resume(stop, climb):
    """Sees state of one optimizer filed under another's parameters: the resumed run must not differ by a bit."""
    options = {"p": "linear:0.3,0.9", "total_steps": STEPS, "rho": RHO, "gamma": 1.5, "ascent": climb}
    whole = network(dtype=torch.float32)
    steps = batches(STEPS, dtype=torch.float32)
    opt = RST(pair(whole), **options, seed=SEED)
    train(whole, opt, steps)
    half, second = network(dtype=torch.float32), network(seed=1, dtype=torch.float32)
    first = RST(pair(half), **options, seed=SEED)
    train(half, first, steps[:stop])
    second.load_state_dict(snapshot(half))
    other = RST(pair(second), **options)
    other.load_state_dict(resumed(first))
    train(second, other, steps[stop:])
    assert identical(snapshot(whole), snapshot(second))
    assert other.cost == opt.cost


def test_the_state_dict_is_that_of_one_optimizer():
    """Sees indices that appear twice, which checkpoints by name cannot tell apart."""
    model = network()
    opt = SAM(pair(model), rho=RHO)
    train(model, opt, batches(2))
    saved = opt.state_dict()
    indices = [i for group in saved["param_groups"] for i in group["params"]]
    assert indices == list(range(6))
    assert sorted(saved["state"]) == indices
    assert all("exp_avg" in saved["state"][i] for i in saved["param_groups"][1]["params"])
    with pytest.raises(ValueError, match="1 parameter groups and the optimizers have 2"):
        opt.load_state_dict({**saved, "param_groups": saved["param_groups"][:1]})


@pytest.mark.filterwarnings("ignore:torch.distributed is ", "ignore:TypedStorage is deprecated")
def test_distributed_checkpoints(tmp_path):
    """Sees torch.distributed.checkpoint, which files state under the names of parameters, lose an optimizer."""
    from torch.distributed.checkpoint import load, save
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    steps = batches(STEPS, dtype=torch.float32)
    whole, half, second = (network(seed, torch.float32) for seed in (0, 0, 1))
    train(whole, opt := RST(pair(whole), P, RHO, seed=SEED), steps)
    train(half, first := RST(pair(half), P, RHO, seed=SEED), steps[:4])
    weights, state = get_state_dict(half, first)
    save({"model": weights, "optimizer": state}, checkpoint_id=tmp_path)
    other = RST(pair(second), P, RHO)
    weights, state = get_state_dict(second, other)
    load({"model": weights, "optimizer": state}, checkpoint_id=tmp_path)
    set_state_dict(second, other, model_state_dict=weights, optim_state_dict=state)
    train(second, other, steps[4:])
    assert identical(snapshot(whole), snapshot(second))
    assert other.cost == opt.cost


def test_schedulers():
    """Sees a scheduler on one of the optimizers, or on all, without effect or with a warning."""
    model = network()
    bases = pair(model)
    opt = SAM(bases, rho=RHO)
    schedulers = [optim.lr_scheduler.StepLR(bases[0], 1, 0.5), optim.lr_scheduler.StepLR(opt, 1, 0.1)]
    for step in batches(2):
        train(model, opt, [step])
        for scheduler in schedulers:
            scheduler.step()
    assert [group["lr"] for group in opt.param_groups] == pytest.approx([0.01 * 0.05**2, 0.01 * 0.1**2])


def test_grad_scaler():
    """Sees gradients of one of the optimizers left scaled, or an overflow that only one of them skips."""
    ours, theirs = network(), network()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    opt = RST(pair(ours), P, RHO, 2.0, seed=SEED)
    scaled_steps(ours, opt, scaler, batches(STEPS), clip=10.0)
    oracle.train(theirs, mse_loss, batches(STEPS), Both(pair(theirs)), COINS, RHO, 2.0)
    assert distance(ours, theirs) < 1e-10
    before = snapshot(ours)
    scaled_steps(ours, opt, scaler, batches(1), spoil={(0, 0), (0, 1)})
    assert identical(snapshot(ours), before)


def test_radii_and_groups():
    """Sees a group's own radius ignored, or Adadelta's rho taken for one."""
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    first = optim.Adadelta([{"params": [a], "sharpness_rho": 0.2}], rho=0.8)
    second = optim.SGD([{"params": [b], "rho": 0.0}], lr=0.1)
    opt = SAM([first, second], rho=0.1)
    seen = []
    for _ in opt.passes():
        seen.append((a.detach().clone(), b.detach().clone()))
        (a.square().sum() + b.square().sum()).backward()
    assert float((seen[1][0] - seen[0][0]).norm()) == pytest.approx(0.2)
    assert torch.equal(seen[1][1], seen[0][1])
    assert first.param_groups[0]["rho"] == 0.8


def test_copies_and_words():
    """Sees a copy that shares its optimizers, and a representation that hides one."""
    model = network()
    opt = SAM(pair(model), rho=RHO)
    train(model, opt, batches(2))
    twin, twin_opt = copy.deepcopy((model, opt))
    train(model, opt, batches(3))
    train(twin, twin_opt, batches(3))
    assert identical(snapshot(model), snapshot(twin))
    assert "AdamW" in repr(opt)


def test_bad_lists():
    """Sees a list that holds what cannot be wrapped, or two optimizers that would both step a parameter."""
    model = network()
    base = optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"^base is an empty list"):
        SAM([])
    with pytest.raises(ValueError, match=r"two optimizers train the same parameter"):
        SAM([base, optim.Adam(model[0].parameters())])
    with pytest.raises(TypeError, match=r"^base\[1\] = AdamW is not an optimizer instance"):
        SAM([base, optim.AdamW])
    with pytest.raises(TypeError, match=r"^add_param_group: there are several optimizers"):
        SAM(pair(model)).add_param_group({"params": [nn.Parameter(torch.zeros(1))]})


def test_another_order():
    """Sees the state of one optimizer loaded into another, which fails in its next step."""
    model = network()
    saved = SAM(pair(model)).state_dict()
    with pytest.raises(ValueError, match=r"^the state dict has no .* for base\[0\], .*in the order"):
        SAM(pair(model)[::-1]).load_state_dict(saved)


class WithCentres(nn.Module):
    """A network with parameters that another optimizer trains on the same loss, as for the centre loss."""

    def __init__(self):
        super().__init__()
        self.body, self.centres = network(), nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x):
        return self.body(x) + self.centres


def test_an_optimizer_outside():
    """Sees an optimizer that steps along g + g⁺ on sharpness-aware steps, and no word about it."""
    model = WithCentres()
    opt = SAM(optim.SGD(model.body.parameters(), lr=0.1), rho=RHO, model=model)
    with pytest.warns(UserWarning, match=r"does not hold centres of model.*SAM\(\[base, other\]"):
        train(model, opt, batches(1))
    train(model, opt, batches(2))  # once said is enough
    model = WithCentres()
    opt = SAM([optim.SGD(model.body.parameters(), lr=0.1), optim.Adam([model.centres])], rho=RHO, model=model)
    train(model, opt, batches(2))
    model = WithCentres()
    model.centres.requires_grad_(False)
    train(model, SAM(optim.SGD(model.body.parameters(), lr=0.1), rho=RHO, model=model), batches(2))
