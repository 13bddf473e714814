"""The choice of hyperparameters: the ends of the grids, and the results on validation data."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from sharpless.report.record import Run, Tried

__all__ = ["base_validation", "curve_of_rho", "described"]


def described(run: Run, base: Sequence[Run]) -> dict[str, Any] | None:
    """Return facts on the choice of a method's hyperparameters; None if there was no choice.

    Args:
        run: a run of the method.
        base: the runs of the base optimizer.

    Returns:
        `cost` in plain trainings; `edge`, the end of the grid ("lower" or "upper") of hyperparameters chosen there;
        and `beats_base`, whether any candidate was better than the base on validation data; None if unknown.
    """
    if run.choice is None:
        return None
    edge = {}
    for name, value in run.hyperparameters.items():
        grid = {tried.hyperparameters[name] for tried in run.choice.tried if name in tried.hyperparameters}
        if len(grid) > 1 and value in {min(grid), max(grid)} and value != 0:  # 0 is the limit of the hyperparameter
            edge[name] = "upper" if value == max(grid) else "lower"
    mine, plain, sign = _best(run), base_validation(base), run.metric.sign
    is_base = any(run.method == other.method for other in base)
    beats = None if mine is None or plain is None or is_base else sign * mine > sign * plain
    return {"cost": run.choice.cost, "edge": edge, "beats_base": beats}


def _best(run: Run) -> float | None:
    """Return the best mean of a method's candidates on validation data; None if unknown."""
    means = [mean for tried in (run.choice.tried if run.choice else ()) if (mean := _reached(tried)) is not None]
    return max(means, key=lambda value: run.metric.sign * value, default=None)


def base_validation(base: Sequence[Run]) -> float | None:
    """Return the result of the base on validation data: its best candidate, or else the mean at the end of its runs."""
    if not base or base[0].choice:
        return _best(base[0]) if base else None
    last = [run.curve.validation[-1] for run in base if run.curve.validation]
    found = [value for value in last if value is not None]
    return fmean(found) if len(found) == len(base) else None


def _reached(tried: Tried) -> float | None:
    """Return the mean of a candidate over its seeds; None if one of them failed."""
    values = [value for value in tried.values if value is not None]
    return fmean(values) if len(values) == len(tried.values) else None


def curve_of_rho(run: Run) -> Mapping[float, float]:
    """Return the best mean on validation data for each tried ρ, over the other hyperparameters."""
    found: dict[float, float] = {}
    for tried in run.choice.tried if run.choice else ():
        rho, mean = tried.hyperparameters.get("rho"), _reached(tried)
        if rho is not None and rho > 0 and mean is not None:
            sign = run.metric.sign
            found[rho] = max(found.get(rho, mean), mean, key=lambda value: sign * value)
    return dict(sorted(found.items()))
