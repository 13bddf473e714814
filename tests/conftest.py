"""What all tests share."""

import signal

import torch
from hypothesis import HealthCheck, settings

# The tensors of the tests are tiny: threads would wait for one another longer than they compute.
torch.set_num_threads(1)
# How long an example takes is no bug: on a busy machine it may be anything.
settings.register_profile("timeless", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("timeless")
# A shell lets what it starts in the background ignore Ctrl-C, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
