"""What a forward changes, beside gradients: the perturbed pass finds it as the clean pass did, and leaves no trace."""

import collections
import copy
import dataclasses
import random
import types

import numpy as np
import pytest
import timm.layers
import torch
from torch import nn
from torch.nn.functional import batch_norm, mse_loss

from problems import batches, identical
from sharpless import GRST, RST, SAM
from sharpless.displaced import LARGE, Buffers
from sharpless.rng import RepeatedRng

pytestmark = pytest.mark.quick

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))


class Functional(nn.Module):
    """BatchNorm without a layer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("variance", torch.ones(6))
        self.weight = nn.Parameter(torch.ones(6))

    def forward(self, x):
        return batch_norm(x, self.mean, self.variance, self.weight, training=self.training)


class Codebook(nn.Module):
    """Vector quantization with moving averages, written through .data as such layers do; larger than LARGE bytes."""

    def __init__(self, codes=LARGE // 8):
        super().__init__()
        self.register_buffer("codes", torch.linspace(-1, 1, codes * 6).view(codes, 6))
        self.register_buffer("counts", torch.zeros(codes))

    def forward(self, x):
        nearest = torch.cdist(x, self.codes).argmin(1)
        if self.training:
            self.counts.data.index_add_(0, nearest, torch.ones(len(x)))
            self.codes.data[nearest] = self.codes[nearest].lerp(x.detach(), 0.1)
        return x + (self.codes[nearest] - x).detach()


class Queue(nn.Module):
    """A queue of past features, as MoCo's, with its pointer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("queue", torch.zeros(32, 6))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.long))

    def forward(self, x):
        if self.training:
            start = int(self.pointer)
            self.queue[start : start + len(x)] = x.detach()
            self.pointer[0] = (start + len(x)) % 32
        return x + self.queue.mean(0)


