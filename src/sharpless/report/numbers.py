"""The format of numbers: as many digits as their spread supports."""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

__all__ = ["MISSING", "Digits", "enough", "measure", "number", "probability", "significant"]

MISSING = "—"
MOST_DECIMALS = 6
LARGE = 1e7


class Digits:
    """The format of the values of a metric: the same number of decimals for all of a summary.

    The median of the spreads over seeds gets two significant digits, or one if it begins with 4 to 9. Differences and
    intervals get more decimals if the differences, which are paired by seed, vary much less than the values.

    Args:
        spreads: the known standard deviations over seeds.
        values: the means. Without a known spread, the largest one gets four significant digits.
        halves: half widths of the intervals of differences. Their median is at least one unit of the last decimal.

    >>> Digits([0.0008, 0.0009], [0.3795]).spread({"mean": 0.37951, "std": 0.00081})
    '0.3795 ± 0.0008'
    >>> Digits([1.7, 0.6, 0.6], [98.3]).spread({"mean": 98.26, "std": 0.62})
    '98.3 ± 0.6'
    >>> Digits([5.0], [91.0], [0.02]).signed(0.0432)
    '+0.04'
    """

    def __init__(
        self, spreads: Sequence[float | None], values: Sequence[float | None], halves: Sequence[float] = ()
    ) -> None:
        known = [spread for spread in spreads if spread]
        largest = max((abs(value) for value in values if value), default=1.0)
        if known:
            typical = median(known)
            power = math.floor(math.log10(typical))
            wanted = -power + (typical / 10**power < 3.55)
        else:
            wanted = 3 - math.floor(math.log10(largest))
        self.decimals = max(0, wanted)
        apart = [half for half in halves if half > 0]
        self._of_differences = max(self.decimals, -math.floor(math.log10(median(apart)))) if apart else self.decimals
        self._as_power = largest >= LARGE

    @classmethod
    def of(cls, summary: Mapping[str, Any]) -> "Digits":
        """Return the format for a summary."""
        found = [entry["value"] for entry in summary["methods"]]
        compared = [summary["sam_beats_base"], *(entry["versus_sam"] for entry in summary["methods"])]
        ends = [versus["ci95"] for versus in compared if versus and versus["ci95"]]
        halves = [(high - low) / 2 for low, high in ends]
        return cls([value["std"] for value in found], [value["mean"] for value in found], halves)

    def value(self, value: float | None) -> str:
        """Return a value."""
        return MISSING if value is None else self._format(value, "", self.decimals)

    def signed(self, value: float | None) -> str:
        """Return a difference with its sign.

        >>> Digits([0.2], [1.0]).signed(-0.304), Digits([0.2], [1.0]).signed(-0.001)
        ('−0.30', '+0.00')
        """
        return MISSING if value is None else self._format(value, "+", self._of_differences)

    def interval(self, ends: Sequence[float] | None, between: str = "\u00a0to\u00a0") -> str:
        """Return an interval as text, by default with non-breaking spaces.

        >>> Digits([0.2], [1.0]).interval([-0.5, 12.25]).split()
        ['−0.50', 'to', '12.25']
        """
        return MISSING if ends is None else between.join(self._format(end, "", self._of_differences) for end in ends)

    def spread(self, found: Mapping[str, Any] | None) -> str:
        """Return mean ± standard deviation over seeds.

        >>> Digits([0.2], [1.0]).spread({"mean": 97.0, "std": None}), Digits([0.2], [1.0]).spread(None)
        ('97.00', '—')
        """
        if found is None or found["std"] is None:
            return self.value(None if found is None else found["mean"])
        return f"{self.value(found['mean'])} ± {self.value(found['std'])}"

    def _format(self, value: float, sign: str, decimals: int) -> str:
        if self._as_power or decimals > MOST_DECIMALS or abs(value) >= LARGE:
            return f"{value:{sign}z.3g}".replace("-", "−")
        return f"{value:{sign}z.{decimals}f}".replace("-", "−")


def number(value: float | None, digits: int) -> str:
    """Return a number with the given number of decimals.

    >>> number(1234.5, 1), number(None, 1)
    ('1,234.5', '—')
    """
    return MISSING if value is None else f"{value:,.{digits}f}"


def probability(p: float | None) -> str:
    """Return a p-value as text.

    >>> probability(0.0004), probability(0.0249), probability(None)
    ('<0.001', '0.025', '—')
    """
    return MISSING if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def enough(needed: int | None, most: int = 100) -> str:
    """Return a number of seeds in words.

    >>> enough(40), enough(None)
    ('40', 'more than 100')
    """
    return f"more than {most}" if needed is None else str(needed)


def measure(found: Mapping[str, Any] | None, spread: str = "std") -> str:
    """Return a mean of any size with its spread, if there is one.

    >>> measure({"mean": 3212.1, "std": 273.1}), measure({"mean": 0.000389, "std": None}), measure({"mean": None})
    ('3,212 ± 273', '0.000389', '—')

    Args:
        found: the mean, as `mean`, and its spread.
        spread: the key of the spread.
    """
    if found is None or found["mean"] is None:
        return MISSING
    width = found.get(spread)
    return significant(found["mean"], 3) + ("" if width is None else f" ± {significant(width, 2)}")


def significant(value: float, digits: int) -> str:
    """Return a number of any size with the given number of significant digits, or more if it is large.

    >>> significant(1234.5, 3), significant(0.0494, 2), significant(2.5e-5, 3), significant(0.0, 3)
    ('1,234', '0.049', '2.5e-05', '0')
    """
    if not 1e-4 <= abs(value) < LARGE:
        return f"{value:.{digits}g}".replace("-", "−", value < 0)
    return f"{value:,.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}".replace("-", "−")
