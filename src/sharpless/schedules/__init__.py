"""The scheduling functions p(t) of RST (arXiv 2203.09962): how probable a sharpness-aware step is.

A schedule is called with progress u = t/T in [0, 1], and returns the probability that the step at that progress is
sharpness-aware. `at` returns it for step t of T, and `mean` returns the average over the run.

The functions of the paper and of its code, for a parameter p:

| paper            | p(t), step t of T                        | sharpless                                   |
| ---------------- | ---------------------------------------- | ------------------------------------------- |
| constant         | p                                        | `Constant(p)`                               |
| piecewise1       | 0 for t ≤ pT, then 1                     | `Piecewise((0, 1), (p,))`                   |
| piecewise2       | 1 for t ≤ pT, then 0                     | `Piecewise((1, 0), (p,))`                   |
| piecewise3       | p for t ≤ T/2, then 1−p                  | `Piecewise((p, 1 - p), (0.5,))`             |
| piecewise (a, b) | a for t ≤ bT, then 1−a                   | `Piecewise((a, 1 - a), (b,))`               |
| linear1, p ≤ 0.5 | 2p·t/T                                   | `Linear(0, 2 * p)`                          |
| linear1, p > 0.5 | (2p−1) + 2(1−p)·t/T                      | `Linear(2 * p - 1, 1)`                      |
| linear2          | p + 2(0.5−p)·t/T                         | `Linear(p, 1 - p)`                          |
| trigonometric    | 0.5 + 0.5·cos(πt/T)                      | `Cosine(1, 0)`                              |
"""

from sharpless.schedules.base import Schedule
from sharpless.schedules.functions import Constant, Cosine, Linear, Piecewise
from sharpless.schedules.policies import Adaptive, Periodic
from sharpless.schedules.reading import Warmup, parse, schedule

__all__ = [
    "Adaptive",
    "Constant",
    "Cosine",
    "Linear",
    "Periodic",
    "Piecewise",
    "Schedule",
    "Warmup",
    "parse",
    "schedule",
]
