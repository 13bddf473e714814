"""What all tests share."""

import signal

import torch

# The tensors of the tests are tiny: threads would wait for one another longer than they compute.
torch.set_num_threads(1)
# A shell lets what it starts in the background ignore Ctrl-C, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