class Replacing(nn.Module):
    """Buffers that are not written to but replaced."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x):
        if self.training:
            self.count = self.count + 1
            self.mean = self.mean.lerp(x.detach().mean(0), 0.5)
        return x + self.mean


class Caching(nn.Module):
    """Caches that know by attributes of Python what they hold: made in the first forward, larger ones later."""

    def __init__(self):
        super().__init__()
        self.ready, self.length, self.forwards = False, 0, 0

    def forward(self, x):
        if not self.ready:
            self.register_buffer("scale", torch.ones(6), persistent=False)
            self.register_buffer("range", torch.zeros(0))
            self.ready = True
        self.forwards += 1
        if self.forwards > self.length:
            self.length = 2 * self.forwards
            self.register_buffer("table", torch.ones(self.length, 6), persistent=False)
        if self.range.shape != (6,):
            self.range.resize_(6).zero_()
        self.range.copy_(torch.maximum(self.range, x.detach().abs().amax(0)))
        return x * self.scale * self.table[self.forwards - 1] + self.range


def test_caches_that_are_made_late():
    """Sees a cache taken away, or put back to a smaller one, which the layer believes to have."""
    model = nn.Sequential(nn.Linear(6, 6), Caching(), nn.Linear(6, 1))
    opt = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.1, model=model)
    for _ in range(4):
        for batch in opt.passes(X):
            model(batch).sum().backward()
        opt.step()
        opt.zero_grad()
    assert not {name for name in model.state_dict() if "table" in name or "scale" in name}


class Odd(nn.Module):
    """Buffers that cannot be copied or written to in one call."""

    def __init__(self):
        super().__init__()
        self.layer = nn.LazyLinear(1)
        self.register_buffer("graph", torch.eye(8).to_sparse())
        self.register_buffer("expanded", torch.ones(1).expand(8, 6))
        self.register_buffer("late", nn.UninitializedBuffer())
        self.register_buffer("nested", torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]))
        self.register_buffer("halves", torch.ones(6, dtype=torch.bfloat16))
        with torch.inference_mode():
            self.register_buffer("frozen", torch.ones(6))

    def forward(self, x):
        return self.layer(torch.sparse.mm(self.graph, x) * self.expanded * self.halves.float())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested", "ignore:Lazy modules")
def test_buffers_of_other_kinds():
    """Sees training end at a buffer that nothing changes: sparse, expanded, lazy, nested, of inference mode."""
    model = Odd()
    opt = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.1, model=model)
    for _ in range(2):
        for batch in opt.passes(X):
            model(batch).sum().backward()
        opt.step()
        opt.zero_grad()


def test_graphs_that_hold_a_buffer():
    """Sees a graph of before the loop refused, because a buffer that it holds was written back."""
    model = Masked()
    w = torch.nn.Parameter(torch.ones(6))
    opt = SAM(torch.optim.SGD([*model.parameters(), w], lr=0.1), rho=0.1, model=model)
    penalty = (w * model.scale).sum()
    for batch in opt.passes(X):
        model(batch).square().sum().backward()
    opt.zero_grad()
    penalty.backward()


def instance():
    norm = nn.InstanceNorm1d(2, track_running_stats=True)
    return nn.Sequential(nn.Unflatten(1, (2, 3)), norm, nn.Flatten())


def images(layer):
    return nn.Sequential(nn.Unflatten(1, (6, 1, 1)), layer, nn.Flatten())


def quantized():
    """A layer as quantization-aware training has it: an observer of activations and a fake quantization."""
    quantize = torch.ao.quantization.FakeQuantize(torch.ao.quantization.MovingAverageMinMaxObserver)
    return nn.Sequential(quantize, torch.ao.quantization.PerChannelMinMaxObserver(ch_axis=1))


LAYERS = {
    "BatchNorm": lambda: nn.BatchNorm1d(6),
    "cumulative": lambda: nn.BatchNorm1d(6, momentum=None),
    "InstanceNorm": instance,
    "functional": Functional,
    "scripted": lambda: torch.jit.script(nn.BatchNorm1d(6)),
    "timm's": lambda: images(timm.layers.BatchNormAct2d(6)),
    "EvoNorm": lambda: images(timm.layers.EvoNorm2dB0(6)),
    "spectral_norm": lambda: nn.utils.spectral_norm(nn.Linear(6, 6)),
    "parametrized": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6)),
    "codebook": Codebook,
    "queue": Queue,
    "replacing": Replacing,
    "observers": quantized,
}
noisy = pytest.mark.filterwarnings("ignore:.*torch.jit.script", "ignore:.*torch.ao.quantization")


def network(layer):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 6), LAYERS[layer](), nn.Linear(6, 1))


def buffers(model):
    return {name: buffer.detach().clone() for name, buffer in model.named_buffers()}


@noisy
@pytest.mark.parametrize("gamma", [1.0, 2.0])
@pytest.mark.parametrize("layer", LAYERS)
def test_buffers(layer, gamma):
    """Sees a buffer updated once more by the perturbed pass, or found there otherwise than in the clean pass."""
    ours, theirs = network(layer), network(layer)
    opt = GRST(torch.optim.SGD(ours.parameters(), lr=0.0), p=1.0, gamma=gamma, rho=0.1, model=ours)
    for step in range(4):
        x, found = X * (step + 1) + step, []
        for batch in opt.passes(x):
            found.append(buffers(ours))
            ours(batch).square().sum().backward()
        opt.step()
        opt.zero_grad()
        theirs(x)
        assert identical(*found)
        assert identical(buffers(ours), buffers(theirs))


@noisy
@pytest.mark.parametrize("layer", LAYERS)
def test_the_perturbed_gradient(layer):
    """Sees a perturbed pass that computes another function than the clean pass did."""
    ours = network(layer)
    twin = copy.deepcopy(ours) if layer != "scripted" else network(layer)
    opt = SAM(torch.optim.SGD(ours.parameters(), lr=0.0), rho=0.1, model=ours)
    weights = []
    for batch in opt.passes(X):
        weights.append([p.detach().clone() for p in ours.parameters()])
        ours(batch).square().sum().backward()
    with torch.no_grad():
        for p, w in zip(twin.parameters(), weights[1], strict=True):
            p.copy_(w)
    twin(X).square().sum().backward()
    for p, q in zip(ours.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-5)


def test_without_a_model_buffers_are_left_alone():
    """Sees the promise kept where nothing was asked for, and freeze_batchnorm that cannot be switched off."""
    for options in ({}, {"freeze_batchnorm": False}):
        model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 1))
        given = {"model": model, **options} if options else {}
        opt = SAM(torch.optim.SGD(model.parameters(), lr=0.1), **given)
        for batch in opt.passes(X):
            model(batch).sum().backward()
        assert int(model[1].num_batches_tracked) == 2


class Masked(nn.Module):
    """A large constant buffer that is written to from some step on."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 1)
        self.register_buffer("mask", torch.ones(LARGE))
        self.register_buffer("scale", torch.ones(6))
        self.register_buffer("mean", torch.zeros(6))
        self.writes = False

    def forward(self, x):
        self.mean.lerp_(x.mean(0), 0.1)
        if self.writes:
            self.mask.mul_(0.5)
        return self.layer(x - self.mean) * self.mask[0]


