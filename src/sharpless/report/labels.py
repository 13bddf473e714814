"""Text beside points: every label where it covers nothing else."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

__all__ = ["place_labels"]

NEAR = 7.0  # points between a marker and its label
SIDES = [(1, "left"), (-1, "right")]
# Offset from the marker, and which edge of the text stands there; the first free place is taken.
BESIDE = [(side * NEAR, dy, ha, va) for dy, va in [(0, "center"), (-3, "bottom"), (3, "top")] for side, ha in SIDES]
FAR = [
    (side * dx * NEAR, lift * dy * NEAR, ha, va)
    for dx in (1, 3, 5)
    for dy in (2, 4, 6, 8)
    for lift, va in [(1, "bottom"), (-1, "top")]
    for side, ha in SIDES
]
PLACES = [
    *BESIDE,
    (0, NEAR, "center", "bottom"),
    (0, -NEAR, "center", "top"),
    *sorted(FAR, key=lambda place: math.hypot(*place[:2])),
]


def place_labels(
    axes: Axes, points: Sequence[tuple[float, float, str, str]], taken: Sequence[Bbox]
) -> list[Annotation]:
    """Write the text of each point (x, y, text, color) beside it, with a thin line to it from afar.

    Args:
        axes: where to write; its limits have to be final.
        points: in data coordinates, in the order in which they choose their places.
        taken: boxes in display coordinates that no label may cover.

    Returns:
        The labels, each at the place where it covers least.
    """
    occupied = list(taken)
    labels = []
    for x, y, text, color in points:
        label = axes.annotate(text, (x, y), (0, 0), textcoords="offset points")
        boxes = [_move(label, place) for place in PLACES]
        covered = [_covered(box, occupied, axes.bbox) for box in boxes]
        place = PLACES[covered.index(min(covered))]
        occupied.append(_move(label, place))
        labels.append(label)
        if max(map(abs, place[:2])) > NEAR:
            line = {"arrowstyle": "-", "color": color, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3}
            axes.annotate("", (x, y), place[:2], textcoords="offset points", arrowprops=line)
    return labels


def _move(label: Annotation, place: tuple[float, float, str, str]) -> Bbox:
    dx, dy, horizontal, vertical = place
    label.set_position((dx, dy))
    label.set(ha=horizontal, va=vertical)
    return label.get_window_extent()


def _covered(box: Bbox, occupied: Sequence[Bbox], inside: Bbox) -> float:
    """Return the area of `box` over other things or outside the axes, in whole square pixels."""
    overlaps = [Bbox.intersection(box, other) for other in occupied]
    visible = Bbox.intersection(box, inside)
    outside = _area(box) - (_area(visible) if visible else 0.0)
    return round(outside + sum(_area(overlap) for overlap in overlaps if overlap))


def _area(box: Bbox) -> float:
    return float(box.width * box.height)
