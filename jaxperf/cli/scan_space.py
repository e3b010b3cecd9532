"""The space that the options of `jaxperf scan` describe."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import InputError
from .values import parse_whole

AXES = ("tp", "pp", "ep", "cp", "attention_dp", "batch", "isl", "osl")


def parse_axis(text: str, option: str) -> Any:
    """A list `1,2,4`, a range `1..512`, `1..512+8` or `1..512*2`. **Raises** `InputError` that names the option."""
    if ".." not in text:
        return [_number(item, option) for item in text.split(",")]
    start, _, rest = text.partition("..")
    for sign, key in (("*", "factor"), ("+", "step")):
        if sign in rest:
            stop, _, by = rest.partition(sign)
            return {"from": _number(start, option), "to": _number(stop, option), key: _number(by, option)}
    return {"from": _number(start, option), "to": _number(rest, option)}


def _number(text: str, option: str) -> int:
    try:
        return parse_whole(text.strip())
    except (InputError, ValueError, argparse.ArgumentTypeError) as error:
        raise InputError(f"{option}: {error}") from None


def _document(arguments: argparse.Namespace) -> dict | None:
    """The space that the options describe, None where none of them is given."""
    document: dict[str, Any] = {}
    for key, value in (("models", arguments.model), ("systems", arguments.system)):
        if value is not None:
            document[key] = [name.strip() for name in value.split(",")]
    for axis in AXES:
        value = getattr(arguments, axis)
        if value is not None:
            document[axis] = parse_axis(value, f"--{axis.replace('attention_dp', 'dp-attention')}")
    if arguments.chunk is not None:
        if ".." in arguments.chunk:
            document["chunk"] = parse_axis(arguments.chunk, "--chunk")
        else:
            words = [word.strip() for word in arguments.chunk.split(",")]
            document["chunk"] = [word if word == "whole" else _number(word, "--chunk") for word in words]
    for key in ("weights", "kv"):
        if getattr(arguments, key) is not None:
            document[key] = [word.strip() for word in getattr(arguments, key).split(",")]
    fields: dict[str, list[float]] = {}
    for entry in arguments.field:
        path, equals, values = entry.partition("=")
        if not equals or not values:
            raise InputError(f"--field: '{entry}' is no PATH=LIST, as in device.memory.hbm.bandwidth_GBps=3000,6000")
        try:
            fields[path] = [float(value) for value in values.split(",")]
        except ValueError:
            raise InputError(f"--field: {path}: '{values}' is no list of numbers") from None
    if fields:
        document["fields"] = fields
    return document or None


def _limits(arguments: argparse.Namespace) -> dict[str, Any]:
    """Constraints and objectives among the options."""
    limits: dict[str, Any] = {}
    if arguments.max_devices is not None:
        limits["max_devices"] = arguments.max_devices
    for key in ("slo_ttft", "slo_tpot"):
        if getattr(arguments, key) is not None:
            limits[f"{key}_ms"] = getattr(arguments, key)
    if arguments.pareto and arguments.objective:
        raise InputError("--pareto and --objective exclude each other; give one of them")
    if arguments.pareto and arguments.best:
        raise InputError("--pareto and --best exclude each other; give one of them")
    if arguments.objective:
        limits["objectives"] = names(",".join(arguments.objective))
    if arguments.pareto:
        limits["objectives"] = names(arguments.pareto)
        if len(limits["objectives"]) < 2:
            raise InputError(f"--pareto: '{arguments.pareto}' is one metric; expected two or three, split by commas")
    for key in ("efficiency", "engine"):
        if getattr(arguments, key) is not None:
            limits[key] = getattr(arguments, key)
    return limits


def names(text: str) -> list[str]:
    """Words that commas part."""
    return [word.strip() for word in text.split(",")]


def space_of(arguments: argparse.Namespace) -> Any:
    """The `Space` of a command line: a file, the options, or a file that options change.

    **Raises** `InputError` that names the option or the file and the key.
    """
    from ..scan.space import build_space, load_space, read_space

    document, limits = _document(arguments), _limits(arguments)
    if arguments.space is None and document is not None:
        for key, option in (("models", "--model"), ("systems", "--system")):
            if key not in document:
                raise InputError(f"scan: {option} is missing; give --model and --system, or a SPACE.toml")
        return build_space(document | limits, "command line")
    if document is None and not limits:
        return load_space(arguments.space)
    changed = read_space(arguments.space) | (document or {}) | limits
    if document and {"isl", "osl"} & set(document):
        changed.pop("workloads", None)
    return build_space(changed, arguments.space or "default space")
