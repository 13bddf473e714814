"""Means, intervals and tests for a few seeds, and the correction for multiple comparisons."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from scipy.special import stdtr, stdtrit

__all__ = ["MOST_SEEDS", "above", "against", "differences", "estimate", "holm", "paired", "seeds_needed"]

ALPHA = 0.025
"""The one-sided level of every test: a two-sided 95 % interval that lies above a bound rejects at this level."""

MOST_SEEDS = 100


def estimate(values: Sequence[float]) -> dict[str, Any]:
    """Return mean, standard deviation and 95 % t-interval of the mean; None if there are too few values.

    >>> estimate([90.0])
    {'mean': 90.0, 'std': None, 'ci95': None}
    """
    center = fmean(values) if values else None
    if center is None or len(values) == 1:
        return {"mean": center, "std": None, "ci95": None}
    spread = stdev(values)
    half = _half_width(spread, len(values))
    return {"mean": center, "std": spread, "ci95": [center - half, center + half]}


def differences(left: Mapping[int, float], right: Mapping[int, float]) -> list[float]:
    """Return left - right over the common seeds.

    >>> differences({0: 97.0, 1: 98.0, 7: 50.0}, {1: 96.0, 0: 96.5})
    [0.5, 2.0]
    """
    return [left[seed] - right[seed] for seed in sorted(left.keys() & right.keys())]


def paired(left: Mapping[int, float], right: Mapping[int, float]) -> dict[str, Any]:
    """Return the mean of left - right, paired by seed, and its 95 % interval."""
    described = estimate(differences(left, right))
    return {"difference": described["mean"], "ci95": described["ci95"]}


def above(values: Sequence[float], bound: float) -> float | None:
    """Return the p-value of the one-sided t-test of H0: the mean is `bound` or less; None for fewer than two values.

    If all values are equal, the p-value is the limit of a vanishing spread: 0 above the bound, otherwise 1.

    >>> above([1.0, 3.0], 0.0)  # t = 2 with one degree of freedom: 1/2 - arctan(2) / π
    0.14758361765043326
    """
    if len(values) < 2:
        return None
    distance, spread = fmean(values) - bound, stdev(values)
    if spread == 0:
        return float(distance <= 0)
    return float(stdtr(len(values) - 1, -distance / (spread / math.sqrt(len(values)))))


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return p-values adjusted by Holm's method: reject those that are at most the level.

    The probability of any false rejection is then at most the level, also for dependent tests. They are dependent here:
    every difference is to the same runs of SAM. Bonferroni's correction guarantees the same and never rejects more.
    Simultaneous intervals would agree with their verdicts, but would be two thirds wider with five seeds and five
    methods, and not comparable with the intervals of other reports.

    Args:
        p_values: one p-value per question. None means no test, and does not count.

    Returns:
        The adjusted p-values, for the same questions.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6 (1979) 65-70.

    >>> holm({"a": 0.03, "b": 0.01, "c": None, "d": 0.02})
    {'a': 0.04, 'b': 0.03, 'c': None, 'd': 0.04}
    """
    tested = sorted((p, name) for name, p in p_values.items() if p is not None)
    adjusted: dict[str, float | None] = dict.fromkeys(p_values)
    least = 0.0
    for rank, (p, name) in enumerate(tested):
        least = max(least, min(1.0, (len(tested) - rank) * p))
        adjusted[name] = least
    return adjusted


def against(
    pairs: Mapping[str, Sequence[float]],
    margin: float | None,
    *,
    sign: int = 1,
    broken: frozenset[str] = frozenset(),
    reference_broken: bool = False,
) -> dict[str, dict[str, Any]]:
    """Test the differences of several methods to the same one, each question corrected for their number.

    Args:
        pairs: the differences of each method in the unit of the metric, one per seed.
        margin: the largest loss, in the same unit, that counts as non-inferior. With None, no method is non-inferior.
        sign: 1 if a higher metric is better, -1 if a lower one is.
        broken: the methods without a result for some seed. They are neither non-inferior nor better.
        reference_broken: whether the other one has no result for some seed. No method is behind it then.

    Returns:
        For each method `difference` and `ci95` of this comparison alone; `p`, the p-value of a loss of `margin` or
        more, and `p_holm`, the corrected one; by corrected p-values, whether the method is `non_inferior` (loses less
        than the margin), is `behind` (loses more) and `beats` the other one; and `seeds_needed` for an interval as
        narrow as the margin. None for fewer than two seeds.
    """
    gains = {method: [sign * difference for difference in found] for method, found in pairs.items()}
    losses = {method: [-gain for gain in found] for method, found in gains.items()}
    alone = {
        method: None if margin is None or method in broken else above(found, -margin) for method, found in gains.items()
    }
    kept = holm(alone)
    behind = holm(
        {
            method: None if margin is None or reference_broken else above(found, margin)
            for method, found in losses.items()
        }
    )
    beats = holm({method: None if method in broken else above(found, 0.0) for method, found in gains.items()})
    described = {method: estimate(found) for method, found in pairs.items()}
    return {
        method: {
            "difference": found["mean"],
            "ci95": found["ci95"],
            "p": alone[method],
            "p_holm": kept[method],
            "non_inferior": _rejected(kept[method], found),
            "behind": _rejected(behind[method], found),
            "beats": _rejected(beats[method], found),
            "seeds_needed": None if found["std"] is None or margin is None else seeds_needed(found["std"], margin),
        }
        for method, found in described.items()
    }


def seeds_needed(spread: float, half_width: float) -> int | None:
    """Return the number of seeds for a 95 % interval no wider than ±`half_width`; None for more than 100.

    Args:
        spread: standard deviation of the differences, assumed to be constant.
        half_width: the required half width, in the same unit.

    Returns:
        The smallest number of seeds, from 2 to 100, or None.

    >>> seeds_needed(1.0, 1.0), seeds_needed(10.0, 1.0)  # t is 2.57 with 6 seeds, 2.45 with 7
    (7, None)
    """
    return next((seeds for seeds in range(2, MOST_SEEDS + 1) if _half_width(spread, seeds) <= half_width), None)


def _rejected(p: float | None, described: Mapping[str, Any]) -> bool | None:
    """Return whether a test rejects; None with too few seeds for the test."""
    return None if described["ci95"] is None else p is not None and p <= ALPHA


def _half_width(spread: float, seeds: int) -> float:
    return float(stdtrit(seeds - 1, 1 - ALPHA)) * spread / math.sqrt(seeds)
