"""What bases, torch and hosts may expect of an optimizer, beside its step."""

import copy
import gc
import pickle
import warnings
import weakref

import pytest
import schedulefree
import torch
from torch import nn, optim
from torch.autograd.profiler import profile
from torch.nn.functional import mse_loss
from torch.optim import optimizer as torch_optimizer

import oracle
from problems import batches, distance, identical, network, snapshot, train
from sharpless import GRST, RST, SAM, ascent
from sharpless.coin import uniform

pytestmark = pytest.mark.quick

RHO = 0.1


def sgd(model, **options):
    return optim.SGD(model.parameters(), lr=0.05, **options)


MAXIMIZERS = {
    "SGD": lambda groups, **options: optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=0.01, **options),
    "AdamW": lambda groups, **options: optim.AdamW(groups, lr=0.01, **options),
}


@pytest.mark.parametrize("climb", [ascent.sam, ascent.asam, "friendly"], ids=["sam", "asam", "friendly"])
@pytest.mark.parametrize("fraction", [1.0, 0.25])
@pytest.mark.parametrize("base", MAXIMIZERS)
def test_maximizing_is_minimizing_the_negative(base, fraction, climb):
    """Sees a climb down, towards smaller values of what is maximized: equal bit for bit, up to signs."""
    ends = []
    for sign in (1.0, -1.0):
        model = network()
        opt = GRST(
            MAXIMIZERS[base](model.parameters(), maximize=sign < 0),
            0.6,
            gamma=2.0,
            rho=RHO,
            seed=3,
            batch_fraction=fraction,
            ascent=ascent.Friendly() if climb == "friendly" else climb,
        )
        for (batch,) in batches(8):
            for x, y in opt.passes(batch):
                (sign * mse_loss(model(x), y)).backward()
            opt.step()
            opt.zero_grad()
        ends.append(snapshot(model))
    assert identical(*ends)


def test_one_group_that_maximizes():
    """Sees the direction of one group taken for that of all: the players of a saddle climb each its own way."""
    a, b = (nn.Parameter(torch.tensor([1.0, 2.0])) for _ in range(2))
    opt = SAM(optim.SGD([{"params": [a]}, {"params": [b], "maximize": True}], lr=0.1), rho=0.5)
    for _ in opt.passes():
        if opt.perturbed:
            moved = (a.detach() - torch.tensor([1.0, 2.0]), b.detach() - torch.tensor([1.0, 2.0]))
        (a.square().sum() + b.square().sum()).backward()
    assert (moved[0] > 0).all()
    assert (moved[1] < 0).all()
    torch.testing.assert_close(moved[0], -moved[1])


