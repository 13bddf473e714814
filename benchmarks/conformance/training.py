"""Cases: what real networks and real loops do."""

import copy
import warnings

import torch
from torch import nn
from torch.nn.functional import mse_loss

from . import reference
from .adapters import RHO
from .problems import TOLERANCE, batches, check_same, compare_steps, evaluation, network
from .verdicts import case, check, check_error


def _normalized(momentum):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8, momentum=momentum), nn.ReLU(), nn.Linear(8, 1)).double()


@case
def batchnorm_statistics(adapter):
    """BatchNorm's running mean and variance are those of the clean passes."""
    model = _normalized(0.1)
    _, twin = compare_steps(adapter, model, batches(4), lr=0.05)
    pairs = [(model[1].running_mean, twin[1].running_mean), (model[1].running_var, twin[1].running_var)]
    check_error(max(float((a - b).abs().max()) for a, b in pairs), TOLERANCE, "the running statistics differ")


@case
def batchnorm_counter(adapter):
    """BatchNorm with a cumulative average counts one batch a step."""
    model = _normalized(None)
    _, twin = compare_steps(adapter, model, batches(4), lr=0.05)
    counted = int(model[1].num_batches_tracked)
    check(counted == 4, f"{counted} batches counted in 4 steps")
    error = float((model[1].running_var - twin[1].running_var).abs().max())
    check_error(error, TOLERANCE, "the running statistics differ")


@case
def dropout(adapter):
    """Dropout drops the same units in both passes."""
    adapter.repeat_dropout()
    model = network()
    model.insert(2, nn.Dropout(0.3))
    compare_steps(adapter, model, batches(4), lr=0.05)


@case
def sparse_gradients(adapter):
    """An embedding with sparse gradients trains as the reference with dense ones."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.EmbeddingBag(20, 5, sparse=True), nn.Tanh(), nn.Linear(5, 1)).double()
    tokens = torch.Generator().manual_seed(7)
    steps = [(torch.randint(20, (8, 3), generator=tokens), y) for _, y in batches(4)]
    compare_steps(adapter, model, steps, lr=0.05)


@case
def compiled(adapter):
    """A network under torch.compile sees the displaced weights."""
    model = network()
    twin, fast = copy.deepcopy(model), torch.compile(model, backend="eager")
    opt, base = adapter.make(model, lr=0.05), adapter.base("SGD", list(twin.parameters()), lr=0.05)
    for batch in batches(3):
        adapter.step(opt, evaluation(fast, batch))
        reference.step(twin, base, [evaluation(twin, batch)], adapter.perturbation, RHO)
    check_same(model, twin)


def _micro_batches(model):
    """One batch of 12 in three unequal parts; the losses of the parts add up to the loss of the batch."""
    x, y = batches(1, size=12)[0]
    parts = zip(x.split([6, 4, 2]), y.split([6, 4, 2]), strict=True)
    return [evaluation(model, part, lambda out, y: mse_loss(out, y, reduction="sum") / 12) for part in parts]


@case
def accumulation(adapter):
    """Gradients accumulated over unequal micro-batches, one climb for all: the step on the whole batch."""
    model = network()
    twin = copy.deepcopy(model)
    parts = _micro_batches(model)
    adapter.step(adapter.make(model, lr=0.1), lambda: sum(evaluate() for evaluate in parts))
    base, whole = adapter.base("SGD", list(twin.parameters()), lr=0.1), evaluation(twin, batches(1, size=12)[0])
    reference.step(twin, base, [whole], adapter.perturbation, RHO)
    check_same(model, twin)


@case
def accumulation_of_climbs(adapter):
    """Each micro-batch climbs along its own gradient, and the perturbed gradients add up (m-sharpness)."""
    model = network()
    twin = copy.deepcopy(model)
    adapter.step_on_micro_batches(adapter.make(model, lr=0.1), _micro_batches(model))
    base = adapter.base("SGD", list(twin.parameters()), lr=0.1)
    reference.step(twin, base, _micro_batches(twin), adapter.perturbation, RHO)
    check_same(model, twin)


@case
def clipping(adapter):
    """Clipping acts on the gradient that the base optimizer sees."""
    compare_steps(adapter, network(), batches(4), lr=0.5, clip=True)


def _schedule(adapter, choose):
    model = network()
    twin = copy.deepcopy(model)
    opt, base = adapter.make(model, lr=0.1), adapter.base("SGD", list(twin.parameters()), lr=0.1)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        schedulers = [torch.optim.lr_scheduler.StepLR(each, 1, 0.5) for each in (choose(opt), base)]
        for batch in batches(4):
            adapter.step(opt, evaluation(model, batch))
            reference.step(twin, base, [evaluation(twin, batch)], adapter.perturbation, RHO)
            for scheduler in schedulers:
                scheduler.step()
    check_same(model, twin)
    complaints = [str(warning.message) for warning in warned if "lr_scheduler" in str(warning.message)]
    check(not complaints, f"warns: {complaints}")


@case
def scheduler_on_wrapper(adapter):
    """A learning-rate scheduler built on the optimizer takes effect, without warnings."""
    _schedule(adapter, lambda opt: opt)


@case
def scheduler_on_base(adapter):
    """A learning-rate scheduler built on the base optimizer takes effect, without warnings."""
    _schedule(adapter, adapter.base_of)


@case
def closure_contract(adapter):
    """torch's contract: `step(closure)` alone evaluates, takes the step and returns the loss before it."""
    model = network()
    twin = copy.deepcopy(model)
    opt, base = adapter.make(model, lr=0.05), adapter.base("SGD", list(twin.parameters()), lr=0.05)
    for batch in batches(4):
        clean = mse_loss(model(batch[0]), batch[1]).item()

        def closure(batch=batch):
            opt.zero_grad()
            loss = mse_loss(model(batch[0]), batch[1])
            loss.backward()
            return loss

        returned = opt.step(closure)
        reference.step(twin, base, [evaluation(twin, batch)], adapter.perturbation, RHO)
        check_same(model, twin)
        check(returned is not None, "step(closure) returns None")
        check_error(abs(float(returned.detach()) - clean) / clean, TOLERANCE, "the loss returned is another one")


@case
def clean_loss(adapter):
    """The loss that the documented loop reports is that of the unperturbed weights."""
    model, batch = network(), batches(1)[0]
    clean = mse_loss(model(batch[0]), batch[1]).item()
    reported = float(adapter.step(adapter.make(model, lr=0.05), evaluation(model, batch)))
    check_error(abs(reported - clean) / clean, TOLERANCE, "the loss reported is another one")


@case
def torch_optimizer(adapter):
    """It is a torch.optim.Optimizer whose groups have the learning rate and whose step hooks run once a step."""
    model, calls = network(), []
    opt = adapter.make(model, lr=0.05)
    check(isinstance(opt, torch.optim.Optimizer), "no instance of torch.optim.Optimizer")
    check("lr" in opt.param_groups[0], "no learning rate in its parameter groups")
    opt.register_step_pre_hook(lambda *_: calls.append("before"))
    opt.register_step_post_hook(lambda *_: calls.append("after"))
    for batch in batches(2):
        adapter.step(opt, evaluation(model, batch))
    check(calls == ["before", "after"] * 2, f"{len(calls)} calls of 4")
