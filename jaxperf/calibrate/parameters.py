"""The factors of an `Efficiency` as unbounded numbers: bounds, transforms, weak priors that pull to the defaults.

A share is low + (high − low)·sigmoid(u). A time, size or scale is the same in its logarithm. Whatever the fit does with
u, shares stay in (0, 1], times stay ≥ 0 and scales ≥ 1, so that no prediction beats the physical bound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..spec.deployment import Efficiency, build_efficiency


@dataclass(frozen=True)
class Factor:
    """Open interval of a factor (in the unit of its JSON key), `log` whether the transform works in its logarithm,
    `offset` added to it (a latency scale is 1 + something positive), `spread` of the prior in u."""

    low: float
    high: float
    log: bool = False
    offset: float = 0.0
    spread: float = 1.0


_SHARE = Factor(0.02, 1.0)
_DECODE = Factor(0.005, 1.0)
FACTORS: dict[str, Factor] = {
    "gemm_compute": _SHARE,
    "gemm_memory": _SHARE,
    "gemm_rows_half": Factor(0.1, 4096, log=True),
    "gemm_columns_half": Factor(0.1, 16384, log=True),
    "gemm_depth_half": Factor(0.1, 16384, log=True),
    "attention_prefill_compute": _SHARE,
    "attention_decode_compute": _DECODE,
    "latent_decode_compute": _DECODE,
    "attention_memory": _SHARE,
    "elementwise_memory": _SHARE,
    "memory_bytes_half": Factor(1e3, 1e9, log=True),
    "operator_us": Factor(0.01, 1e3, log=True),
    "attention_us": Factor(0.01, 1e3, log=True),
    "collective_latency_scale": Factor(0.01, 1e3, log=True, offset=1.0, spread=0.3),
    "collective_bandwidth": _SHARE,
    "collective_us": Factor(0.01, 1e3, log=True),
    "host_step_us": Factor(1.0, 1e6, log=True),
    "host_sequence_us": Factor(1e-3, 1e5, log=True),
    "host_token_us": Factor(1e-4, 1e4, log=True),
}
"""Every factor that is fitted, by its JSON key, with its bounds. `sharpness` is not: the maximum stays true."""

EDGE = 0.01
"""A factor whose place between its bounds is nearer to one than this share counts as at a bound."""


def to_document(unbounded: Any) -> dict[str, Any]:
    """The JSON form of an efficiency from unbounded numbers [factors]; traceable."""
    document: dict[str, Any] = {}
    for index, (name, factor) in enumerate(FACTORS.items()):
        place = jax.nn.sigmoid(unbounded[index])
        if factor.log:
            low, high = math.log(factor.low), math.log(factor.high)
            document[name] = factor.offset + jnp.exp(low + (high - low) * place)
        else:
            document[name] = factor.offset + factor.low + (factor.high - factor.low) * place
    return document


def to_efficiency(unbounded: Any) -> Efficiency:
    """An `Efficiency` from unbounded numbers [factors]; traceable."""
    return build_efficiency(to_document(unbounded))


def place_of(name: str, value: float) -> float:
    """Where a value lies between the bounds of its factor, 0 to 1."""
    factor = FACTORS[name]
    value = value - factor.offset
    if factor.log:
        low, high = math.log(factor.low), math.log(factor.high)
        value = math.log(max(value, factor.low))
    else:
        low, high = factor.low, factor.high
    return min(max((value - low) / (high - low), 0.0), 1.0)


def to_unbounded(document: dict[str, Any]) -> np.ndarray:
    """Unbounded numbers [factors] of an efficiency's JSON form; values on or beyond a bound are moved well inside."""
    places = [min(max(place_of(name, document[name]), 5 * EDGE), 1 - 5 * EDGE) for name in FACTORS]
    return np.asarray([math.log(place / (1 - place)) for place in places])


def spreads() -> np.ndarray:
    """Standard deviation of every factor's prior in unbounded numbers [factors]."""
    return np.asarray([factor.spread for factor in FACTORS.values()])


def at_bound(document: dict[str, Any]) -> list[str]:
    """Names of the factors that have run to a bound: the data push them where physics, or the fit, does not follow."""
    return [name for name in FACTORS if not EDGE < place_of(name, document[name]) < 1 - EDGE]