class Polyak(optim.Optimizer):
    """A base that reads the loss which its closure returns."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        square = sum(float(p.grad.square().sum()) for p in self.param_groups[0]["params"])
        for p in self.param_groups[0]["params"]:
            p.sub_(p.grad * (0.1 if loss is None else float(loss) / square))
        return loss


@pytest.mark.parametrize("several", [False, True])
def test_a_base_that_reads_the_loss(several):
    """Sees p = 0 differ from a base that reads the loss of its closure, or one that is told the perturbed loss."""
    ends = []
    for wrapped in (False, True):
        model = network()
        parts = [model[:2], model[2:]] if several else [model]
        bases = [Polyak(part.parameters()) for part in parts]
        opts = [RST(bases, p=0.0)] if wrapped else bases
        for ((x, y),) in batches(4):

            def closure(x=x, y=y, model=model):
                model.zero_grad()
                loss = mse_loss(model(x), y)
                loss.backward()
                return loss

            if wrapped:
                assert opts[0].step(closure) is not None
            else:
                loss = closure()
                for opt in opts:
                    opt.step(lambda loss=loss: loss)
        ends.append(snapshot(model))
    assert identical(*ends)


def test_a_base_whose_step_takes_no_closure():
    """Sees a closure forced on a base that has no use for it."""

    class Plain(optim.SGD):
        def step(self):
            return super().step()

    model = network()
    opt = SAM(Plain(model.parameters(), lr=0.1), rho=RHO)
    ((x, y),) = batches(1)[0]

    def closure():
        model.zero_grad()
        loss = mse_loss(model(x), y)
        loss.backward()
        return loss

    assert float(opt.step(closure).detach()) > 0


@pytest.mark.parametrize("several", [False, True])
def test_global_hooks_and_the_profiler(several):
    """Sees one step counted twice: once for the wrapper, once for the base."""
    seen = []
    hooks = [
        torch_optimizer.register_optimizer_step_pre_hook(lambda opt, *_: seen.append(type(opt).__name__)),
        torch_optimizer.register_optimizer_step_post_hook(lambda opt, *_: seen.append(type(opt).__name__)),
    ]
    try:
        model = network()
        base = [sgd(model[:2]), sgd(model[2:])] if several else sgd(model)
        opt = SAM(base, rho=RHO)
        with profile() as profiler:
            train(model, opt, batches(3))
    finally:
        for hook in hooks:
            hook.remove()
    steps = 6 if several else 3
    assert seen == ["SGD"] * 2 * steps
    names = [event.name for event in profiler.function_events if event.name.startswith("Optimizer.step#")]
    assert names == ["Optimizer.step#SGD.step"] * steps


def test_hooks_that_replace_the_arguments():
    """Sees hooks on the wrapper that are called, but whose answer is lost."""
    model = network()
    opt = SAM(sgd(model), rho=RHO)
    ((x, y),) = batches(1)[0]
    calls = []

    def closure():
        calls.append(1)
        model.zero_grad()
        loss = mse_loss(model(x), y)
        loss.backward()
        return loss

    opt.register_step_pre_hook(lambda opt, args, kwargs: (args[:1], {"closure": closure}))
    opt.step()
    assert len(calls) == 2


def test_parameter_groups_that_are_none():
    """Sees another error than torch's own for a group that is no dict."""
    model = network()
    opt = SAM(sgd(model))
    errors = []
    for each in (opt, opt.base):
        with pytest.raises(TypeError) as caught:
            each.add_param_group([nn.Parameter(torch.zeros(1))])
        errors.append(str(caught.value))
    assert errors[0] == errors[1]
    with pytest.raises(ValueError, match="rho of a parameter group = -1"):
        opt.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "rho": -1})
    assert len(opt.param_groups) == 1


def test_groups_in_the_middle_of_a_loop():
    """Sees a group that joins between two passes end in an error about generators."""
    model = network()
    opt = SAM(sgd(model))
    for x, y in opt.passes(batches(1)[0][0]):
        mse_loss(model(x), y).backward()
        if not opt.perturbed:
            with pytest.raises(RuntimeError, match=r"add_param_group\(\) was called in the middle of passes\(\)"):
                opt.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})


def test_radii_survive_a_checkpoint_of_the_base():
    """Sees biases that were left unperturbed climb after a run that began without sharpless."""
    model = network()
    groups = [{"params": [model[0].weight], "rho": 0.2}, {"params": [model[0].bias], "rho": 0.0}]
    plain = optim.SGD([{"params": group["params"]} for group in groups], lr=0.05)
    opt = SAM(optim.SGD(groups, lr=0.05), rho=RHO)
    opt.load_state_dict(plain.state_dict())
    assert [group["rho"] for group in opt.param_groups] == [0.2, 0.0]


def test_grad_scaler_is_not_taken_for_the_caller():
    """Sees a closure refused because a scaler, or a host, has looked at the optimizer before."""
    model = network()
    opt = SAM(sgd(model))
    getattr(opt, "_step_supports_amp_scaling", None)
    scaler = torch.amp.GradScaler("cpu")
    ((x, y),) = batches(1)[0]
    for a, b in opt.passes((x, y)):
        scaler.scale(float("inf") * mse_loss(model(a), b)).backward()
    scaler.step(opt)
    scaler.update()
    opt.zero_grad()

    def closure():
        opt.zero_grad()
        loss = mse_loss(model(x), y)
        loss.backward()
        return loss

    assert float(opt.step(closure).detach()) > 0


