"""Handwritten digits, a third of them mislabelled, with skorch.

pip install sharpless skorch scikit-learn && python examples/hosts/skorch_digits.py
"""

import torch
from sklearn.datasets import load_digits
from skorch import NeuralNetClassifier
from skorch.callbacks import GradientNormClipping, LRScheduler
from torch import nn

from sharpless import GRST


class SharpClassifier(NeuralNetClassifier):
    """A classifier of skorch with sharpness-aware steps. NeuralNet and NeuralNetRegressor need the same methods."""

    def wrap_optimizer(self, base):
        """Return G-RST around the optimizer of skorch."""
        return GRST(base, p=0.5, rho=0.3, model=self.module_)

    def initialize_optimizer(self, *args, **kwargs):
        """Make the optimizer."""
        super().initialize_optimizer(*args, **kwargs)
        self.optimizer_ = self.wrap_optimizer(self.optimizer_)
        return self

    def train_step(self, batch, **fit_params):
        """Take a step, and return loss and outputs at the unperturbed weights."""
        opt, loss, outputs = getattr(self.optimizer_, "optimizer", self.optimizer_), 0.0, []  # within Accelerate's
        for part in opt.passes(batch):
            step = self.train_step_single(part, **fit_params)
            if not opt.perturbed:
                loss += step["loss"].detach() * len(part[0]) / len(batch[0])
                outputs.append(step["y_pred"])
        weights = list(self.get_all_learnable_params())
        self.notify("on_grad_computed", named_parameters=weights, batch=batch, training=True)  # e.g. clipping
        self.optimizer_.step()
        self.optimizer_.zero_grad()
        return {"loss": loss, "y_pred": torch.cat(outputs)}


def main(epochs: int = 30) -> float:
    """Train, and return the accuracy on digits that are labelled right."""
    torch.manual_seed(0)
    x, y = (torch.tensor(array) for array in load_digits(return_X_y=True))
    x, noisy = x.float() / 16, torch.where(torch.rand(len(y)) < 0.3, torch.randint(10, y.shape), y)
    network = nn.Sequential(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 10))
    callbacks = [GradientNormClipping(5.0), LRScheduler("CosineAnnealingLR", T_max=epochs)]
    options = {"lr": 0.1, "optimizer__momentum": 0.9, "max_epochs": epochs, "batch_size": 64, "train_split": None}
    net = SharpClassifier(network, criterion=nn.CrossEntropyLoss, callbacks=callbacks, verbose=0, **options)
    net.fit(x[:1200], noisy[:1200])
    print(net.optimizer_.cost)
    return net.score(x[1200:], y[1200:].numpy())


if __name__ == "__main__":
    print(f"{main():.1%} of the test digits are right")
