"""The state of a run: saved now and then and when the process is told to stop, and taken up again."""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint import state_dict as states

from sharpless.lab.stopping import Stopped
from sharpless.lab.tasks.images.checkpoints import JUNK, Checkpoints
from sharpless.lab.tasks.images.step import Stepper

__all__ = ["Saver"]

STEPS_BETWEEN_TALKS = 20
WHOLE = states.StateDictOptions(full_state_dict=True, cpu_offload=True)


class Saver:
    """The checkpoints of a run; peers leave none.

    Args:
        stepper: what is saved.
        every: seconds between checkpoints.
        run: what the run is; checkpoints of another one are refused.
    """

    def __init__(self, stepper: Stepper, every: float, run: Mapping[str, Any]) -> None:
        trial = stepper.trial
        self.stepper, self.trial, self.team, self.every = stepper, trial, stepper.team, every
        self.keeps = not trial.method.kind.package
        self.writes = self.keeps and self.team.rank == 0
        of = {"method": trial.method.name, "seed": trial.seed, "hyperparameters": trial.hyperparameters}
        self.checkpoints = Checkpoints(trial.folder if self.writes else Path(), {**run, **of})
        self.saved_at = perf_counter()

    def consider(self, step: int, told: Sequence[int]) -> None:
        """Write a checkpoint if it is time or if someone told us to stop, and then stop.

        Args:
            step: the steps that are done.
            told: the signals that have arrived.

        Raises:
            Stopped: someone told us to.
        """
        signum, due = told[0] if told else 0, int(self.keeps and perf_counter() - self.saved_at >= self.every)
        if self.team.size > 1:
            if step % STEPS_BETWEEN_TALKS:
                return
            signum, due = self.team.told(signum, due)
        if self.keeps and (due or signum):
            with self.trial.paused():
                self._save(step)
        if signum:
            raise Stopped(step, signum)

    def resume(self, per_epoch: int) -> int:
        """Go on from the newest checkpoint, if there is one.

        Args:
            per_epoch: the steps of an epoch.

        Returns:
            The steps that are done.

        Raises:
            ValueError: it holds something else than the state of this run.
        """
        found = self.team.from_leader(self.checkpoints.load() if self.writes else None)
        if found is None:
            return 0
        try:
            return self._load(found, per_epoch)
        except JUNK as error:
            raise self.checkpoints.refusal(error) from error

    def weights(self) -> dict[str, Tensor]:
        """Return the weights that the network has, whole and on the CPU, for `load_state_dict` of the bare one."""
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
        self.team.told(0)  # no rank may end, and be missed, while another one writes
        self.saved_at = perf_counter()

    def _load(self, state: dict[str, Any], per_epoch: int) -> int:
        stepper, trial, step = self.stepper, self.trial, int(state["step"])
        lengths = {len(values) for values in state["trial"]["curve"].values()}
        if len(lengths) != 1 or not 0 <= step - per_epoch * max(lengths) <= per_epoch or step > stepper.steps:
            raise ValueError(f"step {step} is not in the epoch after {lengths}")
        if not all(0 <= state["trial"][name] < math.inf for name in ("seconds", "data_seconds")):
            raise ValueError("durations that no run has")
        if not all(0 <= sharp < step for sharp in state["trial"]["sharp_steps"]):
            raise ValueError("sharpness-aware steps that have not been")
        if state["model"].keys() != stepper.module.state_dict().keys() or not state["optimizer"]:
            raise ValueError("the state of another network")  # which torch, if it is empty, takes in silence
        with warnings.catch_warnings():  # of the bare step that torch takes where it finds no state
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
