"""What a loop may do around passes(): accumulate, clip, skip a step, and misuse it."""

import copy

import pytest
import torch
from torch.nn.functional import mse_loss

import oracle
from problems import batches, distance, identical, network, snapshot, train
from sharpless import GRST, RST, SAM, schedules
from sharpless.coin import uniform

pytestmark = pytest.mark.quick


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), lr=0.05, **options)


def test_clipping_acts_on_the_mixed_gradient():
    """Sees gradients still in other units, or not yet mixed, when the loop over passes has ended."""
    model = network()
    opt = GRST(sgd(model), p=1.0, gamma=3.0, rho=0.1)
    ((batch,),) = batches(1)
    seen = []
    for x, y in opt.passes(batch):
        seen.append(torch.autograd.grad(mse_loss(model(x), y), list(model.parameters())))
        mse_loss(model(x), y).backward()
    for p, clean, perturbed in zip(model.parameters(), *seen, strict=True):
        torch.testing.assert_close(p.grad, -2 * clean + 3 * perturbed, rtol=1e-12, atol=1e-14)
    before = [p.detach().clone() for p in model.parameters()]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    opt.step()
    moved = sum(float(((p - b) ** 2).sum().detach()) for p, b in zip(model.parameters(), before, strict=True)) ** 0.5
    assert moved == pytest.approx(0.05 * 1e-3, rel=1e-3)


@pytest.mark.parametrize("give_up", ["opt.zero_grad()", "opt.zero_grad(set_to_none=False)", "model.zero_grad()"])
def test_a_step_that_is_skipped(give_up):
    """Sees a coin kept over two iterations when an overflow, say, made the loop skip `step`."""
    model = network()
    opt = RST(sgd(model), p=0.5, rho=0.1, seed=2)
    for step, (batch,) in enumerate(batches(12)):
        count = 0
        for x, y in opt.passes(batch):
            mse_loss(model(x), y).backward()
            count += 1
        assert count == (2 if uniform(2, step) < 0.5 else 1)
        if step % 3:
            opt.step()
            opt.zero_grad()
        else:
            eval(give_up)
    opt.zero_grad()
    assert opt.cost.steps == 12
    assert opt.cost.passes == 12 + opt.cost.sharp_steps


def test_the_ledger_under_accumulation():
    """Sees micro-batches counted once, or more than one coin for them."""
    model = network()
    opt = RST(sgd(model), p=0.5, rho=0.1)
    train(model, opt, batches(40, micro=3))
    sharp = sum(uniform(0, step) < 0.5 for step in range(40))
    assert opt.cost.steps == 40
    assert opt.cost.sharp_steps == sharp
    assert opt.cost.passes == 3 * (40 + sharp)
    assert opt.cost.plain_passes == 120
    assert opt.cost.ratio == pytest.approx(1 + sharp / 40)


