"""Handwritten digits, a third of them mislabelled, with ignite.

pip install sharpless pytorch-ignite scikit-learn
python examples/hosts/ignite_digits.py
"""

import torch
from ignite.engine import Engine, Events, create_supervised_evaluator
from ignite.metrics import Accuracy
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sharpless import GRST


def sharp_update(model, opt, loss_fn, accumulate=1, clip=None):
    """Return the update function of an Engine with sharpness-aware steps. It returns the unperturbed loss."""

    def update(engine, batch):
        model.train()
        clean = 0.0
        for x, y in opt.passes(batch):
            loss = loss_fn(model(x), y)
            (loss / accumulate).backward()
            if not opt.perturbed:
                clean += loss.item() * len(x) / len(batch[0])
        if engine.state.iteration % accumulate == 0:
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            opt.step()
            opt.zero_grad()
        return clean

    return update


def main(epochs: int = 30) -> float:
    """Train, and return the accuracy on digits that are labelled right."""
    torch.manual_seed(0)
    x, y = (torch.tensor(array) for array in load_digits(return_X_y=True))
    x, noisy = x.float() / 16, torch.where(torch.rand(len(y)) < 0.3, torch.randint(10, y.shape), y)
    train = DataLoader(TensorDataset(x[:1200], noisy[:1200]), batch_size=64, shuffle=True, drop_last=True)
    model = nn.Sequential(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 10))
    opt = GRST(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), p=0.5, rho=0.3, model=model)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, epochs * len(train))
    trainer = Engine(sharp_update(model, opt, nn.CrossEntropyLoss(), clip=5.0))
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: scheduler.step())
    trainer.run(train, max_epochs=epochs)
    print(opt.cost)
    tester = create_supervised_evaluator(model, {"accuracy": Accuracy()})
    return tester.run(DataLoader(TensorDataset(x[1200:], y[1200:]), batch_size=256)).metrics["accuracy"]


if __name__ == "__main__":
    print(f"{main():.1%} of the test digits are right")
