"""Options and helpers that verbs share. Nothing here imports JAX before something is computed."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..constants import FORMATS, KV_FORMATS, MEMORY_KINDS
from ..errors import InputError
from ..spec.documents.engine import OFFLOADED, redundant_experts
from ..spec.library import Spec, find, names
from .engine_options import engine_settings
from .layout import check_layout, check_placement
from .output import compile_cache, console, print_json
from .values import MOST_DEVICES, one_of, parse_positive, parse_whole, positive, prefix_tokens, whole

if TYPE_CHECKING:
    from ..spec.deployment import Deployment
    from ..spec.model import Model
    from ..spec.system import System
    from ..spec.workload import Workload

__all__ = [
    "Configuration",
    "add_configuration",
    "build",
    "check_layout",
    "compile_cache",
    "console",
    "one_of",
    "parse_positive",
    "parse_whole",
    "positive",
    "print_json",
    "read_configuration",
    "whole",
]

DEFAULT_TOKENS = 1024
DEGREES = ("tp", "pp", "ep", "cp", "attention_dp", "replicas")


def add_configuration(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add the options of one configuration: model, system, layout, precision, engine, efficiency, workload."""
    what = parser.add_argument_group("what")
    what.add_argument("--model", required=required, metavar="NAME", help="model: a name, an alias, or a PATH.json")
    what.add_argument("--system", required=required, metavar="NAME", help="system: a name, an alias, or a PATH.json")
    what.add_argument("--engine", metavar="NAME", help="engine whose settings apply, such as vllm")

    layout = parser.add_argument_group("layout of one instance")
    degrees = {
        "--tp": "tensor parallel degree",
        "--pp": "pipeline stages",
        "--ep": "expert parallel degree, a divisor of tp x cp x dp-attention",
        "--cp": "context parallel degree",
        "--dp-attention": "attention data parallel degree",
        "--replicas": "copies of the instance",
    }
    for option, text in degrees.items():
        name = "attention_dp" if option == "--dp-attention" else option[2:]
        degree = whole(high=MOST_DEVICES)
        layout.add_argument(option, dest=name, type=degree, default=1, metavar="N", help=f"{text} (default 1)")
    formats = one_of(FORMATS, "weight format")
    layout.add_argument("--weights", type=formats, metavar="FORMAT", help=f"weights: {', '.join(FORMATS)}")
    caches = one_of(KV_FORMATS, "KV format")
    layout.add_argument("--kv", type=caches, metavar="FORMAT", help=f"KV cache: {', '.join(KV_FORMATS)}")
    layout.add_argument("--efficiency", metavar="NAME", help="ideal, default, or a calibration's name or PATH.json")
    layout.add_argument("--calibration", metavar="FILE", help="a calibration, or auto: the shipped one that fits best")

    where = parser.add_argument_group("memory")
    kinds = one_of(MEMORY_KINDS, "kind of memory")
    where.add_argument("--weights-in", type=kinds, metavar="KIND", help="pin the weights: " + ", ".join(MEMORY_KINDS))
    where.add_argument("--kv-in", type=kinds, metavar="KIND", help="pin the KV cache, likewise")
    where.add_argument(
        "--offload",
        type=one_of((*OFFLOADED, "both"), "class of memory"),
        metavar="CLASS",
        help="what may spill to host memory or SSD: weights, kv-cache, both",
    )

    load = parser.add_argument_group("workload")
    load.add_argument("--workload", metavar="NAME", help="lengths and targets of a named workload")
    load.add_argument("--batch", type=whole(), default=1, metavar="N", help="sequences in flight (default 1)")
    load.add_argument("--prefill-batch", type=whole(), default=1, metavar="N", help="prompts prefilled at once")
    load.add_argument("--chunk", type=whole(), metavar="TOKENS", help="chunked prefill (default: the whole prompt)")
    load.add_argument("--isl", type=whole(), metavar="TOKENS", help=f"prompt length (default {DEFAULT_TOKENS})")
    load.add_argument("--osl", type=whole(), metavar="TOKENS", help=f"output length (default {DEFAULT_TOKENS})")
    load.add_argument("--slo-ttft", type=positive, metavar="MS", help="target of the time to the first token")
    load.add_argument("--slo-tpot", type=positive, metavar="MS", help="target of the time per output token")


@dataclass(frozen=True)
class Configuration:
    """One configuration on the host, validated: specs, degrees, formats, lengths [tokens], targets [s].

    `efficiency` is what `jaxperf.load.deployment` takes; `report` is the calibration's own report of its errors.
    """

    model: Spec
    system: Spec
    engine: Spec | None
    layout: dict[str, int]
    weights: str | None
    kv: str | None
    weights_in: str | None
    kv_in: str | None
    offload: tuple[str, ...]
    efficiency: str
    report: dict
    batch: int
    prefill_batch: int
    chunk: int | None
    isl: int
    osl: int
    slo_ttft: float | None
    slo_tpot: float | None
    prefix_hit: int = 0
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def devices(self) -> int:
        """Devices of all replicas."""
        return math.prod(value for name, value in self.layout.items() if name != "ep")

    @property
    def precision(self) -> dict[str, str]:
        """Format of every class of weights, of the KV cache and of the activations."""
        from ..spec.deployment import precision_document

        document = self.model.document
        found = precision_document(document["precision"], self.weights, self.kv, document["layer_groups"])
        return {name: form for name, form in found.items() if name != "mixes"}


