"""A step does not depend on how the loop body fills `.grad` and clears it: everything against the oracle."""

from functools import partial

import pytest
import torch
from torch.nn.functional import mse_loss

import oracle
from problems import batches, distance, identical, network, snapshot
from sharpless import GRST, RST, SAM, schedules
from sharpless.coin import uniform

STEPS, RHO, P, SEED = 12, 0.1, 0.6, 3
COINS = [uniform(SEED, step) < P for step in range(STEPS)]


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), lr=0.05, **options)


def by_backward(model, x, y):
    mse_loss(model(x), y).backward()


def by_two_backwards(model, x, y):
    loss = mse_loss(model(x), y)
    (0.25 * loss).backward(retain_graph=True)
    (0.75 * loss).backward()


def by_assignment(model, x, y):
    grads = torch.autograd.grad(mse_loss(model(x), y), list(model.parameters()))
    for p, g in zip(model.parameters(), grads, strict=True):
        p.grad = g


def by_surgery(model, x, y):
    """PCGrad's way: a backward for each task, gradients set aside, then put together in place."""
    parts = []
    for weight in (0.25, 0.75):
        model.zero_grad()
        (weight * mse_loss(model(x), y)).backward()
        parts.append([p.grad.clone() for p in model.parameters()])
    for p, a, b in zip(model.parameters(), *parts, strict=True):
        p.grad.copy_(a + b)


def after_autograd_grad(model, x, y):
    """A gradient of the loss is looked at before the backward, as penalties do."""
    loss = mse_loss(model(x), y)
    torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    loss.backward()


def with_a_graph(model, x, y):
    mse_loss(model(x), y).backward(create_graph=True)


def not_at_all(model):
    pass


def to_none(model):
    for p in model.parameters():
        p.grad = None


def in_place(model):
    for p in model.parameters():
        if p.grad is not None:
            p.grad.zero_()


def unseen(model):
    for p in model.parameters():
        if p.grad is not None:
            p.grad.data.zero_()


FILLS = {
    f.__name__: f for f in (by_backward, by_two_backwards, by_assignment, by_surgery, after_autograd_grad, with_a_graph)
}
CLEARS = {
    "model.zero_grad()": lambda model: model.zero_grad(),
    "model.zero_grad(set_to_none=False)": lambda model: model.zero_grad(set_to_none=False),
    **{f.__name__: f for f in (to_none, in_place, unseen)},
}


def climb_of(fraction):
    if fraction == 1:
        return oracle.sharpness_aware_gradient
    return partial(oracle.split_gradient, size=round(8 * fraction))


def reference(steps, gamma, fraction=1.0, coins=COINS):
    model = network()
    oracle.train(model, mse_loss, steps, sgd(model, momentum=0.9), coins, RHO, gamma, climb_of(fraction))
    return model


def optimizer(model, gamma, fraction=1.0):
    return RST(sgd(model, momentum=0.9), P, RHO, gamma, seed=SEED, batch_fraction=fraction)


@pytest.mark.filterwarnings("ignore:Using backward")
@pytest.mark.parametrize("fraction", [1.0, 0.25])
@pytest.mark.parametrize("gamma", [0.25, 1.0, 2.0])
@pytest.mark.parametrize("fill", FILLS)
def test_filling(fill, gamma, fraction):
    """Sees a mixture that waits in `.grad` overwritten, or taken for the gradient of the pass."""
    model, steps = network(), batches(STEPS)
    opt = optimizer(model, gamma, fraction)
    for (batch,) in steps:
        for x, y in opt.passes(batch):
            FILLS[fill](model, x, y)
        opt.step()
        opt.zero_grad()
    assert distance(model, reference(steps, gamma, fraction)) < 1e-12


