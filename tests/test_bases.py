"""One battery of contracts for every optimizer of torch.optim that takes dense gradients."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from torch import optim

from problems import batches, distance, identical, network, snapshot, train, train_plainly
from sharpless import RST, SAM, schedules

pytestmark = pytest.mark.quick

BASES = {
    "SGD": (optim.SGD, {"lr": 0.05}),
    "SGD momentum": (optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}),
    "SGD nesterov": (optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "SGD for-loop": (optim.SGD, {"lr": 0.05, "momentum": 0.9, "foreach": False}),
    "SGD foreach": (optim.SGD, {"lr": 0.05, "momentum": 0.9, "foreach": True}),
    "SGD fused": (optim.SGD, {"lr": 0.05, "momentum": 0.9, "fused": True}),
    "Adam": (optim.Adam, {"lr": 0.01}),
    "Adam amsgrad": (optim.Adam, {"lr": 0.01, "amsgrad": True, "weight_decay": 0.1}),
    "Adam foreach": (optim.Adam, {"lr": 0.01, "foreach": True}),
    "Adam fused": (optim.Adam, {"lr": 0.01, "fused": True}),
    "AdamW": (optim.AdamW, {"lr": 0.01}),
    "AdamW foreach": (optim.AdamW, {"lr": 0.01, "foreach": True}),
    "AdamW fused": (optim.AdamW, {"lr": 0.01, "fused": True}),
    "Adamax": (optim.Adamax, {"lr": 0.01}),
    "NAdam": (optim.NAdam, {"lr": 0.01}),
    "RAdam": (optim.RAdam, {"lr": 0.01}),
    "RMSprop": (optim.RMSprop, {"lr": 0.01, "momentum": 0.5, "centered": True}),
    "Rprop": (optim.Rprop, {"lr": 0.01}),
    "Adagrad": (optim.Adagrad, {"lr": 0.01}),
    "Adagrad fused": (optim.Adagrad, {"lr": 0.01, "fused": True}),
    "Adadelta": (optim.Adadelta, {"lr": 0.5}),
    "ASGD": (optim.ASGD, {"lr": 0.05}),
    "Adafactor": (optim.Adafactor, {"lr": 0.01}),
    **({"Muon": (optim.Muon, {"lr": 0.01})} if hasattr(optim, "Muon") else {}),
}
every_base = pytest.mark.parametrize("name", BASES)


def base_of(name, model):
    kind, options = BASES[name]
    # Muon takes matrices alone; for all the same, so that a parameter outside the optimizer occurs too.
    return kind([p for p in model.parameters() if p.dim() == 2], **options)


def test_the_table_is_complete():
    """Sees a new optimizer in torch that nobody has tried."""
    kinds = {name for name in optim.__all__ if isinstance(getattr(optim, name), type)}
    assert {kind.__name__ for kind, _ in BASES.values()} == kinds - {"Optimizer", "LBFGS", "SparseAdam"}


@every_base
def test_p_0_is_the_base(name):
    """Sees state written before the base has made its own, or a step taken otherwise than the base's."""
    plain, ours = network(), network()
    train_plainly(plain, base_of(name, plain), batches(6, micro=2))
    train(ours, RST(base_of(name, ours), p=0.0), batches(6, micro=2))
    assert identical(snapshot(plain), snapshot(ours))


@every_base
def test_sam(name):
    """Sees a base that is handed another gradient than SAM's."""
    theirs, ours = network(), network()
    train(ours, SAM(base_of(name, ours), rho=0.1), batches(6))
    base = base_of(name, theirs)
    inside = base.param_groups[0]["params"]
    for ((x, y),) in batches(6):
        loss = torch.nn.functional.mse_loss
        clean = torch.autograd.grad(loss(theirs(x), y), inside)
        norm = sum((g**2).sum() for g in clean) ** 0.5
        before = [p.detach().clone() for p in inside]
        for p, g in zip(inside, clean, strict=True):
            p.data += 0.1 * g / norm
        grads = torch.autograd.grad(loss(theirs(x), y), inside)
        for p, b, g in zip(inside, before, grads, strict=True):
            p.data.copy_(b)
            p.grad = g
        base.step()
    assert distance(ours, theirs) < 1e-12


