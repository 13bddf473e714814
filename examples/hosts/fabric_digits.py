"""Handwritten digits, a third of them mislabelled, with Fabric.

pip install 'sharpless[lab,lightning]'
python examples/hosts/fabric_digits.py
"""

import torch
from lightning.fabric import Fabric
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from sharpless import GRST


def main(epochs: int = 20) -> float:
    """Train, and return the accuracy on digits that are labelled right."""
    fabric = Fabric(accelerator="cpu", precision="bf16-mixed")
    fabric.seed_everything(0)
    x, y = (torch.tensor(array) for array in load_digits(return_X_y=True))
    x, noisy = x.float() / 16, torch.where(torch.rand(len(y)) < 0.3, torch.randint(10, y.shape), y)
    train = DataLoader(TensorDataset(x[:1200], noisy[:1200]), batch_size=64, shuffle=True, drop_last=True)

    model = nn.Sequential(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 10))
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model, opt = fabric.setup(model, GRST(base, p=0.5, rho=0.3, model=model))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, epochs)
    for _ in range(epochs):
        for batch in fabric.setup_dataloaders(train):
            for part_x, part_y in opt.passes(batch):  # the one added line
                fabric.backward(cross_entropy(model(part_x), part_y))
            fabric.clip_gradients(model, opt, max_norm=5.0)
            opt.step()
            opt.zero_grad()
        scheduler.step()

    print(opt.cost)
    model.eval()
    with torch.no_grad():
        return float((model(x[1200:]).argmax(1) == y[1200:]).float().mean())


if __name__ == "__main__":
    print(f"{main():.1%} of the test digits are right")
