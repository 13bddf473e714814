"""The coin: a uniform number for every step of every run, drawn without state."""

import math
from hashlib import blake2b

__all__ = ["evenly", "uniform"]


def uniform(seed: int, step: int) -> float:
    """Return the uniform draw in [0, 1) that belongs to `step` of the run with `seed`.

    A step with probability p is sharpness-aware when its draw is below p. The draw is a hash of (seed, step) only. So
    every rank sees the same coin without communication, and a resumed run needs one integer. The sharpness-aware steps
    at p = 0.3 are among those at p = 0.5. The generators of torch, NumPy and Python are not used.

    >>> uniform(seed=0, step=7) == uniform(seed=0, step=7)
    True
    >>> sum(uniform(0, step) < 0.25 for step in range(10_000))
    2465
    """
    digest = blake2b(f"sharpless/{seed}/{step}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


def evenly(seed: int, before: float, p: float) -> bool:
    """Return whether systematic sampling selects a step: Σp steps in all, evenly spread, from a random start.

    Over the seeds, each step is selected with probability p, as with the coin. But the number of steps is always Σp,
    rounded up or down.

    >>> [evenly(seed=1, before=0.25 * step, p=0.25) for step in range(8)].count(True)
    2

    Args:
        seed: decides the start.
        before: the sum of p over the steps before this one.
        p: the probability of this step.
    """
    start = uniform(seed, -1)
    return p >= 1.0 or math.floor(start + (before + p)) > math.floor(start + before)
