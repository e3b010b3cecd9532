"""Calibration: the table, the fit against known factors, bounds, and the accuracy on published measurements."""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxperf import compiling
from jaxperf.calibrate import calibrate as fit_table
from jaxperf.calibrate import predict, split
from jaxperf.calibrate.fit import fit, least_squares, residuals_and_slopes, with_jacobian
from jaxperf.calibrate.measurements import Measurement, read_table
from jaxperf.calibrate.parameters import FACTORS, at_bound, to_document, to_unbounded
from jaxperf.calibrate.report import errors
from jaxperf.calibrate.rows import distinct, predicted_times, stack
from jaxperf.cli import main
from jaxperf.compiling import quick
from jaxperf.errors import InputError
from jaxperf.load import efficiency_document_of
from jaxperf.spec.deployment import IDEAL, build_efficiency
from jaxperf.spec.documents.calibration import EFFICIENCY_FIELDS
from jaxperf.spec.library import read_json, validate
from jaxperf.tape import NoKernelError

SHARED = Path(__file__).parents[1].parent / "shared"
PUBLIC = SHARED / "data" / "e2e" / "public_benchmarks.csv.gz"
GOOD = {
    "system": "h100-sxm-8", "engine": "vllm", "model": "llama-3.1-8b", "tp": "1", "batch": "4", "isl": "512",
    "osl": "128", "metric": "tpot_s", "value": "0.01",
}  # fmt: skip


def grid() -> list[Measurement]:
    """Prefill, decode and end to end of one system over layouts, batches and lengths; values to be filled in."""
    cells = [(tp, batch, isl) for tp in (1, 2, 8) for batch in (1, 8, 64) for isl in (128, 1024, 4096)]
    base = Measurement("h100-sxm-8", "llama-3.1-8b", 1, 2, "ttft_s", 1.0, engine="vllm")
    return [
        replace(base, tp=tp, batch=batch, isl=isl, osl=64, metric=metric)
        for tp, batch, isl in cells
        for metric in ("ttft_s", "tpot_s", "e2e_s")
    ]


@pytest.fixture(scope="module")
def truth() -> dict[str, float]:
    start = efficiency_document_of("default")
    return start | {
        "gemm_compute": 0.5, "gemm_memory": 0.6, "operator_us": 12.0, "host_step_us": 5000.0,
        "host_sequence_us": 30.0, "collective_latency_scale": 6.0, "collective_bandwidth": 0.4,
    }  # fmt: skip


@pytest.fixture(scope="module")
def measured(truth: dict[str, float]) -> list[Measurement]:
    rows = grid()
    times = predicted_times(rows, build_efficiency(truth))
    return [replace(row, value=float(time)) for row, time in zip(rows, times, strict=True)]


@pytest.fixture(scope="module")
def fitted(measured: list[Measurement]):
    return fit_table(measured, holdout=0.2, seed=3)


def test_known_factors_come_back(fitted, truth) -> None:
    """Predictions to a per cent also where nothing was fitted, and the factors that the data determine."""
    group = fitted.document["groups"][0]
    assert group["report"]["fit"]["converged"] == 1
    assert group["report"]["held_out_after_all"]["mape"] < 1.0
    assert group["report"]["held_out_before_all"]["mape"] > 20
    for name, tolerance in {"gemm_compute": 0.05, "gemm_memory": 0.1, "collective_bandwidth": 0.1}.items():
        assert group["efficiency"][name] == pytest.approx(truth[name], rel=tolerance), name
    # Nothing here decodes over a latent cache: that factor stays at its prior.
    assert group["efficiency"]["latent_decode_compute"] == pytest.approx(truth["latent_decode_compute"], rel=1e-4)
    assert "latent_decode_compute" not in group["report"]["at_bound"]
    # Launches and host time are told apart by the number of operators only: their sum is what a step shows.
    operators = 32 * 7

    def fixed(factors: dict) -> float:
        return operators * factors["operator_us"] + 32 * factors["attention_us"] + factors["host_step_us"]

    assert fixed(group["efficiency"]) == pytest.approx(fixed(truth), rel=0.1)