def test_large_constants_are_not_copied():
    """Sees masks and tables copied at every step, or writes to them missed when they begin later."""
    model = Masked()
    opt = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.1, model=model)

    def step():
        for batch in opt.passes(X):
            model(batch).square().sum().backward()
        opt.step()
        opt.zero_grad()

    def copied():
        found = opt._memory.buffers.remember(model)
        return {name for (_, name), seen in found.items() if seen.copy is not None}

    small = {"scale", "mean"}
    seen = []
    for _ in range(9):
        seen.append(copied() - small)
        step()
    assert [number for number, names in enumerate(seen, 1) if names] == [1, 2, 4, 8]
    model.writes = True
    step()
    assert float(model.mask[0]) == 0.5
    assert copied() == small | {"mask"}
    step()
    assert float(model.mask[0]) == 0.25
    assert torch.equal(model.mask, torch.full((LARGE,), 0.25))


def test_an_interrupt_while_buffers_are_put_back(monkeypatch):
    """Sees the moment in which a Ctrl-C could leave statistics of the perturbed pass behind."""
    from sharpless import displaced

    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 1))
    plain = copy.deepcopy(model)
    plain(X)
    restore, calls = displaced._restore, []

    def interrupted_once(to):
        calls.append(to)
        if len(calls) == 2:
            raise KeyboardInterrupt
        restore(to)

    monkeypatch.setattr(displaced, "_restore", interrupted_once)
    opt = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.1, model=model)
    with pytest.raises(KeyboardInterrupt):
        for batch in opt.passes(X):
            model(batch).sum().backward()
    assert identical(buffers(model), buffers(plain))


GENERATORS = {
    "torch": lambda: torch.rand(3).tolist(),
    "random": lambda: [random.random(), random.gauss(0, 1)],
    "numpy": lambda: np.random.rand(3).tolist(),
    "one normal number of numpy": np.random.randn,
    "numpy, later": None,
}


def later():
    count = 0

    def draw():
        nonlocal count
        count += 1
        return np.random.rand() if count > 4 else 0.0

    return draw


def reseed():
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)


def test_a_normal_number_in_store():
    """Sees NumPy's second normal number, which is drawn without a trace in the generator's memory, drawn once more."""
    rng, drawn = RepeatedRng(), []
    reseed()
    for draws in (0, 0, 1, 1, 1, 2, 0, 1):
        before = rng.remember([torch.device("cpu")])
        first = [np.random.randn() for _ in range(draws)]
        with rng.again(before):
            drawn.append((first, [np.random.randn() for _ in range(draws)]))
        np.random.randn()  # augmentation between the steps
    assert all(a == b for a, b in drawn)


def test_another_generator_of_numpy():
    """Sees NumPy's other bit generators, whose state has other fields, end the training."""
    before = np.random.get_bit_generator()
    try:
        np.random.set_bit_generator(np.random.PCG64(7))
        rng = RepeatedRng()
        for _ in range(3):
            state = rng.remember([torch.device("cpu")])
            first = np.random.rand()
            with rng.again(state):
                assert np.random.rand() == first
            assert np.random.rand() != first
    finally:
        np.random.set_bit_generator(before)


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("repeat", [True, False])
def test_noise(generator, repeat):
    """Sees other random numbers in the perturbed pass, or generators that it leaves elsewhere than the clean pass."""
    model = nn.Linear(6, 1)
    opt = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.1, model=model, repeat_dropout=repeat)
    draw, plain = (GENERATORS[generator] or later() for _ in range(2))
    reseed()
    pairs = []
    for _ in range(6):
        drawn = []
        for batch in opt.passes(X):
            drawn.append(draw())
            model(batch).sum().backward()
        pairs.append(drawn)
        opt.step()
    after = [GENERATORS[name]() for name in ("torch", "random", "numpy")]
    reseed()
    if not repeat:
        assert any(a != b for a, b in pairs)
        return
    if generator == "numpy, later":
        assert pairs[0] == pairs[1] == [0.0, 0.0]
        return
    assert pairs == [[value, value] for value in (plain() for _ in range(6))]
    assert after == [GENERATORS[name]() for name in ("torch", "random", "numpy")]


