"""`jaxperf estimate --compare OPTIONS`: two deployments side by side, and what the other is to the base."""

from __future__ import annotations

import argparse
import math
import shlex
from typing import Any

from ..errors import InputError
from . import Parser
from . import estimate as verb
from .breakdown_rows import numbers
from .common import Configuration, print_json, read_configuration
from .prefix import describe_prefix
from .speculation import Drafting, read_drafting

Side = tuple[Configuration, Drafting | None]
"""What one side of a comparison prices."""

OUTPUT = ("breakdown", "closed_form", "compare", "json")
"""Options of `estimate` that say what to print: they belong to the comparison, not to one side of it."""

MOST = 25
"""Other sides of one comparison, a letter each."""

EXCLUDES = {
    "efficiency": ("calibration",),
    "calibration": ("efficiency",),
    "draft": ("mtp",),
    "mtp": ("draft", "draft_length", "draft_tp", "draft_tree"),
    "draft_length": ("draft_tree",),
    "draft_tree": ("draft_length",),
    "workload": ("isl", "osl", "slo_ttft", "slo_tpot"),
}
"""What an option of the other side takes the place of, besides itself."""


def run_comparison(arguments: argparse.Namespace) -> int:
    """Price the base and every other side and print them; 1 where none of them is feasible.

    **Raises** `InputError` that names the side whose options are wrong.
    """
    if arguments.closed_form:
        raise InputError("--compare and --closed-form exclude each other; give one of them")
    if len(arguments.compare) > MOST:
        raise InputError(f"--compare: {len(arguments.compare)} sides; give at most {MOST}")
    sides = [read_side(arguments)] + [other_side(arguments, options) for options in arguments.compare]
    base, *others = price_sides(sides)
    pairs = [
        {"options": options, "other": other, "ratio": ratios(base, other)}
        for options, other in zip(arguments.compare, others, strict=True)
    ]
    if arguments.json:
        print_json({"base": base, **pairs[0], "further": pairs[1:]})
    else:
        from .compare_tables import show

        show([configuration for configuration, _ in sides], base, pairs)
    return 0 if any(result["feasible"] for result in (base, *others)) else 1


def read_side(arguments: argparse.Namespace) -> Side:
    """The configuration of one side, and how it drafts tokens."""
    configuration = read_configuration(arguments)
    return configuration, read_drafting(arguments, configuration)


def price_sides(sides: list[Side]) -> list[dict]:
    """Every side as `estimate --json` prints it; sides that draft no tokens share their programs."""
    plain = [configuration for configuration, drafting in sides if drafting is None]
    priced = iter(verb.price(plain, rows=True) if plain else ())
    documents = []
    for configuration, drafting in sides:
        if drafting is None:
            documents.append(verb.describe(configuration, *next(priced)))
        else:
            documents.append(verb.describe_drafting(configuration, drafting, rows=True))
        if configuration.prefix_hit > 0:
            documents[-1]["prefix"] = numbers(describe_prefix(configuration))
    return documents


def other_side(base: argparse.Namespace, options: str) -> Side:
    """The side of `base` with some `options` replaced: `--weights int4 --tp 4`, or `weights=int4 tp=4`.

    **Raises** `InputError` that repeats the options.
    """
    try:
        return read_side(replaced(base, options))
    except InputError as error:
        raise InputError(f"--compare '{options}': {str(error).removeprefix('estimate: ')}") from None


def replaced(base: argparse.Namespace, options: str) -> argparse.Namespace:
    """The arguments of `base` with those that `options` give in their place."""
    found = given(options)
    for name in OUTPUT:
        if name in found:
            raise InputError(f"--{name.replace('_', '-')} is for both sides; give it outside")
    for name in ("decode", "gpu_layers"):
        if name in found:
            raise InputError(f"--{name.replace('_', '-')} cannot be compared; estimate it by itself")
    return merged(base, found)


def given(options: str) -> dict[str, Any]:
    """What quoted `options` of `estimate` give, by name: `--weights int4 --tp 4`, or `weights=int4 tp=4`.

    **Raises** `InputError` for an option or a value that is wrong, and where there is none.
    """
    try:
        words = shlex.split(options.replace(",", " ") if "=" in options else options)
    except ValueError as error:
        raise InputError(f"{str(error).lower()}") from None
    if not words:
        raise InputError("no options; give some, such as 'weights=int4 tp=4'")
    parser = Parser(prog="jaxperf estimate", add_help=False)
    verb.configure(parser)
    for action in parser._actions:
        action.required, action.default = False, argparse.SUPPRESS

    def bare(word: str) -> bool:
        return word[0] != "-" and ("=" in word or f"--{word}" in parser._option_string_actions)

    return vars(parser.parse_args([f"--{word}" if bare(word) else word for word in words]))


def merged(base: argparse.Namespace, found: dict[str, Any]) -> argparse.Namespace:
    """The arguments of `base` with what was `found` in place of the same options and of those that they exclude."""
    cleared = {name: None for option in found for name in EXCLUDES.get(option, ())}
    return argparse.Namespace(**{**vars(base), **cleared, **found})


def ratio(base: Any, other: Any) -> float | None:
    """other/base of two figures; None where one is missing, not finite, or the base is 0."""
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in (base, other)) or base == 0:
        return None
    return other / base


def ratios(base: dict, other: dict) -> dict[str, Any]:
    """What the other is to the base, other/base: `metrics` and `memory` under their names, and the `breakdown`.

    A row of the breakdown holds the times of both sides [s] and the ratios `time`, `flops` and `bytes`; what only one
    side has stands there with None for the other.
    """

    def both(section: str) -> dict[str, float | None]:
        keys = [key for key, value in base[section].items() if not isinstance(value, list)]
        return {key: ratio(base[section][key], other[section].get(key)) for key in keys}

    rows = []
    for phase, operator in operators(base["breakdown"], other["breakdown"]):
        mine, its = (_row(side["breakdown"], phase, operator) for side in (base, other))
        rows.append(
            {
                "phase": phase,
                "operator": operator,
                "base_time_s": mine.get("time_s"),
                "other_time_s": its.get("time_s"),
                **{
                    name: ratio(mine.get(key), its.get(key))
                    for name, key in (("time", "time_s"), ("flops", "flops"), ("bytes", "bytes"))
                },
            }
        )
    return {"metrics": both("metrics"), "memory": both("memory"), "breakdown": rows}


def operators(base: list[dict], other: list[dict]) -> list[tuple[str, str]]:
    """Phase and operator of the rows of both sides, in the order of execution: what the base lacks stands where the
    other has it."""
    order = [(row["phase"], row["operator"]) for row in base]
    place = 0
    for row in other:
        key = (row["phase"], row["operator"])
        if key in order:
            place = order.index(key) + 1
        else:
            order.insert(place, key)
            place += 1
    return order


def _row(rows: list[dict], phase: str, operator: str) -> dict[str, Any]:
    return next((row for row in rows if (row["phase"], row["operator"]) == (phase, operator)), {})