def test_calibration_is_a_valid_spec_and_survives_a_file(fitted, measured, tmp_path) -> None:
    path = tmp_path / "calibration.json"
    fitted.save(path)
    validate(read_json(path), str(path), "calibration")
    assert set(fitted.document["groups"][0]["efficiency"]) == set(EFFICIENCY_FIELDS)
    np.testing.assert_allclose(predict(measured, path), predict(measured, fitted), rtol=1e-9)


@pytest.mark.slow
def test_same_seed_same_result(measured, fitted) -> None:
    again = fit_table(list(reversed(measured)), holdout=0.2, seed=3)
    assert set(again.held_out) == set(fitted.held_out)
    before, after = fitted.document["groups"][0]["efficiency"], again.document["groups"][0]["efficiency"]
    for name in FACTORS:
        assert after[name] == pytest.approx(before[name], rel=1e-3), name
    exact = fit_table(measured, holdout=0.2, seed=3)
    assert json.dumps(exact.document) == json.dumps(fitted.document)


def test_split_is_by_configuration(measured) -> None:
    variants = [(factor, osl) for factor in (1.0, 1.01) for osl in (64, 128)]
    repeated = [replace(row, value=row.value * factor, osl=osl) for row in measured for factor, osl in variants]
    train, held = split(repeated, 0.2, 7)
    assert len(train) + len(held) == len(repeated)
    assert not {row.configuration for row in train} & {row.configuration for row in held}
    assert len({row.configuration for row in held}) == round(0.2 * 27)
    assert split(repeated, 0.0, 7)[1] == []
    assert len(distinct(repeated)) == len(repeated) / 2


@pytest.mark.parametrize("extreme", [-60.0, -3.0, 3.0, 60.0])
def test_nothing_beats_the_physical_bound(extreme: float) -> None:
    """Whatever the unbounded numbers are, factors are within the schema and times are at least ideal."""
    rows = grid()
    ideal = predicted_times(rows, build_efficiency(IDEAL))
    generator = np.random.default_rng(0)
    for point in (np.full(len(FACTORS), extreme), extreme * generator.choice([-1.0, 1.0], len(FACTORS))):
        with jax.enable_x64(True):
            document = {name: float(value) for name, value in to_document(jnp.asarray(point)).items()}
        for name, value in document.items():
            EFFICIENCY_FIELDS[name].check(value, name)
        assert np.all(predicted_times(rows, build_efficiency(document)) >= ideal * (1 - 1e-9))


def test_transform_round_trip_and_bounds(truth) -> None:
    with jax.enable_x64(True):
        there = to_document(jnp.asarray(to_unbounded(truth)))
    for name in FACTORS:
        if truth[name] > FACTORS[name].low:
            assert float(there[name]) == pytest.approx(truth[name], rel=1e-6), name
    assert "gemm_compute" in at_bound(truth | {"gemm_compute": 0.9999})
    assert "gemm_compute" not in at_bound(truth)


def test_gradient_is_finite_and_right(truth) -> None:
    """Forward derivatives of every row's residual by every factor, against differences; corner layouts included."""
    rows = [row for row in grid() if row.metric == "e2e_s"]
    with jax.enable_x64(True):
        stacked = stack(rows)
        point, direction = to_unbounded(truth), np.random.default_rng(1).normal(size=len(FACTORS))
        slopes = np.asarray(residuals_and_slopes(stacked, point)[1]) @ direction
        step = 1e-5
        above, below = (np.asarray(residuals_and_slopes(stacked, point + s * direction)[0]) for s in (step, -step))
    assert np.all(np.isfinite(slopes))
    assert np.all(slopes[len(rows) :] == 0)
    np.testing.assert_allclose(slopes, (above - below) / (2 * step), rtol=1e-3)


