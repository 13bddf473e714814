"""Loops that would train something else than was asked for: what is refused, what is said, and what is left alone."""

from contextlib import nullcontext
from itertools import islice

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

from problems import batches, identical, network, snapshot, train
from sharpless import RST, SAM, schedules

pytestmark = pytest.mark.quick

((BATCH,),) = batches(1)
RHO = 0.1


def sgd(*networks):
    return torch.optim.SGD([p for each in networks for p in each.parameters()], lr=0.05)


class Two(nn.Module):
    """A network of two parts, each with an optimizer of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 4, dtype=torch.float64), nn.Linear(4, 1, dtype=torch.float64)

    def forward(self, x):
        return self.second(self.first(x).tanh())


def backward(model, batch):
    x, y = batch
    mse_loss(model(x), y).backward()


def nested(model, one, other):
    for batch in one.passes(BATCH):
        for same in other.passes(batch):
            backward(model, same)
    one.step()
    other.step()


def in_turn(model, one, other):
    for opt in (one, other):
        for batch in opt.passes(BATCH):
            backward(model, batch)
    one.step()
    other.step()


def micro_batches_in_turn(model, one, other):
    for _ in range(2):
        for opt in (one, other):
            for batch in opt.passes(BATCH):
                backward(model, batch)
    one.step()
    other.step()


ADAPTIVE = schedules.Adaptive()


BOTH = [(1.0, 1.0), (0.0, 1.0), (ADAPTIVE, ADAPTIVE)]
LOOPS = [(loop, p) for loop in (nested, in_turn, micro_batches_in_turn) for p in BOTH] + [(nested, (1.0, 0.0))]


@pytest.mark.parametrize(("loop", "p"), LOOPS)
def test_two_optimizers_on_one_loss(loop, p):
    """Sees each of two optimizers given the gradients of the other one's passes, and no word about it."""
    model = Two()
    one, other = (
        RST(sgd(part), share, total_steps=9) for part, share in zip((model.first, model.second), p, strict=True)
    )
    start = snapshot(model)
    with pytest.raises(
        RuntimeError, match=r"for one loss give both bases to one optimizer, as in SAM\(\[base, other\]"
    ):
        loop(model, one, other)
    assert identical(snapshot(model), start)
    joint = SAM([one.base, other.base])  # the remedy
    for batch in joint.passes(BATCH):
        backward(model, batch)
    joint.step()


@pytest.mark.parametrize("loop", [nested, in_turn])
def test_two_optimizers_with_p_0(loop):
    """Sees a loop refused that is plain training, bit for bit."""
    ours, theirs = Two(), Two()
    theirs.load_state_dict(ours.state_dict())
    loop(ours, RST(sgd(ours.first), p=0.0), RST(sgd(ours.second), p=0.0))
    base = sgd(theirs)
    for _ in range(1 if loop is nested else 2):
        backward(theirs, BATCH)
    base.step()
    assert identical(snapshot(ours), snapshot(theirs))


def test_two_optimizers_on_two_losses():
    """Sees adversarial training refused: gradients that one loss gives to the other network, and a loop clears."""
    generator, critic = network(), nn.Linear(1, 1, dtype=torch.float64)
    ours, theirs = SAM(sgd(generator)), SAM(sgd(critic))
    x, real = BATCH
    for skipped in (False, True, False):  # a step that a scaler skips leaves the critic in the middle of a step
        for a, b in theirs.passes((x, real)):
            theirs.zero_grad()
            (critic(generator(a).detach()) - critic(b)).mean().backward()
        if not skipped:
            theirs.step()
        for a in ours.passes(x):
            critic(generator(a)).mean().backward()
        ours.step()
        ours.zero_grad()
    for a in theirs.passes(x):  # a loop within another one, on a network of its own
        for b in ours.passes(x):
            generator(b).mean().backward()
        ours.step()
        critic(generator(a).detach()).mean().backward()
    theirs.step()


LEFT = {
    "break": lambda opt: next(b for b in opt.passes(BATCH)),
    "islice": lambda opt: list(islice(opt.passes(BATCH), 1 if opt.schedule.mean() == 0 else 2)),
    "zip": lambda opt: list(zip(range(1), opt.passes(BATCH), strict=False)),
}


@pytest.mark.parametrize("p", [0.0, 1.0, ADAPTIVE], ids=str)
@pytest.mark.parametrize("leave", LEFT)
def test_a_step_after_a_loop_that_was_left(leave, p):
    """Sees training that changes nothing, without a word: the loop over passes never comes to its end."""
    model = network()
    opt = RST(sgd(model), p, total_steps=9)
    LEFT[leave](opt)
    with pytest.warns(UserWarning, match=r"step\(\) changes nothing: the loop over passes\(\) was left early"):
        opt.step()
    LEFT[leave](opt)
    opt.zero_grad()
    train(model, opt, batches(1))


def test_a_backward_after_a_loop_that_was_left():
    """Sees the refusal of a gradient that comes later talk of next() and list(), where zero_grad() is the remedy."""
    model = network()
    opt = SAM(sgd(model))
    for _ in opt.passes(BATCH):
        break
    backward(model, BATCH)
    with pytest.raises(RuntimeError, match=r"was left early.* opt\.zero_grad\(\) to give up a step"):
        opt.step()
    opt.zero_grad()
    train(model, opt, batches(1))


