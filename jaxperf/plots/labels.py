"""Labels of a figure that stand where nothing else does; no physics. Boxes are matplotlib's, in pixels."""

from __future__ import annotations

import math
from typing import Any

INK, FAINT = "#37352f", "#9b9a97"
"""Colours of what matters and of what stands back."""

Point = tuple[float, float]
"""Where something stands, in the units of the axes."""

_HALF = 1.5
"""Half the width that a line takes [pixels]."""

_DISTANCES = (4, 10, 18, 28, 40, 55, 72, 90)
"""How far from its marker a label may stand, nearest first [points]."""

_DIRECTIONS = [(math.cos(angle), math.sin(angle)) for angle in (math.pi * step / 8 for step in range(16))]


def place_label(
    figure: Any, panel: Any, label: str, point: Point, radius: float, boxes: list[Any], labels: list[Any]
) -> Any:
    """Label a marker of some `radius` [points] at the nearest place around it that covers none of the `boxes` and whose
    line to the marker crosses none of the `labels`, else where it covers least; returns the label's box."""
    text = panel.annotate(
        label, point, (0, 0), textcoords="offset points",
        fontsize=7.5, color=INK, zorder=5,
        arrowprops={"arrowstyle": "-", "color": FAINT, "lw": 0.6, "shrinkA": 0, "shrinkB": radius},
    )  # fmt: skip
    inside, best = panel.get_window_extent(), None
    for distance in _DISTANCES:
        for across, up in _DIRECTIONS:
            text.set_position(((radius + distance) * across, (radius + distance) * up))
            text.set_ha("left" if across > 0.3 else "right" if across < -0.3 else "center")
            text.set_va("bottom" if up > 0.3 else "top" if up < -0.3 else "center")
            box = box_of(figure, text)
            if not (inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1):
                continue
            covered = sum(_overlap(box, other) for other in boxes)
            covered += sum(_overlap(part, other) for part in leader(panel, point, box) for other in labels)
            if best is None or covered < best[0]:
                best = (covered, text.get_position(), text.get_ha(), text.get_va(), box)
            if covered == 0:
                return box
    if best is None:
        return box_of(figure, text)
    text.set_position(best[1])
    text.set_ha(best[2])
    text.set_va(best[3])
    return best[4]


def leader(panel: Any, point: Point, box: Any) -> list[Any]:
    """Small boxes along the line from a marker to its label, without the label itself [pixels]."""
    middle = panel.transData.inverted().transform(((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2))
    line = line_boxes(panel, point, tuple(middle), 40)
    return [part for part in line if not _overlap(part, box)]


def line_boxes(panel: Any, start: Point, end: Point, count: int = 100) -> list[Any]:
    """Small boxes along a line, so that labels keep off it [pixels]."""
    from matplotlib.transforms import Bbox

    (x0, y0), (x1, y1) = panel.transData.transform([start, end])
    steps = [index / count for index in range(count + 1)]
    centres = [(x0 + step * (x1 - x0), y0 + step * (y1 - y0)) for step in steps]
    return [Bbox.from_extents(x - _HALF, y - _HALF, x + _HALF, y + _HALF) for x, y in centres]


def label_along(figure: Any, panel: Any, label: str, rate: float, colour: str) -> Any:
    """A label along the slope of a memory, near its lower end in the panel; None where the slope is not in it."""
    (left, right), (low, top) = panel.get_xlim(), panel.get_ylim()
    start = max(left, low / rate) * 1.4
    if start >= right or start * rate >= top:
        return None
    first, second = panel.transData.transform([(start, start * rate), (2 * start, 2 * start * rate)])
    angle = math.degrees(math.atan2(second[1] - first[1], second[0] - first[0]))
    return panel.annotate(
        label, (start, start * rate), (-3, 3), textcoords="offset points", rotation=angle,
        rotation_mode="anchor", ha="left", va="bottom", fontsize=7, color=colour,
    )  # fmt: skip


def box_of(figure: Any, text: Any) -> Any:
    """What a text alone, without its line to the point, covers [pixels]."""
    from matplotlib.text import Text

    text.update_positions(figure.canvas.get_renderer())
    return Text.get_window_extent(text, figure.canvas.get_renderer()).expanded(1.02, 1.05)


def _overlap(one: Any, other: Any) -> float:
    """Area that two boxes share [pixels²]."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(width, 0.0) * max(height, 0.0)
