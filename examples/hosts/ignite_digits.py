"""Handwritten digits, a third of them mislabelled, with ignite.

pip install sharpless pytorch-ignite scikit-learn && python examples/hosts/ignite_digits.py
"""

from contextlib import nullcontext
from functools import partial

import torch
from ignite.engine import Engine, Events, create_supervised_evaluator
from ignite.metrics import Accuracy
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader, TensorDataset

from sharpless import GRST


def sharp_update(engine, batch, model, opt, loss_fn, amp, scaler, clip, accumulate=1):
    """Take a sharpness-aware step every `accumulate` batches, and return the loss at unperturbed weights."""
    model.train()
    clean, last = 0.0, engine.state.iteration % accumulate == 0
    with nullcontext() if last or not hasattr(model, "no_sync") else model.no_sync():  # of DistributedDataParallel
        for x, y in opt.passes(batch):
            with amp:
                loss = loss_fn(model(x), y)
            scaler.scale(loss / accumulate).backward()
            if not opt.perturbed:
                clean += loss.item() * len(x) / len(batch[0])
    if last:
        scaler.unscale_(opt)
        clip(model.parameters())
        scaler.step(opt)
        scaler.update()
        opt.zero_grad()
    return clean


def main(epochs: int = 30) -> float:
    """Train, and return the accuracy on digits that are labelled right."""
    torch.manual_seed(0)
    x, y = (torch.tensor(array) for array in load_digits(return_X_y=True))
    x, noisy = x.float() / 16, torch.where(torch.rand(len(y)) < 0.3, torch.randint(10, y.shape), y)
    train = DataLoader(TensorDataset(x[:1200], noisy[:1200]), batch_size=64, shuffle=True, drop_last=True)
    model = nn.Sequential(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 10))
    opt = GRST(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), p=0.5, rho=0.3, model=model)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, epochs * len(train))
    clip, scaler = partial(clip_grad_norm_, max_norm=5.0), torch.amp.GradScaler("cpu", enabled=False)
    trainer = Engine(lambda *now: sharp_update(*now, model, opt, nn.CrossEntropyLoss(), nullcontext(), scaler, clip))
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: scheduler.step())
    trainer.run(train, max_epochs=epochs)
    print(opt.cost)
    tester = create_supervised_evaluator(model, {"accuracy": Accuracy()})
    return tester.run([(x[1200:], y[1200:])]).metrics["accuracy"]


if __name__ == "__main__":
    print(f"{main():.1%} of the test digits are right")
