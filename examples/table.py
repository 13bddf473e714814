"""A table: a small network, trained with AdamW on a data set of scikit-learn.

    sharpless compare examples/table.py:train --name diabetes --rho 0.1 0.3 1.0 3.0

The metric is accuracy for classes, and R² for `diabetes`.
"""

import torch
from sklearn import datasets
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from sharpless.lab import task

TABLES = {"breast_cancer": True, "wine": True, "iris": True, "diabetes": False}  # whether there are classes


@task(metric="score", unit="%", goal="max")
def train(trial, name: str = "breast_cancer", width: int = 64, epochs: int = 50, batch_size: int = 16) -> None:
    """Train on 70 % of the rows. The choice of hyperparameters validates on a quarter of them.

    Args:
        trial: one run of a comparison.
        name: breast_cancer, wine, iris or diabetes.
        width: units in each of the two hidden layers.
        epochs: epochs of plain training.
        batch_size: rows in a batch.

    Raises:
        ValueError: there is no such table.
    """
    if name not in TABLES:
        raise ValueError(f"name = {name} is unknown: choose from {', '.join(TABLES)}")
    classes, table = TABLES[name], getattr(datasets, f"load_{name}")()
    split = {"stratify": table.target if classes else None, "random_state": 0}
    x, test_x, y, test_y = train_test_split(table.data, table.target, test_size=0.3, **split)
    if trial.choosing:
        split = {"stratify": y if classes else None, "random_state": trial.seed}
        x, test_x, y, test_y = train_test_split(x, y, test_size=0.25, **split)
    scaler, mean, std = StandardScaler().fit(x), y.mean(), y.std()
    x, test_x = (torch.tensor(scaler.transform(part), dtype=torch.float32) for part in (x, test_x))
    y, test_y = (torch.tensor(part if classes else (part - mean)[:, None] / std).float() for part in (y, test_y))
    y = y.long() if classes else y

    torch.manual_seed(trial.seed)
    outputs = int(y.max()) + 1 if classes else 1
    model = nn.Sequential(
        nn.Linear(x.shape[1], width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
    )
    base = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    epochs, steps = trial.epochs(epochs), len(y) // batch_size
    opt = trial.optimizer(base, model=model, total_steps=epochs * steps, batch_size=batch_size, rho=0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(base, epochs * steps)
    loss = cross_entropy if classes else mse_loss
    for _ in range(epochs):
        for rows in torch.randperm(len(y))[: steps * batch_size].split(batch_size):
            for part_x, part_y in opt.passes((x[rows], y[rows])):
                loss(model(part_x), part_y).backward()
            opt.step()
            opt.zero_grad()
            scheduler.step()
        with trial.evaluating(model):
            guessed = model(test_x).argmax(1) if classes else model(test_x)
            score = (accuracy_score if classes else r2_score)(test_y, guessed)
            trial.report(**{"validation" if trial.choosing else "test": 100 * score})
