"""The examples for flatness: a fixed subset of the training examples."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpless.lab.tasks.images.examples import Examples

__all__ = ["Sample"]


@dataclass(frozen=True)
class Sample:
    """Batches of some examples, without augmentation. The choice is the same for all sets of the same size."""

    examples: Examples
    count: int  # largest number of examples
    batch_size: int

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches."""
        order = torch.randperm(len(self.examples), generator=torch.Generator().manual_seed(0))
        yield from self.examples.batches(list(torch.split(order[: self.count], self.batch_size)))
