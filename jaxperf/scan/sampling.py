"""Random and quasi-random axes: fields of the systems that are drawn, all together, instead of listed.

Every sample is one more system; layouts, formats, chunks and batches stay a product beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError, nearest
from .parse import field_values, integers, positive, single

LAWS = ("uniform", "log-uniform", "sobol", "sobol-log")
"""How a field is drawn: independently, or from one Sobol sequence; evenly in the value or in its logarithm."""

MOST_SAMPLES = 2**24
_WORD = np.float64(2.0**-64)


@dataclass(frozen=True)
class RandomField:
    """A drawn field: its path in the system's JSON, bounds in the spec's unit (both included), and the law."""

    path: str
    low: float
    high: float
    law: str


@dataclass(frozen=True)
class Sampling:
    """How many samples, the seed, and the fields that are drawn."""

    samples: int = 0
    seed: int = 0
    fields: tuple[RandomField, ...] = ()


def build_sampling(value: Any, systems: tuple[str, ...], taken: tuple[str, ...], where: str) -> Sampling:
    """A `Sampling` from the table `[random]`.

    **Arguments:** the parsed `value`; the `systems` whose fields are drawn; paths `taken` by other axes.

    **Raises** `InputError` that names key, value, allowed range and the nearest valid name.
    """
    where = f"{where}: random"
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected a table with samples and fields")
    for key in value:
        if key not in ("samples", "seed", "fields"):
            raise InputError(f"{where}: unknown key '{key}'; {nearest(key, ('samples', 'seed', 'fields'))}")
    for key in ("samples", "fields"):
        if key not in value:
            raise InputError(f"{where}: the key '{key}' is missing")
    samples = integers("samples", single("samples", value["samples"], where), where)[0]
    if samples > MOST_SAMPLES:
        raise InputError(f"{where}: samples: {samples} is out of range; expected 1 to {MOST_SAMPLES}")
    seed = integers("seed", single("seed", value.get("seed", 0), where), where, low=0)[0]
    if not isinstance(value["fields"], dict) or not value["fields"]:
        raise InputError(f"{where}: fields: expected a table of path = {{low, high, law}}")
    fields = tuple(_field(path, entry, systems, taken, where) for path, entry in value["fields"].items())
    return Sampling(samples, seed, fields)


def _field(path: str, entry: Any, systems: tuple[str, ...], taken: tuple[str, ...], where: str) -> RandomField:
    where = f"{where}: fields"
    if path in taken:
        raise InputError(f"{where}: '{path}' is an axis of [fields] already")
    if not isinstance(entry, dict) or not {"low", "high"} <= set(entry) <= {"low", "high", "law"}:
        raise InputError(f"{where}: {path}: expected a table with low, high and law")
    law = entry.get("law", "log-uniform")
    if law not in LAWS:
        raise InputError(f"{where}: {path}: no law is called {law!r}; {nearest(str(law), LAWS)}")
    low, high = (positive(f"{path}: {key}", entry[key], where) for key in ("low", "high"))
    if low >= high:
        raise InputError(f"{where}: {path}: low {low:g} is not below high {high:g}")
    field_values(path, [low, high], systems, where)
    return RandomField(path, low, high, law)


def draw(sampling: Sampling) -> np.ndarray:
    """All samples, [samples, fields], in the units of the specs; the same for a seed on every machine.

    Independent laws take words of a Philox counter generator, Sobol laws the dimensions of one sequence
    (Joe and Kuo 2008, by scipy), scrambled by the seed unless it is 0.
    """
    if not sampling.fields:
        return np.zeros((1, 0))
    quasi = [field for field in sampling.fields if field.law.startswith("sobol")]
    sequence = np.zeros((sampling.samples, 0))
    if quasi:
        from scipy.stats import qmc

        generator = np.random.default_rng(sampling.seed)
        sobol = qmc.Sobol(len(quasi), scramble=sampling.seed != 0, bits=32, rng=generator)
        sequence = sobol.random_base2((sampling.samples - 1).bit_length())[: sampling.samples]
    columns = []
    for index, field in enumerate(sampling.fields):
        if field in quasi:
            share = sequence[:, quasi.index(field)]
        else:
            words = np.random.Philox(key=[sampling.seed, index]).random_raw(sampling.samples)
            share = words.astype(np.float64) * _WORD
        if field.law in ("log-uniform", "sobol-log"):
            column = np.exp(np.log(field.low) + share * (np.log(field.high) - np.log(field.low)))
        else:
            column = field.low + share * (field.high - field.low)
        columns.append(np.clip(column, field.low, field.high))
    return np.stack(columns, axis=1)
