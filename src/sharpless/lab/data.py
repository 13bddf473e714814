"""The data of a task."""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

__all__ = ["Data", "digits"]


@dataclass(frozen=True)
class Data:
    """Training examples, whose labels may be noisy, and test examples, whose labels are clean."""

    train_x: Tensor  # (1297, 1, 8, 8) for the digits, fewer where some are held out
    train_y: Tensor
    test_x: Tensor  # (500, 1, 8, 8)
    test_y: Tensor  # (500,)
    classes: int


def digits(noise: float, seed: int, held_out: float = 0.0) -> Data:
    """Return scikit-learn's 8×8 digits with a share of the training labels replaced at random.

    With `held_out`, that share of the training examples, noisy labels included, stands in the place of the test set,
    which is not looked at: for choosing hyperparameters.

    The split is the same for all seeds. A replaced label is drawn from all ten classes, so that a tenth of
    them stays right. The seed decides which labels are replaced, and by what.

    >>> clean, noisy = digits(noise=0.0, seed=0), digits(noise=0.5, seed=0)
    >>> round(float((clean.train_y != noisy.train_y).float().mean()), 2)
    0.45
    """
    images, labels = load_digits(return_X_y=True)
    images = (images / 16.0).astype(np.float32).reshape(-1, 1, 8, 8)
    train_x, test_x, train_y, test_y = train_test_split(images, labels, test_size=500, random_state=0, stratify=labels)
    generator = np.random.default_rng(seed)
    replaced = generator.permutation(len(train_y))[: round(noise * len(train_y))]
    train_y[replaced] = generator.integers(0, 10, len(replaced))
    if held_out:
        train_x, test_x, train_y, test_y = train_test_split(train_x, train_y, test_size=held_out, random_state=seed)
    tensor = torch.from_numpy
    return Data(tensor(train_x), tensor(train_y), tensor(test_x), tensor(test_y), classes=10)
