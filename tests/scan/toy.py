"""A scan whose model of costs is a toy that compiles at once, for tests of everything around it."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import equinox as eqx

SPACE: dict[str, Any] = {
    "models": ["llama-3.1-8b", "qwen3-30b-a3b"],
    "systems": ["h100-sxm-8", "b200-8"],
    "workloads": [[1024, 256], [3000, 100]],
    "tp": [1, 2, 4],
    "pp": [1, 2],
    "ep": [1, 4],
    "attention_dp": [1, 2],
    "batch": {"from": 1, "to": 192},
    "chunk": [256, 512, 2048],
    "weights": ["bf16", "fp8"],
    "max_devices": 8,
}


class Memory(eqx.Module):
    total: Any


class ToyMetrics(eqx.Module):
    ttft: Any
    tpot: Any
    e2e: Any
    output_tokens_per_s: Any
    output_tokens_per_s_per_device: Any
    output_tokens_per_s_per_user: Any
    decode_tokens_per_s: Any
    requests_per_s: Any
    devices: Any
    mfu: Any
    mbu: Any
    max_batch: Any
    price_per_million_tokens: Any
    joules_per_token: Any
    memory: Memory
    prefill_bound: Any
    decode_bound: Any
    feasible: Any
    reason: Any


def evaluate(model: Any, system: Any, deployment: Any, workload: Any) -> ToyMetrics:
    """Scrambled figures with ties and with infeasible ones, powers of two and small integers alone: exact anywhere."""
    import jax.numpy as jnp

    layout, batch, chunk = deployment.parallelism, workload.batch, deployment.engine.chunk
    mixed = layout.tp * 7 + layout.pp * 13 + layout.ep * 29 + layout.attention_dp * 31 + chunk * 3 + batch * 17
    mixed = mixed + workload.isl * 5 + jnp.floor(system.device.memory.bandwidth / 2.0**38)
    mixed = mixed + deployment.precision.attention.bytes * 11 if hasattr(deployment.precision, "attention") else mixed
    scramble = mixed - 509 * jnp.floor((mixed + 0.5) / 509)
    devices = layout.tp * layout.pp * layout.attention_dp
    speed = 1 + jnp.floor(scramble / 4)
    rate = batch * 8 + scramble
    reason = jnp.where(scramble > 490, 6.0, 0.0)
    one = jnp.ones_like(batch)
    return ToyMetrics(
        ttft=speed,
        tpot=1 / speed,
        e2e=speed + 1,
        output_tokens_per_s=rate,
        output_tokens_per_s_per_device=rate / devices,
        output_tokens_per_s_per_user=speed / 4,
        decode_tokens_per_s=rate,
        requests_per_s=rate,
        devices=devices,
        mfu=one,
        mbu=one,
        max_batch=batch,
        price_per_million_tokens=one,
        joules_per_token=one,
        memory=Memory(rate),
        prefill_bound=one,
        decode_bound=one,
        feasible=jnp.where(reason == 0, 1.0, 0.0),
        reason=reason,
    )


def install() -> None:
    """Puts the toy in the place of the real model."""
    from jaxperf.scan import engine

    engine.evaluate = evaluate


def found(result: Any) -> dict:
    """A result without its times."""
    document = result.document()
    for key in ("compile_s", "wall_s", "configurations_per_s", "resumed", "processes", "devices", "backend", "table"):
        document.pop(key)
    return document


def run(settings: dict[str, Any]) -> int:
    """One scan with these settings; `sleep` seconds after every block. Prints what it found, without times, as JSON, or
    what is wrong; the exit code."""
    from jaxperf.errors import InputError

    try:
        _run(settings)
    except InputError as error:
        print(f"jaxperf: error: {error}", file=sys.stderr)
        return 2
    return 0


def _run(settings: dict[str, Any]) -> None:
    import jax

    if "devices" in settings:
        jax.config.update("jax_num_cpu_devices", settings["devices"])
    from jaxperf.scan import Keep, connect, plan, scan

    install()
    plan.BLOCK = (2**12, 2**13)
    sleep, die = settings.pop("sleep", 0.0), settings.pop("die", False)
    join = settings.pop("join", None)
    if join is not None:
        settings["processes"] = connect(*join)

    def tick(_: Any) -> None:
        time.sleep(sleep)
        if die:
            os.kill(os.getpid(), 9)

    keep = Keep(top=5, quantiles=("ttft",), marginals=True)
    result = scan(SPACE | settings.pop("space", {}), tick, keep=keep, unit=2**13, **settings)
    print(json.dumps(found(result) | {"resumed": result.resumed}))
    if join is not None:
        settings["processes"].leave()
