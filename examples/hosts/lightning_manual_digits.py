"""Handwritten digits, a third of them mislabelled, in Lightning's manual optimization.

pip install 'sharpless[lab,lightning]' && python examples/hosts/lightning_manual_digits.py
"""

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from sharpless import GRST


class Digits(pl.LightningModule):
    """A network for images of 8 × 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net = nn.Sequential(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 10))

    def training_step(self, batch):
        opt = self.optimizers()
        for x, y in opt.passes(batch):  # the one added line
            loss = cross_entropy(self.net(x), y)
            self.manual_backward(loss)
            if not opt.perturbed:
                self.log("loss", loss, prog_bar=True)
        self.clip_gradients(opt, gradient_clip_val=5.0)  # the gradients of the whole step
        opt.step()
        opt.zero_grad()

    def validation_step(self, batch):
        x, y = batch
        self.log("accuracy", (self.net(x).argmax(1) == y).float().mean(), prog_bar=True)

    def configure_optimizers(self):
        base = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        return GRST(base, p=0.5, rho=0.3, model=self)


def main(epochs: int = 20) -> float:
    """Train, and return the accuracy on digits that are labelled right."""
    pl.seed_everything(0)
    x, y = (torch.tensor(array) for array in load_digits(return_X_y=True))
    x, noisy = x.float() / 16, torch.where(torch.rand(len(y)) < 0.3, torch.randint(10, y.shape), y)
    train = DataLoader(TensorDataset(x[:1200], noisy[:1200]), batch_size=64, shuffle=True, drop_last=True)
    test = DataLoader(TensorDataset(x[1200:], y[1200:]), batch_size=597)
    options = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", **options)
    trainer.fit(Digits(), train, test)
    print(trainer.optimizers[0].cost)
    return float(trainer.callback_metrics["accuracy"])


if __name__ == "__main__":
    print(f"{main():.1%} of the test digits are right")