class Accelerator:
    """The generator of a device, and cuDNN's, which a draw of the former begins anew after its state was set."""

    def __init__(self):
        self.own, self.cudnn = torch.Generator().manual_seed(1), None

    def get_rng_state(self, *device):
        return self.own.get_state()

    def set_rng_state(self, state, *device):
        self.own.set_state(state)
        self.cudnn = None

    def draw(self):
        if self.cudnn is None:
            seed = torch.randint(2**31, (), generator=self.own)
            self.cudnn = torch.Generator().manual_seed(int(seed))
        return [float(torch.rand((), generator=each)) for each in (self.own, self.cudnn)]


@pytest.mark.parametrize(("device", "weights"), [("cuda", "cuda"), ("cuda", "cpu"), ("xpu", "cpu"), ("mps", "mps")])
def test_generators_of_accelerators(device, weights, monkeypatch):
    """Sees noise of a device drawn anew: on Apple's, by cuDNN within an LSTM, and where weights are offloaded."""
    fake, module = Accelerator(), torch.get_device_module(device)
    for name in ("get_rng_state", "set_rng_state"):
        monkeypatch.setattr(module, name, getattr(fake, name))
    if device != "mps":
        monkeypatch.setattr(module, "is_initialized", lambda: True)
        monkeypatch.setattr(module, "current_device", lambda: 0)
    rng = RepeatedRng()
    for _ in range(2):
        fake.draw()  # a plain step
        state = rng.remember([torch.device(weights, 0)])
        first = fake.draw()
        left = fake.own.get_state()
        with rng.again(state):
            assert fake.draw() == first
        assert torch.equal(fake.own.get_state(), left)


def test_noise_that_begins_later():
    """Sees NumPy's generator given up because the first forwards did not draw from it."""
    noise, drawn = RepeatedRng(), []
    reseed()
    for draws in (False, False, True, True):
        before = noise.remember([torch.device("cpu")])
        first = np.random.rand() if draws else None
        with noise.again(before):
            drawn.append((first, np.random.rand() if draws else None))
    assert all(a == b for a, b in drawn)
    reseed()
    assert [a for a, _ in drawn[2:]] == [np.random.rand(), np.random.rand()]


def test_noise_that_only_the_perturbed_pass_draws():
    """Sees the generators left where the perturbed pass has taken them."""
    noise = RepeatedRng()
    for _ in range(3):
        reseed()
        before = noise.remember([torch.device("cpu")])
        with noise.again(before):
            for draw in ("torch", "random", "numpy"):
                GENERATORS[draw]()
        after = [GENERATORS[name]() for name in ("torch", "random", "numpy")]
        reseed()
        assert after == [GENERATORS[name]() for name in ("torch", "random", "numpy")]


def test_batches_that_the_body_changes():
    """Sees labels popped, or pixels normalized, for the second time."""
    model = nn.Linear(6, 1)
    labels = torch.randn(8, 1)
    for fraction in (1.0, 0.5):
        opt = SAM(torch.optim.SGD(model.parameters(), lr=0.0), rho=0.1, model=model, batch_fraction=fraction)
        batch = {"x": 4 * X, "labels": labels, "meta": [np.ones(3), "a"]}
        seen = []
        for inputs in opt.passes(batch):
            y = inputs.pop("labels")
            seen.append((inputs["x"].clone(), inputs["meta"][0].sum()))
            inputs["x"].div_(4)
            inputs["meta"][0] *= 2
            mse_loss(model(inputs["x"]), y).backward()
        assert torch.equal(seen[0][0], seen[1][0])
        assert seen[0][1] == seen[1][1]
        assert torch.equal(batch["x"], X)  # as after plain training
        opt.zero_grad()


@dataclasses.dataclass(frozen=True)
class Batch:
    x: torch.Tensor
    names: list


class Labelled(list):
    def __init__(self, values, label):
        super().__init__(values)
        self.label = label


class Named(collections.namedtuple("Named", "x y")):
    def __new__(cls, x):
        return super().__new__(cls, x, 2 * x)


