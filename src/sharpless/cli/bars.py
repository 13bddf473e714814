"""A probability over a run as bars of text, and durations in words."""

from collections.abc import Sequence
from itertools import pairwise

__all__ = ["bars", "duration"]


def bars(chances: Sequence[float], steps: int, width: int, height: int = 8) -> str:
    """Return p(t) as bars of text, with a resolution of an eighth of a line.

    Args:
        chances: p at all steps, or at evenly spaced ones.
        steps: the number of all steps.
        width: width of the bars, in characters.
        height: height in lines.
    """
    edges = [len(chances) * i // width for i in range(width + 1)]
    bins = [chances[left : max(right, left + 1)] for left, right in pairwise(edges)]
    eighths = [round(8 * height * sum(values) / len(values)) for values in bins]
    lines = []
    for level in reversed(range(height)):
        label = {height - 1: "p(t) 1", 0: "0"}.get(level, "")
        row = "".join(" ▁▂▃▄▅▆▇█"[min(max(count - 8 * level, 0), 8)] for count in eighths)
        lines.append(f"{label:>6} │{row}".rstrip())
    return "\n".join([*lines, f"{'':6} └{'─' * width}", f"{'':8}t = 0{f'T = {steps}':>{width - 5}}"])


def duration(seconds: float) -> str:
    """Return `seconds` as text.

    >>> duration(7.25), duration(59.99), duration(3725)
    ('7.2 s', '1 min 0 s', '1 h 2 min')
    """
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