@pytest.mark.parametrize("fraction", [1.0, 0.25])
@pytest.mark.parametrize("gamma", [0.25, 1.0, 2.0])
@pytest.mark.parametrize("fill", ["by_backward", "by_assignment"])
@pytest.mark.parametrize("clear", CLEARS)
def test_clearing_before_every_backward(clear, fill, gamma, fraction):
    """Sees gradients that a step has used added to the next one, or a clean gradient cleared with them."""
    model, steps = network(), batches(STEPS)
    opt = optimizer(model, gamma, fraction)
    for (batch,) in steps:
        for x, y in opt.passes(batch):
            CLEARS[clear](model)
            FILLS[fill](model, x, y)
        opt.step()
    assert distance(model, reference(steps, gamma, fraction)) < 1e-12


@pytest.mark.parametrize("gamma", [0.25, 1.0, 2.0])
@pytest.mark.parametrize("clear", CLEARS)
def test_closures(clear, gamma):
    """Sees the closure form depend on how a closure clears."""
    model, steps = network(), batches(STEPS)
    opt = optimizer(model, gamma)
    for ((x, y),) in steps:

        def closure(x=x, y=y):
            CLEARS[clear](model)
            loss = mse_loss(model(x), y)
            loss.backward()
            return loss

        opt.step(closure)
    assert distance(model, reference(steps, gamma)) < 1e-12


@pytest.mark.parametrize("fraction", [1.0, 0.25])
@pytest.mark.parametrize("gamma", [0.25, 1.0, 2.0])
@pytest.mark.parametrize("clear", CLEARS)
def test_accumulation(clear, gamma, fraction):
    """Sees the gradients of earlier micro-batches lost, or weighed anew by each later one."""
    model, steps = network(), batches(STEPS, micro=3)
    opt = optimizer(model, gamma, fraction)
    for micro_batches in steps:
        for batch in micro_batches:
            for x, y in opt.passes(batch):
                by_backward(model, x, y)
        opt.step()
        CLEARS[clear](model)
    assert distance(model, reference(steps, gamma, fraction)) < 1e-12


@pytest.mark.parametrize("fraction", [1.0, 0.25])
@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_gradients_of_before_the_loop(gamma, fraction):
    """Sees the gradient of another loss, whose backward came before the loop, lost or weighed by γ."""
    ours, theirs, steps = network(), network(), batches(STEPS)
    opt, base = optimizer(ours, gamma, fraction), sgd(theirs, momentum=0.9)
    for (batch,), heads in zip(steps, COINS, strict=True):
        sum(p.square().sum() for p in ours.parameters()).backward()
        for x, y in opt.passes(batch):
            by_backward(ours, x, y)
        opt.step()
        opt.zero_grad()
        climb = climb_of(fraction)
        grads = climb(theirs, mse_loss, batch, RHO, gamma) if heads else oracle.gradient(theirs, mse_loss, batch)
        for p, g in zip(theirs.parameters(), grads, strict=True):
            p.grad = g + 2 * p.detach()
        base.step()
    assert distance(ours, theirs) < 1e-12


@pytest.mark.parametrize("clear", CLEARS)
@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_steps_that_are_skipped(gamma, clear):
    """Sees the spoiled gradient of a step that the loop gave up reach the next one, whose body clears it."""
    ours, theirs, steps = network(), network(), batches(STEPS)
    opt, base = SAM(sgd(ours), rho=RHO), sgd(theirs)
    opt.gamma = gamma
    for number, (batch,) in enumerate(steps):
        spoiled = float("nan") if number % 3 == 1 else 1.0
        for x, y in opt.passes(batch):
            CLEARS[clear](ours)
            (spoiled * mse_loss(ours(x), y)).backward()
        if spoiled == 1.0:
            opt.step()
            grads = oracle.sharpness_aware_gradient(theirs, mse_loss, batch, RHO, gamma)
            for p, g in zip(theirs.parameters(), grads, strict=True):
                p.grad = g
            base.step()
    assert distance(ours, theirs) < 1e-12


