"""`jaxperf estimate --prefix-hit …`: the option, and what prefix caching adds to the result."""

from __future__ import annotations

import argparse
from typing import Any

from ..constants import SPILL_KINDS
from .common import Configuration, build
from .values import option_type, parse_prefix_hit


def add_prefix(parser: argparse.ArgumentParser) -> None:
    """Add the option of prefix caching."""
    found = option_type(parse_prefix_hit)
    group = parser.add_argument_group("prefix caching")
    group.add_argument(
        "--prefix-hit", type=found, metavar="TOKENS", help="of every prompt's start, cached; or a share: 0.5, 50%%"
    )


def describe_prefix(configuration: Configuration) -> dict[str, Any]:
    """A prefix hit as `--json` prints it under `prefix`, and what loading it from host memory or SSD takes instead."""
    pytrees = build(configuration)
    import jax
    import jax.numpy as jnp

    from ..phases.prefix import load_or_recompute, tier_link
    from .stored import stored

    _, system, deployment, _ = pytrees
    tiers = configuration.system.document["device"]["memory"]
    spilled = [(name, index) for index, (name, tier) in enumerate(tiers.items()) if tier["kind"] in SPILL_KINDS]
    places = [index for _, index in spilled] or [0]
    links = [tier_link(system.device.memory.tiers[index], deployment) for index in places]
    together = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf, float) for leaf in leaves]), *links)
    compare = jax.vmap(load_or_recompute, in_axes=(None, None, None, None, 0))
    found = stored(compare, "load_or_recompute")(*pytrees, together)
    hit = configuration.prefix_hit
    return {
        "hit_tokens": hit,
        "hit_ratio": hit / configuration.isl,
        "suffix_tokens": max(configuration.isl - hit, 1),
        "kv_cache_bytes": found.size[0],
        "saved_s": found.recompute_time[0],
        "load": [
            {
                "tier": name,
                "load_s": found.load_time[place],
                "pays": bool(found.pays[place]),
                "break_even_tokens": found.break_even[place],
            }
            for place, (name, _) in enumerate(spilled)
        ],
    }