def test_modes_are_handed_on():
    """Sees a schedule-free base that a host's optimizer.train() does not reach."""
    model = network()
    base = schedulefree.SGDScheduleFree(model.parameters(), lr=0.05)
    opt = SAM([base], rho=RHO)
    opt.train()
    train(model, opt, batches(3))
    before = snapshot(model)
    opt.eval()
    assert not identical(before, snapshot(model))
    plain = SAM(sgd(model))
    plain.train()
    plain.eval()


def test_lazy_parameters():
    """Sees parameters that get their shape in the first forward refused, or taken for others."""
    torch.manual_seed(0)
    lazy = nn.Sequential(nn.LazyLinear(4), nn.Tanh(), nn.LazyLinear(1)).double()
    opt = GRST(sgd(lazy), p=1.0, gamma=2.0, rho=RHO, model=lazy)
    steps = batches(3)
    with torch.random.fork_rng():
        train(lazy, opt, steps[:1])
    twin = copy.deepcopy(lazy)
    train(lazy, opt, steps[1:])
    oracle.train(twin, mse_loss, steps[1:], sgd(twin), [True] * 2, RHO, 2.0)
    assert distance(lazy, twin) < 1e-12


def test_friendly_starts_at_the_first_gradient():
    """Sees a running mean that starts at 0, where the authors' code starts it at the first gradient."""
    climb, memory = ascent.Friendly(), [{"friendly_mean": torch.zeros(2)}]
    grads = ([3.0, 4.0], [0.3, 1.4], [1.0, -1.0])
    eps = [climb([torch.zeros(2)], [torch.tensor(g)], [1.0], memory)[0] for g in grads]
    expected = [[0.6, 0.8], [-0.7203, -0.6936], [-0.3429, -0.9394]]
    torch.testing.assert_close(torch.stack(eps), torch.tensor(expected), rtol=0, atol=1e-4)


def test_fully_sharded_data_parallel():
    """Sees a radius of √2·ρ on two ranks, where each takes the norm of its shard for that of the whole."""
    model = nn.Linear(2, 1)
    for parameter in model.parameters():
        parameter._fsdp_flattened = True
    with pytest.raises(ValueError, match="fully_shard"):
        SAM(sgd(model))


