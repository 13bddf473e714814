"""Handwritten digits, a third of them mislabelled, with composer.

pip install sharpless mosaicml scikit-learn
python examples/hosts/composer_digits.py
"""

import torch
from composer import Trainer
from composer.models import ComposerClassifier
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sharpless import GRST


class InClosures:
    """An optimizer for composer, whose closure runs all micro-batches and sums their losses for the log."""

    def step(self, closure=None):
        """Take a step, and log the loss at the unperturbed weights.

        Raises:
            RuntimeError: there is no closure, except for the steps without effect that checkpoints take.
        """
        if closure is None and any(group["lr"] for group in self.param_groups):
            raise RuntimeError("precision = amp_fp16 takes plain steps, without a closure: set amp_bf16 or fp32")
        losses = [] if closure else [None]
        for _ in self.passes() if closure else ():
            losses.append(closure(loss_dict={}) if self.perturbed else closure())
        super().step()
        return losses[0]


class SharpOptimizer(InClosures, GRST):
    """G-RST in composer. The same line works for SAM and RST."""


def main(epochs: int = 30) -> float:
    """Train, and return the accuracy on digits that are labelled right."""
    torch.manual_seed(0)
    x, y = (torch.tensor(array) for array in load_digits(return_X_y=True))
    x, noisy = x.float() / 16, torch.where(torch.rand(len(y)) < 0.3, torch.randint(10, y.shape), y)
    train = DataLoader(TensorDataset(x[:1200], noisy[:1200]), batch_size=64, shuffle=True, drop_last=True)
    network = nn.Sequential(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 10))
    model = ComposerClassifier(network, num_classes=10)
    opt = SharpOptimizer(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), p=0.5, rho=0.3, model=model)
    options = {"max_duration": f"{epochs}ep", "device": "cpu", "progress_bar": False, "log_to_console": False}
    Trainer(model=model, train_dataloader=train, optimizers=opt, device_train_microbatch_size=32, **options).fit()
    print(opt.cost)
    with torch.no_grad():
        return float((network.eval()(x[1200:]).argmax(1) == y[1200:]).float().mean())


if __name__ == "__main__":
    print(f"{main():.1%} of the test digits are right")
