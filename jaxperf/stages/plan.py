"""What every pass of one configuration shares, computed once: arithmetic by class, collectives as lines, degrees."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp

from ..collectives.topology import Line, exchange_line, hop_line, ring_line
from ..constants import DTYPES
from ..ops import Ops, Scalar
from ..spec.deployment import Deployment, WeightFormat
from ..spec.model import Model
from ..spec.system import Device, System
from .routing import normal_score


class Arithmetic(eqx.Module):
    """How a class of weights is computed on a device: stored width, width of the GEMM's input [bytes per element],
    peak [FLOP/s]."""

    weight_width: Scalar
    input_width: Scalar
    peak: Scalar


def select(values: tuple[Scalar, ...], dtype: Any) -> Scalar:
    """The entry of a table by `DTYPES` for a (traced) type index."""
    result = values[0]
    for index in range(1, len(DTYPES)):
        result = jnp.where(dtype == index, values[index], result)
    return result


def arithmetic(form: WeightFormat, device: Device) -> Arithmetic:
    """The peak is that of the slower of weight and activation type; a type that the device lacks runs at the next
    wider one with activations of that width."""
    return Arithmetic(form.bytes, select(device.activation_bytes, form.dtype), select(device.peak, form.dtype))


class Links(eqx.Module):
    """Collectives of the layout, each as a line over its message size: ring over tp, over all ranks of a stage and over
    cp, exchange over ep, and all hops between pipeline stages."""

    tp: Line
    ranks: Line
    cp: Line
    exchange: Line
    hops: Line


class Plan(eqx.Module):
    """One configuration, ready to price passes. `score` is the expected maximum of ep standard normals."""

    model: Model
    system: System
    deployment: Deployment
    attention: Arithmetic
    feed_forward: Arithmetic
    shared_experts: Arithmetic
    routed_experts: Arithmetic
    router: Arithmetic
    lm_head: Arithmetic
    core_peak: Scalar
    moe_tp: Scalar
    score: Scalar
    links: Links


def make_plan(model: Model, system: System, deployment: Deployment, ops: Ops) -> Plan:
    """The `Plan` of a configuration. Attention's core runs in bf16; moe_tp = tp·cp·attention_dp/ep."""
    layout, precision, device = deployment.parallelism, deployment.precision, system.device
    moe_tp = layout.ranks / layout.ep
    fabric, efficiency = system.fabric, deployment.efficiency
    return Plan(
        model=model,
        system=system,
        deployment=deployment,
        attention=arithmetic(precision.attention, device),
        feed_forward=arithmetic(precision.feed_forward, device),
        shared_experts=arithmetic(precision.shared_experts, device),
        routed_experts=arithmetic(precision.routed_experts, device),
        router=arithmetic(precision.router, device),
        lm_head=arithmetic(precision.lm_head, device),
        core_peak=device.peak[DTYPES.index("bf16")],
        moe_tp=moe_tp,
        score=normal_score(layout.ep),
        links=Links(
            tp=ring_line(layout.tp, 1.0, fabric, efficiency, ops),
            ranks=ring_line(layout.ranks, 1.0, fabric, efficiency, ops),
            cp=ring_line(layout.cp, layout.tp, fabric, efficiency, ops),
            exchange=exchange_line(layout.ep, moe_tp, fabric, efficiency, ops),
            hops=hop_line(layout.pp, layout.ranks, fabric, efficiency, ops),
        ),
    )
