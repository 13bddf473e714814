"""Handwritten digits, a third of them mislabelled, with Accelerate.

pip install 'sharpless[lab,accelerate]'
python examples/hosts/accelerate_digits.py
"""

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from sharpless import GRST


def main(epochs: int = 20) -> float:
    """Train, and return the accuracy on digits that are labelled right."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    set_seed(0)
    x, y = (torch.tensor(array) for array in load_digits(return_X_y=True))
    x, noisy = x.float() / 16, torch.where(torch.rand(len(y)) < 0.3, torch.randint(10, y.shape), y)
    train = DataLoader(TensorDataset(x[:1152], noisy[:1152]), batch_size=32, shuffle=True, drop_last=True)

    model = nn.Sequential(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 10))
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    opt = GRST(base, p=0.5, rho=0.3, model=model)
    model, optimizer, train = accelerator.prepare(model, opt, train)
    scheduler = accelerator.prepare(torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(train) // 2))
    for _ in range(epochs):
        for batch in train:
            with accelerator.accumulate(model):
                for part_x, part_y in opt.passes(batch):  # the one added line
                    accelerator.backward(cross_entropy(model(part_x), part_y))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 5.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()

    print(opt.cost)
    model.eval()
    with torch.no_grad():
        return float((model(x[1200:]).argmax(1) == y[1200:]).float().mean())


if __name__ == "__main__":
    print(f"{main():.1%} of the test digits are right")
