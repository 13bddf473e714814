"""The Trainer of transformers against two gradients by hand."""

import importlib
import sys

import pytest

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from hosts import examples, on_ranks, reference
from hosts.reference import by_norm, sgd
from hosts.trainers import Classifier, SharpTrainer, arguments, trainer
from sharpless import GRST, SAM
from sharpless.hosts.transformers import Sharpness

METHODS = list(reference.METHODS)
ON_RANKS = ("SAM", "G-RST", "parts")
CASES = {method: (on_ranks.transformers, {"method": method, "sizes": (8, 8, 6, 6)}) for method in ON_RANKS}
CASES |= {f"{method} sharded": (on_ranks.transformers_fsdp, {"method": method}) for method in ON_RANKS}
pytestmark = pytest.mark.filterwarnings("ignore", "error:.*(passes|each pass)")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [reference.network, reference.noisy_network])
@pytest.mark.parametrize("sizes", [(8,), (8, 6, 4)])
def test_right(method, make, sizes, tmp_path):
    """Sees plain training, a climb with the last micro-batch alone, statistics of both passes, another loss."""
    theirs, ours = Classifier(make()), Classifier(make())
    losses = reference.expected(method, theirs.network, sizes)
    host = trainer(method, ours, reference.batches(sizes), tmp_path)
    host.train()
    assert reference.distance(ours, theirs) < 1e-6
    assert [row["loss"] for row in host.state.log_history[:-1]] == pytest.approx(losses, abs=1e-5)
    assert host.opt.cost.sharp_steps == sum(reference.METHODS[method]["coins"])


@pytest.mark.parametrize("method", METHODS)
def test_clipping_and_scheduler(method, tmp_path):
    """Sees each pass clipped in place of the mixture, or a scheduler that counts passes."""
    theirs, ours = Classifier(reference.network()), Classifier(reference.network())
    base = sgd(theirs)
    reference.train(
        theirs.network, base, reference.batches((8, 8)), method,
        clip=by_norm(0.1),
        scheduler=torch.optim.lr_scheduler.LambdaLR(base, lambda step: 1 - step / reference.STEPS),
    )  # fmt: skip
    options = {"max_grad_norm": 0.1, "lr_scheduler_type": "linear"}
    trainer(method, ours, reference.batches((8, 8)), tmp_path, **options).train()
    assert reference.distance(ours, theirs) < 1e-6


class ClipByValue(TrainerCallback):
    """Clipping by value, as the page has it."""

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        nn.utils.clip_grad_value_(model.parameters(), 0.02)


@pytest.mark.parametrize("method", METHODS)
def test_clipping_by_value(method, tmp_path):
    """Sees a callback clip the passes, or a micro-batch, in place of the mixture."""
    theirs, ours = Classifier(reference.network()), Classifier(reference.network())
    reference.expected(method, theirs.network, (8, 6), clip=reference.by_value(0.02))
    host = trainer(method, ours, reference.batches((8, 6)), tmp_path)
    host.add_callback(ClipByValue())
    host.train()
    assert reference.distance(ours, theirs) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_an_epoch_that_ends_within_a_step(method, tmp_path):
    """Sees the micro-batches of a last, shorter step that do not climb, weigh too little, or wait for another epoch."""
    theirs, ours = Classifier(reference.noisy_network()), Classifier(reference.noisy_network())
    steps = reference.batches((8, 6, 4))
    steps[-1] = steps[-1][:2]
    losses = reference.train(theirs.network, sgd(theirs), steps, method)
    host = trainer(method, ours, steps, tmp_path)
    host.train()
    assert reference.distance(ours, theirs) < 1e-6
    assert [row["loss"] for row in host.state.log_history[:-1]] == pytest.approx(losses, abs=1e-5)
    assert host.opt.cost.steps == reference.STEPS


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adafactor", "rmsprop", "schedule_free_adamw"])
def test_optimizers_of_the_arguments(optim, tmp_path):
    """Sees an optimizer that the Trainer makes given another gradient, or never switched to training."""
    if "schedule_free" in optim:
        pytest.importorskip("schedulefree")
    theirs, ours = Classifier(reference.network()), Classifier(reference.network())
    options = {"optim": optim, "learning_rate": 0.01}
    base = Trainer(theirs, arguments(tmp_path, **options)).create_optimizer()
    getattr(base, "train", lambda: None)()
    reference.train(theirs.network, base, reference.batches(), "SAM")
    host = trainer("SAM", ours, reference.batches(), tmp_path, **options)
    host.optimizer_cls_and_kwargs = None
    host.train()
    assert reference.distance(ours, theirs) < 1e-6


