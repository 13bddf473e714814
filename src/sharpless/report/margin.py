"""The margin: the largest loss against SAM that counts as non-inferior."""

import math
from dataclasses import dataclass

__all__ = ["Margin", "default_margin", "read_margin"]

DEFAULT_POINTS = 1.0
DEFAULT_SHARE = 0.25


@dataclass(frozen=True)
class Margin:
    """An amount in the unit of the metric, or a share of SAM's gain over the base optimizer."""

    value: float | None = None
    share: float | None = None


def read_margin(margin: str | float | None) -> Margin | None:
    """Return the given margin; None if the default applies.

    Args:
        margin: an amount in the unit of the metric, or a share of SAM's gain over the base optimizer, as in "25%".

    Raises:
        ValueError: it is neither.

    >>> read_margin("25%"), read_margin(0.5)
    (Margin(value=None, share=0.25), Margin(value=0.5, share=None))
    """
    if margin is None:
        return None
    text = str(margin).strip()
    is_share = text.endswith("%")
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        number = math.nan
    if not 0.0 < number < (100.0 if is_share else math.inf):
        raise ValueError(
            f"margin = {margin} is invalid: give a positive number in the unit of the metric, or a share of SAM's "
            "gain, such as 25%"
        )
    return Margin(share=number / 100) if is_share else Margin(value=number)


def default_margin(unit: str) -> Margin:
    """Return the default margin of a metric: one percentage point, or a quarter of SAM's gain."""
    return Margin(value=DEFAULT_POINTS) if unit == "%" else Margin(share=DEFAULT_SHARE)