def same(one, other):
    """Whether two nests hold the same values in the same containers."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and all(map(same, one, other))
    return one == other


def test_nests_of_tensors():
    """Sees a batch that comes back as something else, or is refused."""
    model = network()
    opt = SAM(sgd(model))
    x = torch.randn(4, 5, dtype=torch.float64)
    for batch in (
        x,
        (x, x),
        [x, {"a": x, "b": (x, None)}],
        {"x": x, "temperature": torch.tensor(2.0), "id": "q"},
        None,
    ):
        for given in opt.passes(batch):
            assert same(given, batch)
            model(x).sum().backward()
        opt.step()
        opt.zero_grad()


def test_a_loop_without_passes():
    """Sees plain training that its user takes for SAM; one bare step is what hosts do, and says nothing."""
    model = network()
    opt = SAM(sgd(model))
    opt.step()
    with pytest.warns(UserWarning, match="without passes"):
        opt.step()
    opt.step()


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_sparse_gradients(gamma):
    """Sees sparse gradients that cannot be climbed along or mixed: training must be that with dense ones."""
    ends = []
    for sparse in (True, False):
        torch.manual_seed(0)
        model = torch.nn.Sequential(*(torch.nn.Embedding(7, 3, sparse=sparse) for _ in range(2))).double()
        opt = RST(sgd(model), p=0.5, rho=0.1, gamma=gamma)
        for step in range(6):
            for x in opt.passes(torch.tensor([step, 1, 2])):
                (model[0](x).square() * model[1](x)).sum().backward()
            opt.step()
            opt.zero_grad()
        assert 0 < opt.cost.sharp_steps < 6
        ends.append(torch.cat([p.detach() for p in model.parameters()]))
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-14)


def test_repr():
    """Sees a wrapper that does not say what it does."""
    assert repr(GRST(sgd(network()), p="linear:0,1", total_steps=9)).startswith(
        "GRST(p = linear:0,1, γ = 2) around SGD ("
    )


def message_of(kind, call):
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "make", "names"),
    [
        (ValueError, lambda base: RST(base, p=1.2), ["p = 1.2", "[0, 1]"]),
        (ValueError, lambda base: RST(base, p=-0.1), ["p = -0.1", "[0, 1]"]),
        (ValueError, lambda base: RST(base, p=float("nan")), ["p = nan"]),
        (ValueError, lambda base: RST(base, p="half"), ["'half'", "linear:0,1"]),
        (TypeError, lambda base: RST(base, p=None), ["p = None"]),
        (TypeError, lambda base: SAM(base, rho="0.05"), ["rho = '0.05'", "number"]),
        (TypeError, lambda base: SAM(base, seed=1.5), ["seed = 1.5"]),
        (ValueError, lambda base: RST(base, total_steps=-1), ["total_steps = -1"]),
        (TypeError, lambda base: RST(base, total_steps=9.5), ["total_steps = 9.5"]),
        (ValueError, lambda base: SAM(base, model=network()), ["model", "in common"]),
        (ValueError, lambda base: RST(base, p=lambda u: 2 * u, total_steps=9), ["1.002", "[0, 1]"]),
        (ValueError, lambda base: RST(base, p=schedules.Linear(0, 1)), ["linear:0,1", "total_steps"]),
        (ValueError, lambda base: RST(base, p=lambda u: u), ["total_steps"]),
        (ValueError, lambda base: RST(base, total_steps=0), ["total_steps = 0"]),
        (ValueError, lambda base: SAM(base, rho=-1.0), ["rho = -1.0"]),
        (ValueError, lambda base: SAM(base, rho=float("inf")), ["rho = inf"]),
        (ValueError, lambda base: RST(base, gamma=-2.0), ["gamma = -2.0"]),
        (ValueError, lambda base: GRST(base, gamma=2.0, degree=1.0), ["gamma = 2.0", "degree"]),
        (ValueError, lambda base: GRST(base, gamma=2.0, gamma_cap=4.0), ["gamma = 2.0", "gamma_cap"]),
        (ValueError, lambda base: GRST(base, p=0.0), ["p = 0", "degree"]),
        (ValueError, lambda base: GRST(base, degree=-1.0), ["degree = -1.0"]),
        (TypeError, lambda base: GRST(base, degree="all"), ["degree = 'all'", "number"]),
        (TypeError, lambda base: RST(torch.optim.SGD), ["base", "instance"]),
        (TypeError, lambda base: RST(RST(sgd(network()))), ["already"]),
        (TypeError, lambda base: RST(torch.optim.LBFGS([torch.zeros(1)])), ["LBFGS", "closure"]),
        (TypeError, lambda base: RST(base, model="resnet"), ["model", "Module"]),
        (TypeError, lambda base: SAM(network()), ["base", "Sequential", "torch.optim.SGD(…)"]),
        (TypeError, lambda base: SAM(base, network()), ["rho = a Sequential", "number"]),
        (TypeError, lambda base: GRST(base, network()), ["p = a Sequential", "lambda u"]),
        (TypeError, lambda base: GRST(base, schedules.Linear), ["p = Linear", "'end'"]),
        (TypeError, lambda base: GRST(base, lambda: 0.5), ["p = <lambda>", "lambda u"]),
        (TypeError, lambda base: SAM(base, lr=0.1), ["lr = 0.1", "SAM", "torch.optim.SGD(…, lr=…)"]),
        (TypeError, lambda base: GRST(torch.optim.SGD, lr=0.1), ["base = SGD", "instance"]),
        (TypeError, lambda base: SAM(base, p=0.5), ["p = 0.5", "SAM", "use GRST"]),
        (TypeError, lambda base: GRST(base, momentum=0.9), ["momentum = 0.9", "GRST", "base"]),
        (TypeError, lambda base: SAM(base, only=network()), ["only", "Sequential", "parameters()"]),
        (TypeError, lambda base: SAM(base, only=network().named_parameters()), ["only", "generator", "parameters()"]),
        (TypeError, lambda base: SAM(base, only=0.5), ["only", "float", "parameters()"]),
        (TypeError, lambda base: GRST.for_budget(base, 1.5, batch_size=8, model="resnet"), ["model", "Module"]),
    ],
)
def test_bad_arguments(kind, make, names):
    """Sees a bad argument accepted, or refused without its name, its value or a remedy, or the base touched."""
    model = network()
    base = sgd(model)
    before = repr(base.param_groups)
    message = message_of(kind, lambda: make(base))
    assert all(name in message for name in names), message
    assert "\n" not in message
    assert repr(base.param_groups) == before


def test_a_radius_in_the_place_of_p():
    """Sees a weight of 20 taken without a word where p = 0.05 was meant as ρ."""
    with pytest.warns(UserWarning, match=r"p = 0\.05 makes γ = 20, .* a radius is given as rho="):
        GRST(sgd(network()), 0.05)
    GRST(sgd(network()), 0.05, gamma=20.0)
    GRST(sgd(network()), 0.05, gamma_cap=4.0)


@pytest.mark.parametrize(
    ("loop", "names"),
    [
        (lambda opt, x, y: opt.passes(x, y), ["2 arguments", "passes((x, y))"]),
        (lambda opt, x, y: opt.passes(torch.utils.data.DataLoader(x)), ["DataLoader", "for batch in loader"]),
        (lambda opt, x, y: opt.step(torch.tensor(0.5)), ["closure = tensor(0.5", "step()"]),
    ],
)
def test_bad_loops(loop, names):
    """Sees Python's own words for a batch in two arguments, for all batches, or for a loss in place of a closure."""
    ((batch,),) = batches(1)
    message = message_of(TypeError, lambda: loop(SAM(sgd(network())), *batch))
    assert all(name in message for name in names), message
    assert "\n" not in message


