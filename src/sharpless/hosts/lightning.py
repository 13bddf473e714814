"""Lightning's automatic optimization: a callback that puts the passes around `training_step` and backward."""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from sharpless import batches
from sharpless.optimizer import RST

try:
    import lightning
    from lightning.pytorch import Callback, LightningModule, Trainer
    from torchmetrics import Metric
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "sharpless.hosts.lightning needs Lightning: pip install 'sharpless[lightning]'", name=error.name
    ) from error

__all__ = ["Sharpness"]

INSTEAD = "set automatic_optimization = False, and loop over self.optimizers().passes(batch) in training_step"


class Sharpness(Callback):
    """Makes the steps of a wrapped optimizer sharpness-aware in Lightning's automatic optimization.

    Use `Trainer(callbacks=[Sharpness()])`, and let `configure_optimizers` return SAM, RST or GRST around any optimizer.
    The argument `model` is not needed: it is the LightningModule. Each micro-batch climbs along its own gradient, on
    its own rank. The Trainer clips the gradient of the whole step, and `on_before_optimizer_step` sees this gradient.

    `training_step` and `backward` run once for each pass, with the batch, or with parts of it. At displaced weights,
    calls of `self.log` have no effect, and metrics of torchmetrics in the module are restored after the pass. The loss
    of the step is the clean one. Other code in `training_step` that records values should check
    `self.optimizers().perturbed`.

    >>> from lightning.pytorch import Trainer
    >>> trainer = Trainer(callbacks=[Sharpness()], accelerator="cpu", logger=False, enable_checkpointing=False)

    It uses private names of Lightning's training loop, which are checked before training begins.
    """

    _opt: RST | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the closures of the training loop."""
        opt = _optimizer(trainer, pl_module)
        loop = _loop(trainer, pl_module)
        _check_batches(trainer, pl_module)
        self._release(trainer)
        self._opt, self._model, self._stepped = opt, opt.model, False
        opt.model = trainer.strategy.model
        opt._memory.closure_has_passes = True
        metrics = [module for module in pl_module.modules() if isinstance(module, Metric)]
        make = loop._make_closure

        def make_closure(kwargs: OrderedDict[str, Any], optimizer: Any, batch_idx: int) -> Any:
            closure = make(kwargs, optimizer, batch_idx)
            if closure._backward_fn is not None:  # weight averaging runs forwards only for BatchNorm
                closure.closure = partial(_run, closure, opt, kwargs, partial(_recorded, pl_module, metrics, opt))
            return closure

        loop._make_closure = make_closure

    def on_before_optimizer_step(self, *_: Any) -> None:
        """Remember that the step is about to be taken."""
        self._stepped = True

    def on_train_batch_end(self, *_: Any) -> None:
        """End a step that was skipped after an overflow, before a checkpoint is written."""
        if self._stepped and self._opt is not None and self._opt._memory.draw is not None:
            self._opt._close_draw()
        self._stepped = False

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the closures."""
        self._release(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the closures."""
        self._release(trainer)

    def _release(self, trainer: Trainer) -> None:
        if self._opt is not None:
            self._opt._memory.closure_has_passes = False
            self._opt.model, self._opt = self._model, None
            vars(trainer.fit_loop.epoch_loop.automatic_optimization).pop("_make_closure", None)


def _optimizer(trainer: Trainer, module: LightningModule) -> RST:
    """Return the one optimizer of sharpless that the module trains with.

    Raises:
        ValueError: there is none, or the callback does not support this setup.
    """
    if not module.automatic_optimization:
        raise ValueError(
            "Sharpness() is for automatic optimization, and automatic_optimization is False: leave the callback out, "
            "and loop over self.optimizers().passes(batch) in training_step"
        )
    if trainer.strategy.handles_gradient_accumulation:
        raise ValueError(
            f"strategy {type(trainer.strategy).__name__} takes the steps itself, and Sharpness() cannot change them: "
            'choose "ddp", or ModelParallelStrategy with fully_shard'
        )
    found = [getattr(each, "optimizer", each) for each in trainer.optimizers]
    if len(found) != 1 or not isinstance(found[0], RST):
        names = ", ".join(type(each).__name__ for each in found) or "none"
        raise ValueError(
            f"configure_optimizers returns {names}, but Sharpness() needs one optimizer of sharpless: return "
            "SAM(base), for example"
        )
    return found[0]


def _loop(trainer: Trainer, module: LightningModule) -> Any:
    """Return the loop of automatic optimization, if it has the expected parts.

    Raises:
        RuntimeError: it does not have them.
    """
    try:
        loop = trainer.fit_loop.epoch_loop.automatic_optimization
        known = list(inspect.signature(loop._make_closure).parameters) == ["kwargs", "optimizer", "batch_idx"]
        closure = loop._make_closure(OrderedDict(), trainer.optimizers[0], 0)
        known = known and {"_step_fn", "_backward_fn", "_zero_grad_fn"} <= vars(closure).keys()
    except (AttributeError, TypeError):
        known = False
    if not known:
        raise RuntimeError(
            f"Lightning {lightning.__version__} has a training loop that Sharpness() does not know: {INSTEAD}"
        )
    return loop


def _check_batches(trainer: Trainer, module: LightningModule) -> None:
    """Refuse a `training_step` that fetches its batches itself.

    Raises:
        ValueError: it does.
    """
    if "dataloader_iter" in inspect.signature(module.training_step).parameters:
        raise ValueError(f"training_step(dataloader_iter) fetches a new batch in each pass: take a batch, or {INSTEAD}")


@torch.enable_grad()
def _run(closure: Any, opt: RST, kwargs: OrderedDict[str, Any], recorded: Callable[[int], Any]) -> Any:
    """Run a closure of Lightning in passes.

    Returns:
        The result of the clean pass. If there are two, that of the last one, with the loss of the whole batch.
    """
    if closure._zero_grad_fn is not None:
        closure._zero_grad_fn()
    batch, results = kwargs["batch"], []
    try:
        for part in opt.passes(batch):
            kwargs["batch"] = part
            size = (batches.length(part) or 0) if opt.batch_fraction < 1 else 0
            with recorded(size):
                result = closure._step_fn()
                if result.closure_loss is not None:
                    closure._backward_fn(result.closure_loss)
            if not opt.perturbed:
                results.append((size, result))
    finally:
        kwargs["batch"] = batch
    last = results[-1][1]
    if len(results) > 1 and all(size and result.loss is not None for size, result in results):
        last.loss = sum(size * result.loss for size, result in results) / sum(size for size, _ in results)
    return last


@contextmanager
def _recorded(module: LightningModule, metrics: list[Metric], opt: RST, examples: int) -> Iterator[None]:
    """Let logs and metrics record only clean passes, with their number of examples if it is not 0."""
    log, own = module.log, vars(module).get("log")

    def log_clean(*args: Any, **kwargs: Any) -> None:
        if not opt.perturbed:
            log(*args, **({"batch_size": examples} if examples else {}) | kwargs)

    kept = [(metric, _state(metric)) for metric in metrics] if opt.perturbed else []
    module.log = log_clean  # type: ignore[method-assign]
    try:
        yield
    finally:
        for metric, state in kept:
            vars(metric).update(state)
        if own is None:
            del module.log
        else:
            module.log = own  # type: ignore[method-assign]


def _state(metric: Metric) -> dict[str, Any]:
    """Return the state of a metric, with copies of its tensors and lists."""
    states = {k: list(v) if isinstance(v, list) else v.clone() for k, v in metric.metric_state.items()}
    return {**vars(metric), **states}