def test_least_squares_is_ridge_regression_where_residuals_are_linear() -> None:
    """Minimum, Jacobian and convergence against the normal equations; played from a tape and compiled alike."""
    generator = np.random.default_rng(0)
    slopes, offset = generator.normal(size=(9, 3)), generator.normal(size=9)
    centre, spread = generator.normal(size=3), np.asarray([0.1, 1.0, 1e-6])
    prior = np.diag(spread**-2.0)
    expected = np.linalg.solve(slopes.T @ slopes + prior, slopes.T @ offset + prior @ centre)
    with jax.enable_x64(True):
        both = with_jacobian(lambda point: jnp.asarray(slopes) @ point - offset)
        for measured in (both, quick(both), jax.jit(both)):
            found, converged, jacobian = least_squares(measured, centre, spread)
            assert converged
            np.testing.assert_allclose(found, expected, rtol=1e-6)
            np.testing.assert_allclose(jacobian, slopes, rtol=1e-9)


def test_a_fit_that_runs_out_of_steps_says_so(monkeypatch) -> None:
    monkeypatch.setitem(least_squares.__globals__, "MAX_STEPS", 1)
    with jax.enable_x64(True):
        assert not least_squares(with_jacobian(lambda point: jnp.exp(point) - 9.0), np.zeros(2), np.ones(2))[1]


@pytest.mark.slow
def test_a_compiled_fit_is_the_played_one(measured, monkeypatch) -> None:
    """By code of our own, played where there is none, and compiled where no tape can be made: the same factors."""
    start = efficiency_document_of("default")
    together = residuals_and_slopes.otherwise
    found = []

    def refuse(*_: object) -> None:
        raise NoKernelError("none")

    for step, name in enumerate((None, "_native", "record")):
        if name is not None:
            monkeypatch.setattr(compiling, name, refuse if name == "record" else lambda tape: None)
        monkeypatch.setattr(residuals_and_slopes, "programs", {})
        monkeypatch.setattr(together, "programs", {})
        found.append(fit(measured[:30], start))
        assert [bool(program.compiled) for program in together.programs.values()] == [[], [False], [True]][step]
    for other in found[1:]:
        assert other.efficiency == pytest.approx(found[0].efficiency, rel=1e-4)
        assert other.singular_values == pytest.approx(found[0].singular_values, rel=1e-4, abs=1e-9)
        assert other.converged and found[0].converged


def write(path: Path, rows: list[dict[str, str]], header: list[str] | None = None) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, header or list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_reads_both_spellings(tmp_path) -> None:
    table = write(tmp_path / "t.csv", [GOOD | {"system": "h100_sxm", "engine": ""}])
    row = read_table(table)[0]
    assert (row.system, row.engine, row.tp, row.value, row.line) == ("h100-sxm-8", None, 1, 0.01, 2)
    packed = tmp_path / "t.csv.gz"
    packed.write_bytes(gzip.compress(table.read_bytes()))
    assert read_table(packed) == [row]


@pytest.mark.parametrize(
    ("column", "cell", "words"),
    [
        ("system", "h100-sxn-8", ("line 2", "system", "h100-sxm-8")),
        ("model", "", ("line 2", "model", "empty")),
        ("engine", "vlm", ("line 2", "engine", "vllm")),
        ("tp", "two", ("line 2", "tp", "'two' is no number")),
        ("tp", "0", ("line 2", "tp", "from 1")),
        ("batch", "1.5", ("line 2", "batch", "whole")),
        ("isl", "", ("line 2", "isl", "empty")),
        ("osl", "1", ("line 2", "osl", "at least 2")),
        ("metric", "tpot_ms", ("line 2", "metric", "tpot_s")),
        ("value", "nan", ("line 2", "value", "above 0")),
        ("value", "-0.1", ("line 2", "value", "above 0")),
        ("value", "0", ("line 2", "value", "above 0")),
        ("weights", "fp9", ("line 2", "weights", "fp8")),
        ("tpp", "2", ("line 1", "unknown column 'tpp'", "'tp'")),
    ],
)
def test_bad_cells_are_named(tmp_path, column: str, cell: str, words: tuple[str, ...]) -> None:
    path = write(tmp_path / "bad.csv", [GOOD | {column: cell}])
    with pytest.raises(InputError) as error:
        read_table(path)
    for word in ("bad.csv", *words):
        assert word in str(error.value)


