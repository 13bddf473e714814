"""Curvature, sharpness and slices, against closed forms, the dense Hessian and another library."""

import json
import math

import numpy
import pytest
import torch
from scipy.optimize import brentq
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from sharpless.flatness import (
    Objective,
    Settings,
    average_sharpness,
    direction,
    eigenvalues,
    loss_slice,
    loss_surface,
    measure,
    sharpness,
    trace,
)


class Weights(nn.Module):
    """θ, whatever the input is."""

    def __init__(self, theta):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta, dtype=torch.float64))

    def forward(self, x):
        return self.theta.expand(len(x), -1)


def quadratic(hessian, slope, theta):
    """L = ½ θᵀHθ + sᵀθ, by the output θ for each of five examples in two batches."""
    hessian, slope = (torch.tensor(numpy.asarray(value), dtype=torch.float64) for value in (hessian, slope))

    def loss(output, _):
        return (0.5 * ((output @ hessian) * output).sum(1) + output @ slope).mean()

    return Objective(Weights(theta), loss, [(torch.zeros(3), torch.zeros(3)), (torch.zeros(2), torch.zeros(2))])


def symmetric(size, seed=0):
    square = numpy.random.default_rng(seed).normal(size=(size, size))
    return square + square.T


def network(activation=nn.ReLU, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), activation(), nn.Linear(8, 7), activation(), nn.Linear(7, 3)).double()


def batches(count=4, seed=1):
    torch.manual_seed(seed)
    return [(torch.randn(5 + i, 6).double(), torch.randint(3, (5 + i,))) for i in range(count)]


def highest(hessian, gradient, rho):
    """The maximum of gᵀε + ½ εᵀHε over ‖ε‖ ≤ ρ, for g in general position: (μ − H)ε = g, ‖ε‖ = ρ, μ above all of H."""
    values, vectors = numpy.linalg.eigh(hessian)
    along = vectors.T @ gradient

    def length(mu):
        return numpy.linalg.norm(along / (mu - values)) - rho

    mu = brentq(length, values[-1] + 1e-9, values[-1] + numpy.linalg.norm(gradient) / rho + 1)
    eps = vectors @ (along / (mu - values))
    return gradient @ eps + eps @ hessian @ eps / 2


# Closed forms


def test_the_eigenvalues_of_a_quadratic():
    """Sees eigenvalues that are the largest in size and not the largest, an order upside down, or wrong residuals."""
    hessian = symmetric(12)
    found = eigenvalues(quadratic(hessian, numpy.ones(12), [1.0] * 12), 3)
    assert found.values == pytest.approx(numpy.linalg.eigvalsh(hessian)[::-1][:3], rel=1e-3)
    assert max(found.residuals) < 1e-2 * found.values[0]


def test_a_flat_and_a_linear_loss():
    """Sees a Hessian of zeros that is an error, as it is to ARPACK, or a first derivative that does not depend on θ."""
    objective = quadratic(numpy.zeros((4, 4)), [1.0, 2.0, 3.0, 4.0], [0.0] * 4)
    assert eigenvalues(objective, 2).values == [0.0, 0.0]
    assert trace(objective, 2).mean == 0
    torch.manual_seed(0)
    linear = Objective(nn.Linear(3, 1), lambda out, y: (out[:, 0] * y).mean(), [(torch.randn(4, 3), torch.randn(4))])
    assert eigenvalues(linear, 1).values == [0.0]


def test_the_trace_and_its_standard_error():
    """Sees a biased trace, or a standard error that is the standard deviation, or too small by what it claims."""
    hessian = symmetric(12)
    objective = quadratic(hessian, numpy.zeros(12), [0.0] * 12)
    off = hessian - numpy.diag(numpy.diag(hessian))
    found = trace(objective, 400)
    assert found.standard_error == pytest.approx(math.sqrt(2 * (off**2).sum() / 400), rel=0.15)  # Hutchinson's variance
    assert abs(found.mean - numpy.trace(hessian)) < 4 * found.standard_error


