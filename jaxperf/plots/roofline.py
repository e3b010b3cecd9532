"""The roofline of a device with the operators of an estimate on it; no physics."""

from __future__ import annotations

import math
import os
from typing import Any

from .figure import COLOURS, save_figure
from .labels import FAINT, INK, box_of, label_along, leader, line_boxes, place_label

BOUNDS = dict(zip(("memory", "compute", "network", "overhead"), COLOURS, strict=False))
"""Colours of what bounds an operator."""

LABELLED = 0.03
"""Share of a phase's time from which an operator is labelled."""

LARGEST = 900.0
"""Area of the marker of an operator that takes all the time [points²]."""

_FARTHEST = 100.0
"""How much farther right than all else the ridge of a slow memory may lie to be shown."""


def roofline_figure(document: dict[str, Any], path: str | os.PathLike) -> None:
    """The operators of both phases of an estimate's JSON document on the roofline of its device, a panel a phase.

    A point an operator: FLOP/byte across, attained FLOP/s up, its area ∝ its share of the phase's time, its colour what
    bounds it. Ceilings are the device's peaks by type, slopes its memories; their crossings, the ridge points, bear
    their intensity. The format is what the suffix of `path` says.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    device = document["device"]
    phases = sorted({row["phase"] for row in document["breakdown"]}, key=lambda phase: (phase != "prefill", phase))
    points = {phase: _points(document["breakdown"], phase) for phase in phases}
    every = [point for found in points.values() for point in found]
    limits = _limits(device, every)
    size = (0.6 + 6.2 * len(phases), 5.6)
    figure, axes = plt.subplots(1, len(phases), figsize=size, dpi=150, squeeze=False, sharey=True)
    figure.subplots_adjust(left=0.75 / size[0], right=1 - 0.15 / size[0], bottom=0.17, top=0.84, wspace=0.05)
    for panel, phase in zip(axes.flat, phases, strict=True):
        panel.set(xscale="log", yscale="log", xlim=limits[0], ylim=limits[1])
        panel.set_xlabel("arithmetic intensity [FLOP/byte]", color=INK)
        panel.grid(True, which="major", color="#efeeec", lw=0.8)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        left_out = 1 - sum(point["share"] for point in points[phase])
        panel.set_title(f"{phase}: {left_out:.0%} of the time without FLOPs", fontsize=9, color=INK, loc="left")
        placed = _device_lines(figure, panel, device)
        _operators(figure, panel, points[phase], placed)
    axes[0, 0].set_ylabel("attained FLOP/s of one device", color=INK)
    marks = [Line2D([], [], ls="", marker="o", color=colour, label=bound) for bound, colour in BOUNDS.items()]
    figure.legend(
        handles=marks, loc="lower center", ncols=len(marks), frameon=False, fontsize=9, title="bound by; area ∝ time",
        title_fontsize=8,
    )  # fmt: skip
    figure.suptitle(_title(document), fontsize=11, color=INK, x=0.75 / size[0], ha="left")
    save_figure(figure, path)
    plt.close(figure)


def _title(document: dict[str, Any]) -> str:
    """Model and system, and below them layout, formats and workload."""
    layout, load = document["deployment"], document.get("workload", {})
    degrees = [f"{name.replace('attention_dp', 'dp-attention')} {layout.get(name, 1)}" for name in _DEGREES]
    kept = [text for text in degrees if not text.endswith(" 1")] or ["one device"]
    formats = layout["precision"]
    weights = sorted({form for name, form in formats.items() if name not in ("kv_cache", "activations")})
    kept.append(f"weights {'/'.join(map(str, weights))}")
    if "kv_cache" in formats:
        kept.append(f"KV cache {formats['kv_cache']}")
    if {"batch", "isl", "osl"} <= set(load):
        kept.append(f"batch {load['batch']:,}, {load['isl']:,} tokens in, {load['osl']:,} out")
    return f"{document['model']} on {document['system']}\n" + ", ".join(kept)


_DEGREES = ("tp", "pp", "ep", "cp", "attention_dp", "replicas")


def _points(rows: list[dict[str, Any]], phase: str) -> list[dict[str, Any]]:
    """The operators of a phase that count FLOPs, longest first, with `x` [FLOP/byte] and `y` [FLOP/s]."""
    found = [
        {**row, "x": row["flops"] / row["bytes"], "y": row["flops"] / row["time_s"]}
        for row in rows
        if row["phase"] == phase and min(row["flops"], row["bytes"], row["time_s"]) > 0
    ]
    return sorted(found, key=lambda point: -point["share"])


def _ceilings(device: dict[str, Any]) -> dict[str, float]:
    """Peaks [FLOP/s] by the types that share them, highest first: `bf16, fp16`."""
    names: dict[float, list[str]] = {}
    for dtype, peak in sorted(device["peak_flops_per_s"].items(), key=lambda item: -item[1]):
        names.setdefault(peak, []).append(dtype)
    return {", ".join(dtypes): peak for peak, dtypes in names.items()}


def _limits(device: dict[str, Any], points: list[dict[str, Any]]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Ranges of both axes: all points, the ridges of main memory and of memories not much slower, room for labels."""
    peaks, rates = _ceilings(device).values(), device["memory_bandwidth_bytes_per_s"]
    main = rates[device["main_memory"]]
    across = [min(peaks) / main / 10, max(peaks) / main] + [point["x"] for point in points]
    low, high = min(across) / 2.5, max(across)
    ridges = [peak / rate for peak in peaks for rate in rates.values()]
    high = max([high, *(ridge for ridge in ridges if ridge < _FARTHEST * high)])
    up = [point["y"] for point in points] + [main * low]
    return (low, high * 30), (min(up) / 1.5, max(peaks) * 2.2)


