"""Logs of the curves in TensorBoard and Weights & Biases."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sharpless.lab.runs.run import Run
    from sharpless.lab.trials.trial import Trial

__all__ = ["Logs"]

NAMES = {"loss": "train_loss", "test": "test_accuracy", "validation": "validation_accuracy"}


class Logs:
    """The curves of a run, one point per epoch, in TensorBoard, Weights & Biases, both or neither.

    Args:
        names: some of `tensorboard` and `wandb`.
        run: the run; TensorBoard's files go to logs/ in its folder.

    Raises:
        ModuleNotFoundError: a requested package is not installed.
    """

    def __init__(self, names: Sequence[str], run: "Run") -> None:
        self.points: int | None = None  # this process has logged no point yet
        self.board: Any = None
        self.wandb: Any = None
        if "tensorboard" in names:
            try:
                from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415
            except ModuleNotFoundError as error:
                raise ModuleNotFoundError("log tensorboard needs tensorboard: pip install tensorboard") from error
            self.board = SummaryWriter(str(run.folder / "logs" / run.name))
        if "wandb" in names:
            try:
                import wandb  # noqa: PLC0415
            except ModuleNotFoundError as error:
                raise ModuleNotFoundError("log wandb needs wandb: pip install wandb") from error
            config = {**run.task.options, **run.point, "method": run.method.name, "seed": run.seed}
            # The same id for the same run: a continued run adds to its curves.
            identity = f"{run.folder.name}-{run.name}"
            self.wandb = wandb.init(
                project="sharpless", name=run.name, id=identity, resume="allow", config=config, dir=str(run.folder)
            )

    def follow(self, trial: "Trial") -> None:
        """Log the points of the curve that were added since the last call."""
        curve = trial.curve
        if self.points is None:
            self.points = len(curve["step"])  # an earlier process has logged these
        for row in range(self.points, len(curve["step"])):
            point = {NAMES.get(name, name): values[row] for name, values in curve.items() if name != "step"}
            step = int(curve["step"][row])
            if self.board is not None:
                for name, value in point.items():
                    self.board.add_scalar(name, value, step)
            if self.wandb is not None:
                self.wandb.log(point, step=step)
        self.points = len(curve["step"])

    def end(self, trial: "Trial") -> None:
        """Log the remaining points, and close."""
        self.follow(trial)
        if self.board is not None:
            self.board.close()
        if self.wandb is not None:
            self.wandb.finish()
