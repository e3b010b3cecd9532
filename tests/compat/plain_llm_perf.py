"""llm_perf's rules for collectives and placement once more, in plain Python, one tier at a time.

Written from the tool's documentation (documentation/modeling), as a second opinion on the array form."""

from __future__ import annotations

import math
import random

GIGA, MICRO = 1e9, 1e-6


def tiers_of(system: dict, collective: str) -> list[dict]:
    return [t for name in system["collective_fabrics"][collective] for t in system["fabrics"][name]["tiers"]]


def joins(tier: dict) -> int:
    return math.prod(tier["dims"]) if "dims" in tier else tier["ports"]


def on_grid(tier: dict) -> bool:
    return "dims" in tier and not tier.get("full", False)


def crossed(chain: list[dict], ranks: int) -> list[dict]:
    found, reach = [], 1
    for tier in chain:
        if reach >= ranks:
            break
        found.append(tier)
        reach *= joins(tier)
    return found


def joined(tiers: list[dict], switch: bool = False) -> tuple[float, float]:
    """α [s] and bytes/s of several tiers as one."""

    def alpha(tier: dict) -> float:
        own = tier.get("inc_alpha_us", 0.0)
        return own if switch and own > 0 else tier["alpha_us"]

    return (
        sum(alpha(t) * t.get("eta_alpha", 1.0) for t in tiers) * MICRO,
        min(t["bw_per_port_GBps"] * t.get("eta_beta", 1.0) for t in tiers) * GIGA,
    )


def software(size: float, ranks: int, alpha: float, rate: float, algorithm: str) -> float:
    if ranks == 1:
        return 0.0
    rounds = (ranks - 1).bit_length()
    volume = {"ring": 2 * (ranks - 1) / ranks, "tree": rounds, "tree_pipelined": 1}[algorithm] * size
    steps = 2 * (ranks - 1) if algorithm == "ring" else 2 * rounds
    return steps * alpha + volume / rate


def gather(size: float, ranks: int, alpha: float, rate: float) -> float:
    return (ranks - 1) * alpha + (ranks - 1) / ranks * size / rate


def leading_sides(ranks: int, tiers: list[dict]) -> list[int] | None:
    sides: list[int] = []
    for side in [d for t in tiers for d in t["dims"]]:
        if math.prod(sides) == ranks:
            return sides
        sides.append(side)
    return sides if math.prod(sides) == ranks else None


