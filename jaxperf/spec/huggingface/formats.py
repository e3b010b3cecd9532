"""From quantisation schemes to one format a class of weights: exclude lists are matched module by module."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable

from ...errors import InputError
from .config import Config, assume
from .modules import HEADS, layer_modules
from .quantisation import Scheme

SELDOM = ("router", "embedding", "lm_head")
"""Classes that stay as they are unless a scheme names them."""

Lookup = Callable[[str], tuple[str | None, bool]]


def _matcher(patterns: tuple[str, ...]) -> Callable[[str], bool]:
    """Whether a module's name meets one of the patterns: `re:` expressions, `*` wildcards (for the module or what lies
    below it), or plain names, which stand for every module whose dotted path they are a part of."""
    plain = {pattern for pattern in patterns if not pattern.startswith("re:") and "*" not in pattern}
    parts = []
    for pattern in patterns:
        if pattern.startswith("re:"):
            parts.append(f"(?:{pattern[3:]})")
        elif "*" in pattern:
            parts.append(f"{fnmatch.translate(pattern)}|{fnmatch.translate(pattern + '.*')}")
    compiled = re.compile("|".join(parts)) if parts else None

    def meets(name: str) -> bool:
        if plain and any(part in plain for part in _parts(name)):
            return True
        return compiled is not None and compiled.match(name) is not None

    return meets


def _parts(name: str) -> list[str]:
    """All contiguous parts of a dotted path."""
    words = name.split(".")
    return [".".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1)]


def lookup(scheme: Scheme) -> Lookup:
    """What a scheme makes of a module's name: its format (None: left as it is), and whether the module, or one above
    it, is named for that format.

    **Raises** `InputError` for an expression that cannot be read.
    """
    try:
        excluded = _matcher(scheme.excluded)
        targets = {name: _matcher((name,)) for name in scheme.by_module if name.startswith("re:")}
    except re.error as error:
        raise InputError(f"{scheme.file}: a list of modules holds an unreadable expression: {error}") from None

    def find(name: str) -> tuple[str | None, bool]:
        path = name
        while path:
            if path in scheme.by_module:
                return scheme.by_module[path], True
            path = path.rpartition(".")[0]
        if excluded(name):
            return None, False
        target = next((target for target, meets in targets.items() if meets(name)), None)
        return (scheme.usual, False) if target is None else (scheme.by_module[target], True)

    return find


def check_layers(scheme: Scheme, layers: int, more: int) -> None:
    """Refuse a scheme that speaks of layers that the model lacks (`more`: prediction layers beyond the last)."""
    for name in (*scheme.by_module, *scheme.excluded):
        match = re.search(r"(?:^|\.)layers\.(\d+)(?=[.*]|\Z)", name)
        if match and int(match.group(1)) >= layers + more:
            raise InputError(
                f"{scheme.file}: it names layer {match.group(1)} ('{name[:80]}'), but the model has {layers} layers; "
                "is this the quantisation of another model?"
            )


def class_formats(config: Config, schemes: list[Scheme], shapes: list[dict], hidden: int, base: str) -> dict[str, str]:
    """The format of every class of weights that is not `base`.

    A class whose matrices differ has the format of most of its elements, and says so. Routers, embeddings and LM heads
    keep `base` unless a scheme names them. **Raises** `InputError` where a scheme by module meets no module at all.
    """
    finders = [(scheme, lookup(scheme)) for scheme in schemes]
    elements: dict[str, dict[str, float]] = {}
    met = False

    def format_of(kind: str, names: tuple[str, ...]) -> str:
        nonlocal met
        for scheme, find in finders:
            if kind in scheme.by_class:
                return scheme.by_class[kind]
            found = [find(name) for name in names]
            exact = next((value for value, named in found if named and value), None)
            if exact:
                met = True
                return exact
            if scheme.usual and kind not in SELDOM and all(value for value, _ in found):
                return scheme.usual
        return base

    for layer, shape in enumerate(shapes):
        for kind, modules in layer_modules(shape, hidden, layer).items():
            for names, size in modules:
                table = elements.setdefault(kind, {})
                found = format_of(kind, names)
                table[found] = table.get(found, 0.0) + size
    for kind, names in HEADS.items():
        elements[kind] = {format_of(kind, names): 1.0}
    for scheme in schemes[:1]:
        if scheme.usual is None and scheme.by_module and not met:
            raise InputError(f"{scheme.file}: it names no module of this model; is it the quantisation of another one?")
    return {kind: found for kind, table in elements.items() if (found := _most(config, kind, table)) != base}


def _most(config: Config, kind: str, table: dict[str, float]) -> str:
    """The format of most elements of a class; the others are named among the assumptions."""
    total, best = sum(table.values()), max(table, key=lambda name: table[name])
    others = [f"{100 * size / total:.0f} % are {name}" for name, size in table.items() if name != best]
    if others and total:
        assume(config, f"all {kind.replace('_', ' ')} weights count as {best}, though {', '.join(others)}")
    return best
