"""How hyperparameters were chosen: the ends of the grids, and what was reached on validation."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from sharpless.report.record import Run, Tried

__all__ = ["base_validation", "curve_of_rho", "described"]


def described(run: Run, base: Sequence[Run]) -> dict[str, Any] | None:
    """Return what the choice of a method's hyperparameters came to, None where nothing was chosen.

    Args:
        run: a run of the method.
        base: those of the base optimizer.

    Returns:
        `cost` in plain trainings; `edge`, which end of its grid ("lower" or "upper") a hyperparameter was chosen at;
        and `beats_base`, whether any candidate reached more on validation than the base did; None where not known.
    """
    if run.choice is None:
        return None
    edge = {}
    for name, value in run.hyperparameters.items():
        grid = {tried.hyperparameters[name] for tried in run.choice.tried if name in tried.hyperparameters}
        if len(grid) > 1 and value in {min(grid), max(grid)} and value != 0:  # 0 is where a hyperparameter ends
            edge[name] = "upper" if value == max(grid) else "lower"
    mine, plain, sign = _best(run), base_validation(base), run.metric.sign
    is_base = any(run.method == other.method for other in base)
    beats = None if mine is None or plain is None or is_base else sign * mine > sign * plain
    return {"cost": run.choice.cost, "edge": edge, "beats_base": beats}


def _best(run: Run) -> float | None:
    """Return the best mean that a method's candidates reached on validation, None where none is known."""
    means = [mean for tried in (run.choice.tried if run.choice else ()) if (mean := _reached(tried)) is not None]
    return max(means, key=lambda value: run.metric.sign * value, default=None)


def base_validation(base: Sequence[Run]) -> float | None:
    """Return what the base optimizer reached on validation: chosen like the others, or else at the end of its runs."""
    if not base or base[0].choice:
        return _best(base[0]) if base else None
    last = [run.curve.validation[-1] for run in base if run.curve.validation]
    found = [value for value in last if value is not None]
    return fmean(found) if len(found) == len(base) else None


def _reached(tried: Tried) -> float | None:
    """Return the mean of a candidate over its seeds, None where one of them failed."""
    values = [value for value in tried.values if value is not None]
    return fmean(values) if len(values) == len(tried.values) else None


def curve_of_rho(run: Run) -> Mapping[float, float]:
    """Return for each ρ that was tried the best mean on validation, whatever else was tried with it."""
    found: dict[float, float] = {}
    for tried in run.choice.tried if run.choice else ():
        rho, mean = tried.hyperparameters.get("rho"), _reached(tried)
        if rho is not None and rho > 0 and mean is not None:
            sign = run.metric.sign
            found[rho] = max(found.get(rho, mean), mean, key=lambda value: sign * value)
    return dict(sorted(found.items()))