@pytest.mark.parametrize("fraction", [1.0, 0.5])
@pytest.mark.parametrize(
    ("make", "x_of"),
    [
        (lambda x: Batch(x, list("abcdefgh")), lambda b: b.x),
        (lambda x: Labelled([x], "a"), lambda b: b[0]),
        (Named, lambda b: b.x),
        (lambda x: (0.5, "id", x), lambda b: b[2]),
        (lambda x: [1, x], lambda b: b[1]),
        (lambda x: types.MappingProxyType({"x": x}), lambda b: b["x"]),
        (lambda x: collections.UserDict(x=x), lambda b: b["x"]),
        (lambda x: {"inner": [Batch(x, [1] * 8), None]}, lambda b: b["inner"][0].x),
    ],
    ids=["dataclass", "list", "namedtuple", "tuple", "numbers", "mappingproxy", "UserDict", "nested"],
)
def test_batches_of_many_kinds(make, x_of, fraction):
    """Sees a kind of container refused, handed out twice, or not cut with the others."""
    model = nn.Linear(6, 1)
    opt = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.1, batch_fraction=fraction)
    batch, seen = make(X.clone()), []
    for given in opt.passes(batch):
        assert type(given) is type(batch)
        seen.append(x_of(given).clone())
        x_of(given).div_(2)
        model(x_of(given)).sum().backward()
    size = round(8 * fraction)
    assert torch.equal(seen[0], X[:size])
    assert torch.equal(seen[1], X[:size])
    assert torch.equal(x_of(batch), X / 2)


@pytest.mark.parametrize("wrap", [lambda each: each, lambda each: {"x": (each, 1)}], ids=["bare", "nested"])
def test_a_batch_that_can_be_gone_through_once(wrap):
    """Sees a second pass over a used-up iterator give no gradient, so that SAM trains nothing and G-RST plainly."""
    micro_batches = batches(1, micro=2)[0]
    opt = SAM(torch.optim.SGD(nn.Linear(5, 1).parameters(), lr=0.1), rho=0.1)
    with pytest.raises(TypeError, match=r"can be gone through only once.*passes\(list\(batch\)\)"):
        next(iter(opt.passes(wrap(iter(micro_batches)))))


def test_attributes_of_tensors():
    """Sees what a loader has put on a tensor lost in the copy of it."""
    model = nn.Linear(6, 1)
    x = X.clone()
    x.lengths = [1, 2]
    for batch in SAM(torch.optim.SGD(model.parameters(), lr=0.1)).passes(x):
        assert batch.lengths == [1, 2]
        model(batch).sum().backward()


def test_inputs_that_require_gradients():
    """Sees the gradient of an input lost in a copy of it."""
    x = X.clone().requires_grad_()
    model = nn.Linear(6, 1)
    for batch in SAM(torch.optim.SGD(model.parameters(), lr=0.1)).passes({"x": x}):
        assert batch["x"] is x
        model(batch["x"]).sum().backward()
    assert x.grad is not None


def test_carried_state_and_its_cure():
    """Sees `perturbed` that does not tell a loop when to leave its own state alone."""
    lstm, state = nn.LSTM(6, 6), None
    opt = RST(torch.optim.SGD(lstm.parameters(), lr=0.1), p=1.0, rho=0.1)
    seen = []
    for batch in opt.passes(X[:, None]):
        out, new = lstm(batch, state)
        out.sum().backward()
        seen.append(opt.perturbed)
        if not opt.perturbed:
            state = tuple(s.detach() for s in new)
    assert seen == [False, True]
    assert not opt.perturbed


def test_buffers_know_models_apart():
    """Sees a table of one model taken for that of another."""
    one, other, found = Masked(), Masked(), Buffers()
    for model in (one, other):
        before = found.remember(model)
        model(X)
        with found.again(model, before):
            model(X)
        assert torch.allclose(model.mean, 0.1 * X.mean(0))


def test_frozen_statistics_that_wake_up():
    """Sees statistics, which no version counter watches, taken for constants because a layer began in evaluation."""
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 1))
    opt = SAM(torch.optim.SGD(model.parameters(), lr=0.0), rho=0.1, model=model)
    plain = copy.deepcopy(model)
    for training in (False, True):
        model[1].train(training)
        plain[1].train(training)
        for (batch,) in batches(2, size=8, dtype=torch.float32):
            x = torch.cat([batch[0], batch[1]], 1)
            for a in opt.passes(x):
                model(a).sum().backward()
            opt.zero_grad()
            plain(x)
    assert identical(buffers(model), buffers(plain))
