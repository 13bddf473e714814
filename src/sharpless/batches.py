"""A batch as the loop knows it, any nest of tensors: its length, and a part of it."""

import copy
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["copied", "length", "part", "split"]


def length(batch: Any) -> int | None:
    """Return the number of examples in `batch`, None where no tensor tells it.

    >>> import torch
    >>> length({"x": torch.zeros(8, 3), "y": [torch.zeros(8), "a note"]}), length(None)
    (8, None)

    Raises:
        ValueError: the tensors of `batch` disagree.
    """
    lengths = sorted(set(_lengths(batch)))
    if len(lengths) > 1:
        raise ValueError(
            f"the tensors of the batch have lengths {' and '.join(map(str, lengths))}: "
            "give tensors of one length, or set batch_fraction = 1, which cuts no batch"
        )
    return lengths[0] if lengths else None


def part(batch: Any, start: int, end: int) -> Any:
    """Return the examples `start` to `end` of `batch`, in the same nest; tensors are views.

    What has no examples (numbers, 0-dim tensors, None) is handed on whole; lists without tensors that have an entry
    for each example, such as names, are cut as the tensors are.

    >>> import torch
    >>> part((torch.arange(4), ["a", "b", "c", "d"], 0.5), 1, 3)
    (tensor([1, 2]), ['b', 'c'], 0.5)

    Raises:
        TypeError: a tensor is sparse or nested.
    """
    return _part(batch, start, end, length(batch))


def split(batch: Any, share: float, *, fewest: int) -> tuple[Any, float, Any]:
    """Return the first examples of `batch`, their share in fact, and the other examples.

    Where one of the two parts would have fewer than `fewest` examples, the first one is the whole batch, and None the
    other.

    >>> import torch
    >>> split(torch.arange(8), 0.3, fewest=2)
    (tensor([0, 1]), 0.25, tensor([2, 3, 4, 5, 6, 7]))
    >>> split(torch.arange(3), 0.3, fewest=2)
    (tensor([0, 1, 2]), 1.0, None)
    """
    examples = length(batch)
    if examples is None:
        return batch, 1.0, None
    size = max(round(share * examples), fewest)
    if examples - size < fewest:
        return batch, 1.0, None
    return part(batch, 0, size), size / examples, part(batch, size, examples)


def copied(batch: Any) -> Any:
    """Return a copy of the nest, with copies of its tensors and arrays, so that a loop body may change it in place.

    Tensors that require gradients are handed on as they are, and so is everything that is no tensor, array, tuple,
    list or mapping.

    >>> import torch
    >>> batch = {"x": torch.ones(2), "y": [1, 2]}
    >>> copied(batch).pop("x").zero_(), batch
    (tensor([0., 0.]), {'x': tensor([1., 1.]), 'y': [1, 2]})
    """
    match batch:
        case Tensor():
            return batch if batch.requires_grad else batch.clone()
        case MutableMapping():
            twin: Any = copy.copy(batch)
            for key, value in batch.items():
                twin[key] = copied(value)
            return twin
        case list() if type(batch) is not list:
            twin = copy.copy(batch)
            twin[:] = [copied(value) for value in batch]
            return twin
        case list() | tuple() if type(batch) in {list, tuple} or hasattr(batch, "_fields"):
            return _like(batch, [copied(value) for value in batch])
    return copy.copy(batch) if hasattr(batch, "shape") else batch


def _lengths(batch: Any) -> Iterator[int]:
    match batch:
        case Tensor() if batch.dim() > 0:
            yield len(batch)
        case Mapping():
            for value in batch.values():
                yield from _lengths(value)
        case list() | tuple():
            for value in batch:
                yield from _lengths(value)


def _part(batch: Any, start: int, end: int, examples: int | None) -> Any:
    match batch:
        case Tensor() if batch.dim() > 0:
            if batch.layout is not torch.strided or batch.is_nested:
                raise TypeError("batch_fraction cannot cut a sparse or nested tensor: hand over dense ones")
            return batch[start:end]
        case Mapping():
            cut: Any = copy.copy(batch)  # of its own class, as Hugging Face's batches are
            for key, value in batch.items():
                cut[key] = _part(value, start, end, examples)
            return cut
        case list() | tuple():
            if len(batch) == examples and not any(True for _ in _lengths(batch)):
                return batch[start:end]
            return _like(batch, [_part(value, start, end, examples) for value in batch])
    array: Any = getattr(batch, "shape", ())  # NumPy's, say
    return batch[start:end] if len(array) > 0 and array[0] == examples else batch


def _like(batch: Sequence[Any], values: list[Any]) -> Any:
    return type(batch)(*values) if hasattr(batch, "_fields") else type(batch)(values)  # type: ignore[call-arg]
