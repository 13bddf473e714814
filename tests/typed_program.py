"""What a user may write, fully typed: `tests/test_package.py` lets type checkers read it, and runs it."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from sharpless import GRST, RST, SAM, Cost, ascent, part_noise, schedules, step_seconds
from sharpless.cost import BudgetError, Plan, expected_cost, plan
from sharpless.flatness import Objective, eigenvalues, sharpness
from sharpless.lab import Trial, compare, task

Batch = tuple[Tensor, Tensor]


def batches(count: int) -> Iterator[Batch]:
    """Yield examples and targets."""
    for _ in range(count):
        yield torch.randn(16, 3), torch.randn(16, 1)


def train(opt: RST, model: nn.Module, count: int = 4) -> Cost:
    """Return what a training has spent."""
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, count)
    for batch in batches(count):
        for x, y in opt.passes(batch):
            loss: Tensor = nn.functional.mse_loss(model(x), y)
            torch.autograd.backward(loss)
        opt.step()
        opt.zero_grad()
        scheduler.step()
    return opt.cost


def of_every_kind() -> list[Cost]:
    """Return what each optimizer spends, with options of many types."""
    model = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 1))

    def sgd() -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1)

    def run(batch: Batch) -> None:
        torch.autograd.backward(nn.functional.mse_loss(model(batch[0]), batch[1]))

    late = schedules.Warmup(0.1, schedules.Piecewise((0, 1), (0.75,)))
    chosen: list[schedules.Schedule] = [late, schedules.parse("linear:0,1"), schedules.schedule(lambda u: u / 2)]
    seconds: dict[int, float] = step_seconds(run, next(batches(1)), model, repeats=1)
    prices = {m: 1.0 + m / 16 for m in seconds}
    noise: dict[int, float] = part_noise(run, next(batches(1)), model, rho=0.05)
    optimizers: list[RST] = [
        *(RST(sgd(), p=p, rho=0.05, total_steps=4, model=model) for p in chosen),
        RST(sgd(), p=lambda progress: progress, total_steps=4, systematic=True),
        GRST(sgd(), p=0.5, rho=0.05, model=model, batch_fraction=0.5),
        GRST.for_budget(sgd(), 1.3, batch_size=16, rho=0.05, model=model),
        GRST.for_budget(sgd(), 1.5, batch_size=16, rho=0.05, model=model, seconds=prices, noise=noise),
        SAM(sgd(), rho=0.5, ascent=ascent.asam),
        SAM([sgd()], rho=0.05, ascent=ascent.Friendly(), only=ascent.normalization_parameters(model)),
    ]
    return [train(opt, model) for opt in optimizers]


def with_closure(model: nn.Module, opt: SAM) -> float:
    """Return the loss of a step with a closure."""
    x, y = next(batches(1))

    def closure() -> Tensor:
        opt.zero_grad()
        loss: Tensor = nn.functional.mse_loss(model(x), y)
        torch.autograd.backward(loss)
        return loss

    return float(opt.step(closure).detach())


def planned(budget: float) -> Plan:
    """Return the plan of a budget, or the cheapest one."""
    try:
        return plan(budget, batch_size=64, smallest_part=32)
    except BudgetError as error:
        return error.cheapest


def flatness(model: nn.Module) -> tuple[float, list[float]]:
    """Return the sharpness of a minimum, and the largest eigenvalue of the Hessian."""
    objective = Objective(model, nn.functional.mse_loss, list(batches(2)))
    return sharpness(objective, rho=0.05).value, eigenvalues(objective, 1).values


@task(metric="error", goal="min")
def own_task(trial: Trial, width: int = 4, folder: Path | None = None) -> None:
    """A task of one's own, for `sharpless compare`."""
    model = nn.Sequential(nn.Linear(3, width), nn.Linear(width, 1))
    opt = trial.optimizer(torch.optim.SGD(model.parameters(), lr=0.1), model=model)
    for _ in range(trial.epochs(2)):
        for x, y in opt.passes(next(batches(1))):
            torch.autograd.backward(nn.functional.mse_loss(model(x), y))
        opt.step()
        opt.zero_grad()
    with trial.evaluating(model):
        x, y = next(batches(1))
        trial.report(test=nn.functional.mse_loss(model(x), y))


def compared(folder: Path) -> list[float]:
    """Return the costs of two methods on the task."""
    summary = compare(own_task, ["sgd", "sam"], seeds=2, options={"width": 8}, folder=folder)
    return [row["cost"] for row in summary["methods"]]


if __name__ == "__main__":
    print(planned(1.1).p, expected_cost("linear:0,1", 100), expected_cost(schedules.Linear(0, 1)))
    print([round(cost.ratio, 3) for cost in of_every_kind()])
    network = nn.Linear(3, 1)
    print(with_closure(network, SAM(torch.optim.SGD(network.parameters(), lr=0.1))))
