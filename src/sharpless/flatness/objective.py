"""The loss as a function of the weights, on a fixed number of examples, in evaluation mode."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as nests

from sharpless.batches import part
from sharpless.displaced import displaced
from sharpless.flatness.checks import ONCE, check_losses, check_second_derivatives, has_python_functions
from sharpless.flatness.examples import frozen
from sharpless.options import check_network

__all__ = ["Objective", "Spent"]


@dataclass
class Spent:
    """The number of computations so far, each on all examples."""

    losses: int = 0
    gradients: int = 0
    products: int = 0  # of the Hessian with a vector, about four gradients each


class Objective:
    """The mean of a loss over the first examples of some data, as a function of the weights.

    The examples are kept in memory, on the device of the model. Before any measurement, two passes over the data must
    give the same examples, and two passes of the model the same losses. Otherwise dropout that is always on, shuffled
    data or random augmentation would turn every measure into noise. The weights are one vector, (P,): all parameters
    that require gradients, flattened and concatenated.

    >>> model = nn.Linear(3, 2)
    >>> data = [(torch.randn(4, 3), torch.tensor([0, 1, 1, 0])) for _ in range(5)]
    >>> objective = Objective(model, nn.functional.cross_entropy, data, examples=18)
    >>> objective.examples, objective.size
    (18, 8)
    >>> loss, gradient = objective.gradient()
    >>> objective.loss(-0.1 * gradient) < loss
    True

    Args:
        model: any network; it is used in evaluation mode.
        loss: a function of the model's output and y, a mean over the examples of a batch.
        data: batches, pairs (x, y), the same ones in each pass over them: a list, or a DataLoader that does not
            shuffle. x and y may be any nest of tensors that the model and the loss take.
        examples: how many to take, from the first one on; all, if there are fewer.

    Raises:
        TypeError: `model` is not a network, or `loss` is not a function.
        ValueError: an argument is out of range, or two passes disagree.
    """

    def __init__(
        self, model: nn.Module, loss: Callable[[Any, Any], Tensor], data: Iterable[Any], examples: int = 2000
    ) -> None:
        check_network(model)
        if not callable(loss):
            raise TypeError(f"loss = {loss!r} is not a function: give one of output and y, such as cross_entropy")
        if examples < 1:
            raise ValueError(f"examples = {examples} is out of range: give 1 or more")
        self.model = model
        self.weights: list[Tensor] = [weight for weight in model.parameters() if weight.requires_grad]
        if not self.weights:
            raise ValueError(
                "model has no weights that require gradients: set requires_grad = True for those to measure"
            )
        if any(hasattr(weight, "to_local") for weight in self.weights):
            raise ValueError("model is sharded over several devices: measure it whole, on one")
        kinds = {(weight.dtype, weight.device) for weight in self.weights}
        if len(kinds) > 1 or self.dtype not in {torch.float32, torch.float64}:
            found = " and ".join(sorted({f"{dtype} on {device}" for dtype, device in kinds}))
            raise ValueError(
                f"model has weights of {found}: bring it to one device and one precision, as with model.float()"
            )
        self._loss = loss
        self.spent, self.watch = Spent(), _unwatched
        held = frozen(data, examples)
        self._batches = [(size, nests.tree_map_only(Tensor, self._moved, pair)) for size, pair in held]
        self.examples = sum(size for size, _ in self._batches)
        """The number of examples in the mean."""
        check_losses(self.losses)
        self._is_checked = False

    @property
    def size(self) -> int:
        """The number P of weights."""
        return sum(weight.numel() for weight in self.weights)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return self.weights[0].dtype

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.weights[0].device

    def vector(self) -> Tensor:
        """Return a copy of the weights, (P,)."""
        return torch.cat([weight.detach().flatten() for weight in self.weights])

    def split(self, vector: Tensor) -> list[Tensor]:
        """Return the parts of a vector, (P,), in the shapes of the weights."""
        parts = torch.split(vector, [weight.numel() for weight in self.weights])
        return [part.view_as(weight) for part, weight in zip(parts, self.weights, strict=True)]

    @torch.no_grad()
    def losses(self, halves: bool = False) -> list[Tensor]:
        """Return the loss of each batch, or of the two halves of the first batch."""
        pairs = [pair for _, pair in self._batches]
        if halves:
            size, pair = self._batches[0]
            pairs = [part(pair, 0, size // 2), part(pair, size // 2, size)] if size > 1 else []
        with self._at(None):
            return [self._of(pair) for pair in pairs]

    @torch.no_grad()
    def loss(self, eps: Tensor | None = None) -> float:
        """Return L(θ + ε).

        Args:
            eps: ε, (P,); None for 0.
        """
        with self._at(eps):
            total = sum(size * float(self._of(pair)) for size, pair in self._batches)
        self._count("losses")
        return total / self.examples

    def gradient(self, eps: Tensor | None = None) -> tuple[float, Tensor]:
        """Return L(θ + ε) and its gradient there, (P,).

        Args:
            eps: ε, (P,); None for 0.
        """
        total, summed = 0.0, torch.zeros(self.size, dtype=self.dtype, device=self.device)
        with self._at(eps), torch.enable_grad():
            for size, pair in self._batches:
                loss = self._of(pair)
                found = torch.autograd.grad(loss, self.weights, allow_unused=True, materialize_grads=True)
                summed.add_(_flat(found), alpha=size / self.examples)
                total += size * float(loss.detach())
        self._count("gradients")
        return total / self.examples, summed

    def product(self, vector: Tensor) -> Tensor:
        """Return the product of the Hessian at θ with a vector, (P,), by differentiating twice, batch by batch.

        Torch's own operations raise an error if they lack a second derivative. But autograd functions written in Python
        may be missing from the Hessian without an error. If there are any, the first product is compared with a
        difference of gradients.

        Raises:
            ValueError: the model cannot be differentiated twice.
        """
        if not self._is_checked:
            with self._at(None), torch.enable_grad():
                self._is_checked = not has_python_functions(self._of(self._batches[0][1]))
        if not self._is_checked:
            self._is_checked = True  # for the products of the check itself
            try:
                check_second_derivatives(self)
            except ValueError:
                self._is_checked = False
                raise
        total = torch.zeros_like(vector)
        with self._at(None), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # only this one has second derivatives
            for size, pair in self._batches:
                total.add_(self._product_of(pair, self.split(vector)), alpha=size / self.examples)
        self._count("products")
        return total

    def _product_of(self, pair: Any, vector: list[Tensor]) -> Tensor:
        loss = self._of(pair)
        with _derivative_errors():
            first = torch.autograd.grad(
                loss, self.weights, create_graph=True, allow_unused=True, materialize_grads=True
            )
            curved = [(one, along) for one, along in zip(first, vector, strict=True) if one.requires_grad]
            if not curved:  # a loss that is linear in the weights
                return torch.zeros(self.size, dtype=self.dtype, device=self.device)
            gradients, directions = zip(*curved, strict=True)
            return _flat(
                torch.autograd.grad(gradients, self.weights, directions, allow_unused=True, materialize_grads=True)
            )

    def _of(self, pair: Any) -> Tensor:
        x, y = pair
        return self._loss(self.model(x), y)

    def _count(self, what: str) -> None:
        setattr(self.spent, what, getattr(self.spent, what) + 1)
        self.watch()

    @contextmanager
    def _at(self, eps: Tensor | None) -> Iterator[None]:
        """Within the block, put the model in evaluation mode and move its weights by ε."""
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        try:
            weights, moves = ([], []) if eps is None else (self.weights, self.split(eps))
            with _whole_float32(), _uncompiled(modes), displaced(weights, moves):
                yield
        finally:
            for module, training in modes.items():
                module.training = training

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(self.device)


def _unwatched() -> None:
    """Do nothing: the default of `watch`."""


@contextmanager
def _derivative_errors() -> Iterator[None]:
    """Turn the error of torch that it cannot differentiate twice into one sentence.

    Raises:
        ValueError: it cannot.
        RuntimeError: there is not enough memory for it.
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0][:200]
        if "memory" in reason:
            raise
        raise ValueError(f"model cannot be differentiated twice ({reason}): {ONCE}") from error


def _uncompiled(modules: Iterable[nn.Module]) -> AbstractContextManager[object]:
    """Return a block in which compiled modules run uncompiled, since torch.compile has no second derivatives."""
    compiled = any(hasattr(module, "_orig_mod") or module._compiled_call_impl is not None for module in modules)
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


@contextmanager
def _whole_float32() -> Iterator[None]:
    """Within the block, let GPUs compute convolutions in float32: the three digits of TF32 are too few here."""
    cudnn, before = torch.backends.cudnn, torch.backends.cudnn.allow_tf32
    cudnn.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32 = before


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])
