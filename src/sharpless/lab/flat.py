"""How flat the minimum of a run is: a few of the measures, one number each."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from sharpless.flatness import Objective, Settings, measure
from sharpless.lab.faults import reason

__all__ = ["EXAMPLES", "measured"]

EXAMPLES = 500
SETTINGS = Settings(rho=(0.05,), adaptive_rho=(0.5,), eigenvalues=1, vectors=10, points=0)
"""Of a comparison, which has many runs: as much as one of the default task trains for."""


def measured(model: nn.Module, loss: Callable[[Any, Any], Tensor], data: Iterable[Any]) -> dict[str, Any]:
    """Return the measures by their names, or why there are none; a run is not lost for them.

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
    except Exception as error:  # of the user's loss, say, or for want of memory
        told = str(error) if isinstance(error, ValueError) else reason(error)
        return {"examples": 0, "measures": {}, "refused": told}
    measures = {"largest eigenvalue": next(iter(found["eigenvalues"]["values"]), None), "trace": found["trace"]["mean"]}
    for near in found["sharpness"]:
        name = f"{'adaptive ' * near['adaptive']}sharpness, ρ = {near['rho']:g}"
        measures |= {name: near["worst"]["value"], f"average {name}": near["average"]["mean"]}
    return {"examples": found["examples"], "measures": measures, "refused": None}
