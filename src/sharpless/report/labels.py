"""Labels beside points, placed without overlap."""

import math
from collections.abc import Sequence

import numpy
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

__all__ = ["place_labels", "place_name"]

NEAR = 7.0  # points between a marker and its label
SIDES = [(1, "left"), (-1, "right")]
# Offset from the marker, and the edge of the text at this offset. The first free place is used.
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
# Possible positions of a name along a horizontal line, the ends first, and its offset there.
ALONG = [
    (at, (side * 2, lift, ha, va))
    for at, side, ha in ((0, 1, "left"), (1, -1, "right"), *((at / 20, 0, "center") for at in range(4, 17)))
    for lift, va in ((-2, "top"), (2, "bottom"))
]


def place_labels(
    axes: Axes, points: Sequence[tuple[float, float, str, str]], taken: Sequence[Bbox]
) -> list[Annotation]:
    """Write the text of each point (x, y, text, color) beside it. Distant labels get a thin line to the point.

    Args:
        axes: the axes, with final limits.
        points: in data coordinates, in the order of placement.
        taken: boxes in display coordinates that labels should not cover.

    Returns:
        The labels, placed with the least overlap of text and line.
    """
    occupied = list(taken)
    labels = []
    for x, y, text, color in points:
        label = axes.annotate(text, (x, y), (0, 0), textcoords="offset points")
        boxes = [[_move(label, place), *_line(axes, (x, y), place)] for place in PLACES]
        chosen = _least_covering(boxes, occupied, axes.bbox)
        place = PLACES[chosen]
        _move(label, place)
        occupied += boxes[chosen]
        labels.append(label)
        if _is_far(place):
            line = {"arrowstyle": "-", "color": color, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3}
            axes.annotate("", (x, y), place[:2], textcoords="offset points", arrowprops=line)
    return labels


def place_name(axes: Axes, text: str, level: float, taken: Sequence[Bbox]) -> Annotation:
    """Write the name of a horizontal line at one of its ends, or along it, below or above.

    Args:
        axes: the axes, with final limits.
        text: the name.
        level: the position of the line, in data coordinates.
        taken: boxes in display coordinates that the name should not cover.

    Returns:
        The name, placed with the least overlap.
    """
    name = axes.annotate(text, (0, level), (0, 0), axes.get_yaxis_transform(), "offset points", size=7.5, alpha=0.75)

    def put(at: float, place: tuple[float, float, str, str]) -> Bbox:
        name.xy = (at, level)
        return _move(name, place)

    boxes = [[put(*where)] for where in ALONG]
    put(*ALONG[_least_covering(boxes, taken, axes.bbox)])
    return name


def _is_far(place: tuple[float, float, str, str]) -> bool:
    return max(map(abs, place[:2])) > NEAR


def _move(label: Annotation, place: tuple[float, float, str, str]) -> Bbox:
    dx, dy, horizontal, vertical = place
    label.set_position((dx, dy))
    label.set(ha=horizontal, va=vertical)
    return label.get_window_extent()


def _line(axes: Axes, point: tuple[float, float], place: tuple[float, float, str, str]) -> list[Bbox]:
    """Return the line from near a point to a label far away, as a chain of small boxes."""
    if not _is_far(place):
        return []
    x, y = axes.transData.transform(point)
    dx, dy, *_ = place
    length = math.hypot(dx, dy)
    return [
        Bbox.from_bounds(x + dx * at / length - 1, y + dy * at / length - 1, 2, 2)
        for at in range(round(NEAR), round(length), 2)
    ]


def _least_covering(choices: Sequence[Sequence[Bbox]], occupied: Sequence[Bbox], inside: Bbox) -> int:
    """Return the index of the choice, a group of boxes, with the least overlap; the first of equals."""
    covered = [_covered(boxes, occupied, inside) for boxes in choices]
    return covered.index(min(covered))


def _covered(boxes: Sequence[Bbox], occupied: Sequence[Bbox], inside: Bbox) -> float:
    """Return the area of `boxes` over other things or outside the axes, in whole square pixels."""
    outside = sum(box.width * box.height for box in boxes) - _overlap(boxes, [inside])
    return round(outside + _overlap(boxes, occupied))


def _overlap(boxes: Sequence[Bbox], others: Sequence[Bbox]) -> float:
    """Return the common area of `boxes` and `others`, summed over all pairs."""
    one = numpy.array([box.extents for box in boxes])[:, None]
    other = numpy.array([box.extents for box in others]).reshape(1, -1, 4)
    sides = numpy.minimum(one[..., 2:], other[..., 2:]) - numpy.maximum(one[..., :2], other[..., :2])
    return float(sides.clip(0).prod(axis=-1).sum())
