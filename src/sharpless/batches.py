"""A batch, any nest of tensors: its length, and parts of it."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

__all__ = ["check_fields", "copied", "length", "part", "split"]


def length(batch: Any) -> int | None:
    """Return the number of examples in `batch`, or None if no tensor has a length.

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
            "give tensors of one length, or set batch_fraction = 1, which splits no batch"
        )
    return lengths[0] if lengths else None


def check_fields(batch: Any) -> None:
    """Check that the tensors in each list or tuple are fields of the batch, such as x and y, and not single examples.

    Tensors of one shape and dtype are taken for examples if there are three or more, and as many as they have rows. If
    no tensor outside of lists of that length shows the number of examples, they are also taken for examples if they
    have fewer rows, or if another list has as many entries, such as labels. The entries of a named tuple are fields.

    >>> import torch
    >>> check_fields([torch.zeros(8, 3), torch.zeros(8, 3), torch.zeros(8, 3)])

    Raises:
        ValueError: they are examples, which would be cut into pieces.
    """
    sequences = list(_sequences(batch))
    alike = [each for each in sequences if _are_alike(each) and each[0].dim() > 0]
    # Two entries that are no tensors are rather the size of an image, or the names of two views.
    labels = {
        len(each) for each in sequences if not any(True for _ in _lengths(each)) and (len(each) > 2 or _are_alike(each))
    }
    for each in alike:
        count, shape = len(each), tuple(each[0].shape)
        lists = [other for other in sequences if len(other) == count and not any(value is each for value in other)]
        inside = sum(len(list(_lengths(other))) for other in lists)
        alone = inside >= len(list(_lengths(batch)))
        few = count >= 3 and (count == shape[0] or (alone and count > shape[0]))
        if few or (alone and count in labels and count != shape[0]):
            raise ValueError(
                f"the batch has {len(each)} tensors of shape {shape} in a {type(each).__name__}, and batch_fraction "
                "cuts each tensor along its first dimension: if they are examples, stack them, as in "
                "passes(torch.stack(images)); if not, give them as a dict"
            )


def part(batch: Any, start: int, end: int) -> Any:
    """Return the examples `start` to `end` of `batch`, in the same nest; tensors are views.

    Values without examples (numbers, 0-dim tensors, None) are returned unchanged. Lists without tensors that have one
    entry for each example, such as names, are cut like the tensors.

    >>> import torch
    >>> part((torch.arange(4), ["a", "b", "c", "d"], 0.5), 1, 3)
    (tensor([1, 2]), ['b', 'c'], 0.5)

    Raises:
        TypeError: a tensor is sparse or nested.
    """
    return _part(batch, start, end, length(batch))


def split(batch: Any, share: float, *, fewest: int) -> tuple[Any, float, Any]:
    """Return the first examples of `batch`, their actual share, and the other examples.

    If one of the two parts would have fewer than `fewest` examples, the first part is the whole batch and the other is
    None.

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

    Tensors that require gradients or lie in pinned memory are not copied, nor are objects other than tensors, arrays,
    tuples, lists, mappings and dataclasses.

    >>> import torch
    >>> batch = {"x": torch.ones(2), "y": [1, 2]}
    >>> copied(batch).pop("x").zero_(), batch
    (tensor([0., 0.]), {'x': tensor([1., 1.]), 'y': [1, 2]})

    Raises:
        TypeError: `batch` has an iterator, of which nothing is left for a second pass.
    """
    if isinstance(batch, Tensor):
        # Pinned memory is copied to a device, and a loop body would change that copy.
        on_gpus = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        if batch.requires_grad or (on_gpus and batch.is_pinned()):
            return batch
        twin = batch.clone()
        twin.__dict__.update(batch.__dict__)
        return twin
    if _is_nest(batch):
        return _rebuilt(batch, copied)
    if isinstance(batch, Iterator):
        raise TypeError(
            f"batch = {batch!r} can be gone through only once, and a sharpness-aware step has two passes: "
            "make a list of it, as in passes(list(batch))"
        )
    return copy.copy(batch) if hasattr(batch, "shape") or isinstance(batch, list) else batch


_ATOMS = {int, float, complex, bool, str, bytes}


def _is_nest(batch: Any) -> bool:
    """Return whether there may be tensors in `batch`; lists of numbers or strings are not searched."""
    if isinstance(batch, list):
        return not set(map(type, batch)) <= _ATOMS
    if isinstance(batch, tuple):
        return True
    return isinstance(batch, Mapping) or (is_dataclass(batch) and not isinstance(batch, type))


def _values(batch: Any) -> Iterable[Any]:
    if isinstance(batch, Mapping):
        return batch.values()
    return batch if isinstance(batch, (list, tuple)) else [getattr(batch, field.name) for field in fields(batch)]


def _rebuilt(batch: Any, change: Callable[[Any], Any]) -> Any:
    """Return a nest of the same kind, with `change` applied to what is in it."""
    if isinstance(batch, Mapping):
        changed = {key: change(value) for key, value in batch.items()}
        if not isinstance(batch, MutableMapping):
            return type(batch)(changed)  # type: ignore[call-arg]
        twin: Any = copy.copy(batch)  # keeps the class, such as that of Hugging Face's batches
        for key, value in changed.items():
            twin[key] = value
        return twin
    if isinstance(batch, tuple):
        values = [change(value) for value in batch]
        # A named tuple may have another constructor.
        return tuple.__new__(type(batch), values) if hasattr(batch, "_fields") else type(batch)(values)
    twin = copy.copy(batch)
    if isinstance(batch, list):
        twin[:] = [change(value) for value in batch]
    else:
        for field in fields(batch):
            object.__setattr__(twin, field.name, change(getattr(batch, field.name)))
    return twin


def _sequences(batch: Any) -> Iterator[list[Any] | tuple[Any, ...]]:
    """Yield all lists and tuples in `batch`, except named tuples."""
    if isinstance(batch, (list, tuple)) and not hasattr(batch, "_fields"):
        yield batch
    if _is_nest(batch):
        for value in _values(batch):
            yield from _sequences(value)


def _are_alike(values: Sequence[Any]) -> bool:
    """Return whether `values` are tensors of one shape and dtype."""
    return (
        all(isinstance(value, Tensor) for value in values) and len({(each.shape, each.dtype) for each in values}) == 1
    )


def _lengths(batch: Any) -> Iterator[int]:
    if isinstance(batch, Tensor):
        _check_dense(batch)
        if batch.dim() > 0:
            yield len(batch)
    elif isinstance(batch, PackedSequence):
        raise TypeError("batch_fraction cannot split a PackedSequence: pass padded tensors, and pack in the loop")
    elif _is_nest(batch):
        for value in _values(batch):
            yield from _lengths(value)


def _check_dense(tensor: Tensor) -> None:
    if tensor.layout is not torch.strided or tensor.is_nested:
        raise TypeError("batch_fraction cannot split a sparse or nested tensor: pass dense ones")


def _part(batch: Any, start: int, end: int, examples: int | None) -> Any:
    if isinstance(batch, Tensor):
        return batch[start:end] if batch.dim() > 0 else batch
    if isinstance(batch, (list, tuple)) and len(batch) == examples and not any(True for _ in _lengths(batch)):
        return batch[start:end]
    if _is_nest(batch):
        return _rebuilt(batch, lambda value: _part(value, start, end, examples))
    array: Any = getattr(batch, "shape", ())  # NumPy's, for example
    return batch[start:end] if len(array) > 0 and array[0] == examples else batch
