"""Handwritten digits, a third of them mislabelled, with DeepSpeed.

pip install sharpless deepspeed scikit-learn
torchrun --nproc-per-node 1 examples/hosts/deepspeed_digits.py
"""

import deepspeed
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from sharpless import GRST

CONFIG = {
    "train_micro_batch_size_per_gpu": 32,
    "gradient_accumulation_steps": 2,
    "gradient_clipping": 5.0,
    "zero_optimization": {"stage": 0},
    "torch_autocast": {"enabled": True, "dtype": "bfloat16"},
}


def main(epochs: int = 20) -> float:
    """Train, and return the accuracy on digits that are labelled right."""
    torch.manual_seed(0)
    x, y = (torch.tensor(array) for array in load_digits(return_X_y=True))
    x, noisy = x.float() / 16, torch.where(torch.rand(len(y)) < 0.3, torch.randint(10, y.shape), y)
    train = DataLoader(TensorDataset(x[:1200], noisy[:1200]), batch_size=32, shuffle=True, drop_last=True)

    model = nn.Sequential(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 10))
    opt = GRST(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), p=0.5, rho=0.3, model=model)
    engine, *_ = deepspeed.initialize(model=model, optimizer=opt, config=CONFIG)
    for _ in range(epochs):
        for batch in train:
            with engine.no_sync():
                for part_x, part_y in opt.passes(batch):  # the one added line
                    engine.backward(cross_entropy(engine(part_x).float(), part_y))
            engine.allreduce_gradients()
            engine.step()

    print(opt.cost)
    model.eval()
    with torch.no_grad():
        return float((model(x[1200:]).argmax(1) == y[1200:]).float().mean())


if __name__ == "__main__":
    print(f"{main():.1%} of the test digits are right")
