"""The peers: SAM of other packages, with the training loop and the cost of the library's methods."""

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from torch import nn
from torch.optim import Optimizer

from sharpless.cost import Cost
from sharpless.schedules import Periodic, Schedule
from sharpless.wrapper import Wrapper

__all__ = ["PEERS", "LookSAM", "Peer", "Temperon"]


class Peer(Wrapper):
    """The SAM (arXiv 2010.01412) of pytorch_optimizer, with the interface of RST.

    Its two half-steps are called directly: its `step(closure)` computes two gradients at every step, even if LookSAM
    uses only one. Its `disable_running_stats` freezes BatchNorm's running statistics in the perturbed pass.

    Args:
        base: the base optimizer.
        rho: the radius of the perturbation.
        schedule: the schedule of SAM gradients.
        model: the network, for its BatchNorm layers.
        total_steps: the number of steps, if the schedule needs it.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """

    package_name = "pytorch_optimizer"

    def __init__(
        self, base: Optimizer, rho: float, schedule: Schedule, model: nn.Module | None, total_steps: int | None
    ) -> None:
        super().__init__(base, {}, rho)
        try:
            self.package = import_module(self.package_name)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"this peer needs {error.name}: pip install {self.package_name}, or leave its method out"
            ) from error
        self.model = nn.Module() if model is None else model
        self.schedule = schedule
        self.cost = Cost(0, 0, 0.0, 0.0)
        self.perturbed = False
        self.peer = self._make(rho, total_steps)

    def _make(self, rho: float, _: int | None) -> Any:
        # It shares the groups of the base, which a learning-rate scheduler changes.
        return self.package.SAM(self.base.param_groups, lambda *_, **__: self.base, rho=rho)

    @property
    def _sharp(self) -> bool:
        return True

    def passes(self, batch: Any = None) -> Iterator[Any]:
        """Yield the batch once or, on a sharpness-aware step, twice."""
        yield batch
        if not self._sharp:
            return
        self._ascend()
        self.perturbed = True
        try:
            yield batch
        finally:
            self.perturbed = False
            self._descend()

    def _ascend(self) -> None:
        self.peer.first_step(zero_grad=True)
        self.package.disable_running_stats(self.model)

    def _descend(self) -> None:
        self.package.enable_running_stats(self.model)

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Restore the weights, and take the step of the base.

        Raises:
            RuntimeError: a closure is given.
        """
        if closure is not None:
            raise RuntimeError("a peer takes no closure: run forward and backward in passes(), and call step()")
        sharp = int(self._sharp)
        self._take_step()
        done = self.cost
        self.cost = Cost(done.steps + 1, done.sharp_steps + sharp, done.passes + 1.0 + sharp, done.plain_passes + 1.0)
        for after in self._optimizer_step_post_hooks.values():
            after(self, (self,), {})

    step.hooked = True  # type: ignore[attr-defined]

    def _take_step(self) -> None:
        self.peer.second_step()


class LookSAM(Peer):
    """The LookSAM (arXiv 2203.02714) of pytorch_optimizer; its steps count from the first one."""

    def _make(self, rho: float, _: int | None) -> Any:
        self.every = self.schedule.every if isinstance(self.schedule, Periodic) else 1
        groups = self.base.param_groups
        return self.package.LookSAM(groups, lambda *_, **__: self.base, rho=rho, k=self.every)

    @property
    def _sharp(self) -> bool:
        return self.cost.steps % self.every == 0


class Temperon(Peer):
    """Plain steps, then SAM in a last share of the steps (arXiv 2609.17575), by temperon.

    It has no public half-steps. This class calls the private functions that its `step(closure)` calls.
    """

    package_name = "temperon"

    def _make(self, rho: float, total_steps: int | None) -> Any:
        if total_steps is None:
            raise ValueError("temperon begins to climb near the end: give trial.optimizer(…, total_steps=…)")
        return self.package.Temperon(self.base, total_steps, self.schedule.mean(), rho)

    @property
    def _sharp(self) -> bool:
        return bool(self.peer.sam_active())

    def _ascend(self) -> None:
        self.peer._ascend(self.peer.current_rho())
        self.zero_grad()

    def _descend(self) -> None:
        self.peer._restore()

    def _take_step(self) -> None:
        self.base.step()
        self.peer.step_count += 1


PEERS: dict[str, type[Peer]] = {"peer-sam": Peer, "peer-looksam": LookSAM, "temperon": Temperon}
