"""Flatness of a minimum: curvature, sharpness and slices of the loss around the weights of any network.

>>> import torch
>>> model = torch.nn.Linear(3, 2)
>>> data = [(torch.randn(8, 3), torch.randint(2, (8,)))]
>>> objective = Objective(model, torch.nn.functional.cross_entropy, data)
>>> worst, average = sharpness(objective, rho=0.05), average_sharpness(objective, rho=0.05)
>>> worst.value > average.mean
True
"""

from sharpless.flatness.curvature import Eigenvalues, Estimate, eigenvalues, trace
from sharpless.flatness.measure import Settings, measure
from sharpless.flatness.neighbourhood import Ascent, average_sharpness, sharpness
from sharpless.flatness.objective import Objective
from sharpless.flatness.slices import direction, loss_slice, loss_surface

__all__ = [
    "Ascent",
    "Eigenvalues",
    "Estimate",
    "Objective",
    "Settings",
    "average_sharpness",
    "direction",
    "eigenvalues",
    "loss_slice",
    "loss_surface",
    "measure",
    "sharpness",
    "trace",
]
