"""What all tests share."""

import os
import signal
from pathlib import Path

import torch
from hypothesis import HealthCheck, settings

# The tensors of the tests are tiny: threads would wait for one another longer than they compute.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for what the tests start
# How long an example takes is no bug: on a busy machine it may be anything.
settings.register_profile("timeless", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("timeless")
# A shell lets what it starts in the background ignore Ctrl-C, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers(config):
    """Say how many processes share the tests; 0 is this one alone, which has run a named file before others start."""
    if any(Path(name.partition("::")[0]).is_file() for name in config.option.file_or_dir):
        return 0
    return min(os.cpu_count() or 1, 8)
