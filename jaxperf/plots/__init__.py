"""Figures of results; no physics. matplotlib is imported when one is drawn."""

from .figure import COLOURS, save_figure
from .frontiers import column, draw_frontiers, frontier_figure
from .roofline import roofline_figure

__all__ = ["COLOURS", "column", "draw_frontiers", "frontier_figure", "roofline_figure", "save_figure"]