def test_a_loop_that_never_clears():
    """Sees p = 0 and p = 1 disagree with plain training about gradients that nobody clears."""
    steps = batches(4)
    for gamma in (1.0, 2.0):
        ours, theirs = network(), network()
        opt, base = SAM(sgd(ours), rho=RHO), sgd(theirs)
        opt.gamma = gamma
        total = [torch.zeros_like(p) for p in theirs.parameters()]
        for (batch,) in steps:
            for x, y in opt.passes(batch):
                by_backward(ours, x, y)
            opt.step()
            grads = oracle.sharpness_aware_gradient(theirs, mse_loss, batch, RHO, gamma)
            total = [t + g for t, g in zip(total, grads, strict=True)]
            for p, t in zip(theirs.parameters(), total, strict=True):
                p.grad = t.clone()
            base.step()
        assert distance(ours, theirs) < 1e-12


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_one_tensor_in_two_places(gamma):
    """Sees a gradient that two parameters share, an expanded one, or one that the body keeps, written to."""
    a, b, c = (torch.nn.Parameter(torch.ones(3)) for _ in range(3))
    opt = GRST(torch.optim.SGD([a, b, c], lr=0.1), p=1.0, gamma=gamma, rho=0.1)
    kept, expanded = torch.tensor([1.0, 2.0, 3.0]), torch.tensor(2.0).expand(3)
    for _ in range(2):
        for _ in opt.passes():
            a.grad = b.grad = kept
            c.grad = expanded
        for p, g in ((a, kept), (b, kept), (c, expanded)):
            torch.testing.assert_close(p.grad, g)
        opt.step()
        opt.zero_grad()
    assert kept.tolist() == [1.0, 2.0, 3.0]
    torch.testing.assert_close(a.detach(), torch.ones(3) - 0.2 * kept)


