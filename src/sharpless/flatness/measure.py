"""All measures of one network, as plain numbers that JSON can hold."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

from sharpless.flatness.curvature import Estimate, eigenvalues, trace
from sharpless.flatness.neighbourhood import average_sharpness, sharpness
from sharpless.flatness.objective import Objective
from sharpless.flatness.slices import loss_slice, loss_surface

__all__ = ["Settings", "Watch", "measure"]

Watch = Callable[[str, int, int | None], object]
"""A function of the measure's name, the number of losses computed for it, and their total, None if unknown."""


@dataclass(frozen=True)
class Settings:
    """What to measure, and how accurately.

    >>> Settings(points=4)
    Traceback (most recent call last):
        ...
    ValueError: points = 4 is out of range: give an odd number from 3 on, or 0 for no slices

    Raises:
        ValueError: a setting is out of range.
    """

    rho: tuple[float, ...] = (0.05, 0.1)  # radii of sharpness
    adaptive_rho: tuple[float, ...] = (0.5, 1.0)  # radii of adaptive sharpness, in another unit
    eigenvalues: int = 3  # the largest ones
    vectors: int = 30  # random vectors for the trace
    directions: int = 10  # for the average-case sharpness
    ascent_steps: int = 20  # gradients for each radius of the worst-case sharpness
    points: int = 21  # of a slice; the surface has half as many in each direction
    seed: int = 0  # of all random directions

    def __post_init__(self) -> None:
        for fits, name, remedy in (
            (all(0 < rho < math.inf for rho in self.rho), "rho", "give positive numbers"),
            (all(0 < rho < math.inf for rho in self.adaptive_rho), "adaptive_rho", "give positive numbers"),
            (self.eigenvalues >= 0, "eigenvalues", "give a number of them, or 0 for none"),
            (self.vectors == 0 or self.vectors >= 2, "vectors", "give 2 or more, or 0 for no trace"),
            (self.directions == 0 or self.directions >= 2, "directions", "give 2 or more, or 0 for no average"),
            (self.ascent_steps >= 0, "ascent_steps", "give 1 or more, or 0 for no ascent"),
            (
                self.points == 0 or (self.points >= 3 and self.points % 2),
                "points",
                "give an odd number from 3 on, or 0 for no slices",
            ),
            (0 <= self.seed < 2**63 - 1, "seed", "give a whole number from 0 on"),
        ):
            if not fits:
                value = getattr(self, name)
                shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
                raise ValueError(f"{name} = {shown} is out of range: {remedy}")


def measure(objective: Objective, settings: Settings = Settings(), watch: Watch | None = None) -> dict[str, Any]:
    """Return all measures of a network.

    >>> import torch
    >>> model = torch.nn.Linear(3, 2)
    >>> data = [(torch.randn(8, 3), torch.randint(2, (8,)))]
    >>> found = measure(Objective(model, torch.nn.functional.cross_entropy, data), Settings(rho=(0.1,), points=0))
    >>> [(one["rho"], one["adaptive"]) for one in found["sharpness"]]
    [(0.1, False), (0.5, True), (1.0, True)]

    Args:
        objective: the loss of the network.
        settings: what to measure.
        watch: is called to report progress.

    Returns:
        `loss`, `examples`, `weights` (their number), `eigenvalues`, `trace`, `sharpness` (for each radius, in the worst
        case and on average), `slice`, `surface`, `spent` and `seconds`. Measures that were left out are None, and so
        are numbers that are not finite.
    """
    began, s = perf_counter(), settings
    found: dict[str, Any] = {
        **{"loss": objective.loss(), "examples": objective.examples, "weights": objective.size},
        **dict.fromkeys(("eigenvalues", "trace", "slice", "surface")),
    }
    if s.eigenvalues:
        with _watched(objective, watch, "eigenvalues", None):
            found["eigenvalues"] = asdict(eigenvalues(objective, s.eigenvalues, seed=s.seed))
    if s.vectors:
        with _watched(objective, watch, "trace", s.vectors):
            found["trace"] = asdict(trace(objective, s.vectors, seed=s.seed))
    radii = [(rho, False) for rho in s.rho] + [(rho, True) for rho in s.adaptive_rho]
    found["sharpness"] = [_near(objective, s, watch, rho, adaptive) for rho, adaptive in radii]
    if s.points:
        at, coarse = _grid(s.points), _grid(2 * max(1, s.points // 4) + 1)
        with _watched(objective, watch, "slice", len(at)):
            found["slice"] = {"at": at, "losses": loss_slice(objective, at, s.seed)}
        with _watched(objective, watch, "surface", len(coarse) ** 2):
            found["surface"] = {"at": coarse, "losses": loss_surface(objective, coarse, s.seed)}
    complete: dict[str, Any] = _finite(found | {"spent": vars(objective.spent), "seconds": perf_counter() - began})
    return complete


def _near(objective: Objective, s: Settings, watch: Watch | None, rho: float, adaptive: bool) -> dict[str, Any]:
    name = f"{'adaptive ' * adaptive}sharpness, ρ = {rho:g}"
    found: dict[str, Any] = {"rho": rho, "adaptive": adaptive, "worst": None, "average": None}
    with _watched(
        objective, watch, name, (s.ascent_steps and s.ascent_steps + 2) + (s.directions and 2 * s.directions + 1)
    ):
        if s.ascent_steps:
            ascent = sharpness(objective, rho, steps=s.ascent_steps, adaptive=adaptive, seed=s.seed)
            found["worst"] = vars(ascent) | {"still_rising": ascent.still_rising}
        if s.directions:
            average: Estimate = average_sharpness(
                objective, rho, directions=s.directions, adaptive=adaptive, seed=s.seed
            )
            found["average"] = asdict(average)
    return found


@contextmanager
def _watched(objective: Objective, watch: Watch | None, what: str, total: int | None) -> Iterator[None]:
    """Within the block, call `watch` each time that the loss was computed."""
    done, before = 0, objective.watch

    def count() -> None:
        nonlocal done
        done += 1
        if watch is not None:
            watch(what, done, total)

    objective.watch = count
    try:
        yield
    finally:
        objective.watch = before


def _grid(points: int) -> list[float]:
    """Return this number of points from −1 to 1, with 0 in the middle."""
    half = points // 2
    return [i / half for i in range(-half, half + 1)]


def _finite(found: Any) -> Any:
    """Return `found` with None in place of numbers that are not finite, which JSON does not support."""
    if isinstance(found, dict):
        return {name: _finite(value) for name, value in found.items()}
    if isinstance(found, list):
        return [_finite(value) for value in found]
    return None if isinstance(found, float) and not math.isfinite(found) else found