@pytest.mark.parametrize("rho", [0.1, 1.0, 5.0])
def test_the_sharpness_of_a_quadratic(rho):
    """Sees an ascent that leaves the ball, ends inside it, or stays on the first gradient."""
    hessian = symmetric(6) @ symmetric(6)
    slope, theta = numpy.arange(6) / 6, numpy.linspace(-1, 1, 6)
    found = sharpness(quadratic(hessian, slope, theta.tolist()), rho, steps=200)
    assert found.value == pytest.approx(highest(hessian, hessian @ theta + slope, rho), rel=1e-4)
    assert len(found.rises) == 201


def test_the_sharpness_of_a_saddle_and_of_a_minimum():
    """Sees an ascent that does not begin where the gradient is 0."""
    objective = quadratic(numpy.diag([4.0, 1.0, -3.0]), numpy.zeros(3), [0.0] * 3)
    assert sharpness(objective, 0.5, steps=100).value == pytest.approx(4 * 0.5**2 / 2)
    assert sharpness(quadratic(-numpy.eye(3), numpy.zeros(3), [0.0] * 3), 0.5).value == 0


def test_an_ascent_that_is_not_done():
    """Sees an ascent that is cut short and believed, or one that has arrived and is not."""
    objective = quadratic(numpy.diag([4.0, 3.0] + [2.0] * 30), numpy.full(32, 1e-6), [0.0] * 32)
    assert sharpness(objective, 1.0, steps=4).still_rising
    assert not sharpness(objective, 1.0, steps=300).still_rising


def test_the_average_sharpness_of_a_quadratic():
    """Sees ε of another length than ρ, a slope that is not taken out, or a standard error that is none."""
    hessian = symmetric(12)
    found = average_sharpness(quadratic(hessian, 100 * numpy.ones(12), [1.0] * 12), 0.3, directions=400)
    assert abs(found.mean - 0.3**2 * numpy.trace(hessian) / 24) < 4 * found.standard_error
    assert found.standard_error < 0.3**2 * numpy.linalg.norm(hessian) / 12 / math.sqrt(400)


def test_softmax_regression():
    """Sees another Hessian than the known one of linear softmax regression, or wrongly weighted batches."""
    model = nn.Linear(6, 3, bias=False).double()
    data = batches()
    x = torch.cat([x for x, _ in data])
    p = model(x).softmax(1).detach()
    known = sum(
        torch.kron(torch.diag(p[i]) - torch.outer(p[i], p[i]), torch.outer(x[i], x[i])) for i in range(len(x))
    ) / len(x)
    objective = Objective(model, cross_entropy, data)
    columns = [objective.product(column) for column in torch.eye(18, dtype=torch.float64)]
    torch.testing.assert_close(torch.stack(columns), known)
    assert eigenvalues(objective, 3).values == pytest.approx(
        torch.linalg.eigvalsh(known).flip(0)[:3].tolist(), rel=1e-3
    )


# Other ways to the same numbers


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # which torch.func brings in
def test_against_the_dense_hessian():
    """Sees products in which the order of the parameters, or a block between two of them, is wrong."""
    model, data = network(nn.Tanh), batches()
    x, y = torch.cat([x for x, _ in data]), torch.cat([y for _, y in data])
    names, weights = zip(*model.named_parameters(), strict=True)

    def loss(flat):
        parts = flat.split([weight.numel() for weight in weights])
        named = {name: one.view_as(weight) for name, one, weight in zip(names, parts, weights, strict=True)}
        return cross_entropy(torch.func.functional_call(model, named, (x,)), y)

    at = torch.cat([weight.detach().flatten() for weight in weights])
    dense = torch.func.jacrev(torch.func.grad(loss))(at)  # torch.func.hessian scripts, which Python 3.14 warns of
    objective = Objective(model, cross_entropy, data)
    vector = torch.randn_like(at)
    torch.testing.assert_close(objective.product(vector), dense @ vector)
    value, gradient = objective.gradient(0.1 * vector)
    torch.testing.assert_close(gradient, torch.func.grad(loss)(at + 0.1 * vector))
    assert value == pytest.approx(float(loss(at + 0.1 * vector)))
    assert eigenvalues(objective, 2).values == pytest.approx(
        torch.linalg.eigvalsh(dense).flip(0)[:2].tolist(), rel=1e-3
    )


