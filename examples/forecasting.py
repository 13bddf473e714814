"""Long-term forecasting of several variables: attention over the variables and a linear layer, trained with Adam.

    sharpless compare examples/forecasting.py:train --data ETTh1.csv --rho 0.1 0.3 0.5 1.0

The data are a CSV file with a date in the first column and a variable in each other column, one row per hour, such as
ETTh1 (Zhou et al., 2021, github.com/zhouhaoyi/ETDataset): 12 months for training, 4 for validation and 4 for testing.
The network is like SAMformer (Ilbert et al., arXiv 2402.10198), whose attention trains well only with SAM.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, scaled_dot_product_attention

from sharpless.lab import task

MONTH = 30 * 24  # hours


class Forecaster(nn.Module):
    """Reversible instance normalization, one attention over the variables, and a linear layer over time."""

    def __init__(self, variables: int, past: int, horizon: int, width: int = 16) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(variables, 1)), nn.Parameter(torch.zeros(variables, 1))
        self.queries, self.keys, self.values = nn.Linear(past, width), nn.Linear(past, width), nn.Linear(past, past)
        self.head = nn.Linear(past, horizon)

    def forward(self, x: Tensor) -> Tensor:
        """Return the forecast (N, variables, horizon) that follows `x`, (N, variables, past)."""
        mean, std = x.mean(2, keepdim=True), (x.var(2, keepdim=True, correction=0) + 1e-5).sqrt()
        x = (x - mean) / std * self.scale + self.shift
        x = x + scaled_dot_product_attention(self.queries(x), self.keys(x), self.values(x))
        return (self.head(x) - self.shift) / self.scale * std + mean


@task(metric="MSE", goal="min")
def train(trial, data: str, horizon: int = 96, past: int = 512, epochs: int = 10, batch_size: int = 256) -> None:
    """Train on the first year.

    Args:
        trial: one run of a comparison.
        data: the path of the CSV file.
        horizon: number of predicted hours.
        past: number of input hours.
        epochs: epochs of plain training.
        batch_size: windows in a batch.
    """
    seen, validation, test = windows(data, past, horizon)
    torch.manual_seed(trial.seed)
    model = Forecaster(seen.shape[1], past, horizon)
    base = torch.optim.Adam(model.parameters(), lr=1e-3)
    epochs, steps = trial.epochs(epochs), len(seen) // batch_size
    opt = trial.optimizer(base, model=model, total_steps=epochs * steps, batch_size=batch_size, rho=0.5)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(base, epochs * steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(seen))[: steps * batch_size].split(batch_size):
            for x, y in opt.passes(seen[rows].split((past, horizon), 2)):
                mse_loss(model(x), y).backward()
            opt.step()
            opt.zero_grad()
            scheduler.step()
        with trial.evaluating(model):
            trial.report(validation=error(model, validation, past), test=error(model, test, past))


def windows(data: str, past: int, horizon: int) -> list[Tensor]:
    """Return windows (N, variables, past + horizon) of a standardized series for training, validation and testing.

    Raises:
        ValueError: the series is too short.
    """
    with open(data, encoding="utf-8") as file:
        variables = len(file.readline().split(","))
        series = np.loadtxt(file, delimiter=",", usecols=range(1, variables), dtype=np.float32, ndmin=2)
    first, second, end = 12 * MONTH, 16 * MONTH, 20 * MONTH
    if len(series) < end:
        raise ValueError(f"data = {data} has {len(series)} rows: give 20 months of hours, {end}")
    series = torch.from_numpy((series - series[:first].mean(0)) / series[:first].std(0))
    parts = series[:first], series[first - past : second], series[second - past : end]
    return [part.unfold(0, past + horizon, 1) for part in parts]


def error(model: nn.Module, data: Tensor, past: int) -> float:
    """Return the mean squared error over all windows."""
    batches = (part.tensor_split((past,), 2) for part in data.split(256))
    return float(sum(mse_loss(model(x), y, reduction="sum") for x, y in batches)) / data[..., past:].numel()
