"""A network with one half on the CPU and the other on a second device trains like the network on one device.

    python benchmarks/two_devices.py [--device cuda] [--out benchmarks/results]

Without a GPU, torch_xla on the CPU (`pip install torch==2.9.0 torch_xla==2.9.0`, `--device xla`) is a second device.
"""

import argparse
import importlib
import json
import platform
import sys
from pathlib import Path

import torch
from torch import nn

from sharpless import GRST

__all__ = ["check_two_devices"]


class TwoDevices(nn.Module):
    """A network with one half on the CPU and the other on `device`."""

    def __init__(self, device: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.here, self.there = nn.Linear(5, 8), nn.Linear(8, 1).to(device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.there(self.here(x).tanh().to(self.there.weight.device)).to(x.device)


def check_two_devices(device: str) -> dict[str, object]:
    """Check that the norm covers both halves: training is that of the network on one device."""
    x, y = torch.randn(16, 5), torch.randn(16, 1)
    differences = {}
    for batch_fraction in (1.0, 0.25):
        split, whole = TwoDevices(device), TwoDevices("cpu")
        for model in (split, whole):
            base = torch.optim.SGD(model.parameters(), lr=0.1)
            opt = GRST(base, p=1.0, gamma=2.0, rho=0.1, model=model, batch_fraction=batch_fraction)
            for _ in range(5):
                for a, b in opt.passes((x, y)):
                    nn.functional.mse_loss(model(a), b).backward()
                opt.step()
                opt.zero_grad()
        pairs = zip(split.parameters(), whole.parameters(), strict=True)
        far = max(float((a.detach().cpu() - b.detach()).abs().max()) for a, b in pairs)
        assert far < 1e-5, far
        differences[f"batch_fraction {batch_fraction:g}"] = far
    return {"two_devices": {"largest_difference": differences}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "xla"], default="cuda")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    results = {
        "command": f"python benchmarks/two_devices.py --device {options.device}",
        "machine": torch.cuda.get_device_name() if options.device == "cuda" else platform.machine(),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }
    if options.device == "xla":
        results["versions"]["torch_xla"] = importlib.import_module("torch_xla").__version__
    results |= check_two_devices(options.device)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"two-devices-{options.device}.json").write_text(json.dumps(results, indent=1) + "\n")
    json.dump(results, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
