"""The examples that a loss is measured on: stored once, after a second pass over the data gave the same ones."""

from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as nests

from sharpless.batches import length, part

__all__ = ["frozen"]


def frozen(data: Iterable[Any], examples: int) -> list[tuple[int, Any]]:
    """Return the first batches of some data with their sizes, the last one cut to the number of examples.

    >>> [size for size, _ in frozen([(torch.ones(4, 2), torch.ones(4))] * 3, 10)]
    [4, 4, 2]

    Args:
        data: batches, pairs (x, y).
        examples: how many to take; all, if there are fewer.

    Raises:
        ValueError: there are none, or a second pass over the data gives others.
    """
    first = list(_taken(data, examples))
    if not first:
        raise ValueError("data are empty: give batches, pairs (x, y)")
    for one, again in zip_longest(first, _taken(data, examples)):
        if again is None:
            raise ValueError("data can be iterated over only once: give a list of batches, or a DataLoader")
        if one is None or not _same(one[1], again[1]):
            raise ValueError(
                "data differ from one pass over them to the next: leave shuffling and random augmentation out"
            )
    return first


def _taken(data: Iterable[Any], examples: int) -> Iterator[tuple[int, Any]]:
    """Yield pairs with their sizes, up to this number of examples.

    Raises:
        ValueError: the data give something else than pairs.
    """
    left = examples
    for pair in data:
        size = min(left, _length(pair))
        yield size, tuple(part(pair, 0, size))
        left -= size
        if not left:
            return


def _length(pair: Any) -> int:
    try:
        size = length(pair) if isinstance(pair, tuple | list) and len(pair) == 2 else None
    except (TypeError, ValueError):  # their messages are about parts of a batch
        size = None
    if not size:
        raise ValueError(
            f"data give {type(pair).__name__}: give batches, pairs (x, y) of dense tensors, with as many examples in x "
            "as in y"
        )
    return size


def _same(one: Any, other: Any) -> bool:
    """Return whether two nests hold tensors with the same numbers."""
    mine, theirs = (nests.tree_leaves(nest) for nest in (one, other))
    return len(mine) == len(theirs) and all(
        not isinstance(a, Tensor) or (isinstance(b, Tensor) and torch.equal(a, b))
        for a, b in zip(mine, theirs, strict=True)
    )
