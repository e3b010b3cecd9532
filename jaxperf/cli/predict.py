"""`jaxperf predict`: predicted beside measured, for every row of a table."""

from __future__ import annotations

import argparse
import csv
import io

from .output import compile_cache, print_json

COLUMNS = (
    "line", "system", "engine", "model", "tp", "pp", "ep", "cp", "attention_dp", "chunk", "weights", "kv", "batch",
    "prefill_batch", "isl", "osl", "metric", "value", "deployment",
)  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    parser.add_argument("table", metavar="TABLE.csv", help="measured latencies, as for calibrate")
    parser.add_argument("--calibration", default="default", metavar="FILE", help="a path or a name (default: default)")
    parser.add_argument("--out", required=True, metavar="FILE.csv", help="where the predictions go")
    parser.add_argument("--source", metavar="NAME", help="rows of a public collection to take, such as splitwise")
    parser.add_argument("--json", action="store_true", help="print errors and predictions as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Predict, write the table, print the errors."""
    compile_cache()
    from ..calibrate import predict, read_table, report
    from ..spec.library import write_text

    measurements = read_table(arguments.table, arguments.source)
    predicted = [float(time) for time in predict(measurements, arguments.calibration)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, "predicted_s", "error_percent"])
    rows = []
    for measured, time in zip(measurements, predicted, strict=True):
        cells = [getattr(measured, column) for column in COLUMNS]
        error = 100 * (time / measured.value - 1)
        writer.writerow(["" if cell is None else cell for cell in cells] + [f"{time:.9g}", f"{error:.4f}"])
        rows.append(dict(zip(COLUMNS, cells, strict=True)) | {"predicted_s": time, "error_percent": error})
    write_text(arguments.out, text.getvalue())
    found = report.errors(measurements, predicted)
    if arguments.json:
        print_json({"calibration": arguments.calibration, "errors": found, "predictions": rows})
        return 0
    for metric, row in found.items():
        print(
            f"{metric}: {row['rows']} rows, mean absolute error {row['mape']:.1f} %, "
            f"median {row['median_ape']:.1f} %, bias {row['bias']:+.1f} %"
        )
    print(f"written to {arguments.out}")
    return 0
