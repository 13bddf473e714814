"""One run: train a recipe with one method and one seed, and return the record of it.

All that is random in a run is a function of the seed and of the step, the epoch or the example: a run that goes on
from a checkpoint is the one that was never stopped, and processes that share a batch agree on it.
"""

import math
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sharpless.lab.tasks.images.checkpoints import JUNK, Checkpoints
from sharpless.lab.tasks.images.data import Data, load
from sharpless.lab.faults import blamed
from sharpless.lab.tasks.images.networks import build
from sharpless.lab.optimizers import base_optimizer, wrap
from sharpless.lab.peers import Peer
from sharpless.lab.tasks.images.recipe import PEERS, Recipe
from sharpless.lab.record import record
from sharpless.lab.tasks.images.setup import Setup, computing_with
from sharpless.lab.stopping import Stopped, told_to_stop

__all__ = ["Progress", "Training", "check", "train"]

TESTED_AT_ONCE = 512
STEPS_BETWEEN_TALKS = 20


@dataclass
class Progress:
    """How far a run is, and what it has seen; all of it goes into checkpoints."""

    step: int = 0
    seconds: float = 0.0
    data_seconds: float = 0.0
    sharp_steps: list[int] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    test_accuracy: list[float] = field(default_factory=list)
    epoch_passes: list[float] = field(default_factory=list)
    epoch_seconds: list[float] = field(default_factory=list)

    def check(self, steps: int, steps_per_epoch: int) -> None:
        """Find out whether a run of so many steps can be so far.

        Raises:
            ValueError: it cannot.
        """
        curves = [self.train_loss, self.test_accuracy, self.epoch_passes, self.epoch_seconds]
        step, ended = self.step, len(self.test_accuracy)
        if not (0 <= step <= steps and ended * steps_per_epoch <= step <= (ended + 1) * steps_per_epoch):
            raise ValueError(f"step {step} of {steps} is not in epoch {ended + 1}")
        numbers = [self.seconds, self.data_seconds, *(value for curve in curves[1:] for value in curve)]
        if {*map(len, curves)} != {ended} or not all(0 <= number < math.inf for number in numbers):
            raise ValueError("curves of unequal length, or numbers that no run has")
        if any(not 0 <= sharp < step for sharp in self.sharp_steps):
            raise ValueError("sharpness-aware steps that have not been")


def train(recipe: Recipe, method: str, seed: int, data: Data | None = None) -> dict[str, Any]:
    """Return the record of a run: configuration, curves, passes, seconds, versions and machine.

    The seed decides the label noise, the initial weights, the order of the batches and the coins, and all
    of them are the same for every method: runs are paired by seed. Without `data`, the recipe's are taken.
    """
    return Training(recipe, method, seed, data=data).run()


def examples(recipe: Recipe, seed: int, setup: Setup) -> Data:
    """Return the data of a run."""
    return load(
        recipe.data,
        noise=recipe.noise,
        seed=seed,
        held_out=recipe.validation,
        examples=recipe.examples,
        image_size=recipe.image_size,
        data_dir=setup.data_dir or None,
        workers=setup.workers,
    )


def check(recipe: Recipe, method: str, setup: Setup, data: Data) -> None:
    """Find what does not go together.

    Raises:
        ValueError: the recipe, the method, the setup and the data do not.
    """
    if recipe.batch_size > len(data.train):
        raise ValueError(
            f"batch_size = {recipe.batch_size} is out of range: give 2 to {len(data.train)}, the number of training "
            "examples"
        )
    parts = setup.world_size * recipe.accumulate
    if recipe.batch_size % parts:
        raise ValueError(
            f"batch_size = {recipe.batch_size} cannot be shared out evenly: give a multiple of {parts}, devices × "
            "nodes × accumulate"
        )
    for name in ("ema", "l2"):
        if getattr(recipe, name) and setup.strategy == "fsdp2":
            raise ValueError(
                f"{name} = {getattr(recipe, name)} needs whole weights: leave it out, or take strategy ddp"
            )
    if recipe.ascent == "friendly" and setup.world_size > 1 and not recipe.climb_together:
        raise ValueError(
            "ascent = friendly remembers one gradient, and here each has its own: let the devices climb together"
        )
    if method in PEERS and (setup.world_size > 1 or recipe.precision != "32" or recipe.accumulate > 1):
        raise ValueError(f"{method} runs on one device, in precision 32 and without accumulation: leave it out")


