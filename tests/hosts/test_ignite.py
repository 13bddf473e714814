"""ignite against two gradients by hand."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from hosts import examples, reference
from hosts.methods import wrapped

pytest.importorskip("ignite")
from ignite.engine import Engine, Events, create_supervised_trainer
from ignite.engine.deterministic import DeterministicEngine
from ignite.handlers import Checkpoint, DiskSaver

METHODS = list(reference.METHODS)
pytestmark = pytest.mark.filterwarnings("ignore", "error:.*(passes|each pass)")
example = examples.load("ignite")


def engine(method, model, kind=Engine, **options):
    opt = wrapped(method, reference.sgd(model), model=model)
    trainer, losses = kind(example.sharp_update(model, opt, cross_entropy, **options)), []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda one: losses.append(one.state.output))
    return trainer, opt, losses


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [reference.network, reference.noisy_network])
@pytest.mark.parametrize("sizes", [(8,), (8, 6, 4)])
def test_right(method, make, sizes):
    """Sees another method, a climb with the last micro-batch alone, both passes in buffers or clipped, another loss."""
    theirs, ours = make(), make()
    most = 0.2 if len(sizes) == 1 else 10.0  # clipped, the scale of an accumulated gradient would not be seen
    expected = reference.expected(
        method, theirs, sizes,
        clip=reference.by_norm(most),
    )  # fmt: skip
    trainer, _, losses = engine(method, ours, accumulate=len(sizes), clip=most)
    torch.manual_seed(0)
    trainer.run([micro for step in reference.batches(sizes) for micro in step])
    assert reference.distance(ours, theirs) < 1e-6
    means = torch.tensor(losses).view(-1, len(sizes)).mean(1)
    assert means.tolist() == pytest.approx(expected, abs=1e-6)


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
        create_supervised_trainer(model, opt, cross_entropy).run([micro for (micro,) in reference.batches()])


def test_the_page():
    """Sees code of the how-to that a user cannot run, or that returns the loss of another pass."""
    model = reference.network()
    opt = wrapped("SAM", reference.sgd(model), model=model)
    names = examples.run_page("ignite", model=model, opt=opt, loss_fn=cross_entropy, Engine=Engine)
    data = [micro for (micro,) in reference.batches()]
    first = float(cross_entropy(model(data[0][0]), data[0][1]).detach())
    assert names["update"](Engine(names["update"]), data[0]) == pytest.approx(first)
    names["trainer"].run(data)
    assert opt.cost.steps == 7


def test_the_example():
    """Sees an example that a user cannot run."""
    assert example.main(epochs=2) > 0.5