@pytest.mark.parametrize("keep", ["nothing", "zeros", "an earlier micro-batch"])
@pytest.mark.parametrize("clear", ["nothing", *CLEARS])
@pytest.mark.parametrize("missing", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("fraction", [1.0, 0.25])
@pytest.mark.parametrize("gamma", [0.25, 0.5, 1.0, 2.0])
def test_passes_without_a_gradient(gamma, fraction, missing, clear, keep):
    """Sees a step uphill, a lost micro-batch, or a wrong ledger, where `continue` skipped the backward of a pass."""
    model = network()
    opt = GRST(sgd(model), p=1.0, gamma=gamma, rho=RHO, batch_fraction=fraction)
    ((first, (x, y)),) = batches(1, micro=2)
    before = [torch.zeros_like(p) for p in model.parameters()]
    if keep == "an earlier micro-batch":
        before = oracle.gradient(model, mse_loss, first)
        for p, g in zip(model.parameters(), before, strict=True):
            p.grad = g.clone()
    elif keep == "zeros":
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
    spent, shares = 0.0, []
    for number, (a, b) in enumerate(opt.passes((x, y))):
        CLEARS.get(clear, not_at_all)(model)
        if number in missing:
            continue
        spent += len(a) / len(x)
        shares.append((number, len(a)))
        by_backward(model, a, b)
    size = round(8 * fraction)
    plain = oracle.gradient(model, mse_loss, (x, y))
    part = oracle.gradient(model, mse_loss, (x[:size], y[:size]))
    rest = oracle.gradient(model, mse_loss, (x[size:], y[size:])) if fraction < 1 else None
    allowed = [[torch.zeros_like(g) for g in plain], plain]
    if rest is not None:
        allowed.append(rest)  # S is what was skipped
        allowed.append([fraction * g for g in part])
    if not set(range(3 if fraction < 1 else 2)) & set(missing):  # nothing was
        climb = climb_of(fraction)
        allowed = [climb(model, mse_loss, (x, y), RHO, gamma)]
    if clear != "nothing":
        before = [torch.zeros_like(p) for p in model.parameters()]
    mine = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    far = [
        max(float((m - b - g).abs().max()) for m, b, g in zip(mine, before, grads, strict=True)) for grads in allowed
    ]
    assert min(far) < 1e-12
    opt.step()
    assert opt.cost.passes == pytest.approx(spent)
    assert opt.cost.steps == 1
    assert opt.cost.sharp_steps == (0 if set(range(3 if fraction < 1 else 2)) & set(missing) else 1)


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_a_closure_that_gives_up(gamma):
    """Sees a step uphill where a closure returns before its backward, at perturbed weights only."""
    model, calls = network(), []
    opt = GRST(sgd(model), p=1.0, gamma=gamma, rho=RHO)
    ((x, y),) = batches(1)[0]
    plain = oracle.gradient(model, mse_loss, (x, y))

    def closure():
        opt.zero_grad()
        loss = mse_loss(model(x), y)
        calls.append(float(loss.detach()))
        if not opt.perturbed:
            loss.backward()
        return loss

    start = [p.detach().clone() for p in model.parameters()]
    returned = opt.step(closure)
    assert float(returned.detach()) == calls[0]
    factor = 0.05 if gamma != 1 else 0.0
    for p, s, g in zip(model.parameters(), start, plain, strict=True):
        torch.testing.assert_close(p.detach(), s - factor * g)


def test_some_parameters_without_a_gradient():
    """Sees a gradient that only one of the passes brings lost, or weighed by the other's weight."""
    w, v = torch.nn.Parameter(torch.tensor([1.0])), torch.nn.Parameter(torch.tensor([1.0]))
    for first in (True, False):
        opt = GRST(torch.optim.SGD([w, v], lr=0.1), p=1.0, gamma=3.0, rho=0.5)
        for _ in opt.passes():
            loss = w.square().sum()
            if opt.perturbed != first:
                loss = loss + 5 * v.sum()
            loss.backward()
        assert float(v.grad) == pytest.approx((1 - 3) * 5 if first else 3 * 5)
        opt.zero_grad()


@pytest.mark.parametrize("fraction", [1.0, 0.25])
@pytest.mark.parametrize("gamma", [0.25, 1.0, 2.0])
def test_one_buffer_for_all_gradients(gamma, fraction):
    """Sees gradients moved out of the buffer that holds them, which is cleared as a whole, in the body or after it."""
    for inside in (True, False):
        model, steps = network(), batches(STEPS)
        flat = torch.zeros(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
        views = flat.split([p.numel() for p in model.parameters()])
        for p, view in zip(model.parameters(), views, strict=True):
            p.grad = view.view_as(p)
        opt = optimizer(model, gamma, fraction)
        for (batch,) in steps:
            for x, y in opt.passes(batch):
                if inside:
                    flat.zero_()
                by_backward(model, x, y)
            opt.step()
            assert all(p.grad.data_ptr() == view.data_ptr() for p, view in zip(model.parameters(), views, strict=True))
            if not inside:
                flat.zero_()
        assert distance(model, reference(steps, gamma, fraction)) < 1e-12


def test_buffers_of_gradients_that_a_loop_has_given_up():
    """Sees gradients that the user has kept divided by γ, after they were cleared, or after an exception."""
    model, kept = network(), []
    opt = SAM(sgd(model), rho=RHO)
    opt.gamma = 2.0
    for number, (batch,) in enumerate(batches(6)):
        try:
            for x, y in opt.passes(batch):
                if number < 4:
                    opt.zero_grad()
                elif opt.perturbed:
                    raise FloatingPointError  # noqa: TRY301 - a loop does so
                by_backward(model, x, y)
        except FloatingPointError:
            opt.zero_grad()
            continue
        flat = torch.cat([p.grad.flatten() for p in model.parameters()])
        kept.append((flat, flat.clone()))
        views = flat.split([p.numel() for p in model.parameters()])
        for p, view in zip(model.parameters(), views, strict=True):
            p.grad = view.view_as(p)
        opt.step()
    assert len(kept) == 4
    assert all(torch.equal(flat, before) for flat, before in kept)


@pytest.mark.parametrize("gamma", [0.25, 1.0, 2.0])
def test_accumulation_in_place(gamma):
    """Sees what a body adds to `.grad` itself taken for nothing, since no backward has brought it."""
    model, steps = network(), batches(STEPS, micro=2)
    opt = optimizer(model, gamma)
    for micro_batches in steps:
        for batch in micro_batches:
            for x, y in opt.passes(batch):
                grads = torch.autograd.grad(mse_loss(model(x), y), list(model.parameters()))
                for p, g in zip(model.parameters(), grads, strict=True):
                    if p.grad is None:
                        p.grad = g
                    else:
                        p.grad += g
        opt.step()
        opt.zero_grad()
    assert distance(model, reference(steps, gamma)) < 1e-12
    assert opt.cost.passes == 2 * (STEPS + sum(COINS))


@pytest.mark.parametrize("clear", ["nothing", *CLEARS])
def test_adaptive_with_gradients_of_before(clear):
    """Sees a step that is not taken lose the gradient of another loss, or keep that of the step before."""
    ours, theirs, steps = network(), network(), batches(STEPS)
    opt = RST(sgd(ours), schedules.Adaptive(30.0, 30.0), RHO, total_steps=STEPS)
    opt.param_groups[0]["norm_mean"] = 1e9
    base = sgd(theirs)
    for (batch,) in steps:
        if clear == "nothing":
            ours.zero_grad(set_to_none=False)
            sum(p.sum() for p in ours.parameters()).backward()
        for x, y in opt.passes(batch):
            CLEARS.get(clear, not_at_all)(ours)
            by_backward(ours, x, y)
        opt.step()
        for p, g in zip(theirs.parameters(), oracle.gradient(theirs, mse_loss, batch), strict=True):
            p.grad = g + 1.0 if clear == "nothing" else g
        base.step()
    assert opt.cost.sharp_steps == 0
    assert distance(ours, theirs) < 1e-12


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate parameters")
@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_a_parameter_that_is_listed_twice(gamma):
    """Sees a tied weight, which torch lets stand in a group twice, left without a gradient or moved by 2ε."""
    ours, theirs = network(), network()
    opt = GRST(torch.optim.SGD([*ours.parameters(), ours[0].weight], lr=0.05), p=1.0, gamma=gamma, rho=RHO)
    ((batch,),) = batches(1)
    for x, y in opt.passes(batch):
        by_backward(ours, x, y)
    for p, g in zip(
        ours.parameters(), oracle.sharpness_aware_gradient(theirs, mse_loss, batch, RHO, gamma), strict=True
    ):
        torch.testing.assert_close(p.grad, g, rtol=1e-12, atol=1e-14)


def test_the_ledger_of_one_parameter():
    """Sees a gradient taken for the one before it because Python gave it the same address."""
    w = torch.nn.Parameter(torch.ones(1))
    opt = RST(torch.optim.SGD([w], lr=0.1), p=0.0)
    for _ in range(10):
        for _ in opt.passes():
            opt.zero_grad()
            w.square().sum().backward()
        opt.step()
    assert opt.cost.passes == opt.cost.plain_passes == 10


@pytest.mark.parametrize("clear", ["opt", "base", "model"])
def test_a_step_of_the_base_itself(clear):
    """Sees one coin for the whole run where a host takes the step on the base."""
    model = network()
    base = sgd(model)
    opt = RST(base, p=0.5, rho=RHO, seed=2)
    for batch in batches(12):
        for x, y in opt.passes(batch[0]):
            by_backward(model, x, y)
        base.step()
        {"opt": opt, "base": base, "model": model}[clear].zero_grad(set_to_none=False)
    assert opt.cost.steps == 12
    assert opt.cost.sharp_steps == sum(uniform(2, step) < 0.5 for step in range(12))


def test_a_step_of_the_base_in_the_middle_of_a_loop():
    """Sees plain training where a host steps the base between the passes, at weights that are put back."""
    model = network()
    base = sgd(model)
    opt = SAM(base, rho=RHO)
    start = snapshot(model)

    def loop():
        for x, y in opt.passes(batches(1)[0][0]):
            by_backward(model, x, y)
            base.step()

    with pytest.raises(RuntimeError, match=r"in the middle of passes\(\)"):
        loop()
    assert identical(snapshot(model), start)


def test_plain_steps_leave_gradients_alone():
    """Sees a plain step that touches `.grad`: p = 0 is the base, also for a buffer that holds all gradients."""
    model = network()
    flat = torch.zeros(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    views = flat.split([p.numel() for p in model.parameters()])
    for p, view in zip(model.parameters(), views, strict=True):
        p.grad = view.view_as(p)
    opt = RST(sgd(model), p=0.0)
    for x, y in opt.passes(batches(1)[0][0]):
        by_backward(model, x, y)
    assert all(p.grad.data_ptr() == view.data_ptr() for p, view in zip(model.parameters(), views, strict=True))
    assert float(flat.abs().max()) > 0


def test_a_pass_without_a_gradient_among_micro_batches():
    """Sees a coin tossed anew, or a step counted, because a micro-batch was skipped."""
    model = network()
    opt = RST(sgd(model), p=0.5, rho=RHO, seed=2)
    for step, micro_batches in enumerate(batches(10, micro=3)):
        seen = []
        for number, batch in enumerate(micro_batches):
            count = 0
            for x, y in opt.passes(batch):
                count += 1
                if number != step % 3:
                    by_backward(model, x, y)
            seen.append(count)
        assert set(seen) == {2 if uniform(2, step) < 0.5 else 1}
        opt.step()
        opt.zero_grad()
    assert opt.cost.steps == 10
    assert opt.cost.passes == 2 * (10 + opt.cost.sharp_steps)


@pytest.mark.parametrize("p", [1.0, schedules.Adaptive()], ids=["coin", "adaptive"])
def test_the_first_pass_alone(p):
    """Sees plain training without a word: next(iter(opt.passes(…))) has ended the loop before the first forward."""
    model = network()
    opt = RST(sgd(model), p, RHO, total_steps=9)
    start = snapshot(model)
    x, y = next(iter(opt.passes(batches(1)[0][0])))
    by_backward(model, x, y)
    with pytest.raises(RuntimeError, match=r"next\(iter\(opt.passes\(…\)\)\)"):
        opt.step()
    assert identical(snapshot(model), start)
    opt.zero_grad()
    for x, y in opt.passes(batches(1)[0][0]):  # a micro-batch that is given up, and one that is not
        by_backward(model, x, y)
        break
    for x, y in opt.passes(batches(1)[0][0]):
        by_backward(model, x, y)
    opt.step()
    assert not identical(snapshot(model), start)


def test_list_of_passes():
    """Sees two clean gradients added up where list(opt.passes(…)) has ended the loop before the first forward."""
    model = network()
    opt = SAM(sgd(model), rho=RHO)
    start = snapshot(model)
    opt.zero_grad()
    for x, y in list(opt.passes(batches(1)[0][0])):
        by_backward(model, x, y)
    with pytest.raises(RuntimeError, match=r"list\(opt.passes\(…\)\)"):
        opt.step()
    assert identical(snapshot(model), start)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    for x, y in list(opt.passes(batches(1)[0][0])):
        by_backward(model, x, y)
    with pytest.raises(RuntimeError, match=r"list\(opt.passes\(…\)\)"):
        opt.step()
    opt.zero_grad()
    for _ in opt.passes(batches(1)[0][0]):  # a batch that is given up, and gradients cleared in place
        pass
    model.zero_grad(set_to_none=False)
    opt.step()
    opt.zero_grad()
    adaptive = RST(sgd(model), schedules.Adaptive(), RHO, total_steps=9)
    for x, y in list(adaptive.passes(batches(1)[0][0])):
        by_backward(model, x, y)
    with pytest.raises(RuntimeError, match=r"list\(opt.passes\(…\)\)"):
        adaptive.step()
    plain = RST(sgd(model), p=0.0)
    for x, y in list(plain.passes(batches(1)[0][0])):
        by_backward(model, x, y)
    plain.step()


@pytest.mark.filterwarnings("ignore:Using backward")
def test_bases_that_differentiate_the_gradient():
    """Sees a graph of other weights differentiated, or an error of torch's about graphs."""
    from pytorch_optimizer import SophiaH

    for gamma in (1.0, 2.0):
        model = network(dtype=torch.float32)
        opt = GRST(SophiaH(model.parameters()), p=1.0, gamma=gamma)
        ((batch,),) = batches(1, dtype=torch.float32)
        for x, y in opt.passes(batch):
            with_a_graph(model, x, y)
        with pytest.raises(RuntimeError, match="SophiaH differentiates the gradient"):
            opt.step()