class Training:
    """One run, from its beginning or from its last checkpoint.

    Args:
        recipe: what the run has in common with others.
        method: one of METHODS and PEERS.
        seed: decides everything that is random.
        setup: where it is executed.
        data: the data, the recipe's by default.
        checkpoints: where its checkpoints are, if it leaves any.
        watch: is called with the run itself after every step.

    Raises:
        ValueError: the arguments do not go together.
    """

    def __init__(
        self,
        recipe: Recipe,
        method: str,
        seed: int,
        *,
        setup: Setup | None = None,
        data: Data | None = None,
        checkpoints: Checkpoints | None = None,
        watch: Callable[["Training"], None] | None = None,
    ) -> None:
        self.setup = (setup or Setup()).settled()
        self.recipe, self.method, self.seed, self.watch = recipe, method, seed, watch
        data = data or examples(recipe, seed, self.setup)
        check(recipe, method, self.setup, data)
        self.fabric = self.setup.fabric(recipe.precision)
        self.fabric.launch()
        self.rank, self.world = self.fabric.global_rank, self.fabric.world_size
        # Nodes may differ in OMP_NUM_THREADS.
        self.threads: int = self.fabric.broadcast(self.setup.threads)
        self.device = self.fabric.device
        self.data = data
        self.train_set, self.test_set = data.train.to(self.device), data.test.to(self.device)
        self.steps_per_epoch = len(data.train) // recipe.batch_size
        self.epochs = recipe.epochs_of(method)
        self.steps = self.epochs * self.steps_per_epoch
        self.progress = Progress()

        _sow(seed, self.device)
        with computing_with(self.threads):
            model = build(recipe.network, classes=data.classes, channels=data.channels, width=recipe.width)
        if self.setup.channels_last:
            model = model.to(memory_format=torch.channels_last)
        self.model = self.fabric.setup_module(model)
        self.inner = self.model._forward_module  # with DistributedDataParallel, where there is one
        if self.setup.compile:
            # What was compiled for runs before, and sizes met before, would decide what is compiled for this one.
            torch.compiler.reset()
            self.inner.compile(backend=self.setup.compile, dynamic=False)
        self.base = base_optimizer(recipe, self.inner)
        self.opt = wrap(recipe, method, self.base, self.inner, self.steps, seed)
        self.average = (
            AveragedModel(
                self.module,
                multi_avg_fn=get_ema_multi_avg_fn(recipe.ema),  # type: ignore[no-untyped-call]
                use_buffers=True,
            )
            if recipe.ema
            else None
        )
        self.checkpoints = None if isinstance(self.opt, Peer) else checkpoints
        # What the ranks tell one another about stopping must not wait for a GPU.
        self.talk: Any = torch.distributed.new_group(backend="gloo") if self.world > 1 else None
        # As Fabric has it, but that sets torch's default type in every forward.
        dtype = {"bf16": torch.bfloat16, "16": torch.float16}.get(recipe.precision)
        self.autocast = nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)
        self._loss = torch.zeros((), device=self.device)
        self._started = self._saved_at = perf_counter()

    @property
    def module(self) -> nn.Module:
        """The network itself, without what wraps it."""
        module: nn.Module = self.model.module
        return module

    @property
    def p(self) -> float:
        """The present probability of a sharpness-aware step."""
        return self.opt.schedule.at(min(self.progress.step, self.steps - 1), self.steps)

    @property
    def passes(self) -> float:
        """The gradients spent so far, each on a whole batch."""
        return self.opt.cost.passes / self.recipe.accumulate

    def run(self) -> dict[str, Any]:
        """Return the record, after the training.

        Raises:
            Stopped: SIGTERM or SIGINT arrived; a checkpoint was written after the step.
        """
        with blamed(self.recipe.network), computing_with(self.threads), told_to_stop() as told:
            self._resume()
            done = self.progress
            for epoch in range(len(done.test_accuracy), self.epochs):
                self._train(epoch, told)
                start = perf_counter()
                self._close_epoch()
                self._saved_at += perf_counter() - start
        return record(self)

    def weights(self) -> dict[str, Any]:
        """Return the weights that were tested, whole and on the CPU, for `load_state_dict` of the bare network."""
        from torch.distributed.checkpoint import state_dict as states  # noqa: PLC0415 - slow to import, and rarely used

        tested = self.module if self.average is None else self.average.module
        options = states.StateDictOptions(full_state_dict=True, cpu_offload=True)
        return states.get_model_state_dict(tested, options=options)

    def _train(self, epoch: int, told: Sequence[int]) -> None:
        """Train for what is missing of an epoch."""
        done, opt = self.progress, self.opt
        first = done.step - epoch * self.steps_per_epoch
        self._started, waited = perf_counter(), 0.0
        seconds, data_seconds = done.seconds, done.data_seconds
        batches = self._batches(epoch, first)
        for _ in range(first, self.steps_per_epoch):
            before = perf_counter()
            parts = [next(batches) for _ in range(self.recipe.accumulate)]
            waited += perf_counter() - before
            self._step(parts)
            if opt.cost.sharp_steps > len(done.sharp_steps):
                done.sharp_steps.append(done.step)
            done.step += 1
            done.seconds, done.data_seconds = seconds + perf_counter() - self._started, data_seconds + waited
            if self.watch is not None:
                self.watch(self)
            self._consider_stopping(told)
        done.train_loss.append(float(self._mean_over_ranks(self._loss)) / self.steps_per_epoch)
        done.seconds = seconds + perf_counter() - self._started

    def _batches(self, epoch: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Return this rank's parts of the batches of an epoch, from the step `first` on."""
        generator = torch.Generator().manual_seed(_mixed(self.seed, epoch))
        order = torch.randperm(len(self.train_set), generator=generator)
        size = self.recipe.batch_size
        rows = order[: self.steps_per_epoch * size].view(-1, size)[first:, self.rank :: self.world]
        parts = rows.reshape(-1, rows.shape[1] // self.recipe.accumulate)
        return self.train_set.batches(list(parts), self.seed, epoch, self.recipe.augmentations)

    def _step(self, parts: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Take one step, on the micro-batches of a batch."""
        recipe, opt, step = self.recipe, self.opt, self.progress.step
        strategy = self.fabric.strategy
        _sow(_mixed(self.seed, step, 1 + self.rank), self.device)
        for group in self.base.param_groups:
            group["lr"] = recipe.lr * _rate(step, self.steps, recipe.lr_warmup)
        for i, part in enumerate(parts):
            # What is not reduced, FSDP2 keeps where nobody can climb along it.
            hold = i < len(parts) - 1 and self.setup.strategy != "fsdp2" and not recipe.climb_together
            with self.fabric.no_backward_sync(self.model) if hold else nullcontext():
                examples_of_part = len(part[1])
                for x, y in opt.passes(part):
                    loss = self._loss_of(x, y)
                    strategy.precision.backward(loss / len(parts) if len(parts) > 1 else loss, self.inner)
                    if not opt.perturbed:
                        self._loss.add_(loss.detach(), alpha=len(y) / (examples_of_part * len(parts)))
        if recipe.clip:
            strategy.precision.unscale_gradients(opt)  # type: ignore[arg-type]
            nn.utils.clip_grad_norm_(self.module.parameters(), recipe.clip)
        strategy.optimizer_step(opt)  # type: ignore[arg-type]
        opt.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.module)

    def _loss_of(self, x: Tensor, y: Tensor) -> Tensor:
        if self.setup.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        with self.autocast:
            logits = self.inner(x)
        if not logits.requires_grad:
            raise ValueError(
                f"network = {self.recipe.network} gives numbers without a gradient: let it give its logits"
            )
        loss = cross_entropy(logits.float(), y, label_smoothing=self.recipe.label_smoothing)
        if self.recipe.l2:
            squares = [weight.square().sum() for weight in self.module.parameters() if weight.requires_grad]
            loss = loss + self.recipe.l2 / 2 * torch.stack(squares).sum()
        return loss

    def _close_epoch(self) -> None:
        """Test, and enter what the epoch was like."""
        done = self.progress
        _sow(_mixed(self.seed, done.step, 1 + self.rank), self.device)
        done.test_accuracy.append(self._accuracy())
        done.epoch_passes.append(self.passes)
        done.epoch_seconds.append(done.seconds)
        self._loss.zero_()

    @torch.no_grad()
    def _accuracy(self) -> float:
        """Return the share of right answers in percent."""
        tested = self.module if self.average is None else self.average.module
        n = len(self.test_set)
        rows = torch.arange(n + -n % self.world) % n  # every rank runs as often: sharded networks want that
        mine, counted = rows[self.rank :: self.world], len(range(self.rank, n, self.world))
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        seen = 0
        if self.world > 1:  # each rank has running statistics of its own, and those of the first are saved
            for buffer in tested.buffers():
                torch.distributed.broadcast(buffer, 0)
        tested.eval()
        for x, y in self.test_set.batches(list(torch.split(mine, TESTED_AT_ONCE))):
            with self.autocast:
                hits = tested(x).argmax(1) == y
            right += hits[: max(counted - seen, 0)].sum()
            seen += len(y)
        tested.train()
        if self.world > 1:
            torch.distributed.all_reduce(right)
        return 100.0 * int(right) / n

    def _mean_over_ranks(self, value: Tensor) -> Tensor:
        if self.world > 1:
            value = value.clone()
            torch.distributed.all_reduce(value)
            value /= self.world
        return value

    def _consider_stopping(self, told: Sequence[int]) -> None:
        """Write a checkpoint if it is time or if someone told us to stop, and then stop.

        Raises:
            Stopped: someone told us to.
        """
        if self.checkpoints is None and not told and self.talk is None:
            return
        signum = told[0] if told else 0
        due = perf_counter() - self._saved_at >= self.setup.checkpoint_every
        if self.talk is not None:
            if self.progress.step % STEPS_BETWEEN_TALKS:
                return
            news = torch.tensor([signum, int(due)])
            torch.distributed.all_reduce(news, torch.distributed.ReduceOp.MAX, group=self.talk)
            signum, due = int(news[0]), bool(news[1])
        if due or signum:
            self._save()
        if signum:
            raise Stopped(self.progress.step, signum)

    def _save(self) -> None:
        if self.checkpoints is None:
            return
        assert not isinstance(self.opt, Peer)
        from torch.distributed.checkpoint import state_dict as states  # noqa: PLC0415

        start = perf_counter()
        losses: list[float] = [float(self._loss)]
        if self.world > 1:
            gathered: list[Any] = [None] * self.world
            torch.distributed.all_gather_object(gathered, losses[0], group=self.talk)
            losses = gathered
        options = states.StateDictOptions(full_state_dict=True, cpu_offload=True)
        model, optimizer = states.get_state_dict(self.module, self.opt, options=options)
        state = {
            "model": model,
            "optimizer": optimizer,
            "average": None if self.average is None else self.average.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
            "progress": vars(self.progress),
            "losses": losses,
        }
        if self.rank == 0:
            self.checkpoints.save(self.progress.step, state)
        if self.talk is not None:  # no rank may end, and be missed, while another one writes
            torch.distributed.barrier(group=self.talk)
        self._saved_at = perf_counter()
        self._started += self._saved_at - start

    def _resume(self) -> None:
        """Go on from the newest checkpoint, if there is one.

        Raises:
            ValueError: it holds something else than the state of this run.
        """
        if self.checkpoints is None:
            return
        state = self.fabric.broadcast(self.checkpoints.load() if self.rank == 0 else None)
        if state is None:
            return
        try:
            self._load(state)
        except JUNK as error:
            raise self.checkpoints.refusal(error) from error

    def _load(self, state: dict[str, Any]) -> None:
        from torch.distributed.checkpoint import state_dict as states  # noqa: PLC0415

        assert not isinstance(self.opt, Peer)
        progress = Progress(**state["progress"])
        progress.check(self.steps, self.steps_per_epoch)
        if state["model"].keys() != self.module.state_dict().keys() or not state["optimizer"]:
            raise ValueError("the state of another network")  # which torch, if it is empty, takes in silence
        with warnings.catch_warnings():  # of the bare step that torch takes where it finds no state
            warnings.filterwarnings("ignore", message=r"step\(\) was called without passes")
            states.set_state_dict(
                self.module,
                self.opt,
                model_state_dict=state["model"],
                optim_state_dict=state["optimizer"],
                options=states.StateDictOptions(full_state_dict=self.setup.strategy == "fsdp2"),
            )
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
        self.progress = progress
        losses = state["losses"]
        self._loss.fill_(losses[self.rank] if len(losses) == self.world else sum(losses) / len(losses))


def _mixed(*numbers: int) -> int:
    """Return a seed for torch that differs wherever the numbers do, for all practical purposes."""
    seed = 0
    for number in numbers:
        seed = (seed * 0x9E3779B97F4A7C15 + number + 1) % 2**63
    return seed


def _sow(seed: int, device: torch.device) -> None:
    """Let all that draws from global generators follow from `seed`, a network of the user's own included."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":  # torch.manual_seed notes where it was called, on a machine without a GPU
        torch.cuda.manual_seed(seed)


def _rate(step: int, steps: int, warmup: float) -> float:
    """Return the learning rate in units of the recipe's: a straight rise from 0, then a cosine to 0."""
    rise = warmup * steps
    if step < rise:
        return (step + 1) / math.ceil(rise)
    return (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2
