"""What flatness is measured on: some of the training examples, the same ones each time."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpless.lab.tasks.images.examples import Examples

__all__ = ["Sample"]


@dataclass(frozen=True)
class Sample:
    """Batches of some examples, without augmentation, in an order that is the same for all sets of one size."""

    examples: Examples
    count: int  # how many to take, at most
    batch_size: int

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches, anew each time."""
        order = torch.randperm(len(self.examples), generator=torch.Generator().manual_seed(0))
        yield from self.examples.batches(list(torch.split(order[: self.count], self.batch_size)))
