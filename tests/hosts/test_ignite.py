"""ignite against two gradients by hand."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from hosts import examples, on_ranks, reference, small_on_ranks
from hosts.methods import wrapped

pytest.importorskip("ignite")
from ignite.engine import Engine, Events, create_supervised_trainer
from ignite.engine.deterministic import DeterministicEngine
from ignite.handlers import Checkpoint, DiskSaver

METHODS = list(reference.METHODS)
pytestmark = pytest.mark.filterwarnings("ignore", "error:.*(passes|each pass)")
example = examples.load("ignite")
CASES = {method: (small_on_ranks.ignite, {"method": method, "sizes": (8, 6, 4, 8)}) for method in METHODS}


def engine(method, model, kind=Engine, *, amp=None, scaler=None, clip=lambda _: None, accumulate=1):
    opt = wrapped(method, reference.sgd(model), model=model)
    tools = {"amp": amp or nullcontext(), "scaler": scaler or torch.amp.GradScaler("cpu", enabled=False), "clip": clip}
    update = partial(example.sharp_update, model=model, opt=opt, loss_fn=cross_entropy, accumulate=accumulate)
    trainer, losses = kind(partial(update, **tools)), []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda one: losses.append(one.state.output))
    return trainer, opt, losses


def micros(sizes=(8,)):
    return [micro for step in reference.batches(sizes) for micro in step]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [reference.network, reference.noisy_network])
@pytest.mark.parametrize("sizes", [(8,), (8, 6, 4)])
def test_right(method, make, sizes):
    """Sees another method, a climb with the last micro-batch alone, both passes in buffers, another loss or rate."""
    theirs, ours = make(), make()
    base = reference.sgd(theirs)
    by_hand = torch.optim.lr_scheduler.StepLR(base, 2, 0.5)
    expected = reference.train(theirs, base, reference.batches(sizes), method, scheduler=by_hand)
    trainer, opt, losses = engine(method, ours, accumulate=len(sizes))
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 2, 0.5)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(every=len(sizes)), lambda _: scheduler.step())
    torch.manual_seed(0)
    trainer.run(micros(sizes))
    assert reference.distance(ours, theirs) < 1e-6
    means = torch.tensor(losses).view(-1, len(sizes)).mean(1)
    assert means.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("clip", [reference.by_norm(0.05), reference.by_value(0.02)], ids=["norm", "value"])
def test_clipping(method, clip):
    """Sees the passes clipped in place of the mixture."""
    theirs, ours = reference.network(), reference.network()
    reference.expected(method, theirs, (8, 6), clip=clip)
    engine(method, ours, clip=clip, accumulate=2)[0].run(micros((8, 6)))
    assert reference.distance(ours, theirs) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_bf16(method):
    """Sees a pass outside of autocast."""
    theirs, ours = reference.network(), reference.network()
    reference.expected(method, theirs, autocast=torch.bfloat16)
    engine(method, ours, amp=torch.autocast("cpu", torch.bfloat16))[0].run(micros())
    assert reference.distance(ours, theirs) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_fp16_overflow(method):
    """Sees an overflow that moves weights or stops the coins, or a gradient that is clipped before it is unscaled."""
    theirs, ours, overflow = reference.network(), reference.network(), micros()
    overflow[2] = overflow[2][0] * 1e6, overflow[2][1]  # beyond float16
    clip, scaler = reference.by_norm(0.5), torch.amp.GradScaler("cpu", init_scale=2.0**10)
    reference.expected(method, theirs, autocast=torch.float16, scale=2.0**10, spoiled={2}, clip=clip)
    trainer, opt, _ = engine(method, ours, amp=torch.autocast("cpu", torch.float16), scaler=scaler, clip=clip)
    trainer.run(overflow)
    assert reference.distance(ours, theirs) < 2e-5
    assert (opt.cost.steps, scaler.get_scale()) == (reference.STEPS, 2.0**9)


def test_resume(tmp_path):
    """Sees coin, ledger or momentum lost in ignite's checkpoints, in mid-epoch."""
    rows = zip(*(micro for (micro,) in reference.batches()), strict=True)
    data = DataLoader(TensorDataset(*map(torch.cat, rows)), batch_size=8)
    whole, stopped = reference.network(), reference.network()  # ignite itself does not repeat noise in mid-epoch
    trainer, opt, _ = engine("G-RST", whole, DeterministicEngine)
    saver = DiskSaver(tmp_path, create_dir=True, require_empty=False)
    to_save = {"model": whole, "opt": opt, "trainer": trainer}
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=3), Checkpoint(to_save, saver))
    torch.manual_seed(1)
    trainer.run(data)

    again, other, _ = engine("G-RST", stopped, DeterministicEngine)
    (file,) = tmp_path.glob("*.pt")
    to_load = {"model": stopped, "opt": other, "trainer": again}
    Checkpoint.load_objects(to_load, torch.load(file, weights_only=False))
    torch.manual_seed(1)
    again.run(data)
    assert reference.distance(whole, stopped) == 0
    assert other.cost == opt.cost


def test_plain_steps_are_warned_of():
    """Sees ignite's own trainer take plain steps without a word."""
    model = reference.network()
    opt = wrapped("SAM", reference.sgd(model), model=model)
    with pytest.warns(UserWarning, match="without passes"):
        create_supervised_trainer(model, opt, cross_entropy).run(micros())


def test_the_page():
    """Sees code of the how-to that a user cannot run, or that returns the loss of another pass."""
    model = reference.network()
    opt = wrapped("SAM", reference.sgd(model), model=model)
    names = examples.run_page("ignite", model=model, opt=opt, loss_fn=cross_entropy, Engine=Engine)
    data = micros()
    first = float(cross_entropy(model(data[0][0]), data[0][1]).detach())
    assert names["update"](Engine(names["update"]), data[0]) == pytest.approx(first)
    names["trainer"].run(data)
    assert opt.cost.steps == 7


def test_the_example(monkeypatch):
    """Sees an example that a user cannot run, or whose schedule counts something else."""
    made = examples.schedules(monkeypatch)
    assert example.main(epochs=2) > 0.5
    examples.assert_ended(made)


outcomes = on_ranks.outcomes(CASES)


@pytest.mark.parametrize("name", CASES)
def test_two_ranks(name, outcomes):
    """Sees ranks climb along the union, or communicate twice."""
    assert not outcomes[name], outcomes[name]
