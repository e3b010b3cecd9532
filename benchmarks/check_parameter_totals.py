"""Recount the parameters of every shipped model and compare them with the published totals.

Run `python benchmarks/check_parameter_totals.py`; it exits with 1 when an exact total differs by a single parameter
or a rounded one by more than 1 %."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

ROUNDED_TOLERANCE = 0.01
"""Relative difference allowed where the published total is rounded or includes parts that are not counted."""


class Row(NamedTuple):
    """One model: what jaxperf counts, in all and active for a token, and what is published (None: nothing)."""

    name: str
    counted: int
    active: int
    published: int | None
    exact: bool

    @property
    def passes(self) -> bool:
        if self.published is None:
            return True
        difference = abs(self.counted - self.published)
        return difference <= (0 if self.exact else ROUNDED_TOLERANCE * self.published)

    @property
    def verdict(self) -> str:
        if self.published is None:
            return "not published"
        return ("exact" if self.exact else "rounded") if self.passes else "DIFFERS"


def rows() -> list[Row]:
    """A row for each shipped model, sorted by name."""
    from jaxperf.spec.library import find, names
    from jaxperf.spec.model import build_model
    from jaxperf.stages.memory import parameters

    table = []
    for name in names("model"):
        document = find("model", name).document
        counted, published = parameters(build_model(document)), document["published"]
        table.append(Row(name, counted.total, counted.active, published["parameters_total"], published["exact"]))
    return table


def main() -> int:
    """Print the table; 0 when all totals agree, else 1."""
    table = rows()
    print(f"{'model':32}{'counted':>20}{'active':>18}{'published':>20}{'difference':>16}{'%':>9}  verdict")
    for row in table:
        line = f"{row.name:32}{row.counted:>20,}{row.active:>18,}"
        if row.published is None:
            line += f"{'-':>20}{'-':>16}{'-':>9}"
        else:
            difference = row.counted - row.published
            line += f"{row.published:>20,}{difference:>+16,}{100 * difference / row.published:>+9.4f}"
        print(f"{line}  {row.verdict}")
    failed = [row.name for row in table if not row.passes]
    exact = sum(row.exact and row.passes for row in table)
    print(f"{len(table)} models, {exact} totals exact to the unit, {len(failed)} differ")
    if failed:
        print("differ: " + ", ".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
