"""What a task sees of one run: its seed, its optimizer, its length, and where its results go."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sharpless.bases import all_of
from sharpless.cost import Cost
from sharpless.lab.average import Average, evaluation
from sharpless.lab.clock import Clock
from sharpless.lab.contract import TaskError, check_report, number
from sharpless.lab.flat import measured
from sharpless.lab.methods import Method
from sharpless.wrapper import as_one

__all__ = ["Trial"]


class Trial:
    """One run of a task: one method with one seed.

    >>> import torch
    >>> from sharpless.lab.methods import Method
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
        seed: decides all that is random.
        hyperparameters: `rho`, `lr` and `weight_decay`, as far as they are not left to the task.
        choosing: whether this run is one of those by which hyperparameters are chosen.
        folder: a folder for the task's own files, there until the run has ended.
        watch: is called after every step with the share of the run that is done, 0 where it is not known.
        wrap: what makes an optimizer of base, model and ρ in the place of the method.
        flatness: whether to measure how flat the minimum is.
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
        """Seconds of training spent waiting for data, for tasks that measure them."""
        self.facts: dict[str, Any] = {}
        """What a task wants recorded of its data: `trial.facts["fingerprint"] = …`."""
        self.setup: dict[str, Any] = {}
        """What it wants recorded of the machine."""
        self.flat: dict[str, Any] | None = None
        """How flat the minimum is, where that is measured."""
        self.weights: dict[str, Tensor] | None = None
        """The state of the trained network, for those who want to keep it: `sharpless train` does."""
        self.clock = Clock()
        self.sharp_steps: list[int] = []
        self.curve: dict[str, list[float]] = {"step": [], "passes": [], "seconds": []}
        self.average: Average | None = None
        self.base_name, self.batch_size, self.total_steps = "base", None, None  # type: str, int | None, int | None
        self.measures_flatness = flatness
        self._folder, self._watch = folder, watch
        self.opt: Optimizer | None = None
        """What `optimizer` has returned."""
        self._planned: int | None = None
        self._accumulate, self._counted = 1, 0
        self.device = torch.device("cpu")
        """Where the parameters are."""
        self.is_evaluating = False
        """Whether a block of `evaluating` is under way."""

    @property
    def folder(self) -> Path:
        """A folder for the task's own files, such as checkpoints; it is there until the run has ended.

        A run that is started again finds what it left here: load model, optimizer and `trial.load_state_dict`, and
        begin with the epoch after the last one.

        Raises:
            TaskError: the trial was made without one.
        """
        if self._folder is None:
            raise TaskError("trial.folder: this trial was made without a folder")
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    @property
    def cost(self) -> Cost:
        """What has been spent so far, in gradients of whole batches."""
        if self.opt is None:
            return Cost(0, 0, 0.0, 0.0)
        spent: Cost = self.opt.cost  # type: ignore[attr-defined]
        parts = self._accumulate
        return replace(spent, passes=spent.passes / parts, plain_passes=spent.plain_passes / parts)

    @property
    def seconds(self) -> float:
        """Seconds of training so far, without evaluations."""
        return self.clock.seconds

    @property
    def label(self) -> str:
        """The method with its parameters, for people."""
        return self.method.label(self.base_name, self.batch_size, self.planned_epochs)

    @property
    def planned_epochs(self) -> int | None:
        """For how many epochs this run trains, if `epochs` was called."""
        return None if self._planned is None else self.method.epochs(self._planned)

    def epochs(self, epochs: int) -> int:
        """Return for how many epochs this run trains, where plain training takes `epochs`.

        Raises:
            TaskError: `epochs` is not 1 or more.
        """
        if epochs != int(epochs) or epochs < 1:
            raise TaskError(f"epochs = {epochs} is out of range: give trial.epochs a whole number from 1 on")
        self._planned = int(epochs)
        return self.method.epochs(self._planned)

    def optimizer(
        self,
        base: Optimizer | Sequence[Optimizer],
        *,
        model: nn.Module | None = None,
        total_steps: int | None = None,
        batch_size: int | None = None,
        rho: float = 0.05,
        climb_locally: bool = True,
        accumulate: int = 1,
    ) -> Any:
        """Return the optimizer of this run around `base`, to be used as RST is: `passes(batch)` and `step()`.

        Make learning-rate schedulers afterwards: a comparison that varies the learning rate or the weight decay sets
        them here, in every group of `base` in proportion to its own.

        Args:
            base: the base optimizer, or several.
            model: the network, see RST; needed by methods that average the weights.
            total_steps: how many steps the run will take, needed by methods that vary over the run.
            batch_size: examples in what `passes` is handed, needed by methods that choose a part of it.
            rho: the radius where the comparison gives none.
            climb_locally: see RST.
            accumulate: how many micro-batches, each with `passes` of its own, there are before a step.

        Raises:
            TaskError: it is called a second time, or an argument is missing.
        """
        if self.opt is not None:
            raise TaskError("trial.optimizer was called twice: give it several base optimizers as a list")
        one = as_one(base)
        self.base_name = " + ".join(type(each).__name__ for each in all_of(one))
        self.batch_size, self.total_steps, self._accumulate = batch_size, total_steps, accumulate
        for name in ("lr", "weight_decay"):
            if name in self.hyperparameters:
                _set(one, name, self.hyperparameters[name])
        if self.method.is_sharp:
            self.hyperparameters.setdefault("rho", float(rho))
        if self.wrap is not None:
            self.opt = self.wrap(one, model, float(rho))
            return self.opt
        try:
            self.opt = self.method.wrap(
                one,
                self.hyperparameters.get("rho", rho),
                model=model,
                total_steps=total_steps,
                batch_size=batch_size,
                seed=self.seed,
                climb_locally=climb_locally,
            )
        except ValueError as error:
            raise TaskError(str(error)) from error
        if decay := self.method.own["average"]:
            if model is None:
                raise TaskError(f"method {self.method.name} averages the weights: give trial.optimizer(…, model=…)")
            self.average = Average(model, decay)
        self.device = next(iter(one.param_groups[0]["params"])).device
        self.opt.register_step_post_hook(lambda *_: self.count())
        self.clock.start(self.device)
        return self.opt

    @contextmanager
    def evaluating(self, model: nn.Module) -> Iterator[None]:
        """Evaluate within the block: `model` in evaluation mode, no gradients, and a clock that stands still.

        Where the method averages the weights, `model` has the averaged ones within the block.
        """
        with self.paused(), evaluation(model, self.average):
            self.is_evaluating = True
            try:
                yield
            finally:
                self.is_evaluating = False

    def paused(self) -> AbstractContextManager[None]:
        """Return a block in which to do what is no training, such as writing a checkpoint: the clock stands still."""
        return self.clock.paused()

    def count(self) -> None:
        """Count the steps up to now.

        `step` does so itself. A loop calls it after `zero_grad` where `torch.amp.GradScaler` may leave the step out.
        """
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

    def report(
        self,
        *,
        validation: float | Tensor | None = None,
        test: float | Tensor | None = None,
        loss: float | Tensor | None = None,
    ) -> None:
        """Add a point to the curve of this run; the last one is its result.

        Args:
            validation: the metric on data that are held out, by which hyperparameters are chosen.
            test: the metric on test data, which are used for nothing else.
            loss: the training loss, at unperturbed weights.

        Raises:
            TaskError: a value is missing, or no number, or given in one point of the curve and not in another.
        """
        given = {"validation": validation, "test": test, "loss": loss}
        values = {name: number(name, value) for name, value in given.items() if value is not None}
        check_report(self, values)
        with self.paused():
            point = {"step": self.cost.steps, "passes": self.cost.passes, "seconds": self.seconds, **values}
            for name, value in point.items():
                self.curve.setdefault(name, []).append(value)

    def flatness(self, model: nn.Module, loss: Callable[[Any, Any], Tensor], data: Iterable[Any]) -> None:
        """Say what flatness is measured of, at the end of training; nothing is done unless the comparison asks for it.

        Args:
            model: the network.
            loss: the training loss, a function of the model's output and y: a mean over the examples.
            data: batches (x, y) of training examples, the same ones each time they are gone through.
        """
        if self.measures_flatness:
            with self.evaluating(model):
                self.flat = measured(model, loss, data)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint of this run has to hold beside model and optimizer."""
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
        """Go on from where `state_dict` was called, with the optimizer loaded as well."""
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.clock.go_on(state["seconds"])
        self.data_seconds = state["data_seconds"]
        self.sharp_steps, self.curve, self._counted = state["sharp_steps"], state["curve"], state["steps"]

    @property
    def plain_passes(self) -> float:
        """What plain training would have spent."""
        longer = self.method.epochs(self._planned) / self._planned if self._planned else 1.0
        return self.cost.plain_passes / longer


def _set(base: Optimizer, name: str, value: float) -> None:
    """Give the first of the bases a learning rate or a weight decay, and all groups in proportion.

    Raises:
        TaskError: a group has none, or a scheduler has begun with another.
    """
    own = all_of(base)[0].defaults.get(name)
    for group in base.param_groups:
        if name not in group:
            raise TaskError(f"{name} = {value} is varied, and {type(base).__name__} has none: leave it out")
        if name == "lr" and "initial_lr" in group:
            raise TaskError("lr is varied here: make learning-rate schedulers after trial.optimizer, not before")
        group[name] = group[name] * (value / own) if own else value
