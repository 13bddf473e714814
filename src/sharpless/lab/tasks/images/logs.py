"""Curves for those who look at them elsewhere: TensorBoard and Weights & Biases."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sharpless.lab.compare import Run
    from sharpless.lab.train import Training

__all__ = ["Logs"]


class Logs:
    """The curves of a run, one point an epoch, in TensorBoard, Weights & Biases, both or neither.

    Args:
        names: some of `tensorboard` and `wandb`.
        run: the run; TensorBoard's files go to logs/ in its folder.

    Raises:
        ModuleNotFoundError: what is asked for is not installed.
    """

    def __init__(self, names: Sequence[str], run: "Run") -> None:
        self.epochs: int | None = None  # none logged yet, by this process
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
            config = {**asdict(run.recipe), "method": run.method, "seed": run.seed}
            # The same id for the same run: one that continues adds to its curves.
            identity = f"{run.folder.name}-{run.name}"
            self.wandb = wandb.init(
                project="sharpless", name=run.name, id=identity, resume="allow", config=config, dir=str(run.folder)
            )

    def follow(self, training: "Training") -> None:
        """Log the epochs that have ended since the last call."""
        done = training.progress
        if self.epochs is None:
            self.epochs = len(done.test_accuracy)  # what an earlier process has logged
        for epoch in range(self.epochs, len(done.test_accuracy)):
            point = {
                "train_loss": done.train_loss[epoch],
                "test_accuracy": done.test_accuracy[epoch],
                "passes": done.epoch_passes[epoch],
                "seconds": done.epoch_seconds[epoch],
            }
            step = (epoch + 1) * training.steps_per_epoch
            if self.board is not None:
                for name, value in point.items():
                    self.board.add_scalar(name, value, step)
            if self.wandb is not None:
                self.wandb.log(point, step=step)
        self.epochs = len(done.test_accuracy)

    def end(self, training: "Training") -> None:
        """Log what remains, and close."""
        self.follow(training)
        if self.board is not None:
            self.board.close()
        if self.wandb is not None:
            self.wandb.finish()