class Proxy:
    """A host's proxy, as Lightning's and Fabric's once were: it has a copy of the attributes, and the class."""

    def __init__(self, opt):
        self.__dict__ = {name: value for name, value in opt.__dict__.items() if name not in {"step", "zero_grad"}}
        self.__class__ = type("Proxy", (Proxy, type(opt)), {})
        self.real = opt

    def step(self, closure=None):
        return self.real.step(closure)


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_proxies_that_copy_attributes(gamma):
    """Sees what a step remembers land on the proxy alone: a coin that is off by one, `perturbed` that never is."""
    ours, theirs = network(), network()
    opt = GRST(sgd(ours), p=0.6, gamma=gamma, rho=RHO, seed=3)
    proxy = Proxy(opt)
    perturbed = []
    for number, (batch,) in enumerate(batches(8)):
        if number % 2:
            proxy.zero_grad()
        for x, y in proxy.passes(batch):
            perturbed.append((proxy.perturbed, opt.perturbed))
            mse_loss(ours(x), y).backward()
        proxy.step()
        if not number % 2:
            opt.zero_grad()
            continue
        ours.zero_grad()
    coins = [uniform(3, step) < 0.6 for step in range(8)]
    oracle.train(theirs, mse_loss, batches(8), sgd(theirs), coins, RHO, gamma)
    assert distance(ours, theirs) < 1e-12
    assert opt.cost == proxy.cost
    assert (opt.cost.steps, opt.cost.sharp_steps) == (8, sum(coins))
    assert {a == b for a, b in perturbed} == {True}
    assert sum(a for a, _ in perturbed) == sum(coins)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_a_closure_after_passes(p):
    """Sees a host's closure, which has nothing left to do, called twice, counted, or its value lost."""
    model = network()
    opt = RST(sgd(model), p=p, rho=RHO, gamma=2.0)
    twin = copy.deepcopy(model)
    calls = []
    for (batch,) in batches(3):
        for x, y in opt.passes(batch):
            mse_loss(model(x), y).backward()
        assert opt.step(lambda: calls.append(1) or "the loss") == "the loss"
        opt.zero_grad()
    oracle.train(twin, mse_loss, batches(3), sgd(twin), [p == 1.0] * 3, RHO, 2.0)
    assert distance(model, twin) < 1e-12
    assert len(calls) == 3
    assert (opt.cost.steps, opt.cost.passes, opt.cost.plain_passes) == (3, 3 + 3 * p, 3)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_a_closure_that_looks_at_the_gradient(p):
    """Sees a host's closure clip or log nothing, since the gradient of the step waits elsewhere."""
    model, twin = network(), network()
    opt = RST(sgd(model), p=p, rho=RHO, gamma=2.0)
    for (batch,) in batches(3):
        for x, y in opt.passes(batch):
            mse_loss(model(x), y).backward()
        opt.step(lambda: [parameter.grad.mul_(0.5) for parameter in model.parameters()])
        opt.zero_grad()
    half = sgd(twin)
    half.register_step_pre_hook(lambda *_: [parameter.grad.mul_(0.5) for parameter in twin.parameters()] and None)
    oracle.train(twin, mse_loss, batches(3), half, [p == 1.0] * 3, RHO, 2.0)
    assert distance(model, twin) < 1e-12


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_a_closure_that_adds_gradients_to_those_of_passes(p):
    """Sees a micro-batch in a closure that does not climb, after others that did."""
    model = network()
    opt = RST(sgd(model), p=p, rho=RHO)
    (((x, y),),) = batches(1)
    for a, b in opt.passes((x, y)):
        mse_loss(model(a), b).backward()
    with pytest.raises(RuntimeError, match=r"the closure of step\(\) computed gradients, but passes\(\) already did"):
        opt.step(lambda: mse_loss(model(x), y).backward())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("p", [0.5, 1.0])
def test_a_closure_that_does_nothing(p):
    """Sees plain training without a word in a host whose every step has a closure, as in Lightning; or its cost."""
    model = network()
    opt, before = RST(sgd(model), p=p, rho=RHO), sgd(twin := copy.deepcopy(model))

    def train():
        for ((x, y),) in batches(3):
            for net, step in ((model, lambda: opt.step(lambda: None)), (twin, before.step)):
                net.zero_grad()
                mse_loss(net(x), y).backward()
                step()

    with pytest.warns(UserWarning, match=r"^step\(\) was called without passes\(\)") as warned:
        train()
    assert len(warned) == 1
    assert distance(model, twin) == 0
    assert (opt.cost.steps, opt.cost.passes) == (0, 0)


def bare(model, opt):
    for (x, y), *_ in batches(1):
        mse_loss(model(x), y).backward()
    opt.step()
    opt.zero_grad()


def test_bare_steps_warn_each_time_they_begin(recwarn):
    """Sees plain training without a word after a resume, or between steps with passes; and the same word at each."""
    warnings.simplefilter("always")  # Python shows the same words at the same place once
    model = network()
    opt = SAM(sgd(model, momentum=0.9))

    def warned():
        count = len(recwarn)
        recwarn.clear()
        return count

    bare(model, opt)
    assert warned() == 0  # a first one is a host's
    bare(model, opt)
    assert warned() == 1
    bare(model, opt)
    assert warned() == 0
    train(model, opt, batches(2))
    assert warned() == 0
    bare(model, opt)
    bare(model, opt)
    assert warned() == 1
    train(model, opt, batches(1))
    bare(model, opt)
    assert warned() == 1
    again = SAM(sgd(model, momentum=0.9))
    again.load_state_dict(copy.deepcopy(opt.state_dict()))
    bare(model, again)
    bare(model, again)
    assert warned() == 1
    never = RST(sgd(model), p=0.0)
    for _ in range(3):
        bare(model, never)
    assert warned() == 0


