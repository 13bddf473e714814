"""A trial: the seed, the optimizer, the length and the results of one run of a task."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Never

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sharpless.bases import all_of
from sharpless.cost import Cost
from sharpless.lab.methods.method import Method
from sharpless.lab.trials.average import Average, evaluation
from sharpless.lab.trials.clock import Clock
from sharpless.lab.trials.contract import TaskError, counted, needed, refused, reported
from sharpless.lab.trials.flat import measured
from sharpless.lab.trials.varied import vary
from sharpless.wrapper import as_one

__all__ = ["Trial"]

Value = float | Tensor | None
"""A metric: a number, or a tensor with one element; None if there is none."""


class Trial:
    """One run of a task: one method with one seed.

    >>> import torch
    >>> from sharpless.lab.methods.method import Method
    >>> trial = Trial(Method("sam"), seed=0, hyperparameters={"rho": 0.1})
    >>> model = torch.nn.Linear(2, 1)
    >>> opt = trial.optimizer(torch.optim.SGD(model.parameters(), lr=0.1), model=model)
    >>> for _ in range(trial.epochs(3)):
    ...     for x in opt.passes(torch.randn(8, 2)):
    ...         model(x).square().mean().backward()
    ...     opt.step()
    ...     with trial.evaluating(model):
    ...         trial.report(test=model(torch.ones(1, 2)))
    >>> trial.cost.ratio, len(trial.curve["test"])
    (2.0, 3)

    Args:
        method: the method to train with.
        seed: the seed of everything random.
        hyperparameters: values of `rho`, `lr` and `weight_decay`. The task chooses those that are missing.
        choosing: True if hyperparameters are chosen by this run.
        folder: a folder for the task's own files. It exists until the run ends.
        watch: called after every step with the finished share of the run, 0 if the length is unknown.
        wrap: returns an optimizer for base, model and ρ, and replaces the method.
        flatness: True to measure the flatness of the minimum.
    """

    def __init__(
        self,
        method: Method,
        seed: int = 0,
        hyperparameters: dict[str, float] | None = None,
        *,
        choosing: bool = False,
        folder: Path | None = None,
        watch: Callable[[float], None] | None = None,
        wrap: "Callable[[Optimizer, nn.Module | None, float], Optimizer] | None" = None,
        flatness: bool = False,
    ) -> None:
        self.method, self.seed, self.choosing, self.wrap = method, seed, choosing, wrap
        self.hyperparameters = dict(hyperparameters or {})
        self.data_seconds = 0.0
        """Seconds of training spent waiting for data. The task measures them."""
        self.facts: dict[str, Any] = {}
        """Facts on the data for the record: `trial.facts["fingerprint"] = …`."""
        self.setup: dict[str, Any] = {}
        """Facts on the machine for the record."""
        self.flat: dict[str, Any] | None = None
        """The flatness of the minimum, if it was measured."""
        self.weights: dict[str, Tensor] | None = None
        """The state of the trained network, which `sharpless train` keeps."""
        self.clock = Clock()
        self.sharp_steps: list[int] = []
        self.curve: dict[str, list[float]] = {"step": [], "passes": [], "seconds": []}
        self.average: Average | None = None
        self.base_name, self.batch_size, self.total_steps = "base", None, None  # type: str, int | None, int | None
        self.measures_flatness = flatness
        self._folder, self._watch = folder, watch
        self.opt: Optimizer | None = None
        """The optimizer that `optimizer` returned."""
        self._planned: int | None = None
        self._accumulate, self._counted = 1, 0
        self.device = torch.device("cpu")
        """The device of the parameters."""
        self.is_evaluating = False
        """True inside a block of `evaluating`."""

    @property
    def folder(self) -> Path:
        """A folder for the task's own files, such as checkpoints. It exists until the run ends, also across restarts.

        Raises:
            TaskError: the trial was made without one.
        """
        if self._folder is None:
            raise TaskError("trial.folder: this trial was made without a folder")
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    @property
    def cost(self) -> Cost:
        """The cost so far, in gradients of whole batches."""
        if self.opt is None:
            return Cost(0, 0, 0.0, 0.0)
        spent: Cost = self.opt.cost  # type: ignore[attr-defined]
        parts = self._accumulate
        return replace(spent, passes=spent.passes / parts, plain_passes=spent.plain_passes / parts)

    @property
    def seconds(self) -> float:
        """Seconds of training so far. Evaluations are not counted."""
        return self.clock.seconds

    @property
    def label(self) -> str:
        """The method and its parameters, as in tables."""
        return self.method.label(self.base_name, self.batch_size, self.planned_epochs)

    @property
    def planned_epochs(self) -> int | None:
        """The number of epochs of this run, if `epochs` was called."""
        return None if self._planned is None else self.method.epochs(self._planned)

    def epochs(self, epochs: int) -> int:
        """Return the number of epochs of this run, for `epochs` epochs of plain training.

        Raises:
            TaskError: `epochs` is not 1 or more, or too few for the longer training of the method.
        """
        self._planned = counted(epochs, self.method)
        return self.method.epochs(self._planned)

    def optimizer(
        self,
        base: Optimizer | Sequence[Optimizer],
        model: nn.Module | None = None,
        *,
        total_steps: int | None = None,
        batch_size: int | None = None,
        rho: float = 0.05,
        climb_locally: bool = True,
        accumulate: int = 1,
    ) -> Any:
        """Return the optimizer of this run around `base`. Use `passes(batch)` and `step()` as with RST.

        Make learning-rate schedulers after this call. It sets the learning rate and the weight decay, if the comparison
        varies them, and scales all groups of `base` in proportion.

        Args:
            base: the base optimizer, or a list of several.
            model: the network, as for RST. Methods that average the weights need it.
            total_steps: the number of steps of the run. Methods that vary over the run need it.
            batch_size: the number of examples in a batch of `passes`. Methods that split the batch need it.
            rho: the radius, if the comparison gives none.
            climb_locally: as for RST.
            accumulate: the number of micro-batches per step, each with its own `passes`.

        Raises:
            TaskError: the trial has an optimizer already, or an argument is missing.
        """
        if self.opt is not None:
            raise TaskError("trial.optimizer was called twice: give it several base optimizers as a list")
        one = as_one(base)
        self.base_name = " + ".join(type(each).__name__ for each in all_of(one))
        self.batch_size, self.total_steps, self._accumulate = batch_size, total_steps, accumulate
        vary(one, self.hyperparameters)
        if self.method.is_sharp:
            self.hyperparameters.setdefault("rho", float(rho))
        if self.wrap is not None:
            self.opt = self.wrap(one, model, float(rho))
            return self.opt
        known: dict[str, Any] = {"model": model, "total_steps": total_steps, "batch_size": batch_size}
        radius = self.hyperparameters.get("rho", rho)
        with refused():
            self.opt = self.method.wrap(one, radius, seed=self.seed, climb_locally=climb_locally, **known)
        if decay := self.method.own["average"]:
            self.average = Average(needed(model, f"method {self.method.name} averages the weights"), decay)
        self.device = next(iter(one.param_groups[0]["params"])).device
        self.opt.register_step_post_hook(lambda *_: self.count())
        self.clock.start(self.device)
        return self.opt

    @contextmanager
    def evaluating(self, model: nn.Module) -> Iterator[None]:
        """Evaluate `model` inside the block: in evaluation mode, without gradients, and with the clock stopped.

        If the method averages the weights, `model` has the averaged weights inside the block.
        """
        with self.paused(), evaluation(model, self.average):
            self.is_evaluating = True
            try:
                yield
            finally:
                self.is_evaluating = False

    def paused(self) -> AbstractContextManager[None]:
        """Return a block that stops the clock, for work other than training, such as writing a checkpoint."""
        return self.clock.paused()

    def count(self) -> None:
        """Count the steps, as `step` does. `torch.amp.GradScaler` skips steps: call this after `zero_grad` then."""
        cost = self.cost
        if cost.steps == self._counted:
            return
        climbed = cost.sharp_steps - len(self.sharp_steps)
        self.sharp_steps += range(cost.steps - climbed, cost.steps)
        self._counted = cost.steps
        if self.average is not None:
            self.average.update()
        if self._watch is not None:
            self._watch(cost.steps / self.total_steps if self.total_steps else 0.0)

    def report(self, *_unnamed: Never, validation: Value = None, test: Value = None, loss: Value = None) -> None:
        """Add a point to the curve of this run. The last point is the result.

        Args:
            validation: the metric on held-out data. Hyperparameters are chosen by it.
            test: the metric on test data.
            loss: the training loss, at unperturbed weights.

        Raises:
            TaskError: a value is missing, without a name or not a number, or other metrics were reported before.
        """
        values = reported(self, {"validation": validation, "test": test, "loss": loss}, *_unnamed)
        with self.paused():
            point = {"step": self.cost.steps, "passes": self.cost.passes, "seconds": self.seconds, **values}
            for name, value in point.items():
                self.curve.setdefault(name, []).append(value)

    def flatness(self, model: nn.Module, loss: Callable[[Any, Any], Tensor], data: Iterable[Any]) -> None:
        """Measure flatness at the end of training, if the comparison asks for it.

        Args:
            model: the network.
            loss: the training loss, a function of the model's output and y, with the mean over the examples.
            data: batches (x, y) of training examples, the same ones in every iteration over them.
        """
        if self.measures_flatness:
            with self.evaluating(model):
                self.flat = measured(model, loss, data)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the trial, for a checkpoint with model and optimizer."""
        with self.paused():
            return {
                "seconds": self.seconds,
                "data_seconds": self.data_seconds,
                "steps": self._counted,
                "sharp_steps": list(self.sharp_steps),
                "curve": {name: list(values) for name, values in self.curve.items()},
                "average": None if self.average is None else self.average.state_dict(),
            }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the state that `state_dict` returned. Load the optimizer as well."""
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.clock.go_on(state["seconds"])
        self.data_seconds = state["data_seconds"]
        self.sharp_steps, self.curve, self._counted = state["sharp_steps"], state["curve"], state["steps"]

    @property
    def plain_passes(self) -> float:
        """The cost of plain training, in gradients of whole batches."""
        longer = self.method.epochs(self._planned) / self._planned if self._planned else 1.0
        return self.cost.plain_passes / longer
