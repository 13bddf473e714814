"""Measure the duration of steps and the noise of parts of a batch, once for a study, in the task's loop."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

from torch import nn

from sharpless.lab.faults import Failure
from sharpless.lab.methods.kinds import BASE
from sharpless.lab.methods.method import Method
from sharpless.lab.threads import computing_with
from sharpless.lab.trials.contract import TaskError
from sharpless.lab.trials.trial import Trial
from sharpless.misuse import check_batch
from sharpless.noise import measuring
from sharpless.optimizer import RST
from sharpless.timing import timing

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from sharpless.lab.trials.definition import Task

__all__ = ["Measured", "Measurement", "Measuring"]


class Measured(BaseException):
    """Ends a task after the measurement. It is not an Exception, so that a task does not catch it.

    Args:
        seconds: the duration of a step, by the number of examples of its ascent.
        noise: the noise of a part of the batch, by its number of examples.
    """

    def __init__(self, seconds: dict[int, float], noise: dict[int, float]) -> None:
        super().__init__(seconds, noise)
        self.seconds, self.noise = seconds, noise


class Measuring(RST):
    """The base optimizer. Its first loop over passes yields parts of several sizes and measures them.

    Args:
        base: the base optimizer.
        model: the network, if the task gives it.
        rho: the radius.
    """

    def __init__(self, base: "Optimizer", model: nn.Module | None, rho: float) -> None:
        super().__init__(base, 0.0, rho, model=model)
        self.radius = rho

    def passes(self, batch: Any = None, *_more: Never) -> Iterator[Any]:
        """Yield parts of the batch repeatedly.

        Raises:
            Measured: the measurement is finished.
        """
        check_batch(batch, *_more, batch_fraction=1.0)
        parameters, model = self._parameters(), self._model_as_called()
        module = nn.ParameterList(parameters) if model is None else model
        noise = yield from measuring(batch, module, rho=self.radius)  # first: it warms up
        raise Measured((yield from timing(batch, parameters, model)), noise)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Refuse to train.

        Raises:
            TaskError: always.
        """
        raise TaskError(
            "thrifty uses a part of the batch, and the task took a step without passes: run forward and "
            "backward in `for … in opt.passes(batch)`"
        )


@dataclass(frozen=True)
class Measurement:
    """Executed in place of a run: the beginning of a task, without a step."""

    task: "Task"
    folder: Path
    threads: int
    name = "measuring passes"

    def trial(self, watch: Callable[[float], None] | None = None) -> Trial:
        """Return the trial of the task."""
        return Trial(Method(BASE), folder=self._work, watch=watch, wrap=Measuring)

    @property
    def _work(self) -> Path:
        return self.folder / "work" / "measuring"

    def train(self, trial: Trial) -> dict[str, Any] | Failure:
        """Return the measurements, or a failure."""
        try:
            with computing_with(self.threads):
                self.task(trial)
        except Measured as measured:
            return {"step_seconds": measured.seconds, "part_noise": measured.noise}
        except (Exception, SystemExit) as error:  # any error of the task
            return Failure.of(self.name, error, self.task.name)
        finally:
            shutil.rmtree(self._work, ignore_errors=True)  # these files belong to no run
        return Failure(self.name, "the task never asked trial.optimizer for passes")
