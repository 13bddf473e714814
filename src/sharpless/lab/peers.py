"""The peers: SAM and LookSAM of pytorch_optimizer, in the training loop and the ledger of the library's own methods."""

from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

from torch import nn
from torch.optim import Optimizer

from sharpless.cost import Cost
from sharpless.lab.recipes import PEERS
from sharpless.schedules import Periodic, Schedule

__all__ = ["Peer", "pytorch_optimizer"]


def pytorch_optimizer() -> ModuleType:
    """Return the package of the peers.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        return import_module("pytorch_optimizer")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"methods {' and '.join(PEERS)} need {error.name}: pip install pytorch_optimizer, or leave them out"
        ) from error


class Peer:
    """A SAM (arXiv 2010.01412) or LookSAM (arXiv 2203.02714) of pytorch_optimizer, used as RST is used by `train`.

    Its two half-steps are called directly: its `step(closure)` computes two gradients at every step, also where
    LookSAM uses one. BatchNorm's running statistics are held in the perturbed pass by its own `disable_running_stats`.

    Args:
        method: one of PEERS.
        base: the optimizer that takes the steps.
        model: the network.
        rho: the radius of the perturbation.
        schedule: when to compute a SAM gradient: always, or Periodic, here counted from the first step.

    Raises:
        ModuleNotFoundError: pytorch_optimizer is not installed.
    """

    gamma = 1.0
    batch_fraction = 1.0

    def __init__(self, method: str, base: Optimizer, model: nn.Module, rho: float, schedule: Schedule) -> None:
        self.package = pytorch_optimizer()
        self.model = model
        self.schedule = schedule
        self.every = schedule.every if isinstance(schedule, Periodic) else 1
        options = {} if method == "peer-sam" else {"k": self.every}
        make = self.package.SAM if method == "peer-sam" else self.package.LookSAM
        # It shares the groups of the base, which a learning-rate scheduler changes.
        self.peer = make(base.param_groups, lambda groups, **_: base, rho=rho, **options)
        self.cost = Cost(0, 0, 0.0, 0.0)
        self.perturbed = False

    @property
    def _sharp(self) -> bool:
        return self.cost.steps % self.every == 0

    def passes(self, batch: Any) -> Iterator[Any]:
        """Yield the batch once or, on a sharpness-aware step, twice."""
        yield batch
        if not self._sharp:
            return
        self.peer.first_step(zero_grad=True)
        self.package.disable_running_stats(self.model)
        self.perturbed = True
        yield batch
        self.perturbed = False
        self.package.enable_running_stats(self.model)

    def step(self) -> None:
        """Put the weights back, and take the step of the base."""
        self.peer.second_step()
        done, sharp = self.cost, int(self._sharp)
        self.cost = Cost(done.steps + 1, done.sharp_steps + sharp, done.passes + 1.0 + sharp, done.plain_passes + 1.0)

    def zero_grad(self) -> None:
        """Clear the gradients."""
        self.peer.zero_grad()
