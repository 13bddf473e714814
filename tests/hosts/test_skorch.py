"""skorch against two gradients by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from hosts import examples, reference
from hosts.methods import wrapped

pytest.importorskip("skorch")
from skorch.callbacks import Callback, Checkpoint, GradientNormClipping, LoadInitState, LRScheduler

METHODS = list(reference.METHODS)
pytestmark = pytest.mark.filterwarnings("ignore", "error:.*(passes|each pass)")
example = examples.load("skorch")


class Begin(Callback):
    """Training begins with the noise of the reference."""

    def on_batch_begin(self, net, training, **kwargs):
        if training and not net.optimizer_.cost.steps:
            torch.manual_seed(0)


def net(method, model, callbacks=(), epochs=1):
    class Net(example.SharpClassifier):
        def wrap_optimizer(self, base):
            return wrapped(method, base, model=self.module_)

    return Net(
        model, criterion=nn.CrossEntropyLoss, max_epochs=epochs, batch_size=8, lr=0.3, optimizer__momentum=0.9,
        train_split=None, callbacks=[Begin(), *callbacks], verbose=0, iterator_train__drop_last=False,
    )  # fmt: skip


def data():
    rows = [micro for (micro,) in reference.batches()]
    return tuple(torch.cat(tensors).numpy() for tensors in zip(*rows, strict=True))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [reference.network, reference.noisy_network])
def test_right(method, make):
    """Sees another method, statistics of both passes, each pass clipped, a scheduler per pass, or another loss."""
    theirs, ours = make(), make()
    base = reference.sgd(theirs)
    expected = reference.train(
        theirs, base, reference.batches(), method,
        clip=reference.by_norm(0.2),
        scheduler=torch.optim.lr_scheduler.StepLR(base, 2),
    )  # fmt: skip
    callbacks = [GradientNormClipping(0.2), LRScheduler("StepLR", step_size=2, step_every="batch")]
    host = net(method, ours, callbacks).fit(*data())
    assert reference.distance(host.module_, theirs) < 1e-6
    losses = [batch["train_loss"] for batch in host.history[-1]["batches"]]
    assert losses == pytest.approx(expected, abs=1e-6)


def test_resume(tmp_path):
    """Sees coin, ledger or momentum lost in skorch's checkpoints."""
    saver = Checkpoint(monitor=None, dirname=tmp_path)
    whole = net("G-RST", reference.network(), epochs=4).fit(*data())
    net("G-RST", reference.network(), [saver], epochs=2).fit(*data())
    again = net("G-RST", reference.network(), [LoadInitState(saver)], epochs=2).fit(*data())
    assert reference.distance(whole.module_, again.module_) == 0
    assert again.optimizer_.cost == whole.optimizer_.cost


def test_numbers_of_groups():
    """Sees skorch's way to change a number of the optimizer come to nothing, as its page promises that it does not."""
    host = net("SAM", reference.network()).initialize()
    host.set_params(optimizer__rho=0.7, optimizer__lr=0.01)
    assert [(group["rho"], group["lr"]) for group in host.optimizer_.param_groups] == [(0.7, 0.01)]


def test_predictions_of_the_clean_passes():
    """Sees scores of training that count examples twice, or none of the rest of a batch."""
    host, (x, y) = net("parts", reference.network()), data()
    host.initialize()
    step = host.train_step((torch.as_tensor(x[:8]), torch.as_tensor(y[:8])))
    assert np.shape(step["y_pred"].detach()) == (8, 3)


def test_the_example():
    """Sees an example that a user cannot run."""
    assert example.main(epochs=2) > 0.5
