"""What all tests share."""

import torch

# The tensors of the tests are tiny: threads would wait for one another longer than they compute.
torch.set_num_threads(1)
