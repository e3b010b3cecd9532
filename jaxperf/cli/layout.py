"""Does a layout suit the model and the system? Checked on the host, so that the error names what is wrong."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ..constants import SPILL_KINDS
from ..errors import InputError
from ..spec.library import Spec


def divisors(*numbers: int) -> list[int]:
    """The common divisors of whole numbers above 0, ascending."""
    common = math.gcd(*numbers)
    return [value for value in range(1, common + 1) if common % value == 0]


def choices(wanted: float, allowed: Iterable[int], most: int = 12) -> str:
    """`choose one of 1, 2, 4`: the allowed values, of many those nearest to the one wanted."""
    values = sorted(set(allowed))
    if len(values) > most:
        nearest_values = sorted(values, key=lambda value: abs(math.log(value / wanted)))[:most]
        values = sorted(nearest_values)
    return f"choose {values[0]}" if len(values) == 1 else "choose one of " + ", ".join(map(str, values))


def query_heads(model: Spec) -> list[int]:
    """The heads that tensor parallelism splits, of every kind of layer of the model that has attention."""
    heads = []
    for group in model.document["layer_groups"]:
        attention = group["attention"]
        if attention["kind"] in ("linear", "state-space"):
            heads.append(attention["state_value_heads"])
        elif attention["kind"] != "none":
            heads.append(attention["query_heads"])
    return sorted(set(heads))


def expert_counts(model: Spec) -> list[int]:
    """The routed experts of every kind of layer of the model that has some."""
    return sorted({group["feed_forward"]["experts"] for group in model.document["layer_groups"]} - {0})


def check_layout(model: Spec, system: Spec, layout: dict[str, int], redundant: int = 0) -> None:
    """Check parallel degrees against a model and a system.

    **Arguments:** `layout`, whole numbers from 1 for tp, pp, ep, cp, attention_dp and replicas (absent ones are 1);
    `redundant` copies of experts, which ep divides together with them.

    **Raises** `InputError` that names the degree, what it clashes with, and the values that would do.
    """
    tp, pp, ep, cp, data, replicas = (layout.get(n, 1) for n in ("tp", "pp", "ep", "cp", "attention_dp", "replicas"))
    heads, experts = query_heads(model), [count + redundant for count in expert_counts(model)]
    what = "experts" if not redundant else f"experts and copies ({redundant} of them redundant)"
    if redundant and not experts:
        raise InputError(f"experts.redundant: {redundant} copies need experts, but {model.name} has none; choose 0")
    for count in heads:
        if count % tp:
            raise InputError(
                f"tp: {tp} does not divide the {count} query heads of {model.name}; {choices(tp, divisors(*heads))}"
            )
    ranks = tp * cp * data
    if ep > 1 and not experts:
        raise InputError(f"ep: {ep} needs experts, but {model.name} has none; choose 1")
    for count in experts:
        if count % ep:
            allowed = divisors(*experts, ranks)
            raise InputError(f"ep: {ep} does not divide the {count} {what} of {model.name}; {choices(ep, allowed)}")
    if ranks % ep:
        allowed = choices(ep, divisors(*experts, ranks))
        raise InputError(f"ep: {ep} does not divide the {ranks} ranks of a stage (tp x cp x dp-attention); {allowed}")
    layers = sum(group["count"] for group in model.document["layer_groups"])
    if pp > layers:
        raise InputError(f"pp: {pp} is more than the {layers} layers of {model.name}; choose 1 to {layers}")
    devices, reach = ranks * pp * replicas, system.document["fabric"][-1]["devices"]
    if devices > reach:
        raise InputError(
            f"layout: tp {tp} x cp {cp} x dp-attention {data} x pp {pp} x replicas {replicas} needs {devices} devices, "
            f"but the fabric of {system.name} reaches {reach}; choose degrees whose product is at most {reach}"
        )


def check_placement(
    system: Spec, engine: Spec | None, pinned: dict[str, str | None], offload: tuple[str, ...] | list[str]
) -> None:
    """Check that a system has the memory to which classes are pinned or may spill.

    **Arguments:** the kind of memory by option (None where free), and what may be offloaded. An engine's own placement
    is checked, too.

    **Raises** `InputError` that names the option and the kinds of memory that the device has.
    """
    memory = system.document["device"]["memory"]
    kinds = sorted({tier["kind"] for tier in memory.values()})
    wanted = dict(pinned)
    if engine is not None:
        chosen = engine.document["placement"]
        wanted |= {f"{engine.name}: placement.{name}": chosen[name] for name in ("weights", "kv_cache")}
        offload = [*offload, *engine.document["offload"]]
    for option, kind in wanted.items():
        if kind is not None and kind not in kinds:
            raise InputError(f"{option}: {system.name} has no {kind} memory; choose one of {', '.join(kinds)}")
    if offload and not set(kinds) & set(SPILL_KINDS):
        raise InputError(f"--offload: {system.name} has no host memory or SSD in its spec; it has {', '.join(kinds)}")
