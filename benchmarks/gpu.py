"""Checks on a GPU: no synchronization, GradScaler, a model on two devices, graphs for both kinds of step.

    python benchmarks/gpu.py [--device cpu] [--steps 200] [--out benchmarks/results]

With `--device cpu` the same code runs without capture. This tests only the script.
"""

import argparse
import importlib.metadata
import json
import platform
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch

from networks import TASKS, Task
from sharpless import GRST, RST, SAM
from sharpless.coin import uniform
from two_devices import check_two_devices


def sgd(task: Task) -> torch.optim.Optimizer:
    return torch.optim.SGD(task.model.parameters(), lr=0.01, momentum=0.9)


def step(opt: RST, task: Task) -> None:
    for x, y in opt.passes((task.x, task.y)):
        task.loss(x, y).backward()
    opt.step()
    opt.zero_grad()


@contextmanager
def no_synchronization(device: str):
    """Raise an error within the block if the host waits for the GPU."""
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def task_on(name: str, device: str) -> Task:
    """Return a task. On a CPU it has only two examples, to test the script."""
    task = TASKS[name](device)
    return task if device == "cuda" else Task(task.model, task.x[:2], task.y[:2], task.steps)


def check_synchronization(device: str) -> dict[str, object]:
    """Check both kinds of step, with BatchNorm, dropout and γ ≠ 1, with torch's detector of synchronizations."""
    for name in ("resnet18", "transformer"):
        task = task_on(name, device)
        opt = GRST(sgd(task), p=0.5, rho=0.05, model=task.model)
        step(opt, task)
        with no_synchronization(device):
            for _ in range(10 if device == "cuda" else 2):
                step(opt, task)
        assert 0 < opt.cost.sharp_steps < opt.cost.steps
    return {"synchronization": "none in 2 × 10 steps" if device == "cuda" else "not looked for on CPU"}


def check_grad_scaler(device: str) -> dict[str, object]:
    """Check GradScaler in float16: an overflow in a pass skips the step, halves the scale and moves no weight."""
    task = task_on("transformer", device)
    opt = RST(sgd(task), p=1.0, rho=0.05, model=task.model)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**8)
    dtype = torch.float16 if device == "cuda" else torch.bfloat16
    for spoiled in (None, 0, 1):
        before = [parameter.detach().clone() for parameter in task.model.parameters()]
        scale = scaler.get_scale()
        for count, (x, y) in enumerate(opt.passes((task.x, task.y))):
            with torch.autocast(device, dtype=dtype):
                loss = task.loss(x, y)
            scaler.scale(loss * (float("inf") if count == spoiled else 1.0)).backward()
        scaler.unscale_(opt)
        torch.nn.utils.clip_grad_norm_(task.model.parameters(), 1.0)
        scaler.step(opt)
        scaler.update()
        opt.zero_grad()
        still = all(torch.equal(b, p) for b, p in zip(before, task.model.parameters(), strict=True))
        assert still == (spoiled is not None)
        assert scaler.get_scale() == (scale if spoiled is None else scale / 2)
    assert opt.cost.passes == 6
    return {"grad_scaler": "an overflow in either pass skipped the step and halved the scale once"}


def captured(function: Callable[[], None], device: str) -> Callable[[], None]:
    """Return a function that replays `function` as a CUDA graph; on a CPU the function itself."""
    if device == "cpu":
        return function
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def graphs(device: str, steps: int) -> dict[str, object]:
    """Check two graphs over the same weights and momentum, one for each kind of step. The host draws the coin.

    The final weights must be those of the eager loop. The speed-up is eager time ÷ graph time.
    """
    p, rho, seed = 0.5, 0.05, 0
    torch.manual_seed(0)
    eager, graphed = task_on("tiny", device), task_on("tiny", device)
    graphed = Task(graphed.model, eager.x, eager.y, eager.steps)
    start = [parameter.detach().clone() for parameter in eager.model.parameters()]

    base = sgd(graphed)
    sharp = SAM(base, rho=rho)

    def plain_step() -> None:
        graphed.loss(graphed.x, graphed.y).backward()
        base.step()
        base.zero_grad()

    kinds = {False: captured(plain_step, device), True: captured(lambda: step(sharp, graphed), device)}
    with torch.no_grad():  # undo the changes of warm-up and capture
        for parameter, value in zip(graphed.model.parameters(), start, strict=True):
            parameter.copy_(value)
        for state in base.state.values():
            state["momentum_buffer"].zero_()

    opt = RST(sgd(eager), p=p, rho=rho, seed=seed)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    times: dict[str, list[float]] = {"eager": [], "graphs": []}
    for t in range(steps):
        for name, function in (
            ("eager", lambda: step(opt, eager)),
            ("graphs", kinds[uniform(seed, t) < p]),
        ):
            wait()
            begin = time.perf_counter()
            function()
            wait()
            times[name].append(time.perf_counter() - begin)
    far = max(
        float((a - b).detach().abs().max())
        for a, b in zip(eager.model.parameters(), graphed.model.parameters(), strict=True)
    )
    assert far < 1e-4, far
    ratios = [a / b for a, b in zip(times["eager"], times["graphs"], strict=True)]
    speed_up = median(ratios) if device == "cuda" else None
    return {"graphs": {"speed_up": speed_up, "steps": steps, "largest_difference": far}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    device = options.device
    results: dict[str, object] = {
        "command": f"python benchmarks/gpu.py --device {device} --steps {options.steps}",
        "machine": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "sharpless")},
    }
    for check in (check_synchronization, check_grad_scaler, check_two_devices):
        results |= check(device)
    results |= graphs(device, options.steps)
    print(json.dumps(results, indent=1))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"gpu-{device}.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