def cost(chain: list[dict], kind: str, size: float, ranks: int, algorithm: str, in_network: bool) -> float:
    """Seconds of one `reduce`, `gather` or `exchange`."""
    if ranks <= 1:
        return 0.0
    tiers = crossed(chain, ranks)
    alpha, rate = joined(tiers)
    modes = [t.get("inc", "none") for t in tiers]
    if not any(on_grid(t) for t in tiers):
        able = in_network and (all(m == "hw_a2a" for m in modes) if kind == "exchange" else "none" not in modes)
        if able:
            alpha, rate = joined(tiers, switch=True)
            if kind == "reduce":
                return 2 * alpha + size / rate
            steps = 1 if kind == "exchange" else 2
            return steps * alpha + (ranks - 1) / ranks * size / rate
        if len(tiers) > 1:
            return nested(tiers, kind, size, ranks, algorithm)
    elif all(on_grid(t) for t in tiers):
        sides = leading_sides(ranks, tiers)
        if sides is None:
            algorithm = "ring"
        elif kind == "exchange":
            open_ends = any(t["topology"] == "mesh" for t in tiers)
            hops = sum(d - 1 if open_ends else d // 2 for d in sides)
            return hops * alpha + max(sides) / (4 if open_ends else 8) * size / rate
        else:
            once = sum(d - 1 for d in sides) * alpha + (ranks - 1) / ranks * size / rate
            return 2 * once if kind == "reduce" else once
    if kind == "reduce":
        return software(size, ranks, alpha, rate, algorithm)
    return gather(size, ranks, alpha, rate)


def nested(tiers: list[dict], kind: str, size: float, ranks: int, algorithm: str) -> float:
    inside, groups = joins(tiers[0]), max(1, ranks // joins(tiers[0]))
    near, far = joined(tiers[:1]), joined(tiers[1:])
    if kind == "exchange":
        part = size / ranks
        return (inside - 1) * (near[0] + part / near[1]) + (ranks - inside) * (far[0] + part / far[1])
    if kind == "gather":
        return gather(size / groups, inside, *near) + gather(size, groups, *far)
    return 2 * gather(size, inside, *near) + software(size / inside, groups, *far, algorithm)


def chosen(chain: list[dict], kind: str, size: float, ranks: int, in_network: bool) -> str:
    """What `auto` stands for."""
    tiers = crossed(chain, ranks)
    if ranks <= 1:
        return "ring"
    if all(on_grid(t) for t in tiers):
        return "torus-dim-ring"
    modes = [t.get("inc", "none") for t in tiers]
    wanted = ("hw_a2a",) if kind == "exchange" else ("sharp_class", "hw_a2a")
    if in_network and all(m in wanted for m in modes):
        return "inc"
    if kind == "exchange":
        return "ring"
    names = ["ring", "tree", "tree_pipelined"]
    costs = [cost(chain, kind, size, ranks, name, False) for name in names]
    return next(n for n, c in zip(names, costs, strict=True) if c <= min(costs) * (1 + 1e-12))


def hop(chain: list[dict], size: float, replica: int) -> float:
    tier = crossed(chain, replica)[-1]
    return tier["alpha_us"] * MICRO + size / (tier["bw_per_port_GBps"] * GIGA)


def lay_out(tiers: list[dict], placement: dict, weights: float, cache: float) -> list[float] | None:
    """Bytes on every tier; None where a pinned class does not fit."""
    free = [t["capacity_GB"] * GIGA for t in tiers]
    held = [0.0] * len(tiers)
    classes = {"weights": weights, "kv": cache}
    for name in ("weights", "kv"):
        pin = placement[f"{name}_tier"]
        if pin != "auto":
            index = [t["name"] for t in tiers].index(pin)
            size = classes.pop(name)
            if size > free[index]:
                return None
            free[index] -= size
            held[index] += size
    for name in sorted(classes, key=lambda c: c != placement["auto_priority"]):
        left = classes[name]
        for index in range(len(tiers)):
            taken = left if index == len(tiers) - 1 else min(free[index], left)
            held[index] += taken
            free[index] -= taken
            left -= taken
    return held


def read_time(tiers: list[dict], held: list[float]) -> float:
    rates = [t["bandwidth_GBps"] * t.get("eta_beta", 1.0) * GIGA for t in tiers]
    return sum(size / rate for size, rate in zip(held, rates, strict=True))


def random_tier(draw: random.Random, kind: str) -> dict:
    tier: dict = {
        "bw_per_port_GBps": draw.uniform(20, 900),
        "alpha_us": draw.uniform(0.1, 3),
        "eta_alpha": draw.uniform(1, 2),
        "eta_beta": draw.uniform(0.5, 1),
    }
    if kind == "switch":
        ports = draw.choice([1, 2, 4, 8, 12])
        inc = draw.choice(["none", "sharp_class", "hw_a2a", "hw_a2a"])
        return {**tier, "ports": ports, "inc": inc, "inc_alpha_us": draw.choice([0.0, 0.2])}
    if kind == "full mesh":
        return {**tier, "topology": "mesh", "full": True, "dims": [draw.choice([2, 4, 8])]}
    return {**tier, "topology": kind, "dims": [draw.choice([1, 2, 4]) for _ in range(draw.randint(1, 3))]}


def random_chain(draw: random.Random) -> list[dict]:
    kinds = draw.choice(
        [
            ["switch"],
            ["switch", "switch", "switch"],
            ["full mesh", "switch"],
            ["torus"],
            ["mesh"],
            ["torus", "mesh"],
            ["torus", "torus"],
            ["switch", "torus"],
            ["torus", "switch"],
        ]
    )
    return [random_tier(draw, kind) for kind in kinds]