def test_a_bad_rho_of_a_group():
    """Sees a radius out of range slip in through a parameter group."""
    model = network()
    base = torch.optim.SGD([{"params": model.parameters(), "rho": -0.5}], lr=0.1)
    assert "-0.5" in message_of(ValueError, lambda: SAM(base))


def test_step_in_the_middle_of_passes():
    """Sees a step from the perturbed weights, when `step` is indented one level too deep."""
    model = network()
    opt = SAM(sgd(model), rho=0.1)
    ((batch,),) = batches(1)
    before = [p.detach().clone() for p in model.parameters()]

    def loop():
        for x, y in opt.passes(batch):
            mse_loss(model(x), y).backward()
            opt.step()

    assert "in the middle of passes()" in message_of(RuntimeError, loop)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_passes_within_passes():
    """Sees two loops over the same weights, one of which would restore what the other displaced."""
    model = network()
    opt = SAM(sgd(model), rho=0.1)
    ((batch,),) = batches(1)

    def loop():
        for _ in opt.passes(batch):
            for x, y in opt.passes(batch):
                mse_loss(model(x), y).backward()

    assert "within passes()" in message_of(RuntimeError, loop)


def test_a_batch_whose_tensors_disagree():
    """Sees a batch accepted that cannot belong together, or refused only after work was done."""
    batch = (torch.zeros(8, 5), {"y": torch.zeros(7)})
    opt = SAM(sgd(network()), batch_fraction=0.5)
    assert "7 and 8" in message_of(ValueError, lambda: opt.passes(batch))
    assert same(next(SAM(sgd(network())).passes(batch)), batch)  # which is nobody's business where nothing is cut


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_tied_weights(gamma):
    """Sees a weight that is used twice displaced twice, or counted twice in the norm."""

    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.encode = torch.nn.Linear(5, 5, dtype=torch.float64)
            self.decode = torch.nn.Linear(5, 5, dtype=torch.float64)
            self.decode.weight = self.encode.weight

        def forward(self, x):
            return self.decode(self.encode(x).tanh()).mean(1, keepdim=True)

    ours, theirs = Tied(), Tied()
    train(ours, RST(sgd(ours), p=1.0, rho=0.1, gamma=gamma), batches(5))
    oracle.train(theirs, mse_loss, batches(5), sgd(theirs), [True] * 5, 0.1, gamma)
    assert distance(ours, theirs) < 1e-12


def test_micro_batches_of_unequal_size():
    """Sees micro-batches weighed by anything but the loss that they were given."""
    ours, theirs = network(), network()
    steps = [[(x[:n], y[:n]) for (x, y), n in zip(micro, (8, 3, 1), strict=True)] for micro in batches(6, micro=3)]
    train(ours, RST(sgd(ours), p=0.6, rho=0.1, gamma=2.0, seed=3), steps)
    coins = [uniform(3, step) < 0.6 for step in range(6)]
    oracle.train(theirs, mse_loss, steps, sgd(theirs), coins, 0.1, 2.0)
    assert distance(ours, theirs) < 1e-12


@pytest.mark.parametrize("stop", range(1, 8))
def test_a_checkpoint_between_micro_batches(stop):
    """Sees a coin or a ledger that moves on within a step: the step, begun again, must be the same one."""
    steps = batches(6, micro=2)
    whole = network()
    opt_of_whole = RST(sgd(whole, momentum=0.9), p=0.6, rho=0.1, gamma=2.0, seed=3)
    train(whole, opt_of_whole, steps)

    half, done = network(), stop // 2
    first = RST(sgd(half, momentum=0.9), p=0.6, rho=0.1, gamma=2.0, seed=3)
    train(half, first, steps[:done])
    for batch in steps[done][: stop % 2]:
        for x, y in first.passes(batch):
            mse_loss(half(x), y).backward()
    resumed = network(seed=1)
    second = RST(sgd(resumed, momentum=0.9), p=0.6, rho=0.1, gamma=2.0)
    resumed.load_state_dict(half.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(resumed, second, steps[done:])
    assert identical(snapshot(whole), snapshot(resumed))
    assert second.cost == opt_of_whole.cost


def test_one_call_for_each_device():
    """Sees a foreach call that mixes devices, which CUDA forgives and XLA answers with a crash."""
    from sharpless.tensors import foreach

    ours = [torch.zeros(1), torch.zeros(2, device="meta"), torch.zeros(3)]
    theirs = [torch.ones_like(tensor) for tensor in ours]
    calls = []
    foreach(lambda a, b: calls.append((a, b)), ours, theirs)
    assert sorted([len(t) for t in a] for a, _ in calls) == [[1, 3], [2]]
    for a, b in calls:
        assert len({t.device for t in (*a, *b)}) == 1
        assert [t.shape for t in a] == [t.shape for t in b]
