"""The coin: fair, nested, equal everywhere, and without side effects."""

import math
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from problems import batches, noisy_network, train
from sharpless import RST
from sharpless.coin import uniform

pytestmark = pytest.mark.quick


def test_uniform():
    """Sees a skewed or repeating draw: Kolmogorov-Smirnov over steps, over seeds, and correlation of neighbours."""
    over_steps = [uniform(0, step) for step in range(50_000)]
    over_seeds = [uniform(seed, 0) for seed in range(50_000)]
    for draws in (over_steps, over_seeds):
        assert stats.kstest(draws, "uniform").pvalue > 1e-3
        assert len(set(draws)) == len(draws)
    assert abs(np.corrcoef(over_steps[:-1], over_steps[1:])[0, 1]) < 5 / math.sqrt(50_000)


@given(st.integers(), st.integers(min_value=0))
def test_range(seed, step):
    """Sees a draw of 1 (p = 1 would miss a step) or below 0, and a draw that changes when repeated."""
    assert 0.0 <= uniform(seed, step) < 1.0
    assert uniform(seed, step) == uniform(seed, step)


def test_same_in_another_process():
    """Sees a draw that depends on the process, such as Python's salted hash."""
    code = "from sharpless.coin import uniform; print([uniform(5, s) for s in range(4)])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str([uniform(5, step) for step in range(4)])


def sharp_steps(p, seed=0, **options):
    model = noisy_network()
    opt = RST(torch.optim.SGD(model.parameters(), lr=0.01), p=p, rho=0.05, seed=seed, **options)
    fell = []
    for (batch,) in batches(60, dtype=torch.float32):
        before = opt.cost.sharp_steps
        train(model, opt, [[batch]])
        fell.append(opt.cost.sharp_steps > before)
    return fell


def test_nested_in_p():
    """Sees a stream of draws in place of one draw a step: SAM steps at p = 0.3 must be among those at 0.6."""
    few, many = sharp_steps(0.3), sharp_steps(0.6)
    assert all(m for f, m in zip(few, many, strict=True) if f)
    assert 0 < sum(few) < sum(many) < 60
    assert few == [uniform(0, step) < 0.3 for step in range(60)]
    assert sharp_steps(0.6, seed=1) != many


def test_leaves_generators_alone():
    """Sees a coin drawn from torch's, NumPy's or Python's generator, or one that they influence."""
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    model = noisy_network().eval()
    train(
        model,
        RST(torch.optim.SGD(model.parameters(), lr=0.01), p=0.5, model=model),
        batches(5, dtype=torch.float32),
    )
    assert (torch.rand(1), np.random.rand(), random.random()) == expected
    torch.manual_seed(99)
    assert sharp_steps(0.5) == sharp_steps(0.5)
