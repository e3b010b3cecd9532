"""The Pareto frontiers of a scan; no physics."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

from .figure import COLOURS, save_figure

if TYPE_CHECKING:
    from ..scan import ScanResult


def _label(metric: str) -> str:
    units = {"ttft": "TTFT [s]", "tpot": "TPOT [s]", "e2e": "end to end [s]", "devices": "devices"}
    units |= {"price_per_million_tokens": "USD per million output tokens", "joules_per_token": "J per output token"}
    units |= {"output_tokens_per_s_per_device": "output tokens/s per device"}
    units |= {"output_tokens_per_s_per_user": "output tokens/s per user"}
    return units.get(metric, metric.replace("_", " "))


def frontier_figure(result: ScanResult, path: str | os.PathLike) -> None:
    """The Pareto frontiers of a scan, a panel a workload and a line a model, as PNG (or what the suffix says)."""
    draw_frontiers(result.document(), path)


def draw_frontiers(document: dict[str, Any], path: str | os.PathLike) -> None:
    """`frontier_figure` of a scan's JSON document: its `objectives`, `groups` and, where known, `configurations`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    groups = [group for group in document["groups"] if group["frontier"]]
    workloads = list(dict.fromkeys((group["isl"], group["osl"]) for group in groups)) or [(0, 0)]
    models = list(dict.fromkeys(group["model"] for group in groups))
    objectives = document["objectives"]
    up, across = (column(name) for name in objectives)
    columns = min(3, len(workloads))
    lines = math.ceil(len(workloads) / columns)
    size = (1.2 + 4.3 * columns, 1.6 + 3.4 * lines)
    figure, axes = plt.subplots(lines, columns, figsize=size, dpi=150, squeeze=False, layout="constrained")
    for panel, (isl, osl) in zip(axes.flat, workloads, strict=False):
        for group in groups:
            if (group["isl"], group["osl"]) == (isl, osl):
                colour = COLOURS[models.index(group["model"]) % len(COLOURS)]
                x, y = [row[across] for row in group["frontier"]], [row[up] for row in group["frontier"]]
                panel.plot(x, y, color=colour, lw=1.6, marker=".", ms=3, label=group["model"])
        panel.set(xscale="log", yscale="log", title=f"{isl:,} tokens in, {osl:,} out")
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
        panel.set_xlabel(_label(objectives[1]))
        panel.set_ylabel(_label(objectives[0]))
        panel.grid(True, which="major", color="#e3e2e0", lw=0.8)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in list(axes.flat)[len(workloads) :]:
        panel.set_visible(False)
    handles = {label: h for panel in axes.flat for h, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    if handles:
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=min(4, len(handles)), frameon=False
        )
    counted = f" of {document['configurations']:,} configurations" if "configurations" in document else ""
    figure.suptitle(f"Pareto frontiers{counted}", fontsize=11)
    save_figure(figure, path)
    plt.close(figure)


def column(metric: str) -> str:
    """The column of a scan's rows that holds a metric."""
    return {
        "ttft": "ttft_s",
        "tpot": "tpot_s",
        "e2e": "e2e_s",
        "price_per_million_tokens": "price_per_million_tokens_USD",
    }.get(metric, metric)
