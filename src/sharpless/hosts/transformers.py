"""The Trainer of Hugging Face transformers, with sharpness-aware steps."""

from typing import Any

import torch
from torch import nn

from sharpless import batches
from sharpless.optimizer import RST

try:
    from transformers import Trainer
    from transformers.training_args import OptimizerNames
except ImportError as error:
    raise ImportError(
        "sharpless.hosts.transformers needs transformers and accelerate: pip install 'sharpless[transformers]'"
    ) from error

__all__ = ["Sharpness"]


class Sharpness(Trainer):
    """A Trainer whose steps are those of SAM, RST or G-RST: make it the base class before your Trainer.

    >>> from transformers import Trainer
    >>> from sharpless import GRST
    >>> class SharpTrainer(Sharpness, Trainer):
    ...     def wrap_optimizer(self, base):
    ...         return GRST(base, p=0.5, rho=0.05)

    The base is the optimizer that the Trainer creates from its `TrainingArguments` or `optimizer_cls_and_kwargs`, or
    the one that you pass as `optimizers=(base, None)`. If you pass SAM, RST or GRST, `wrap_optimizer` is not needed.
    The optimizer gets the model from the Trainer, so that `model=` is not needed.

    Each micro-batch climbs along its own gradient, separately on each rank. The Trainer clips, unscales and logs the
    mixed gradient, and it logs the clean loss. In your own `compute_loss`, log and count values only while
    `self.opt.perturbed` is False.

    Raises:
        ValueError: the setup is not supported: DeepSpeed, DataParallel, an optimizer that steps during backward, or a
            Trainer that takes its batches from a buffer.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        gpus, optim = self.args.n_gpu, OptimizerNames(self.args.optim).value
        if self.is_deepspeed_enabled:
            raise ValueError(
                "deepspeed keeps the gradients to itself, so that no pass can climb along them: leave it out"
            )
        if gpus > 1:
            raise ValueError(
                f"{gpus} GPUs in one process are trained by DataParallel, whose random numbers no pass can repeat: "
                f"start one process for each with torchrun --nproc-per-node {gpus}, or set CUDA_VISIBLE_DEVICES"
            )
        if "layerwise" in optim or "lomo" in optim:
            raise ValueError(
                f"optim = {optim!r} takes its step during backward, where no second pass can follow: choose another one"
            )
        if hasattr(self, "_buffered_inputs"):
            raise ValueError(
                f"{type(self).__name__} takes another batch from its own buffer in each pass, as GRPOTrainer does, "
                "so that the second pass would not see the data of the first: train it without Sharpness"
            )

    def wrap_optimizer(self, base: torch.optim.Optimizer) -> RST:
        """Return SAM, RST or G-RST around `base`; define it in your class.

        `self.args.per_device_train_batch_size` and `self.state.max_steps`, the number of steps, are known here.

        Args:
            base: the optimizer that the Trainer has created or received.

        Raises:
            NotImplementedError: it is not defined.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not say which steps to take: define wrap_optimizer(self, base), or hand over "
            "optimizers=(sharpless.GRST(base, p=0.5), None)"
        )

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Return the sharpness-aware optimizer, which the first call creates."""
        base = super().create_optimizer(*args, **kwargs)
        if self._found() is None:
            self.optimizer = self.wrap_optimizer(base)
        return self.optimizer or base

    @property
    def opt(self) -> RST:
        """The sharpness-aware optimizer, with its `cost` so far, and `perturbed` to distinguish the passes.

        Raises:
            RuntimeError: there is none.
        """
        opt = self._found()
        if opt is None:
            raise RuntimeError(
                "the optimizer is not sharpness-aware: train() creates it, and your own create_optimizer must create "
                "SAM, RST or GRST"
            )
        return opt

    def _found(self) -> RST | None:
        optimizer: Any = self.optimizer
        while optimizer is not None and not isinstance(optimizer, RST):
            optimizer = getattr(optimizer, "optimizer", None)  # accelerate wraps it
        return optimizer

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Run forward and backward, once on a plain step and twice on a sharpness-aware one.

        Returns:
            The clean loss.
        """
        opt, network = self.opt, getattr(model, "_orig_mod", model)
        if opt.model is not network:
            opt.model = network
        examples = batches.length(inputs) if opt.batch_fraction < 1 else None
        losses = []
        for part in opt.passes(inputs):
            # Trainer divides the loss by the number of items in all micro-batches: a part needs its share of it.
            share = (batches.length(part) or 0) / examples if examples else 1.0
            items = None if num_items_in_batch is None else torch.as_tensor(num_items_in_batch) * share
            loss = super().training_step(model, part, items)
            if not opt.perturbed:
                losses.append(share * loss)
        return torch.stack(losses).sum()