def test_steps_without_gradients():
    """Sees training that never moves this optimizer's weights, as where hooks step and clear them in backward()."""
    model = network()
    bases = {p: torch.optim.SGD([p], lr=0.05) for p in model.parameters()}

    def step_and_clear(p):
        bases[p].step()
        bases[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(step_and_clear)
    opt = SAM(sgd(model))
    train(model, opt, batches(1))  # one such step may be a batch that the body has skipped
    with pytest.warns(UserWarning, match=r"in two steps no pass has left a gradient .* let no hook clear gradients"):
        train(model, opt, batches(1))
    train(model, opt, batches(2))
    with pytest.raises(RuntimeError, match=r"in the middle of passes\(\)"):
        train(model, SAM(list(bases.values())), batches(1))


def test_a_group_that_joins_between_micro_batches():
    """Sees a group that the base got in the middle of a step end in an error about rho."""
    model, extra = network(), nn.Parameter(torch.ones(1, dtype=torch.float64))
    opt = SAM(sgd(model), model=model)
    for batch in opt.passes(BATCH):
        backward(model, batch)
    opt.base.add_param_group({"params": [extra]})
    for x, y in opt.passes(BATCH):
        mse_loss(model(x) * extra, y).backward()
    opt.step()
    assert float(extra.detach()) != 1.0


def endless(loader):
    while True:
        yield from loader


def endless_too(loader):
    while True:
        for batch in loader:  # noqa: UP028 - the loop that many have
            yield batch


@pytest.mark.parametrize("kind", [iter, endless, endless_too])
@pytest.mark.parametrize("where", ["body", "closure", "self", "before"])
def test_a_batch_for_each_pass(kind, where):
    """Sees passes over different batches, which the body takes from a loader, and no word about it."""
    x, y = BATCH
    model, taken = network(), kind(DataLoader(TensorDataset(x, y), batch_size=2))
    opt = SAM(sgd(model))

    class Trainer:
        def __init__(self):
            self.taken = taken

        def fit(self):
            for _ in opt.passes():
                backward(model, next(self.taken))

    def fit():
        for batch in opt.passes(next(taken) if where == "before" else None):
            backward(model, batch if where == "before" else next(taken))

    def fit_by_closure():
        def closure():
            opt.zero_grad()
            a, b = next(taken)
            loss = mse_loss(model(a), b)
            loss.backward()
            return loss

        opt.step(closure)

    loop = {"self": Trainer().fit, "closure": fit_by_closure}.get(where, fit)
    if where == "before":
        loop()
        return
    with pytest.warns(UserWarning, match=r"takes a batch from a DataLoader.*passes\(next\(batches\)\)"):
        loop()


def of_copies(model, masters, opt):
    """Weights in another precision, which the loop copies from those of the optimizer after each step."""
    for x, y in opt.passes(BATCH):
        backward(model, (x, y))
        for p, master in zip(model.parameters(), masters, strict=True):
            master.grad, p.grad = p.grad, None


def of_clones_from_before(model, masters, opt):
    """Differentiable copies, as in meta-learning, that are made once for both passes."""
    weights = {name: master.clone() for (name, _), master in zip(model.named_parameters(), masters, strict=True)}
    for x, y in opt.passes(BATCH):
        mse_loss(functional_call(model, weights, x), y).backward()


def as_it_should_be(model, masters, opt):
    for x, y in opt.passes(BATCH):
        weights = {name: master.clone() for (name, _), master in zip(model.named_parameters(), masters, strict=True)}
        mse_loss(functional_call(model, weights, x), y).backward()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("fraction", [1.0, 0.25])
@pytest.mark.parametrize("loop", [of_copies, of_clones_from_before, as_it_should_be])
def test_weights_that_the_loss_does_not_use(loop, fraction):
    """Sees plain training for the price of SAM, where the displaced weights are not those of the forward."""
    model = network()
    masters = [p.detach().clone().requires_grad_() for p in model.parameters()]
    opt = SAM(torch.optim.SGD(masters, lr=0.1), rho=RHO, batch_fraction=fraction)
    expected = nullcontext() if loop is as_it_should_be else pytest.warns(UserWarning, match="clean one bit for bit")
    with expected:
        loop(model, masters, opt)
    opt.step()
    loop(model, masters, opt)  # once is enough


@pytest.mark.parametrize("yielded", [True, False])
def test_a_body_that_runs_on_the_whole_batch(yielded):
    """Sees each part of a batch replaced by the whole batch, for more than twice the price, and no word about it."""
    model = network()
    opt = SAM(sgd(model), rho=RHO, batch_fraction=0.25)
    words = (
        nullcontext() if yielded else pytest.warns(UserWarning, match=r"run forward and backward on what passes\(\)")
    )
    with words:
        for batch in opt.passes(BATCH):
            backward(model, batch if yielded else BATCH)


def test_weights_that_are_saved_in_the_middle_of_a_loop():
    """Sees a checkpoint of displaced weights, as of the best loss in the body, or by a signal handler."""
    model = nn.ModuleList([network()])
    opt = SAM(sgd(model), model=model)
    for where in (model, model[0]):
        for number, batch in enumerate(opt.passes(BATCH)):
            backward(model[0], batch)
            if number == 0 or where is not model:
                where.state_dict()  # of clean weights, or of a part of the model, which is not watched
            else:
                with pytest.warns(UserWarning, match=r"has the weights of the perturbed pass: save .* after step\(\)"):
                    where.state_dict()
        opt.step()
        where.state_dict()
    assert not model._state_dict_pre_hooks


def test_epochs_in_place_of_steps():
    """Sees a schedule that is over after the first few steps, since total_steps was taken for the number of epochs."""
    model = network()
    opt = RST(sgd(model), "linear:0,1", total_steps=3)
    train(model, opt, batches(6))
    with pytest.warns(UserWarning, match=r"total_steps = 3, and 6 steps are done.* epochs · len\(loader\)"):
        train(model, opt, batches(1))
    train(model, opt, batches(2))
    model = network()
    train(model, RST(sgd(model), 0.5, total_steps=3), batches(9))