@pytest.mark.parametrize("method", ["G-RST", "parts"])
def test_bf16(method, tmp_path):
    """Sees a pass outside autocast."""
    theirs, ours = Classifier(reference.network()), Classifier(reference.network())
    reference.expected(method, theirs.network, autocast=torch.bfloat16)
    trainer(method, ours, reference.batches(), tmp_path, bf16=True).train()
    assert reference.distance(ours, theirs) < 1e-6


class Scaled(SharpTrainer):
    """With the scaler of fp16, which accelerate gives to GPUs alone."""

    def create_accelerator_and_postprocess(self):
        super().create_accelerator_and_postprocess()
        self.accelerator.scaler, self.accelerator.native_amp = torch.amp.GradScaler("cpu", init_scale=2.0**10), True
        self.accelerator.state._mixed_precision = "fp16"


@pytest.mark.parametrize("method", ["G-RST", "parts"])
@pytest.mark.parametrize("clip", [0.0, 0.1])
def test_fp16_overflow(method, clip, tmp_path):
    """Sees a step that an overflow poisons, clipping of scaled gradients, or a coin lost with the step."""
    theirs, ours = Classifier(reference.noisy_network()), Classifier(reference.noisy_network())
    options = {"autocast": torch.float16, "scale": 2.0**10, "spoiled": (2,)}
    reference.expected(method, theirs.network, clip=by_norm(clip) if clip else None, **options)
    options = {"factors": [1.0, 1.0, float("inf")], "max_grad_norm": clip}
    host = trainer(method, ours, reference.batches(), tmp_path, kind=Scaled, **options)
    host.train()
    assert reference.distance(ours, theirs) < 2e-5
    assert host.accelerator.scaler.get_scale() == 2.0**9
    assert host.opt.cost.steps == reference.STEPS


class Shuffled(SharpTrainer):
    """With the sampler of transformers, whose order a checkpoint has to keep."""

    def _get_train_sampler(self, *args):
        return Trainer._get_train_sampler(self, *args)


@pytest.mark.parametrize("method", ["G-RST", "parts"])
def test_resume(method, tmp_path):
    """Sees coin, ledger, momentum or noise lost in a checkpoint in mid-epoch."""
    data = reference.batches((8, 6))
    options = {"save_strategy": "steps", "save_steps": 4, "num_train_epochs": 2, "kind": Shuffled}
    never, stopped = Classifier(reference.noisy_network()), Classifier(reference.noisy_network())
    whole = trainer(method, never, data, tmp_path, **options)
    whole.train()
    for part in (4, 8):
        again = trainer(method, stopped, data, tmp_path, **options)
        again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{part}"))
        assert reference.distance(never, stopped) == 0
        assert again.opt.cost == whole.opt.cost


outcomes = on_ranks.outcomes(CASES)


@pytest.mark.parametrize("name", CASES)
def test_two_ranks(name, outcomes):
    """Sees ranks that climb along a common gradient, that reduce both passes, or that climb along one shard."""
    assert not outcomes[name], outcomes[name]