def test_distributed_checkpoints_do_not_warn():
    """Sees the bare steps with which torch.distributed.checkpoint initializes an optimizer taken for a loop's."""
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    model = network()
    opt = SAM(sgd(model))  # without momentum it never has a state
    for _ in range(3):
        weights, state = get_state_dict(model, opt)
        train(model, opt, batches(1))
        weights, state = get_state_dict(model, opt)
        set_state_dict(model, opt, model_state_dict=weights, optim_state_dict=state)
    assert opt.cost.steps == 3


@pytest.mark.filterwarnings("error", "ignore:.*torch.jit.script")
def test_small_parts_warn_beside_batchnorm():
    """Sees a network with BatchNorm broken by small parts without a word, or a word where there is no reason."""
    x, y = torch.randn(128, 5), torch.randn(128, 1)

    def step(model, fraction):
        opt = SAM(sgd(model), rho=RHO, model=model, batch_fraction=fraction)
        for _ in range(2):
            for a, b in opt.passes((x, y)):
                mse_loss(model(a), b).backward()
            opt.step()
            opt.zero_grad()

    normalized = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    with pytest.warns(UserWarning, match=r"batch_fraction = 0.1 climbs with 13 examples, and model has BatchNorm") as w:
        step(normalized, 0.1)
    assert len(w) == 1
    step(normalized, 0.25)
    step(nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 1)), 0.1)
    with pytest.warns(UserWarning, match="BatchNorm"):
        step(torch.jit.script(nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))), 0.1)


@pytest.mark.filterwarnings("error")
def test_a_large_gamma_warns_in_fine_tuning():
    """Sees a pretrained network with BatchNorm broken by a large γ without a word, or a word without reason."""
    torch.manual_seed(0)
    fresh = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)).double()
    trained = copy.deepcopy(fresh)
    for _ in range(20):
        trained(torch.randn(64, 5, dtype=torch.float64))
    old = copy.deepcopy(trained)
    old[1].num_batches_tracked.zero_()  # as in files from before this counter

    def run(model, *, state=None, **options):
        opt = GRST(sgd(model), rho=RHO, model=model, **options)
        if state is not None:
            opt.load_state_dict(state)
        for batch in batches(12):
            train(model, opt, [batch])
        return opt.state_dict()

    state = run(fresh, p=0.25)
    run(fresh, p=0.25, state=state)  # resumed
    for model in (trained, old):
        for options in ({"p": 0.5}, {"p": 0.25, "gamma": 1.0}, {"p": 1.0}):
            run(copy.deepcopy(model), **options)
        with pytest.warns(UserWarning, match="γ = 4, and the BatchNorm layers of model were trained before") as warned:
            run(copy.deepcopy(model), p=0.25)
        assert len(warned) == 1


def test_words_about_lengths():
    """Sees a remedy that leads into the next error."""
    opt = RST(sgd(network()), p=1.0, batch_fraction=0.5)
    with pytest.raises(ValueError, match=r"3 and 4.*set batch_fraction = 1, which splits no batch"):
        opt.passes((torch.ones(4), torch.ones(3)))
    with pytest.raises(ValueError, match=r"hand over tensors, as in passes\(\(x, y\)\)"):
        opt.passes()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
