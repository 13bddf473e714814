"""composer against two gradients by hand."""

import gc
import warnings

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from hosts import examples, on_ranks, reference, small_on_ranks
from hosts.methods import wrapped
from sharpless import SAM

pytest.importorskip("composer")
from composer import Callback, Trainer
from composer.models import ComposerClassifier
from composer.optim import StepScheduler

METHODS = ["SAM", "RST", "G-RST"]
pytestmark = pytest.mark.filterwarnings("ignore", "error:.*(passes|each pass)")
example = examples.load("composer")
CASES = {method: (small_on_ranks.composer, {"method": method, "sizes": (8, 8)}) for method in METHODS}


@pytest.fixture(autouse=True)
def swept():
    """composer leaves temporary folders to Python's finalization, which warns of them."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


class Recorded(Callback):
    """The losses that composer logs, and a beginning with the noise of the reference."""

    def __init__(self):
        self.losses = []

    def batch_start(self, state, logger):
        if not state.timestamp.batch.value:
            torch.manual_seed(0)

    def batch_end(self, state, logger):
        self.losses.append(state.total_loss_dict["loss/train/total"])


def trainer(method, network, micro=8, **options):
    model = ComposerClassifier(network, loss_fn=cross_entropy, num_classes=3)
    opt = wrapped(method, reference.sgd(model), model=model)
    opt.__class__ = type("SharpOptimizer", (example.InClosures, type(opt)), {})
    rows = zip(*(micro for (micro,) in reference.batches()), strict=True)
    loader = DataLoader(TensorDataset(*map(torch.cat, rows)), batch_size=8)
    recorded = Recorded()
    made = Trainer(
        model=model, train_dataloader=loader, optimizers=opt, device="cpu", progress_bar=False, log_to_console=False,
        device_train_microbatch_size=micro, callbacks=[recorded], **{"max_duration": "1ep"} | options,
    )  # fmt: skip
    return made, opt, recorded.losses


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [reference.network, reference.noisy_network])
def test_right(method, make):
    """Sees another method, statistics of both passes, or a loss that is the sum of both."""
    theirs, ours = make(), make()
    expected = reference.expected(method, theirs)
    host, opt, losses = trainer(method, ours)
    host.fit()
    assert reference.distance(ours, theirs) < 1e-6
    assert [float(loss) for loss in losses] == pytest.approx(expected, abs=1e-6)
    assert opt.cost.sharp_steps == sum(reference.METHODS[method]["coins"])


@pytest.mark.parametrize("method", METHODS)
def test_micro_batches(method):
    """Sees micro-batches that climb each for itself, in a page that says that the whole batch does."""
    theirs, ours = reference.network(), reference.network()
    reference.expected(method, theirs)
    trainer(method, ours, micro=3)[0].fit()
    assert reference.distance(ours, theirs) < 1e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("clip", [reference.by_norm(0.2), reference.by_value(0.02)], ids=["norm", "value"])
def test_clipping(method, clip):
    """Sees a hook, as the page has it, that clips a pass in place of the step's gradient."""
    theirs, ours = reference.network(), reference.network()
    reference.expected(method, theirs, clip=clip)
    host, opt, _ = trainer(method, ours)

    @opt.base.register_step_pre_hook
    def _(*_):
        clip(ours.parameters())

    host.fit()
    assert reference.distance(ours, theirs) < 1e-6


def test_scheduler():
    """Sees a scheduler of composer that does not reach the base."""
    theirs, ours = reference.network(), reference.network()
    base = reference.sgd(theirs)
    by_hand = torch.optim.lr_scheduler.LambdaLR(base, lambda step: 0.5 ** (max(step - 1, 0) // 2))  # composer's is late
    reference.train(theirs, base, reference.batches(), "G-RST", scheduler=by_hand)
    options = {"schedulers": StepScheduler("2ba", 0.5), "step_schedulers_every_batch": True}
    trainer("G-RST", ours, **options)[0].fit()
    assert reference.distance(ours, theirs) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_bf16(method, monkeypatch):
    """Sees a pass outside of autocast."""
    theirs, ours = reference.network(), reference.network()
    reference.expected(method, theirs, autocast=torch.bfloat16)
    context = "composer.trainer.trainer.get_precision_context"  # composer has amp_bf16 for GPUs alone
    monkeypatch.setattr(context, lambda *_, **__: torch.autocast("cpu", torch.bfloat16))
    trainer(method, ours)[0].fit()
    assert reference.distance(ours, theirs) < 1e-6


def test_resume(tmp_path):
    """Sees coin, ledger or momentum lost in composer's checkpoints, in mid-epoch."""
    whole, stopped = reference.noisy_network(), reference.noisy_network()
    first, opt, _ = trainer("G-RST", whole, save_folder=str(tmp_path), save_interval="3ba", autoresume=False)
    first.fit()
    checkpoint = str(tmp_path / "ep0-ba3-rank0.pt")
    again, other, _ = trainer("G-RST", stopped, load_path=checkpoint)
    again.fit()
    assert reference.distance(whole, stopped) == 0
    assert other.cost == opt.cost


def test_what_is_refused():
    """Sees plain training where composer calls no closure, or a part climbed with where the batch is not seen."""
    opt = example.SharpOptimizer(reference.sgd(reference.network()), p=0.5)
    with pytest.raises(RuntimeError, match="precision = amp_fp16 takes plain steps"):
        opt.step()
    with pytest.raises(ValueError, match=r"batch_fraction = 0\.5 splits the batch"):
        trainer("parts", reference.network())[0].fit()


def test_the_loss_of_step():
    """Sees a step of the example that returns the loss at perturbed weights, or of both passes."""
    network = reference.network()
    opt = example.SharpOptimizer(reference.sgd(network), p=1.0, rho=0.5, model=network)
    ((x, y),) = reference.batches()[0]
    expected = float(cross_entropy(network(x), y))

    def closure(loss_dict=None):
        loss = cross_entropy(network(x), y)
        loss.backward()
        return loss.item()

    assert opt.step(closure) == pytest.approx(expected)


def test_sums_are_warned_of():
    """Sees an optimizer without the example's step, for which composer logs the sum of both passes, without a word."""
    host, opt, _ = trainer("SAM", reference.network())
    opt.__class__ = SAM
    with pytest.warns(UserWarning, match=r"^Composer hands step\(\) a closure that .* see docs/hosts/composer.md"):
        host.fit()


def test_the_page():
    """Sees code of the how-to that a user cannot run."""
    model = ComposerClassifier(reference.network(), loss_fn=cross_entropy, num_classes=3)
    loader = DataLoader(TensorDataset(torch.randn(16, 5), torch.randint(3, (16,))), batch_size=8)

    def run(precision, **options):  # composer has this one for GPUs alone
        return Trainer(max_duration="1ep", device="cpu", progress_bar=False, log_to_console=False, **options)

    given = {"SharpOptimizer": example.SharpOptimizer, "Trainer": run, "torch": torch}
    names = examples.run_page("composer", model=model, loader=loader, **given)
    names["trainer"].fit()
    assert names["opt"].cost.steps == 2


def test_the_example(monkeypatch):
    """Sees an example that a user cannot run, or whose optimizer misses the network or steps."""
    made = examples.optimizers(monkeypatch)
    assert example.main(epochs=2) > 0.5
    examples.assert_whole(made, 2 * 18)


outcomes = on_ranks.outcomes(CASES)


@pytest.mark.parametrize("name", CASES)
def test_two_ranks(name, outcomes):
    """Sees ranks climb along the union, or communicate twice."""
    assert not outcomes[name], outcomes[name]
