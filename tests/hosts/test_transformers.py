"""The Trainer of transformers against two gradients by hand."""

import pytest
import torch
from torch import nn

from hosts import reference
from hosts.trainers import Classifier, SharpTrainer, on_ranks, sgd, trainer

METHODS = list(reference.METHODS)
pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [reference.network, reference.noisy_network])
@pytest.mark.parametrize("sizes", [(8,), (8, 6, 4)])
def test_two_gradients(method, make, sizes, tmp_path):
    """Sees plain training, a climb with the last micro-batch alone, statistics of both passes, another loss."""
    theirs, ours = Classifier(make()), Classifier(make())
    losses = reference.train(theirs.network, sgd(theirs), reference.batches(sizes), method)
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
        clip=lambda parameters: nn.utils.clip_grad_norm_(parameters, 0.1),
        scheduler=torch.optim.lr_scheduler.LambdaLR(base, lambda step: 1 - step / reference.STEPS),
    )  # fmt: skip
    options = {"max_grad_norm": 0.1, "lr_scheduler_type": "linear"}
    trainer(method, ours, reference.batches((8, 8)), tmp_path, **options).train()
    assert reference.distance(ours, theirs) < 1e-6


@pytest.mark.parametrize("method", ["G-RST", "parts"])
def test_bf16(method, tmp_path):
    """Sees a pass outside autocast."""
    theirs, ours = Classifier(reference.network()), Classifier(reference.network())
    reference.train(theirs.network, sgd(theirs), reference.batches(), method, autocast=torch.bfloat16)
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
def test_fp16(method, clip, tmp_path):
    """Sees a step that an overflow poisons, clipping of scaled gradients, or a coin lost with the step."""
    theirs, ours = Classifier(reference.noisy_network()), Classifier(reference.noisy_network())
    reference.train(
        theirs.network, sgd(theirs), reference.batches(), method, autocast=torch.float16, scale=2.0**10, spoiled=(2,),
        clip=(lambda parameters: nn.utils.clip_grad_norm_(parameters, clip)) if clip else None,
    )  # fmt: skip
    options = {"factors": [1.0, 1.0, float("inf")], "max_grad_norm": clip}
    host = trainer(method, ours, reference.batches(), tmp_path, kind=Scaled, **options)
    host.train()
    assert reference.distance(ours, theirs) < 2e-5
    assert host.accelerator.scaler.get_scale() == 2.0**9
    assert host.opt.cost.steps == reference.STEPS


@pytest.mark.parametrize("method", ["G-RST", "parts"])
def test_resume(method, tmp_path):
    """Sees coin, ledger, momentum or noise lost in a checkpoint in mid-epoch."""
    data = reference.batches((8, 6))
    options = {"save_strategy": "steps", "save_steps": 4, "num_train_epochs": 2, "train_sampling_strategy": "random"}
    never, stopped = Classifier(reference.noisy_network()), Classifier(reference.noisy_network())
    whole = trainer(method, never, data, tmp_path, **options)
    whole.train()
    for part in (4, 8):
        again = trainer(method, stopped, data, tmp_path, **options)
        again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{part}"))
        assert all(map(torch.equal, never.state_dict().values(), stopped.state_dict().values()))
        assert again.opt.cost == whole.opt.cost


def test_ranks(tmp_path):
    """Sees ranks that climb along a common gradient, or that reduce both passes."""
    data, methods = reference.batches((8, 8, 6, 6)), ["SAM", "G-RST", "parts"]
    ranks = on_ranks(tmp_path, methods, data)
    for method in methods:
        theirs = reference.network()
        reference.train(theirs, sgd(theirs), data, method)
        for ours, reductions in (found[method] for found in ranks):
            assert reference.distance(ours, theirs) < 1e-6
            assert reductions == reference.STEPS
