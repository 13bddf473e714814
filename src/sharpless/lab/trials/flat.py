"""The flatness of the minimum of a run: a few measures, one number each."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from sharpless.flatness import Objective, Settings, measure
from sharpless.lab.faults import reason

__all__ = ["EXAMPLES", "measured"]

EXAMPLES = 500
SETTINGS = Settings(rho=(0.05,), adaptive_rho=(0.5,), eigenvalues=1, vectors=10, points=0)
"""Cheap settings, for the many runs of a comparison: about as long as one run of the default task."""


def measured(model: nn.Module, loss: Callable[[Any, Any], Tensor], data: Iterable[Any]) -> dict[str, Any]:
    """Return the measures by their names, or the reason for having none. An error does not stop the run.

    >>> import torch
    >>> data = [(torch.randn(8, 3), torch.randint(2, (8,)))]
    >>> list(measured(nn.Linear(3, 2), nn.functional.cross_entropy, data)["measures"])[:2]
    ['largest eigenvalue', 'trace']

    Args:
        model: the network.
        loss: a function of its output and y, the mean over the examples of a batch.
        data: batches (x, y).
    """
    try:
        found = measure(Objective(model, loss, data, EXAMPLES), SETTINGS)
    except Exception as error:  # an error of the user's loss, or lack of memory
        why = str(error) if isinstance(error, ValueError) else reason(error)
        return {"examples": 0, "measures": {}, "refused": why}
    measures = {"largest eigenvalue": next(iter(found["eigenvalues"]["values"]), None), "trace": found["trace"]["mean"]}
    for near in found["sharpness"]:
        name = f"{'adaptive ' * near['adaptive']}sharpness, ρ = {near['rho']:g}"
        measures |= {name: near["worst"]["value"], f"average {name}": near["average"]["mean"]}
    return {"examples": found["examples"], "measures": measures, "refused": None}