def test_bad_files_are_named(tmp_path) -> None:
    missing = write(tmp_path / "missing.csv", [{k: v for k, v in GOOD.items() if k != "value"}])
    ragged = tmp_path / "ragged.csv"
    ragged.write_text(",".join(GOOD) + "\n" + ",".join(GOOD.values()) + ",extra\n")
    empty = write(tmp_path / "none.csv", [GOOD], list(GOOD))
    empty.write_text(",".join(GOOD) + "\n")
    (tmp_path / "blank.csv").write_text("")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    twice = tmp_path / "twice.csv"
    twice.write_text("tp,tp\n1,1\n")
    for path, word in (
        (missing, "'value' is missing"), (ragged, "line 2"), (empty, "no row"), (tmp_path / "blank.csv", "no header"),
        (tmp_path / "binary.csv", "cannot be read"), (twice, "twice"), (tmp_path / "absent.csv", "no such file"),
        (tmp_path, "folder"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=word):
            read_table(path)
    with pytest.raises(InputError, match="source"):
        read_table(write(tmp_path / "good.csv", [GOOD]), "splitwise")


def test_bad_arguments_are_named(measured) -> None:
    with pytest.raises(InputError, match="group-by"):
        fit_table(measured, group_by=["model"])
    with pytest.raises(InputError, match="holdout"):
        fit_table(measured, holdout=1.0)
    with pytest.raises(InputError, match="no measurement"):
        fit_table([])


def test_command_line(tmp_path, measured, capsys) -> None:
    """Files appear whole, JSON is all there is on stdout, and bad input leaves nothing behind."""
    cells = [{k: v for k, v in vars(m).items() if k not in ("line", "deployment")} for m in measured]
    rows = [{k: "" if v is None else str(v) for k, v in row.items()} for row in cells]
    table, out, predictions = write(tmp_path / "t.csv", rows), tmp_path / "c.json", tmp_path / "p.csv"
    assert main(["calibrate", str(table), "--out", str(out), "--seed", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == read_json(out)
    assert main(["calibrate", str(table), "--out", str(out), "--seed", "3"]) == 0
    assert "tpot_s" in capsys.readouterr().out
    assert main(["predict", str(table), "--calibration", str(out), "--out", str(predictions), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["errors"]["all"]["mape"] < 1
    assert len(predictions.read_text().splitlines()) == len(rows) + 1
    bad, nothing = write(tmp_path / "bad.csv", [GOOD | {"tp": "x"}]), tmp_path / "nothing.json"
    assert main(["calibrate", str(bad), "--out", str(nothing)]) == 2
    assert main(["calibrate", str(table), "--out", str(nothing), "--holdout", "2"]) == 2
    assert main(["predict", str(bad), "--out", str(nothing)]) == 2
    assert main(["predict", str(table), "--calibration", "no-such", "--out", str(nothing)]) == 2
    assert not nothing.exists()


@pytest.mark.skipif(not PUBLIC.exists(), reason=f"the measured data are not beside the checkout: {PUBLIC.name}")
def test_splitwise_target() -> None:
    """Prefill and decode within 15 % each on 20 % of the configurations held out, no factor at a bound."""
    rows = [m for m in read_table(PUBLIC, "splitwise") if m.metric != "e2e_s" and m.isl * m.batch <= 8192]
    assert {m.system for m in rows} == {"a100-80gb-8", "h100-sxm-8"}
    found = fit_table(rows, holdout=0.2, seed=0)
    after = errors(found.held_out, list(predict(found.held_out, found)))
    assert after["ttft_s"]["mape"] <= 15
    assert after["tpot_s"]["mape"] <= 15
    for group in found.document["groups"]:
        assert not at_bound(group["efficiency"])
        assert group["report"]["fit"]["converged"] == 1
