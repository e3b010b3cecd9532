"""How the benchmarks that fill a table of a page in docs/ print and write what they computed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from jaxperf.spec.library import write_text

Row = TypeVar("Row")


def publish(
    description: str | None,
    name: str,
    rows: Callable[[], list[Row]],
    line: Callable[[Row], str],
    plain: Callable[[Row], str],
    document: Callable[[list[Row]], dict[str, Any]],
) -> None:
    """A command line that computes `rows`, prints each (`plain`, with `--markdown` the `line` of the page's table) and
    writes their `document` to results/`name`.json, or to `--out`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=str(Path(__file__).parent / "results" / f"{name}.json"))
    parser.add_argument("--markdown", action="store_true", help="print the rows of the page's table")
    arguments = parser.parse_args()
    found = rows()
    for row in found:
        print(line(row) if arguments.markdown else plain(row))
    write_text(arguments.out, json.dumps(document(found), indent=1) + "\n")