@pytest.mark.parametrize("several", [False, True])
def test_copies_hear_of_the_bases_steps(several, copied):
    """Sees a copy that has one coin for all steps that are taken on its base, or that cannot be pickled."""
    model = network()
    opt = RST([sgd(model[:2]), sgd(model[2:])] if several else sgd(model), "adaptive:1,-1", rho=RHO, total_steps=20)
    train(model, opt, batches(3))
    twin, twin_opt = copied((model, opt))
    for each, its in ((model, opt), (twin, twin_opt)):
        for (batch,) in batches(10):
            for x, y in its.passes(batch):
                each.zero_grad()
                mse_loss(each(x), y).backward()
            for base in its.base.bases if several else [its.base]:
                base.step()
    assert identical(snapshot(model), snapshot(twin))
    assert opt.cost == twin_opt.cost
    assert opt.cost.steps == 13


def test_friendly_when_the_base_is_stepped():
    """Sees the running mean lost, or missing in checkpoints, where a host takes the step on the base."""
    ends = []
    for on_base in (False, True):
        model = network()
        base = sgd(model, momentum=0.9)
        opt = SAM(base, rho=RHO, ascent=ascent.Friendly())
        for (batch,) in batches(6):
            for x, y in opt.passes(batch):
                mse_loss(model(x), y).backward()
            (base if on_base else opt).step()
            model.zero_grad()
        assert all("friendly_mean" in state for state in opt.state_dict()["state"].values())
        ends.append(snapshot(model))
    assert identical(*ends)


class Odd(optim.Optimizer):
    """A base that has not called the constructor of its class, as some wrappers of optimizers do not."""

    def __init__(self, inner):
        self.inner, self.defaults = inner, inner.defaults
        self.param_groups, self.state = inner.param_groups, inner.state

    def step(self, closure=None):
        return self.inner.step(closure)


def test_bases_without_a_constructor():
    """Sees a base refused that has no place for hooks."""
    ours, theirs = network(), network()
    train(ours, SAM(Odd(sgd(ours)), rho=RHO), batches(4))
    oracle.train(theirs, mse_loss, batches(4), sgd(theirs), [True] * 4, RHO, 1.0)
    assert distance(ours, theirs) < 1e-12


def test_wrappers_that_are_gone():
    """Sees a base keep alive, and call, all the wrappers that a search for hyperparameters has put around it."""
    model = network()
    base = sgd(model)
    first = SAM(base, rho=RHO)
    gone = weakref.ref(first)
    del first
    gc.collect()
    assert gone() is None
    assert not base._optimizer_step_post_hooks
    opt = SAM(base, rho=RHO)
    train(model, opt, batches(2))
    assert opt.cost.steps == 2


@pytest.mark.parametrize("several", [False, True])
def test_a_base_that_is_wrapped_again(several):
    """Sees a second wrapper train with radius, seed and count of the first, as where a notebook cell runs again."""
    model, theirs = network(), network()
    parameters = list(model.parameters())
    groups = [{"params": parameters[:3]}, {"params": parameters[3:], "rho": 0.0}]
    bases = [optim.SGD([group], lr=0.1) for group in groups] if several else optim.SGD(groups, lr=0.1)
    first = SAM(bases, rho=RHO, seed=1)
    train(model, first, batches(2))
    opt = SAM(bases, rho=2 * RHO, seed=3)
    assert [group["rho"] for group in opt.param_groups] == [2 * RHO, 0.0]
    assert opt.cost.steps == 0
    assert opt.param_groups[1]["coin_seed"] == 3
    model.load_state_dict(theirs.state_dict())
    train(model, opt, batches(3))
    halves = list(theirs.parameters())[:3], list(theirs.parameters())[3:]
    fresh = SAM(optim.SGD([{"params": halves[0]}, {"params": halves[1], "rho": 0.0}], lr=0.1), rho=2 * RHO, seed=3)
    train(theirs, fresh, batches(3))
    assert distance(model, theirs) == 0
    with pytest.raises(RuntimeError, match="wrapped again after this SAM"):
        train(model, first, batches(1))


