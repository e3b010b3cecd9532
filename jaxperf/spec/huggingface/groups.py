"""Layers into groups: equal layers together, their places as first, period and run where that describes them."""

from __future__ import annotations

import json

from ...constants import GROUP_SLOTS
from ...errors import InputError


def place_runs(places: list[int]) -> list[dict]:
    """Ascending layers as few regular runs: `{count, first, period, run}`, the usual values left out.

    A run is `run` layers from `first` in every `period`; the last may be cut short.
    """
    found = []
    while places:
        best = max(_candidates(places), key=lambda piece: piece[0])
        count, first, period, run = best
        place = {"count": count, "first": first}
        found.append(place | ({"period": period} if period > 1 else {}) | ({"run": run} if run > 1 else {}))
        places = places[count:]
    return found


def _candidates(places: list[int]) -> list[tuple[int, int, int, int]]:
    """The regular runs with which an ascending list may begin, as (count, first, period, run)."""
    first = places[0]
    stretch = next((n for n, place in enumerate(places) if place != first + n), len(places))
    candidates = [(stretch, first, 1, 1)]
    if stretch < len(places):
        period = places[stretch] - first
        matching = 0
        while matching < len(places) and places[matching] == first + matching // stretch * period + matching % stretch:
            matching += 1
        candidates.append((matching, first, period, stretch))
    return candidates


def layer_groups(shapes: list[dict], where: str) -> list[dict]:
    """Groups of equal layers, at most `GROUP_SLOTS`, in the order of their first layers.

    A shape whose places are not regular is one group with a list of `layers`, if its runs do not fit in.
    **Raises** `InputError` where there are more shapes than groups.
    """
    owners: dict[str, list[int]] = {}
    for place, shape in enumerate(shapes):
        owners.setdefault(json.dumps(shape, sort_keys=True), []).append(place)
    if len(owners) > GROUP_SLOTS:
        raise InputError(f"{where}: layers of {len(owners)} shapes; a jaxperf model describes at most {GROUP_SLOTS}")
    runs = {text: place_runs(places) for text, places in owners.items()}
    irregular = sorted(runs, key=lambda text: -len(runs[text]))
    while sum(map(len, runs.values())) > GROUP_SLOTS:
        text = irregular.pop(0)
        runs[text] = [{"count": len(owners[text]), "layers": owners[text]}]
    groups = [{**run, **shapes[owners[text][0]]} for text, found in runs.items() for run in found]
    return sorted(groups, key=lambda group: group["layers"][0] if "layers" in group else group["first"])