def read_configuration(arguments: argparse.Namespace) -> Configuration:
    """The `Configuration` that the options of `add_configuration` describe, checked without JAX.

    **Raises** `InputError` for a name that is not known and for a layout that the model or the fabric does not admit.
    """
    model, system = find("model", arguments.model), find("system", arguments.system)
    engine = None if arguments.engine is None else find("engine", arguments.engine)
    lengths = {} if arguments.workload is None else find("workload", arguments.workload).document
    layout = {name: getattr(arguments, name) for name in DEGREES}
    settings = engine_settings(arguments)
    check_layout(model, system, layout, redundant_experts(None if engine is None else engine.document, settings))
    offload = {None: (), "both": OFFLOADED}.get(arguments.offload, (arguments.offload,))
    check_placement(system, engine, {"--weights-in": arguments.weights_in, "--kv-in": arguments.kv_in}, offload)
    efficiency, report = choose_efficiency(arguments.efficiency, arguments.calibration, system, engine)
    isl = arguments.isl or lengths.get("isl", DEFAULT_TOKENS)

    def target(milliseconds: float | None, default: float | None) -> float | None:
        chosen = default if milliseconds is None else milliseconds
        return None if chosen is None else chosen / 1e3

    return Configuration(
        model=model,
        system=system,
        engine=engine,
        layout=layout,
        weights=arguments.weights,
        kv=arguments.kv,
        weights_in=arguments.weights_in,
        kv_in=arguments.kv_in,
        offload=offload,
        efficiency=efficiency,
        report=report,
        batch=arguments.batch,
        prefill_batch=arguments.prefill_batch,
        chunk=arguments.chunk,
        isl=isl,
        osl=arguments.osl or lengths.get("osl", DEFAULT_TOKENS),
        slo_ttft=target(arguments.slo_ttft, lengths.get("slo_ttft_ms")),
        slo_tpot=target(arguments.slo_tpot, lengths.get("slo_tpot_ms")),
        prefix_hit=prefix_tokens(getattr(arguments, "prefix_hit", None), isl),
        settings=settings,
    )


def build(configuration: Configuration) -> tuple[Model, System, Deployment, Workload]:
    """The four pytrees that `evaluate` takes, from a checked `Configuration`; this imports JAX."""
    compile_cache()
    from .. import load

    model, system = configuration.model, configuration.system
    engine = configuration.engine
    return (
        load.as_arrays(load.build_model(model.document)),
        load.as_arrays(load.build_system(system.document)),
        load.deployment(
            _reference(model),
            system=_reference(system),
            engine=None if engine is None else _reference(engine),
            weights=configuration.weights,
            kv=configuration.kv,
            chunk=configuration.chunk,
            weights_in=configuration.weights_in,
            kv_in=configuration.kv_in,
            offload=configuration.offload,
            settings=configuration.settings,
            efficiency=configuration.efficiency,
            **configuration.layout,
        ),
        load.workload(
            configuration.isl,
            configuration.osl,
            configuration.batch,
            configuration.prefill_batch,
            configuration.slo_ttft,
            configuration.slo_tpot,
            configuration.prefix_hit,
        ),
    )


def _reference(spec: Spec) -> str:
    """What finds this very spec again: its file."""
    return spec.path


def choose_efficiency(
    efficiency: str | None, calibration: str | None, system: Spec, engine: Spec | None
) -> tuple[str, dict]:
    """What `--efficiency` and `--calibration` mean: a name that `load_efficiency` takes, and its report of errors.

    `auto` takes the shipped calibration of this system and engine, else of this system alone, else `default`.
    """
    for option, value in (("--efficiency", efficiency), ("--calibration", calibration)):
        if value == "":
            raise InputError(f"{option}: the name is empty")
    if efficiency is not None and calibration is not None:
        raise InputError("--efficiency and --calibration exclude each other; give one of them")
    if calibration is None and efficiency == "ideal":
        return "ideal", {}
    wanted = calibration or efficiency or "default"
    candidates = names("calibration") if calibration == "auto" else [wanted]
    fitting: list[tuple[int, str, dict]] = []
    holds: set[str] = set()
    for name in candidates:
        groups = find("calibration", name).document["groups"]
        holds |= {f"{group['system']} with {group['engine']}" for group in groups}
        scores = [(_fit(group, system, engine), group["report"]) for group in groups]
        fitting += [(score, name, report) for score, report in scores if score is not None][:1]
    if not fitting:
        having = f"{system.name} with {'no engine' if engine is None else engine.name}"
        raise InputError(f"{wanted}: no factors for {having}; it holds {', '.join(sorted(holds))}")
    _, name, report = max(fitting, key=lambda entry: entry[0])
    return name, report


def _fit(group: dict, system: Spec, engine: Spec | None) -> int | None:
    """How closely a group of a calibration fits (more is closer), None where it is for something else."""
    score = 0
    for kind, spec in (("system", system), ("engine", engine)):
        mine = group[kind]
        if mine is not None:
            if spec is None or find(kind, mine).name != spec.name:
                return None
            score += 1
    return score
