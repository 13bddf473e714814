"""The reference's networks as models of Keras."""

import os

import pytest
import torch
from torch import nn

from hosts import examples
from hosts.methods import wrapped

os.environ["KERAS_BACKEND"] = "torch"  # for the ranks
keras = pytest.importorskip("keras")


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
            layers.append((keras.layers.Dropout(dropout, seed=3), module))
        if layers:
            x = layers[-1][0](x) if layers[-1][1] is module else x
    for layer, module in layers:
        values = [value.detach().numpy() for value in module.state_dict().values() if value.dim() > 0]
        layer.set_weights([value.T for value in values] if layer.weights else [])
    return examples.load("keras").SharpModel(inputs, x)


def back(model, network):
    """Return the network, with the weights of a model without statistics."""
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), model.get_weights(), strict=True):
            parameter.copy_(torch.as_tensor(value).T)
    return network


def compiled(method, model, parallel=None):
    """Compile a model with an optimizer; `parallel` wraps it."""
    base = torch.optim.SGD([variable.value for variable in model.trainable_variables], lr=0.3, momentum=0.9)
    model.opt = wrapped(method, base, model=parallel or model)
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model
