"""The setting of the perturbed pass: displaced weights, and the buffers and random numbers of the clean pass."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sharpless import batches, batchnorm, diagnosis, fsdp, misuse
from sharpless.displaced import displaced
from sharpless.memory import Memory

__all__ = ["Scene"]


@dataclass
class Scene:
    """The weights, buffers and random generators for the passes of a step.

    Args:
        memory: the memory of the optimizer.
        model: the network; without it, buffers and generators are not restored.
        same_buffers: whether the perturbed pass starts from the same buffers as the clean one.
        same_noise: whether it draws the same random numbers.
    """

    memory: Memory
    model: nn.Module | None
    same_buffers: bool
    same_noise: bool

    @contextmanager
    def remembered(self, parameters: list[Tensor]) -> Iterator[None]:
        """Remember buffers and random generators at the start of the pass in the block."""
        if self.model is not None and self.same_noise:
            self._drawn = self.memory.rng.remember({parameter.device for parameter in parameters})
        if self.model is None or not self.same_buffers:
            yield
            return
        model = self.model
        self._found = self.memory.buffers.remember(model, parameters)
        if not isinstance(model, DistributedDataParallel):
            yield
            return

        def after_broadcast(*_: Any) -> None:  # the first forward broadcasts the first rank's buffers
            hook.remove()
            self._found = self.memory.buffers.remember(model, parameters)

        hook = model.module.register_forward_pre_hook(after_broadcast)
        try:
            yield
        finally:
            hook.remove()

    @contextmanager
    def displaced(self, weights: list[Tensor], eps: list[Tensor]) -> Iterator[None]:
        """Within the block, run a pass at displaced weights."""
        memory = self.memory
        with ExitStack() as scene:
            # First the buffers, since one may share its memory with a weight, which writing it back would restore.
            if self.model is not None and self.same_buffers:
                scene.enter_context(memory.buffers.again(self.model, self._found))
            if memory.is_new("perturbed pass") and not scene.enter_context(diagnosis.watched(weights, eps)):
                memory.checked.add("unmoved weights")
            fsdp.forget_gathered(self.model)
            scene.callback(fsdp.forget_gathered, self.model)
            scene.enter_context(displaced(weights, eps))
            if self.model is not None:
                scene.callback(misuse.watch_saving(self.model))
            if self.model is not None and self.same_noise:
                scene.enter_context(memory.rng.again(self._drawn))
            memory.perturbed = True
            try:
                yield
            finally:
                memory.perturbed = False

    def split(self, batch: Any, batch_fraction: float) -> tuple[Any, float, Any]:
        """Return the part of the batch to climb with, its share, and the rest, None if the part is the whole batch."""
        if batch_fraction == 1:
            return batch, 1.0, None
        together = self.model is not None and batchnorm.has_batch_statistics(self.model)
        part, share, rest = batches.split(batch, batch_fraction, fewest=2 if together else 1)
        if together and rest is not None:
            batchnorm.warn_of_small_part(self.memory, batches.length(part), batch_fraction)
        return part, share, rest
