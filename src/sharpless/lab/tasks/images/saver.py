"""Save the state of a run regularly and at a signal to stop, and resume from it."""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint import state_dict as states

from sharpless.lab.runs.stopping import Stopped
from sharpless.lab.tasks.images.checkpoints import JUNK, Checkpoints
from sharpless.lab.tasks.images.step import Stepper

__all__ = ["Saver"]

STEPS_BETWEEN_CHECKS = 20
WHOLE = states.StateDictOptions(full_state_dict=True, cpu_offload=True)


class Saver:
    """The checkpoints of a run. Peers have none.

    Args:
        stepper: the network and its training state.
        every: seconds between checkpoints.
        run: the description of the run. Checkpoints of other runs are refused.
    """

    def __init__(self, stepper: Stepper, every: float, run: Mapping[str, Any]) -> None:
        trial = stepper.trial
        self.stepper, self.trial, self.team, self.every = stepper, trial, stepper.team, every
        self.keeps = not trial.method.kind.package
        self.writes = self.keeps and self.team.rank == 0
        of = {"method": trial.method.name, "seed": trial.seed, "hyperparameters": trial.hyperparameters}
        self.checkpoints = Checkpoints(trial.folder if self.writes else Path(), {**run, **of})
        self.saved_at = perf_counter()

    def consider(self, step: int, received: Sequence[int]) -> None:
        """Write a checkpoint if it is due or after a signal to stop. Stop after a signal.

        Args:
            step: the number of finished steps.
            received: the received signals.

        Raises:
            Stopped: there was a signal.
        """
        signum, due = received[0] if received else 0, int(self.keeps and perf_counter() - self.saved_at >= self.every)
        if self.team.size > 1:
            if step % STEPS_BETWEEN_CHECKS:
                return
            signum, due = self.team.maximum(signum, due)
        if self.keeps and (due or signum):
            with self.trial.paused():
                self._save(step)
        if signum:
            raise Stopped(step, signum)

    def resume(self, per_epoch: int) -> int:
        """Resume from the newest checkpoint, if there is one.

        Args:
            per_epoch: the number of steps of an epoch.

        Returns:
            The number of finished steps.

        Raises:
            ValueError: the checkpoint does not hold the state of this run.
        """
        found = self.team.from_leader(self.checkpoints.load() if self.writes else None)
        if found is None:
            return 0
        try:
            return self._load(found, per_epoch)
        except JUNK as error:
            raise self.checkpoints.refusal(error) from error

    def weights(self) -> dict[str, Tensor]:
        """Return the full weights on the CPU, for `load_state_dict` of the network without wrappers."""
        found = states.get_model_state_dict(self.stepper.module, options=WHOLE)
        return {name: value.clone() for name, value in found.items() if isinstance(value, Tensor)}

    def _save(self, step: int) -> None:
        stepper = self.stepper
        losses = self.team.all_of(float(stepper.loss))
        model, optimizer = states.get_state_dict(stepper.module, stepper.opt, options=WHOLE)
        state = {
            **{"step": step, "losses": losses, "model": model, "optimizer": optimizer},
            **{"scaler": stepper.scaler.state_dict(), "scheduler": stepper.scheduler.state_dict()},
            "trial": self.trial.state_dict(),
        }
        if self.writes:
            self.checkpoints.save(step, state)
        self.team.maximum(0)  # all ranks wait until the checkpoint is written
        self.saved_at = perf_counter()

    def _load(self, state: dict[str, Any], per_epoch: int) -> int:
        stepper, trial, step = self.stepper, self.trial, int(state["step"])
        lengths = {len(values) for values in state["trial"]["curve"].values()}
        if len(lengths) != 1 or not 0 <= step - per_epoch * max(lengths) <= per_epoch or step > stepper.steps:
            raise ValueError(f"step {step} is not in the epoch after {lengths}")
        if not all(0 <= state["trial"][name] < math.inf for name in ("seconds", "data_seconds")):
            raise ValueError("invalid durations")
        if not all(0 <= sharp < step for sharp in state["trial"]["sharp_steps"]):
            raise ValueError("sharpness-aware steps after the last step")
        if state["model"].keys() != stepper.module.state_dict().keys() or not state["optimizer"]:
            raise ValueError("the state of another network")  # torch accepts an empty one silently
        with warnings.catch_warnings():  # torch takes a step without passes to create the optimizer's state
            warnings.filterwarnings("ignore", message=r"step\(\) was called without passes")
            states.set_state_dict(
                stepper.module,
                stepper.opt,
                model_state_dict=state["model"],
                optim_state_dict=state["optimizer"],
                options=states.StateDictOptions(full_state_dict=stepper.sharded),
            )
        stepper.scaler.load_state_dict(state["scaler"])
        stepper.scheduler.load_state_dict(state["scheduler"])
        for group, lr in zip(stepper.scheduler.optimizer.param_groups, stepper.scheduler.get_last_lr(), strict=True):
            group["lr"] = lr
        losses = state["losses"]
        stepper.loss.fill_(losses[self.team.rank] if len(losses) == self.team.size else sum(losses) / len(losses))
        trial.load_state_dict(state["trial"])
        return step