def _device_lines(figure: Any, panel: Any, device: dict[str, Any]) -> list[Any]:
    """Ceilings, slopes and ridge points with their labels; returns the boxes that labels fill."""
    (left, right), (_, top) = panel.get_xlim(), panel.get_ylim()
    main, boxes = device["main_memory"], []
    ceilings = _ceilings(device)
    highest = max(ceilings.values())
    main_rate = device["memory_bandwidth_bytes_per_s"][main]
    for name, peak in ceilings.items():
        panel.plot([peak / main_rate, right], [peak, peak], color=INK, lw=1.2)
        boxes += line_boxes(panel, (peak / main_rate, peak), (right, peak))
        text = panel.annotate(
            f"{name}: {_scaled(peak)}FLOP/s", (right, peak), (-3, 3), textcoords="offset points",
            ha="right", va="bottom", fontsize=7, color=INK,
        )  # fmt: skip
        boxes.append(box_of(figure, text))
    for name, rate in device["memory_bandwidth_bytes_per_s"].items():
        style = {"color": INK, "lw": 1.2} if name == main else {"color": FAINT, "lw": 1.0, "ls": "--"}
        panel.plot([left, highest / rate], [left * rate, highest], **style)
        boxes += line_boxes(panel, (left, left * rate), (highest / rate, highest))
        label = f"{name}: {_scaled(rate)}B/s"
        text = label_along(figure, panel, label, rate, style["color"])
        if text is not None:
            boxes.append(box_of(figure, text))
        for peak in ceilings.values():
            ridge = peak / rate
            if ridge < right and peak < top:
                panel.plot([ridge], [peak], marker="D", ms=3, color=style["color"])
                text = panel.annotate(
                    _figure(ridge), (ridge, peak), (-3, 3), textcoords="offset points",
                    ha="right", va="bottom", fontsize=7, color=style["color"],
                )  # fmt: skip
                boxes.append(box_of(figure, text))
    return boxes


def _operators(figure: Any, panel: Any, points: list[dict[str, Any]], boxes: list[Any]) -> None:
    """Markers of all operators, and labels of those that take `LABELLED` of the time, where nothing else stands and
    no line from a label to its marker crosses another label."""
    from matplotlib.transforms import Bbox

    panel.scatter(
        [point["x"] for point in points],
        [point["y"] for point in points],
        s=[_area(point) for point in points],
        c=[BOUNDS.get(point["bound"], FAINT) for point in points],
        alpha=0.75,
        edgecolors="white",
        linewidths=0.6,
        zorder=3,
    )
    pixels, labels = figure.dpi / 72, []
    for point in points:
        x, y = panel.transData.transform((point["x"], point["y"]))
        radius = math.sqrt(_area(point) / math.pi) * pixels
        boxes.append(Bbox.from_extents(x - radius, y - radius, x + radius, y + radius))
    for point in points:
        if point["share"] >= LABELLED:
            place, radius = (point["x"], point["y"]), math.sqrt(_area(point) / math.pi)
            name = f"{point['operator']} {point['share']:.0%}"
            labels.append(place_label(figure, panel, name, place, radius, boxes, labels))
            boxes.append(labels[-1])
            boxes += leader(panel, place, labels[-1])


def _area(point: dict[str, Any]) -> float:
    """Area of a marker [points²], of at least 2 points across so that it is seen."""
    return max(LARGEST * point["share"], 6.0)


def _figure(value: float) -> str:
    """Three digits, thousands apart."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _scaled(value: float) -> str:
    """A large number with its prefix: `989 T`."""
    for scale, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= scale:
            return f"{value / scale:.3g} {prefix}"
    return f"{value:.3g} "