@every_base
@pytest.mark.parametrize("stop", [1, 5])
def test_resume(name, stop):
    """Sees base state, step, seed or ledger missing from the checkpoint: the stopped run must not differ by a bit."""
    options = {"p": schedules.Linear(0.2, 0.9), "rho": 0.1, "gamma": 1.5, "total_steps": 10}
    # In float32, since torch itself loads the float32 state of NAdam as float64 beside float64 weights.
    steps = batches(10, micro=2, dtype=torch.float32)
    whole = network(dtype=torch.float32)
    opt = RST(base_of(name, whole), **options, seed=4)
    train(whole, opt, steps)

    half = network(dtype=torch.float32)
    first = RST(base_of(name, half), **options, seed=4)
    train(half, first, steps[:stop])
    file = io.BytesIO()
    torch.save({"model": half.state_dict(), "optimizer": first.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = network(seed=1, dtype=torch.float32)
    resumed.load_state_dict(saved["model"])
    second = RST(base_of(name, resumed), **options, seed=0)
    second.load_state_dict(saved["optimizer"])
    train(resumed, second, steps[stop:])
    assert identical(snapshot(whole), snapshot(resumed))
    assert second.cost == opt.cost


@every_base
@pytest.mark.parametrize("on", ["the wrapper", "the base"])
def test_learning_rate_schedulers(name, on):
    """Sees schedulers refuse the wrapper, warn about the order of steps, or change one of the two only."""
    model = network()
    base = base_of(name, model)
    opt = RST(base, p=0.5, rho=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler = optim.lr_scheduler.StepLR(opt if on == "the wrapper" else base, step_size=1, gamma=0.5)
        start = float(base.param_groups[0]["lr"])
        for step in batches(3):
            train(model, opt, [step])
            scheduler.step()
    assert float(opt.param_groups[0]["lr"]) == float(base.param_groups[0]["lr"]) == pytest.approx(start / 8)


@every_base
def test_a_checkpoint_of_the_base_alone(name):
    """Sees a run that began without sharpless fail to go on with it."""
    model = network()
    base = base_of(name, model)
    train_plainly(model, base, batches(3))
    opt = RST(base_of(name, model), p=0.5, rho=0.2, seed=9)
    opt.load_state_dict(base.state_dict())
    train(model, opt, batches(3))
    assert opt.cost.steps == 3
    assert opt.param_groups[0]["sharpness_rho" if name == "Adadelta" else "rho"] == 0.2


def test_state_stays_shared():
    """Sees wrapper and base drift apart when either is loaded, or when groups are added."""
    model = network()
    base = optim.Adam(model[0].parameters(), lr=0.01)
    opt = RST(base, p=0.5, rho=0.1)
    train(model, opt, batches(2))
    base.load_state_dict(copy.deepcopy(base.state_dict()))
    assert opt.param_groups is base.param_groups
    assert opt.state is base.state
    opt.add_param_group({"params": model[2].parameters(), "lr": 0.02})
    opt.add_param_group({"params": model[4].parameters(), "rho": 0.0})
    assert [group["rho"] for group in base.param_groups] == [0.1, 0.1, 0.0]
    assert [group["coin_step"] for group in base.param_groups] == [2, 2, 2]
    train(model, opt, batches(2))
    assert opt.cost.steps == 4


def test_named_parameters_and_copies():
    """Sees names of parameters lost, and deep copies or pickles that forget the base."""
    model = network()
    base = optim.SGD(model.named_parameters(), lr=0.05, momentum=0.9)
    opt = RST(base, p=0.5, rho=0.1)
    train(model, opt, batches(3))
    assert opt.state_dict()["param_groups"][0]["param_names"][0] == "0.weight"
    twin, twin_opt = copy.deepcopy((model, opt))
    train(model, opt, batches(3))
    train(twin, twin_opt, batches(3))
    assert identical(snapshot(model), snapshot(twin))
    assert twin_opt.cost == opt.cost


def test_a_copy_with_a_scheduler():
    """Sees a copy whose `step`, which schedulers replace, is still that of the original."""
    model = network()
    opt = SAM(optim.SGD(model.parameters(), lr=0.05), rho=0.1)
    scheduler = optim.lr_scheduler.StepLR(opt, 1)
    twin, twin_opt = copy.deepcopy((model, opt))
    train(twin, twin_opt, batches(1))
    assert identical(snapshot(model), snapshot(network()))
    assert not identical(snapshot(model), snapshot(twin))
    assert twin_opt.cost.steps == 1
    assert pickle.loads(pickle.dumps(opt)).param_groups[0]["lr"] == scheduler.get_last_lr()[0]


def test_changes_on_the_base():
    """Sees groups or checkpoints that reach the base behind the wrapper's back break the next step."""
    model = network()
    base = optim.Adam(model[0].parameters(), lr=0.01)
    fresh = copy.deepcopy(base.state_dict())
    opt = RST(base, p=0.5, rho=0.1, seed=8)
    train(model, opt, batches(3))
    base.add_param_group({"params": list(model[2].parameters())})
    assert opt.cost.steps == 3
    train(model, opt, batches(1))
    assert [group["coin_step"] for group in base.param_groups] == [4, 4]
    only = optim.Adam(model[4].parameters(), lr=0.01)
    other = RST(only, p=0.5, rho=0.1, seed=8)
    only.load_state_dict(fresh)
    train(model, other, batches(1))
    assert other.cost.steps == 1


def test_a_checkpoint_loaded_in_the_middle_of_a_step():
    """Sees passes of before a load counted to the step after it."""
    model = network()
    opt = SAM(optim.SGD(model.parameters(), lr=0.05), rho=0.1)
    saved = copy.deepcopy(opt.state_dict())
    for x, y in opt.passes(batches(1)[0][0]):
        torch.nn.functional.mse_loss(model(x), y).backward()
    opt.load_state_dict(saved)
    opt.zero_grad()
    assert opt.cost.steps == 0


def test_state_dict_hooks():
    """Sees hooks on the wrapper's state dict that are never called."""
    opt = SAM(optim.SGD(network().parameters(), lr=0.05), rho=0.1)
    calls = []
    opt.register_state_dict_pre_hook(lambda optimizer: calls.append("save"))
    opt.register_state_dict_post_hook(lambda optimizer, state: {**state, "note": 1})
    opt.register_load_state_dict_pre_hook(lambda optimizer, state: {k: v for k, v in state.items() if k != "note"})
    opt.register_load_state_dict_post_hook(lambda optimizer: calls.append("loaded"))
    saved = opt.state_dict()
    assert saved["note"] == 1
    opt.load_state_dict(saved)
    assert calls == ["save", "loaded"]


def test_hooks_of_both_are_called():
    """Sees step hooks, which profilers and hosts register, skipped or called twice."""
    model = network()
    base = optim.SGD(model.parameters(), lr=0.05)
    opt = SAM(base, rho=0.1)
    calls = []
    opt.register_step_pre_hook(lambda *_: calls.append("before"))
    base.register_step_post_hook(lambda *_: calls.append("base"))
    opt.register_step_post_hook(lambda *_: calls.append("after"))
    train(model, opt, batches(1))
    assert calls == ["before", "base", "after"]


def test_a_bare_step_is_the_bases():
    """Sees a coin consumed, or a division by zero, where hosts initialize an optimizer with a bare step."""
    plain, ours = network(), network()
    opt = SAM(optim.Adam(ours.parameters(), lr=0.01), rho=0.1)
    base = optim.Adam(plain.parameters(), lr=0.01)
    for model, optimizer in ((plain, base), (ours, opt)):
        ((x, y),) = batches(1)[0]
        torch.nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    assert identical(snapshot(plain), snapshot(ours))
    assert opt.cost.steps == 0