@pytest.mark.parametrize("way", ["loaded", "copied"])
def test_a_base_that_is_wrapped_again_after_a_checkpoint(way):
    """Sees the second wrapper of a base train with radius and seed of the first one, which has loaded a checkpoint."""
    parameters = list(network().parameters())
    groups = [{"params": parameters[:3]}, {"params": parameters[3:], "rho": 0.0}]
    first = SAM(optim.SGD(groups, lr=0.1), rho=RHO, seed=1)
    if way == "loaded":
        first.load_state_dict(first.state_dict())
    else:
        first = copy.deepcopy(first)
        list(first.passes())
    opt = SAM(first.base, rho=2 * RHO, seed=3)
    assert [(group["rho"], group["coin_seed"]) for group in opt.param_groups] == [(2 * RHO, 3), (0.0, 3)]


def test_a_base_with_a_checkpoint():
    """Sees the numbers of a checkpoint that the base has loaded lost when it is wrapped."""
    model = network()
    opt = SAM(sgd(model), rho=RHO, seed=5)
    train(model, opt, batches(3))
    base = sgd(network())
    SAM(base, rho=1.0)
    base.load_state_dict(opt.state_dict())
    again = SAM(base, rho=1.0)
    assert again.cost == opt.cost
    assert again.param_groups[0]["rho"] == RHO
    assert again.param_groups[0]["coin_seed"] == 5


@pytest.mark.parametrize("value", [float("nan"), -0.1, float("inf"), "0.5", None])
def test_a_radius_that_a_loop_sets_wrongly(value):
    """Sees plain steps without a word after a radius of NaN, and weights of NaN after an infinite one."""
    model = network()
    opt = SAM(sgd(model), rho=RHO)
    train(model, opt, batches(1))
    opt.param_groups[0]["rho"] = value
    with pytest.raises((TypeError, ValueError), match="rho of a parameter group"):
        train(model, opt, batches(1))


ONCE = ["p", "rho", "seed", "degree", "ascent", "only", "systematic", "schedule", "total_steps"]


@pytest.mark.parametrize("name", ONCE)
def test_attributes_that_nothing_reads(name):
    """Sees `opt.rho = 0.1` in the middle of a run do nothing, without a word."""
    opt = GRST(sgd(network()), rho=RHO)
    with pytest.raises(AttributeError, match=rf"opt\.{name} = 0.1 would change nothing"):
        setattr(opt, name, 0.1)


def test_a_gamma_beside_its_cap():
    """Sees γ set where only its cap is read, without a word, or a cap of NaN."""
    opt = GRST(sgd(network()), 0.25, rho=RHO, gamma_cap=2.0)
    with pytest.raises(AttributeError, match=r"opt\.gamma = 3\.0 would change nothing: set opt\.gamma_cap"):
        opt.gamma = 3.0
    with pytest.raises(ValueError, match="gamma_cap = nan"):
        opt.gamma_cap = float("nan")
    opt.gamma_cap = None
    opt.gamma = 3.0
    assert opt._gamma_at(0.25) == 3.0


def test_another_network():
    """Sees the buffers and noise of a network protected that the optimizer does not train."""
    model = network()
    opt = SAM(sgd(model), rho=RHO)
    for other, error in ((network(), ValueError), ("net", TypeError)):
        with pytest.raises(error, match="model"):
            opt.model = other
    opt.model = torch.compile(model, backend="eager")
    assert opt.model is model


def test_attributes_that_are_read():
    """Sees a γ or a share that changes in the middle of a run ignored, or taken when it is out of range."""
    model, theirs = network(), network()
    opt = SAM(sgd(model), rho=RHO)
    opt.gamma = 2.0
    train(model, opt, batches(3))
    oracle.train(theirs, mse_loss, batches(3), sgd(theirs), [True] * 3, RHO, 2.0)
    assert distance(model, theirs) < 1e-12
    for name, value in (("gamma", float("nan")), ("batch_fraction", 5), ("batch_fraction", 0)):
        with pytest.raises(ValueError, match=f"{name} = "):
            setattr(opt, name, value)
