"""Words of a search question: metrics, constraints and free variables as a person writes them."""

from __future__ import annotations

import math
import re

from ..errors import InputError, nearest
from .relax import METRICS

ALIASES = {
    "tokens_per_s_per_device": "output_tokens_per_s_per_device",
    "tokens_per_s": "output_tokens_per_s",
    "tokens_per_s_per_user": "output_tokens_per_s_per_user",
    "throughput": "output_tokens_per_s_per_device",
    "ttft": "ttft_s",
    "tpot": "tpot_s",
    "e2e": "e2e_s",
    "price": "price_per_million_tokens",
    "energy": "joules_per_token",
    "dp_attention": "attention_dp",
    "dp-attention": "attention_dp",
}
"""Short spellings of metrics and variables."""


def metric_name(text: str) -> str:
    """A metric's name from its name or a short spelling. **Raises** `InputError` with the nearest names."""
    name = ALIASES.get(text.strip(), text.strip())
    if name not in METRICS:
        raise InputError(f"no metric is called '{text.strip()}'; {nearest(text.strip(), [*METRICS, *ALIASES])}")
    return name


def parse_constraint(text: str) -> tuple[str, bool, float]:
    """`tpot_s<0.03` as (metric, is an upper limit, value). **Raises** `InputError` that says what is expected."""
    match = re.fullmatch(r"\s*([\w.\-]+)\s*(<=|>=|<|>)\s*(\S+)\s*", text)
    try:
        value = float(match[3]) if match else math.nan
    except ValueError:
        value = math.nan
    if match is None or not (math.isfinite(value) and value > 0):
        raise InputError(f"'{text}' is no constraint; expected a metric, < or >, and a number above 0: 'tpot_s<0.03'")
    return metric_name(match[1]), match[2].startswith("<"), value


def parse_free(text: str) -> tuple[str, tuple[float, float] | None]:
    """`batch` or `batch=1:256` as (variable, bounds). **Raises** `InputError` for bounds that are none."""
    name, equals, bounds = text.strip().partition("=")
    name = ALIASES.get(name.strip(), name.strip())
    if not equals:
        return name, None
    try:
        low, high = (float(part) for part in bounds.split(":"))
    except ValueError:
        raise InputError(f"'{text}': expected bounds as {name}=LOW:HIGH") from None
    if not 0 < low <= high or not math.isfinite(high):
        raise InputError(f"'{text}': bounds {low:g}:{high:g} are out of range; expected 0 < LOW <= HIGH")
    return name, (low, high)
