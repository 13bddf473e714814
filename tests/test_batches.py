"""Batches as loops know them: their length, and the part of them that a step climbs with."""

from collections import OrderedDict, UserDict, namedtuple
from types import SimpleNamespace

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from sharpless import SAM, step_seconds
from sharpless.batches import check_fields, length, part

pytestmark = pytest.mark.quick

X, Y = torch.arange(12.0).reshape(6, 2), torch.arange(6)
NAMES = list("abcdef")
Pair = namedtuple("Pair", ["x", "y"])
Triplet = namedtuple("Triplet", ["anchor", "positive", "negative"])


class Encoding(UserDict):
    """Built as the batches of Hugging Face's tokenizers are: keys are attributes, and what else it holds stays."""

    def __init__(self, data, encodings=None):
        super().__init__(data)
        self.encodings = encodings

    def __getattr__(self, name):
        try:
            return self.data[name]
        except KeyError:
            raise AttributeError(name) from None


def same(one, other):
    """Whether two nests agree in structure, classes and values."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict | UserDict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


OBJECT = SimpleNamespace(x=X)


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (X, X[1:3]),
        ((X, Y), (X[1:3], Y[1:3])),
        ([X, Y], [X[1:3], Y[1:3]]),
        (Pair(X, Y), Pair(X[1:3], Y[1:3])),
        ({"x": X, "y": Y}, {"x": X[1:3], "y": Y[1:3]}),
        (OrderedDict(y=Y, x=X), OrderedDict(y=Y[1:3], x=X[1:3])),
        (Encoding({"x": X, "y": Y}), Encoding({"x": X[1:3], "y": Y[1:3]})),
        (([X, {"y": (Y, None)}], Pair(X, [Y])), ([X[1:3], {"y": (Y[1:3], None)}], Pair(X[1:3], [Y[1:3]]))),
        ((X, NAMES), (X[1:3], ["b", "c"])),
        ((X, tuple(NAMES)), (X[1:3], ("b", "c"))),
        ((X, {"names": NAMES, "kind": ["p", "q"]}), (X[1:3], {"names": ["b", "c"], "kind": ["p", "q"]})),
        ((X, [[i] * i for i in range(6)]), (X[1:3], [[1], [2, 2]])),
        ((X, 0.5, 7, "abcdef", None, OBJECT), (X[1:3], 0.5, 7, "abcdef", None, OBJECT)),
        ((X, torch.tensor(2.0)), (X[1:3], torch.tensor(2.0))),
        ([X] * 5, [X[1:3]] * 5),
        ((X, [], {}), (X[1:3], [], {})),
    ],
    ids=lambda nest: type(nest).__name__,
)
def test_a_part_of_every_nest(batch, expected):
    """Sees another structure or class, names that stay behind or shift, scalars and texts that are cut."""
    assert length(batch) == 6
    assert same(part(batch, 1, 3), expected)


def test_a_class_of_batches():
    """Sees the whole batch cut for good by cutting a copy of it, or attributes lost that are no entries."""
    batch = Encoding({"x": X, "y": Y}, encodings=["as they were"])
    cut = part(batch, 0, 2)
    assert torch.equal(cut.x, X[:2])
    assert cut.encodings == ["as they were"]
    assert len(batch["x"]) == len(batch["y"]) == 6
    nest = {"x": X, "inner": {"y": Y}}
    part(nest, 0, 2)
    assert len(nest["x"]) == len(nest["inner"]["y"]) == 6


def test_parts_are_views():
    """Sees copies of the data, and parts that overlap or leave examples out."""
    first, rest = part((X, Y), 0, 4), part((X, Y), 4, 6)
    assert first[0].data_ptr() == X.data_ptr()
    assert torch.equal(torch.cat([first[0], rest[0]]), X)
    assert torch.equal(torch.cat([first[1], rest[1]]), Y)


def test_lengths():
    """Sees a length made up where no tensor tells it, or one of two picked in silence."""
    for batch in (None, 3, "abc", torch.tensor(1.0), [], ["a", "b"], {"x": None}):
        assert length(batch) is None
    assert length((torch.zeros(0, 3),)) == 0
    with pytest.raises(ValueError, match="lengths 5 and 6"):
        length(Encoding({"x": X, "y": [Y[:5]]}))
    with pytest.raises(TypeError, match="cannot split a PackedSequence: pass padded tensors"):
        length(pack_sequence([torch.zeros(5, 2)]))  # of one sequence, which would be cut in time


IMAGE, SERIES = torch.zeros(3, 8, 8), torch.zeros(100, 2)


@pytest.mark.parametrize(
    "batch",
    [
        [IMAGE] * 3,
        (IMAGE,) * 16,
        ([IMAGE] * 3, torch.arange(3)),
        {"images": [IMAGE] * 8, "scale": 0.5},
        ((SERIES,) * 8, tuple(range(8))),
        ([SERIES] * 8, list("abcdefgh")),
        ((SERIES, SERIES), (torch.tensor(1), torch.tensor(0))),
        ([IMAGE] * 8, [IMAGE] * 8),
        ([IMAGE] * 8, [{"boxes": torch.zeros(3, 4), "labels": torch.zeros(3)}] * 8),
    ],
)
def test_lists_of_examples(batch):
    """Sees images cut by channel, or series cut in time, where the list is what has one entry for each example."""
    model = torch.nn.Linear(2, 1)
    with pytest.raises(ValueError, match=r"^the batch has \d+ tensors of shape .*if they are examples, stack them"):
        SAM(torch.optim.SGD(model.parameters(), lr=0.1), batch_fraction=0.5).passes(batch)
    with pytest.raises(ValueError, match="stack them"):
        step_seconds(lambda part: None, batch, model)
    for _ in SAM(torch.optim.SGD(model.parameters(), lr=0.1)).passes(batch):  # which is cut by nobody
        pass


@pytest.mark.parametrize(
    "batch",
    [
        [X, X],
        (X, X, X),
        [torch.zeros(2, 5), torch.zeros(2, 5)],
        [torch.zeros(8, 3, 32, 32)] * 2 + [torch.zeros(8, 3, 16, 16)] * 6,
        {"triplet": [X, X, X], "names": NAMES},
        (IMAGE, torch.arange(3), ["a", "b", "c"]),
        Triplet(torch.zeros(3, 5), torch.zeros(3, 5), torch.zeros(3, 5)),
        (Y[:3], torch.ones(3, dtype=torch.bool), Y[:3], Y[:3]),
        ([torch.zeros(3, 8)] * 4, torch.zeros(3, 1)),
        {"images": [torch.zeros(64, 3, 8, 8)] * 2, "size": (8, 8)},
        ((X, X), ("weak", "strong")),
        ((X, X, X), Y, ("anchor", "positive", "negative")),
    ],
)
def test_lists_of_fields(batch):
    """Sees views, triplets, pairs and tokens refused, which have one row for each example, beside sizes and names."""
    check_fields(batch)


def test_a_small_last_batch():
    """Sees training end at the last batch of an epoch, which has no more examples than fields."""
    model = torch.nn.Linear(2, 1)
    opt = SAM(torch.optim.SGD(model.parameters(), lr=0.1), batch_fraction=0.5)
    for size in (8, 3, 2, 1):
        for fields in opt.passes([torch.randn(size, 2)] * 3):
            model(sum(fields)).square().sum().backward()
        opt.step()
        opt.zero_grad()
