"""How runs share the cores of a machine."""

import pytest
import torch

from sharpless.lab import sharing
from sharpless.lab.data import load
from sharpless.lab.recipes import Recipe


@pytest.mark.parametrize(
    ("runs", "cores", "power", "expected"),
    [
        (30, 4, 1.0, (4, 1)),  # two threads are twice as fast: nothing is gained by them
        (30, 4, 0.2, (4, 1)),
        (30, 4, 1.5, (1, 4)),  # a cache that holds one network, say
        (2, 4, 0.5, (2, 2)),  # cores that would be idle
        (3, 6, 1.0, (3, 2)),
        (1, 6, 0.0, (1, 6)),
        (30, 1, 1.0, (1, 1)),
    ],
)
def test_a_measurement_decides(runs, cores, power, expected, monkeypatch):
    """Sees a choice that measures nothing, that leaves cores idle, or that changes the threads of the parent."""
    threads, clock = [1], [0.0]

    def now():
        clock[0] += threads[0] ** -power
        return clock[0]

    monkeypatch.setattr(sharing, "perf_counter", now)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: threads.__setitem__(0, n))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[0])
    assert sharing.jobs_and_threads(Recipe(width=1), load("digits"), runs, cores) == expected
    assert threads == [1]
