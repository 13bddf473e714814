"""A training step, and the test."""

import math
from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from sharpless.lab.tasks.images.examples import Examples
from sharpless.lab.tasks.images.ranks import Team
from sharpless.lab.tasks.images.recipe import Recipe
from sharpless.lab.tasks.images.setup import Setup
from sharpless.lab.trials.trial import Trial

__all__ = ["Stepper", "base_optimizer", "rate"]

TESTED_AT_ONCE = 512


class Stepper:
    """A network with its optimizer and learning-rate schedule.

    Args:
        trial: the run.
        recipe: its hyperparameters.
        setup: the machine.
        team: the processes that share a batch.
        model: the new network, on the CPU.
        steps: the number of steps of the run.
    """

    def __init__(self, trial: Trial, recipe: Recipe, setup: Setup, team: Team, model: nn.Module, steps: int) -> None:
        self.trial, self.recipe, self.team, self.steps = trial, recipe, team, steps
        self.format = torch.channels_last if setup.channels_last else None
        self.module = model.to(team.device)
        if self.format is not None:
            self.module = model.to(memory_format=self.format)
        self.sharded = setup.strategy == "fsdp2"
        self.network = team.wrapped(self.module, sharded=self.sharded)
        """The network, inside DistributedDataParallel if there are several processes."""
        if setup.compile:
            # Graphs and sizes of earlier runs would change the compilation of this one.
            torch.compiler.reset()
            self.network.compile(backend=setup.compile, dynamic=False)
        base = base_optimizer(recipe, self.network)
        self.opt = trial.optimizer(
            base,
            model=self.network,
            total_steps=steps,
            batch_size=recipe.batch_size // (team.size * recipe.accumulate),
            rho=recipe.rho,
            climb_locally=not recipe.climb_together,
            accumulate=recipe.accumulate,
        )
        self.scheduler = LambdaLR(base, lambda step: rate(step, steps, recipe.lr_warmup))
        self.scaler = torch.amp.GradScaler(team.device.type, enabled=recipe.precision == "16")
        dtype = {"bf16": torch.bfloat16, "16": torch.float16}.get(recipe.precision)
        self.autocast = nullcontext() if dtype is None else torch.autocast(team.device.type, dtype=dtype)
        self.loss = torch.zeros((), device=team.device)
        """The sum of the training losses of an epoch, at unperturbed weights."""

    def take(self, parts: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Take one step, on the micro-batches of a batch."""
        opt = self.opt
        for i, part in enumerate(parts):
            with self._held(last=i == len(parts) - 1):
                examples_of_part = len(part[1])
                for x, y in opt.passes(part):
                    loss = self._loss_of(x, y)
                    self.scaler.scale(loss / len(parts) if len(parts) > 1 else loss).backward()  # type: ignore[no-untyped-call]
                    if not opt.perturbed:
                        self.loss.add_(loss.detach(), alpha=len(y) / (examples_of_part * len(parts)))
        if self.recipe.clip:
            self.scaler.unscale_(opt)
            nn.utils.clip_grad_norm_(self.module.parameters(), self.recipe.clip)
        self.scaler.step(opt)
        self.scaler.update()
        opt.zero_grad()
        if self.scaler.is_enabled():
            self.trial.count()
        self.scheduler.step()

    def _held(self, *, last: bool) -> "nullcontext[None]":
        """Return a block without all-reduce of gradients, if the last micro-batch can reduce them."""
        if last or self.recipe.climb_together or not isinstance(self.network, DistributedDataParallel):
            return nullcontext()  # the ascent cannot read the unreduced gradients of FSDP2
        return self.network.no_sync()  # type: ignore[return-value]

    def _loss_of(self, x: Tensor, y: Tensor) -> Tensor:
        if self.format is not None:
            x = x.contiguous(memory_format=self.format)
        with self.autocast:
            logits = self.network(x)
        if not logits.requires_grad:
            raise ValueError(
                f"network = {self.recipe.network} gives numbers without a gradient: let it give its logits"
            )
        loss = cross_entropy(logits.float(), y, label_smoothing=self.recipe.label_smoothing)
        if self.recipe.l2:
            squares = [weight.square().sum() for weight in self.module.parameters() if weight.requires_grad]
            loss = loss + self.recipe.l2 / 2 * torch.stack(squares).sum()
        return loss

    def accuracy(self, examples: Examples) -> float:
        """Return the accuracy in percent. Call it within `trial.evaluating`."""
        team, n = self.team, len(examples)
        rows = torch.arange(n + -n % team.size) % n  # sharded networks need the same number of batches on all ranks
        mine, counted = rows[team.rank :: team.size], len(range(team.rank, n, team.size))
        right = torch.zeros((), dtype=torch.int64, device=team.device)
        seen = 0
        if team.size > 1:  # running statistics differ between ranks, and checkpoints have those of the first
            for buffer in self.module.buffers():
                torch.distributed.broadcast(buffer, 0)
        for x, y in examples.batches(list(torch.split(mine, TESTED_AT_ONCE))):
            with self.autocast:
                hits = self.module(x).argmax(1) == y
            right += hits[: max(counted - seen, 0)].sum()
            seen += len(y)
        return 100.0 * int(team.total(right)) / n


def base_optimizer(recipe: Recipe, model: nn.Module) -> Optimizer:
    """Return the base optimizer of `recipe`."""
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        model.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov,
    )


def rate(step: int, steps: int, warmup: float) -> float:
    """Return the factor of the recipe's learning rate: linear warm-up from 0, then cosine decay to 0.

    >>> [rate(step, 4, 0.0) for step in (0, 2, 4)], rate(0, 4, 0.5)
    ([1.0, 0.5, 0.0], 0.5)
    """
    rise = warmup * steps
    if step < rise:
        return (step + 1) / math.ceil(rise)
    return (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2
