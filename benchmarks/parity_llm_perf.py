"""How far `jaxperf.compat.llm_perf` is from what llm_perf itself returned.

    python benchmarks/parity_llm_perf.py CASES.jsonl.gz [--json]

Every line of the (gzipped) file is a case with `inputs`, `outputs` and, if it has any, `resolved_algorithms`. Prints
the worst relative error of every output field over all cases; exits 1 if any is above 1e-6 (integers, booleans and
names: above 0), 2 if the file cannot be read as cases. Where the tool returns 0, 1e-12 absolute counts as equal.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxperf.compat.llm_perf import evaluate_with_algorithms
from jaxperf.errors import InputError

TOLERANCE = 1e-6
AT_ZERO = 1e-12


def read_cases(path: str) -> list[dict]:
    """The cases of a file of JSON lines, gzipped or not."""
    try:
        content = Path(path).read_bytes()
        text = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        cases = [json.loads(line) for line in text.decode().splitlines() if line.strip()]
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as cases: {error}") from None
    for index, case in enumerate(cases):
        if not isinstance(case, dict) or "inputs" not in case or "outputs" not in case:
            raise InputError(f"{path}: line {index + 1}: no case: expected an object with inputs and outputs")
    if not cases:
        raise InputError(f"{path}: no cases")
    return cases


def relative_error(found: Any, expected: Any) -> float:
    """|found − expected|/|expected| for floats; 0 or infinite for what must be equal: integers, flags, names."""
    if expected in ("inf", "-inf", "nan"):
        expected = float(expected)
    if type(expected) is not float or not isinstance(found, float):
        return 0.0 if found == expected and type(found) is type(expected) else math.inf
    if found == expected or (expected == 0 and abs(found) <= AT_ZERO):
        return 0.0
    if not (math.isfinite(found) and math.isfinite(expected)):
        return 0.0 if math.isnan(found) and math.isnan(expected) else math.inf
    return abs(found - expected) / abs(expected) if expected else math.inf


def compared(found: Any, expected: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """(field, relative error) for every field that either side has."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in {**expected, **found}:
            place = f"{path}.{key}" if path else key
            if key in expected and key in found:
                yield from compared(found[key], expected[key], place)
            else:
                yield place, math.inf
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for one, other in zip(found, expected, strict=True):
            yield from compared(one, other, path)
    else:
        yield path, relative_error(found, expected)


def measure(cases: list[dict]) -> dict[str, Any]:
    """Worst error of every field, the case in which it occurs, and the time that all took."""
    start = time.perf_counter()
    results = evaluate_with_algorithms([case["inputs"] for case in cases])
    seconds = time.perf_counter() - start
    worst: dict[str, tuple[float, int]] = {}
    for index, (case, (outputs, algorithms)) in enumerate(zip(cases, results, strict=True)):
        found, expected = dict(outputs), dict(case["outputs"])
        if case.get("resolved_algorithms"):
            found["resolved_algorithms"], expected["resolved_algorithms"] = algorithms, case["resolved_algorithms"]
        for field, error in compared(found, expected):
            if field not in worst or error > worst[field][0]:
                worst[field] = (error, index)
    failed = sorted(field for field, (error, _) in worst.items() if error > TOLERANCE)
    return {
        "cases": len(cases),
        "tolerance": TOLERANCE,
        "worst": max(error for error, _ in worst.values()),
        "failed": failed,
        "fields": {field: {"error": error, "case": index} for field, (error, index) in worst.items()},
        "wall_s": seconds,
    }


def main() -> int:
    """Evaluate, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", help="cases as JSON lines, gzipped or not")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args()
    try:
        result = measure(read_cases(arguments.cases))
    except InputError as error:
        print(f"parity_llm_perf: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps(_strict(result)))
    else:
        for field, found in result["fields"].items():
            mark = "  <-- above the tolerance" if field in result["failed"] else ""
            print(f"{field:44s} {found['error']:9.2e}  case {found['case']}{mark}")
        print(
            f"{result['cases']} cases, {len(result['fields'])} fields, worst {result['worst']:.2e}, "
            f"{len(result['failed'])} fields above {TOLERANCE:g}, {result['wall_s']:.1f} s"
        )
    return 1 if result["failed"] else 0


def _strict(node: Any) -> Any:
    """JSON knows no infinity."""
    if isinstance(node, dict):
        return {key: _strict(item) for key, item in node.items()}
    if isinstance(node, float) and not math.isfinite(node):
        return str(node)
    return node


if __name__ == "__main__":
    sys.exit(main())