def test_against_another_library():
    """Sees eigenvalues or a trace other than those of pytorch-hessian-eigenthings."""
    other = pytest.importorskip("hessian_eigenthings")
    model, data = network(nn.Tanh), [(x[:5], y[:5]) for x, y in batches()]  # it weighs batches equally
    operator = other.HessianOperator(model, data, other.supervised_loss(cross_entropy))
    objective = Objective(model, cross_entropy, data)
    theirs = other.lanczos(operator, k=3, max_iter=60, reorthogonalize=True, which="LA", seed=0).eigenvalues
    assert eigenvalues(objective, 3).values == pytest.approx(sorted(theirs.tolist(), reverse=True), rel=2e-3)
    exact = sum(float(operator.matvec(one) @ one) for one in torch.eye(objective.size, dtype=torch.float64))
    found = trace(objective, 200)
    assert abs(found.mean - exact) < 4 * found.standard_error


def test_attention():
    """Sees attention that has no second derivative as it is computed by default."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    objective = Objective(
        layer, lambda out, y: (out.mean(1)[:, 0] - y).square().mean(), [(torch.randn(4, 3, 8), torch.ones(4))]
    )
    along = direction(objective)
    along, h = along / along.norm(), 1e-2
    slopes = [objective.gradient(side * h * along)[1] for side in (1, -1)]
    torch.testing.assert_close(objective.product(along), (slopes[0] - slopes[1]) / (2 * h), rtol=0.01, atol=1e-3)


# Rescaling


def rescaled(model, factor):
    """Return the same function with other weights: ReLU(az) = a ReLU(z)."""
    twin = network()
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        twin[0].weight.mul_(factor)
        twin[0].bias.mul_(factor)
        twin[2].weight.div_(factor)
    return twin


def test_rescaled_layers():
    """Sees an adaptive measure that changes where two ReLU layers are rescaled, or a plain one that does not."""
    model, settings = network(), Settings(points=5, directions=4, vectors=10)
    one, two = (measure(Objective(net, cross_entropy, batches()), settings) for net in (model, rescaled(model, 7.0)))
    assert one["loss"] == pytest.approx(two["loss"])
    for a, b in zip(one["sharpness"], two["sharpness"], strict=True):
        same = pytest.approx(a["worst"]["value"], rel=1e-6), pytest.approx(a["average"]["mean"], rel=1e-6)
        if a["adaptive"]:
            assert (b["worst"]["value"], b["average"]["mean"]) == same
        else:
            assert b["worst"]["value"] > 1.5 * a["worst"]["value"]
            assert b["average"]["mean"] > 1.5 * a["average"]["mean"]
    assert two["eigenvalues"]["values"][0] > 2 * one["eigenvalues"]["values"][0]
    assert two["trace"]["mean"] > 2 * one["trace"]["mean"]


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_ball(adaptive):
    """Sees an adaptive ε that is longer than ρ in units of the weights, or that moves a weight of 0."""
    model = network()
    model[2].weight.data[0, 0] = 0.0
    objective = Objective(model, cross_entropy, batches())
    before, original, lengths = objective.vector(), objective.gradient, []

    def watched(eps=None):
        lengths.append(float((eps / before.abs() if adaptive else eps)[before != 0].norm()))
        assert not adaptive or not eps[before == 0].any()
        return original(eps)

    objective.gradient = watched
    sharpness(objective, 0.3, adaptive=adaptive)
    assert lengths[1:] == pytest.approx([0.3] * (len(lengths) - 1))


# Slices


def test_filters():
    """Sees filters of another length than the network's, or biases and BatchNorm that move."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 2))
    objective = Objective(model, cross_entropy, [(torch.randn(4, 2, 3, 3), torch.tensor([0, 1, 0, 1]))])
    parts = objective.split(direction(objective, 3))
    for part, weight in zip(parts, model.parameters(), strict=True):
        if weight.dim() > 1:
            torch.testing.assert_close(part.flatten(1).norm(dim=1), weight.detach().flatten(1).norm(dim=1))
        else:
            assert not part.any()
    assert not torch.equal(direction(objective, 3), direction(objective, 4))