def test_the_base_of_the_arguments(tmp_path):
    """Sees groups or hyperparameters of TrainingArguments lost, or an optimizer wrapped anew by a second train()."""

    class Late(Sharpness, Trainer):
        def wrap_optimizer(self, base):
            return GRST(base, p="linear:0,1", total_steps=self.state.max_steps)

    data = [{"x": torch.randn(8, 5), "labels": torch.randint(3, (8,)), "factor": torch.tensor(1.0)}] * 3
    options = arguments(tmp_path, learning_rate=0.01, weight_decay=0.1, adam_beta2=0.9)
    host = Late(Classifier(reference.network()), options, lambda rows: rows[0], train_dataset=data)
    host.train()
    opt = host.opt
    assert (type(opt.base), opt.total_steps, opt.cost.steps) == (torch.optim.AdamW, 3, 3)
    assert [group["weight_decay"] for group in opt.param_groups] == [0.1, 0.0]
    assert (opt.param_groups[0]["lr"], opt.param_groups[0]["betas"]) == (0.01, (0.9, 0.9))
    host.train()
    assert (host.opt is opt, opt.cost.steps) == (True, 6)


class Speedy(SharpTrainer):
    """As if with deepspeed, which needs GPUs."""

    def create_accelerator_and_postprocess(self):
        super().create_accelerator_and_postprocess()
        self.is_deepspeed_enabled = True


def test_what_is_refused(tmp_path, monkeypatch):
    """Sees plain training, or wrong training, without a word."""
    model = Classifier(reference.network())
    data = [{"x": torch.randn(8, 5), "labels": torch.randint(3, (8,)), "factor": torch.tensor(1.0)}]

    def made(kind=SharpTrainer, **options):
        return kind(model, arguments(tmp_path, **options), lambda rows: rows[0], train_dataset=data)

    with pytest.raises(NotImplementedError, match=r"Nothing does not say which steps to take: define wrap_optimizer"):
        made(type("Nothing", (Sharpness, Trainer), {})).train()
    own = {"create_optimizer": lambda self, model=None: setattr(self, "optimizer", sgd(self.model))}
    with pytest.raises(RuntimeError, match=r"the optimizer is not sharpness-aware: train\(\) creates it"):
        made(type("Own", (SharpTrainer,), own)).train()
    other = {"wrap_optimizer": lambda self, base: SAM(sgd(nn.Linear(2, 2)))}
    with pytest.raises(ValueError, match=r"model has no parameter in common with base"):
        made(type("Other", (SharpTrainer,), other)).train()
    with pytest.raises(ValueError, match=r"optim = 'galore_adamw_layerwise' takes its step during backward"):
        made(optim="galore_adamw_layerwise")
    with pytest.raises(ValueError, match=r"Buffered takes another batch from its own buffer in each pass"):
        made(type("Buffered", (SharpTrainer,), {"_buffered_inputs": None}))
    monkeypatch.setattr(TrainingArguments, "n_gpu", 2)
    with pytest.raises(ValueError, match=r"2 GPUs in one process are trained by DataParallel"):
        made()
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"deepspeed keeps the gradients to itself"):
        made(Speedy)


def test_the_page(tmp_path):
    """Sees code of the how-to that a user cannot run."""
    rows = [{"x": torch.randn(5), "labels": torch.tensor(1), "factor": torch.tensor(1.0)}] * 6
    model = Classifier(reference.network())
    names = examples.run_page("transformers", model=model, args=arguments(tmp_path), rows=rows)
    assert names["trainer"].opt.cost.steps == 6


def test_without_transformers(monkeypatch):
    """Sees a missing package reported without the way to get it."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "sharpless.hosts.transformers")
    with pytest.raises(ImportError, match=r"pip install 'sharpless\[transformers\]'"):
        importlib.import_module("sharpless.hosts.transformers")


def test_the_example():
    """Sees an example that a user cannot run."""
    assert 0 <= examples.load("transformers").main(epochs=1) <= 1
