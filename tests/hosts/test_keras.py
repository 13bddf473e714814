"""Keras on torch against two gradients by hand."""

import os

import pytest
import torch
from torch import nn

from hosts import examples, reference
from hosts.methods import wrapped

os.environ["KERAS_BACKEND"] = "torch"
pytest.importorskip("keras")
import keras

METHODS = list(reference.METHODS)
pytestmark = pytest.mark.filterwarnings("ignore", "error:.*(passes|each pass)")
example = examples.load("keras")


def translated(network, dropout=0.0):
    """Return the network as a model of Keras, with the same weights."""
    inputs = x = keras.Input((5,))
    layers = []
    for module in network:
        if isinstance(module, nn.Linear):
            layers.append((keras.layers.Dense(module.out_features), module))
        elif isinstance(module, nn.BatchNorm1d):
            layers.append((keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5), module))
        elif isinstance(module, nn.Tanh):
            layers.append((keras.layers.Activation("tanh"), module))
        elif dropout:
            layers.append((keras.layers.Dropout(dropout), module))
        if layers:
            x = layers[-1][0](x) if layers[-1][1] is module else x
    for layer, module in layers:
        values = [value.detach().numpy() for value in module.state_dict().values() if value.dim() > 0]
        layer.set_weights([value.T for value in values] if layer.weights else [])
    return example.SharpModel(inputs, x)


def compiled(method, model):
    base = torch.optim.SGD([variable.value for variable in model.trainable_variables], lr=0.3, momentum=0.9)
    model.opt = wrapped(method, base, model=model)
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("norm", [False, True])
def test_right(method, norm):
    """Sees another method, moving averages of both passes, or another loss."""
    theirs = reference.noisy_network() if norm else reference.network()
    theirs = nn.Sequential(*(module for module in theirs if not isinstance(module, nn.Dropout)))
    ours, losses = compiled(method, translated(theirs)), []
    expected = reference.expected(method, theirs)
    for (micro,) in reference.batches():
        losses.append(ours.train_on_batch(*micro))
        ours.reset_metrics()
    x = torch.randn(64, 5)
    theirs.train()
    assert torch.allclose(ours(x, training=True), theirs(x), atol=1e-5)
    if not norm:  # Keras takes the biased variance for its moving average
        assert torch.allclose(ours(x), theirs.eval()(x), atol=1e-5)
    assert [float(loss) for loss in losses] == pytest.approx(expected, abs=1e-5)


def test_statistics_and_masks():
    """Sees moving statistics updated by both passes, or masks drawn anew: then ρ = 0 is not plain training."""
    found = {}
    for method, rho in (("SAM", 0.0), ("SAM", 1e-12)):
        keras.utils.set_random_seed(0)
        model = compiled(method, translated(reference.noisy_network(), dropout=0.3))
        for group in model.opt.param_groups:
            group["rho"] = rho
        for (micro,) in reference.batches():
            model.train_on_batch(*micro)
        found[rho] = [torch.as_tensor(value) for value in model.get_weights()]
        assert model.opt.cost.ratio == (2.0 if rho else 1.0)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*found.values(), strict=True))


def test_the_example():
    """Sees an example that a user cannot run."""
    assert example.main(epochs=2) > 0.5