def test_one_scale():
    """Sees networks that are cut along different directions, or a surface that is transposed, or without the slice."""
    model = network()
    objectives = [Objective(net, cross_entropy, batches()) for net in (model, rescaled(model, 7.0))]
    at = [-1.0, -0.5, 0.0, 0.5, 1.0]
    one, two = (loss_slice(objective, at, seed=5) for objective in objectives)
    assert one == pytest.approx(two)
    surface = loss_surface(objectives[0], at, seed=5)
    assert surface[2] == pytest.approx(one)
    assert [row[2] for row in surface] == pytest.approx(loss_slice(objectives[0], at, seed=6))


# What comes back, and what is refused


def test_nothing_is_left_behind():
    """Sees weights that moved, gradients that appeared, another mode of a module, or statistics that were updated."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 3))
    model[0].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = [(x.float(), y) for x, y in batches()]
    with torch.no_grad():  # as within trial.evaluating
        measure(Objective(model, cross_entropy, data), Settings(points=3, directions=2, vectors=2, ascent_steps=2))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert [module.training for module in model] == [False, True, True, True]


class Own(nn.Sequential):
    """A container of one's own: torch 2.6 compiles none of its own in place."""

    def forward(self, x):
        return super().forward(x)


@pytest.mark.parametrize("way", ["in place", "around"])
def test_compiled(way):
    """Sees a compiled network that cannot be differentiated twice, or one that is compiled no more afterwards."""
    model = Own(*network())
    known = trace(Objective(model, cross_entropy, batches()), 4)
    compiled = []

    def backend(graph, _):
        compiled.append(graph)
        return graph.forward

    found = torch.compile(model, backend=backend) if way == "around" else model
    if way == "in place":
        model.compile(backend=backend)
    assert trace(Objective(found, cross_entropy, batches()), 4).mean == pytest.approx(known.mean)
    assert not compiled
    found(batches()[0][0])
    assert compiled


def test_precision():
    """Sees losses whose differences are rounded to TF32, or a setting of torch's that stays changed."""
    seen = set()

    def loss(output, y):
        seen.add(torch.backends.cudnn.allow_tf32)
        return cross_entropy(output, y)

    before = torch.backends.cudnn.allow_tf32
    objective = Objective(network(), loss, batches())
    sharpness(objective, 0.1, steps=2)
    trace(objective, 2)
    assert seen == {False}
    assert torch.backends.cudnn.allow_tf32 is before is True


def test_a_loss_that_raises():
    """Sees weights that stay moved where the loss fails in the middle."""
    model, calls = network(), []

    def loss(output, y):
        calls.append(1)
        if len(calls) > 20:
            raise RuntimeError("no more")
        return cross_entropy(output, y)

    objective = Objective(model, loss, batches())
    before = objective.vector()
    with pytest.raises(RuntimeError, match="no more"):
        sharpness(objective, 1.0, steps=50)
    assert torch.equal(objective.vector(), before)
    assert model.training


def test_examples():
    """Sees more or other examples than were asked for, or batches that count equally whatever their sizes."""
    model, data = network(), batches()
    x, y = (torch.cat(parts)[:13] for parts in zip(*data, strict=True))
    objective = Objective(model, cross_entropy, data, examples=13)
    assert objective.examples == 13
    assert objective.loss() == pytest.approx(float(cross_entropy(model(x), y).detach()))


def test_a_loss_that_explodes():
    """Sees a number that JSON has not, or an ascent that goes on from it."""
    objective = Objective(Weights([700.0]), lambda out, _: out.exp().mean(), [(torch.zeros(2), torch.zeros(2))])
    found = measure(objective, Settings(rho=(1.0, 20.0), adaptive_rho=(), eigenvalues=0, vectors=2, points=3))
    near, far = found["sharpness"]
    assert near["worst"]["value"] == pytest.approx(math.exp(701) - math.exp(700))
    assert far["worst"]["value"] is far["average"]["mean"] is None
    assert len(far["worst"]["rises"]) == 2
    json.dumps(found, allow_nan=False)


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(nn.functional.dropout(x, 0.5))


class Shuffled:
    def __iter__(self):
        x = torch.randn(8, 6)
        yield x, torch.zeros(8, dtype=torch.int64)


