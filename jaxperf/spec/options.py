"""Optimisations of an engine that change the operator table: how attention, quantised weights and adapters are run."""

from __future__ import annotations

import equinox as eqx

from ..ops import Scalar
from .documents.engine import ADAPTED


class Adapters(eqx.Module):
    """LoRA adapters of one `rank`, `count` of them resident, each equally often asked for.

    Flags 0 or 1: `inline` computes them beside the weights, `merging` merges one into the weights in every pass (both
    0: merged ahead, which costs nothing); `attention`, `feed_forward`, `shared_experts`: the adapted classes.
    """

    rank: Scalar = 0.0
    count: Scalar = 0.0
    inline: Scalar = 0.0
    merging: Scalar = 0.0
    attention: Scalar = 0.0
    feed_forward: Scalar = 0.0
    shared_experts: Scalar = 0.0


class Tiles(eqx.Module):
    """Tiles of `rows`×`columns` outputs that GEMMs are computed in, and the `units` (SMs, cores) that compute one at a
    time; 0 where padding does not count."""

    rows: Scalar = 0.0
    columns: Scalar = 0.0
    units: Scalar = 0.0


class ExpertPlacement(eqx.Module):
    """How unequal experts are and what an engine does about it: `skew` s of a Zipf law, weights r^−s by rank of
    popularity (0: all alike); `redundant` copies of hot experts, in all groups of a stage [experts]; `balanced` 1 where
    a balancer puts hot experts beside cold ones, 0 where they lie anywhere."""

    skew: Scalar = 0.0
    redundant: Scalar = 0.0
    balanced: Scalar = 0.0


class Options(eqx.Module):
    """What an engine does otherwise than usual; with every option at 0 the operator table is as it is.

    Flags 0 or 1: `eager` attention writes its scores to memory; `dequantise` in kernels of their own; element-wise work
    `apart` (residual, norm, activation and product in kernels of their own, a GEMM for each projection) or `joined`
    (quantisation with the norm, activation with the GEMM before it).
    """

    eager: Scalar = 0.0
    dequantise: Scalar = 0.0
    apart: Scalar = 0.0
    joined: Scalar = 0.0
    tiles: Tiles = Tiles()
    adapters: Adapters = Adapters()


def build_expert_placement(document: dict) -> ExpertPlacement | None:
    """An `ExpertPlacement` of plain numbers from a validated engine document, None where experts are equally popular
    and there is one of each."""
    chosen = document["experts"]
    if not chosen["skew"] and not chosen["redundant"]:
        return None
    balanced = float(chosen["placement"] == "balanced")
    return ExpertPlacement(float(chosen["skew"]), float(chosen["redundant"]), balanced)


def build_options(document: dict) -> Options | None:
    """`Options` of plain numbers from a validated engine document, None where it asks for nothing unusual."""
    tiles, lora = document["tiles"], document["lora"]
    present = lora["rank"] > 0
    usual = (document["attention"], document["dequantise"], document["fusion"]) == ("fused", "fused", "usual")
    if usual and not tiles["rows"] and not (present and lora["mode"] != "merged-ahead"):
        return None
    return Options(
        eager=float(document["attention"] == "eager"),
        dequantise=float(document["dequantise"] == "separate"),
        apart=float(document["fusion"] == "none"),
        joined=float(document["fusion"] == "full"),
        tiles=Tiles(float(tiles["rows"]), float(tiles["columns"]), float(tiles["units"])),
        adapters=Adapters(
            rank=float(lora["rank"]),
            count=float(present * lora["adapters"]),
            inline=float(present and lora["mode"] == "inline"),
            merging=float(present and lora["mode"] == "merged-each-pass"),
            **{name: float(present and name in lora["classes"]) for name in ADAPTED},
        ),
    )