def frozen():
    model = nn.Linear(6, 3)
    model.requires_grad_(False)
    return model


PAIRS = [(torch.ones(8, 6), torch.zeros(8, dtype=torch.int64))]


@pytest.mark.parametrize(
    ("model", "loss", "data", "message"),
    [
        (Noisy(), cross_entropy, PAIRS, "model gives two losses for the same examples in evaluation mode"),
        (nn.Linear(6, 3), cross_entropy, Shuffled(), "data differ from one pass over them to the next"),
        (nn.Linear(6, 3), cross_entropy, iter(PAIRS), "data can be iterated over only once"),
        (nn.Linear(6, 3), cross_entropy, [], "data are empty"),
        (nn.Linear(6, 3), cross_entropy, [torch.ones(8, 6)], "data give Tensor: give batches, pairs (x, y)"),
        (nn.Linear(6, 3), cross_entropy, [(torch.ones(8, 6), torch.ones(3))], "as many examples in x as in y"),
        (nn.Linear(6, 3), nn.CrossEntropyLoss(reduction="sum"), PAIRS, "loss is a sum over the examples of a batch"),
        (nn.Linear(6, 3), nn.CrossEntropyLoss(reduction="none"), PAIRS, "loss gives (8,): let it return one number"),
        (nn.Linear(6, 3), lambda out, y: float("nan") * out.mean(), PAIRS, "the training has diverged"),
        (frozen(), cross_entropy, PAIRS, "model has no weights that require gradients"),
        (nn.Linear(6, 3).bfloat16(), cross_entropy, PAIRS, "weights of torch.bfloat16 on cpu: bring it to"),
    ],
)
def test_refused(model, loss, data, message):
    """Sees a measure of noise, of a sum, or of nothing, in place of a sentence that says what is wrong."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Objective(model, loss, data)
    assert message in str(caught.value)


@pytest.mark.parametrize("place", ["first", "last"])
def test_no_second_derivative(place):
    """Sees a layer that cannot be differentiated twice, which torch leaves out of the Hessian without a word."""

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.square()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, grad):
            return grad * 2 * ctx.saved_tensors[0]

    def loss(out, y):
        return Once.apply(out).mean() if place == "last" else Once.apply(out).square().mean()

    torch.manual_seed(0)
    objective = Objective(nn.Linear(2, 1), loss, [(torch.randn(2, 2), torch.ones(2))])
    for _ in range(2):  # the first refusal does not count as a check that was passed
        with pytest.raises(ValueError, match="model cannot be differentiated twice"):
            trace(objective, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda o: eigenvalues(o, 24), "eigenvalues = 24 is out of range: give 0 to"),
        (lambda o: trace(o, 1), "vectors = 1 is out of range"),
        (lambda o: sharpness(o, 0.0), "rho = 0.0 is out of range"),
        (lambda o: sharpness(o, 0.1, steps=0), "steps = 0 is out of range"),
        (lambda o: average_sharpness(o, math.inf), "rho = inf is out of range"),
        (lambda o: average_sharpness(o, 0.1, directions=1), "directions = 1 is out of range"),
        (lambda o: Objective(o.model, mse_loss, PAIRS, examples=0), "examples = 0 is out of range"),
        (lambda _: Settings(rho=(0.1, -1.0)), "rho = 0.1 -1.0 is out of range"),
        (lambda _: Settings(points=4), "points = 4 is out of range"),
        (lambda o: sharpness(o, "0.1"), "rho = '0.1' is out of range: give a positive number"),
        (lambda o: eigenvalues(o, 1.5), "eigenvalues = 1.5 is not a whole number"),
        (lambda o: Objective(mse_loss, o.model, PAIRS), "model is a function, not a network"),
        (lambda o: Objective(o.model, "mse", PAIRS), "loss = 'mse' is not a function: give one of output and y"),
    ],
)
def test_out_of_range(call, message):
    """Sees arguments that give no measure taken without a word, or refused in Python's own words."""
    with pytest.raises((TypeError, ValueError)) as caught:
        call(Objective(nn.Linear(6, 3), cross_entropy, PAIRS))
    assert message in str(caught.value)
