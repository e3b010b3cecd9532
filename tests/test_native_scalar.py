"""A tape as machine code gives what NumPy plays, or is refused."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxperf import compiling
from jaxperf.compiling import mapped, quick
from jaxperf.load import deployment, load_model, load_system, workload
from jaxperf.native import jit, scalar
from jaxperf.native.cells import MOST_BYTES, MOST_OPERANDS
from jaxperf.native.scalar import Compiled
from jaxperf.phases.end_to_end import evaluate
from jaxperf.spec.library import names
from jaxperf.tape import NoKernelError, play, record

from .test_tape import GRID, LAYOUTS, LOGIC, ONE, OTHER, POSITIVE, POSITIVES, TWO, WHOLE, _loops

pytestmark = pytest.mark.skipif(not jit.available(), reason="there is no LLVM for this platform")

REAL = GRID.dtype.type
CLOSE = {np.dtype(np.float64): 1e-13, np.dtype(np.float32): 1e-5}
"""Relative differences between two libraries' mathematical functions, and between orders of a sum."""

FLAGS = GRID > 0.5


def same(function, *arguments, code: Compiled | None = None, rtol: float | None = None) -> Compiled:
    """The code's results are those of the tape in value, shape and type."""
    tape, _ = record(function, *arguments)
    code = code or Compiled(tape)
    leaves = jax.tree.leaves(arguments)
    for mine, its in zip(code(leaves), play(tape, leaves), strict=True):
        assert np.shape(mine) == np.shape(its)
        kind = np.asarray(its).dtype
        assert np.asarray(mine).dtype == kind
        if kind.kind == "f":
            np.testing.assert_allclose(mine, its, rtol=CLOSE[kind] if rtol is None else rtol, atol=0)
        else:
            np.testing.assert_array_equal(mine, its)
    return code


REFUSED = {"cumlogsumexp", "dynamic_update_slice", "gather", "dot_general"}
"""Operations that there is no code for, some of them for an index that is not known."""


@pytest.mark.parametrize("name", sorted({*ONE, *TWO, *POSITIVES, *LOGIC} - REFUSED))
def test_an_operation(name):
    """Of scalars, of arrays that a loop goes through, and folded where all is known."""
    arguments = {
        **dict.fromkeys(ONE, (GRID,)),
        **dict.fromkeys(POSITIVES, (POSITIVE,)),
        **dict.fromkeys(LOGIC, (FLAGS,)),
    }
    function, given = {**ONE, **TWO, **POSITIVES, **LOGIC}[name], arguments.get(name, (GRID, OTHER))
    same(function, *given)
    known = [jnp.asarray(each) for each in given]
    same(lambda x: (x, function(*known)), REAL(1))


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_has_no_code_is_refused(name):
    function = {**ONE, **TWO}[name]
    with pytest.raises(NoKernelError, match="no code for"):
        Compiled(record(function, *((GRID,) if name in ONE else (GRID, OTHER)))[0])


def test_numbers_that_are_none_and_without_bound():
    """A product with a zero of the program text is no zero where the other factor is infinite."""
    x = np.asarray([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5, -2.5, 1e30, 1e-30], REAL)

    def function(x):
        pair = x[:, None], x[None, :]
        both = [jnp.maximum(*pair), jnp.minimum(*pair), lax.pow(jnp.abs(pair[0]), pair[1]), jnp.clip(*pair, 2.0)]
        tests = [pair[0] > pair[1], pair[0] != pair[1], pair[0] <= pair[1], jnp.isfinite(x), jnp.isnan(x)]
        return (
            *both,
            *tests,
            0 * x,
            x * 0.0 + 1,
            jnp.sign(x),
            x - x,
            0 / x,
            x**-2,
            x**7,
            jnp.argmax(x),
            jnp.argmin(x[1:]),
        )

    with jax.numpy_rank_promotion("allow"):
        same(function, x)
    same(lambda x: (0 * x, jnp.where(x > 0, 0.0, 0.0) * x, x + 0.0, jnp.sign(x), jnp.maximum(x, 1.0)), REAL(np.nan))


def test_types_stand_side_by_side():
    """Both widths of reals, integers that wrap, shifts beyond the width, and what does not fit."""

    def function(x, narrow, whole, flag, unsigned):
        wide = x + narrow.astype(x.dtype) * jnp.where(flag, x, -x)
        shifted = [lax.shift_left(whole, jnp.int32(places)) for places in (0, 5, 31, 32, 40)]
        converted = [(1e12 * x).astype(kind) for kind in (np.int32, np.uint32, bool)] + [whole.astype(x.dtype)]
        integers = [whole * whole, whole - 7, -whole, whole**3, jnp.maximum(whole, 2), unsigned - 9 > unsigned]
        bits = [lax.population_count(unsigned), ~whole, ~flag, flag & (whole > 1), flag.astype(np.int32) + whole]
        return wide, narrow * 3, jnp.sum(narrow), *shifted, *converted, *integers, *bits, jnp.sum(whole), jnp.any(flag)

    flags = WHOLE > 1
    same(function, GRID, GRID.astype(np.float32), WHOLE, flags, WHOLE.astype(np.uint32))
    same(function, *(each[2, 3] for each in (GRID, GRID.astype(np.float32), WHOLE, flags, WHOLE.astype(np.uint32))))


def test_branches_and_loops():
    same(_loops, GRID)
    same(_loops, -GRID)
    same(jax.value_and_grad(lambda x: sum(jnp.sum(part) for part in jax.tree.leaves(_unrolled(x)))), GRID)


def _unrolled(x):
    """Loops in branches in loops, whose results are passed on unchanged, swapped, and in pieces."""

    def body(carry, row):
        a, b, kept = carry
        c = lax.cond(a[0] > b[0], lambda: (a * row, jnp.sin(b), row[:2]), lambda: (jnp.cos(a), b, row[2:]))
        d = lax.scan(lambda s, r: (s * 0.9 + r, (s, r)), c[0][0], c[1])
        return (b, a + c[0], kept), (d, c[2], row, carry[2], jnp.zeros(3))

    return lax.scan(body, (x[0], x[1], x[2]), x, reverse=True), lax.scan(body, (x[1], x[0], x[0] * 2), x)


@pytest.mark.parametrize("flag", [True, False])
def test_a_branch_by_an_input(flag):
    """Only the branch that is taken counts, also where the other gives no numbers."""

    def function(flag, number, x):
        first = lax.cond(flag, lambda: (x, jnp.float32(1), 7, True), lambda: (jnp.log(-x), jnp.float32(2), 8, False))
        return first, lax.switch(number, [lambda: x[0], lambda: x[1] * 2, lambda: jnp.zeros(4)])

    for number in (-3, 0, 1, 2, 9):
        same(function, flag, np.int32(number), POSITIVE)


def test_a_loop_that_ends_by_itself():
    def function(x, end):
        return lax.while_loop(lambda s: s[0] < end, lambda s: (s[0] + s[1], s[1] + 1, s[3], s[2]), (x, x * 0, x, 2 * x))

    same(function, REAL(1), REAL(40))
    same(function, REAL(1), REAL(0))
    with pytest.raises(NoKernelError, match="different times"):
        Compiled(record(jax.vmap(function), GRID[0], OTHER[0])[0])


def _cases(count: int):
    loads = itertools.cycle([(1, 1, 1), (1024, 128, 16), (30000, 7, 512)])
    systems, layouts = itertools.cycle(names("system")), itertools.cycle(LAYOUTS)
    every = zip(names("model")[::count], systems, layouts, loads, strict=False)
    for model, system, layout, load in every:
        yield load_model(model), load_system(system), deployment(model, **layout), workload(*load)


@pytest.mark.parametrize("wide", [False, True])
def test_models_of_the_library(wide):
    with jax.enable_x64(wide):
        cases, code = list(_cases(4)), None
        tape, _ = record(evaluate, *cases[0])
        for case in cases:
            leaves = jax.tree.leaves(case)
            code = code or Compiled(tape)
            for mine, its in zip(code(leaves), play(tape, leaves), strict=True):
                assert np.asarray(mine).dtype == np.asarray(its).dtype
                np.testing.assert_allclose(mine, its, rtol=1e-11 if wide else 2e-4, atol=0)


def test_slopes_of_evaluate():
    model, system, deployed, work = next(_cases(4))

    def slopes(isl, batch, *described):
        return jax.value_and_grad(lambda *a: evaluate(*described, replace(work, isl=a[0], batch=a[1])).e2e, (0, 1))(
            isl, batch
        )

    same(slopes, REAL(777), REAL(3), model, system, deployed, rtol=1e-10 if REAL is np.float64 else 1e-3)


def test_large_programs_are_left_to_others():
    with pytest.raises(NoKernelError, match="NumPy is as good"):
        Compiled(record(lambda x: x + 1, np.zeros(MOST_BYTES, REAL))[0])
    with pytest.raises(NoKernelError, match="NumPy is as good"):
        Compiled(record(lambda x: x + 1, np.zeros(40_000, REAL))[0])
    with pytest.raises(NoKernelError, match="a sum of more than"):
        Compiled(record(lambda x: jnp.sum(x * x), np.zeros(MOST_OPERANDS + 1, REAL))[0])


def test_quick_plays_a_few_times_then_runs_code(monkeypatch):
    played, clock = [], itertools.count(step=0.4 * compiling.NATIVE_S)
    monkeypatch.setattr(compiling, "play", lambda *given: played.append(1) or play(*given))
    monkeypatch.setattr(compiling.time, "perf_counter", lambda: next(clock))
    double = quick(lambda tree: {"twice": 2 * tree["value"]})
    for value in range(6):
        found = double({"value": jnp.asarray(float(value))})["twice"]
        assert isinstance(found, jax.Array)
        assert float(found) == 2 * value
    assert len(played) == 3
    assert [program.native is not None for program in double.programs.values()] == [True]


def test_quick_without_llvm_is_what_it_was(monkeypatch):
    """Played until compiling would have taken as long, then compiled."""

    def nothing():
        raise NoKernelError("no LLVM")

    monkeypatch.setattr(scalar.jit, "llvm", nothing)
    clock = itertools.count(step=0.4 * compiling.COMPILING_S)
    monkeypatch.setattr(compiling.time, "perf_counter", lambda: next(clock))
    double = quick(lambda x: 2 * x)
    assert [float(double(jnp.asarray(float(value)))) for value in range(5)] == [0, 2, 4, 6, 8]
    (program,) = double.programs.values()
    assert program.native is None
    assert program.compiled is not None
    rows = mapped(lambda x, y: x * y, (0, None))
    np.testing.assert_array_equal(rows(jnp.arange(3.0), jnp.asarray(2.0)), [0, 2, 4])
    assert len(rows.otherwise.programs) == 1


def test_rows_are_those_of_vmap():
    """Mapped and not mapped arguments of all types and shapes, whatever the number of rows; one program."""

    def function(row, factor, flag):
        return jnp.sum(row["x"]) * factor, row["x"][:2], row["n"] + 1, flag & (factor > 0)

    both = mapped(function, (0, None, 0))
    for count in (1, 3):
        arguments = ({"x": GRID[:count], "n": WHOLE[:count, 0]}, REAL(1.5), FLAGS[:count, 1])
        expected = jax.vmap(function, (0, None, 0))(*arguments)
        for mine, its in zip(both(*arguments), expected, strict=True):
            assert mine.dtype == its.dtype
            np.testing.assert_allclose(mine, its, rtol=1e-6)
    assert [native is not None for native, _ in both.programs.values()] == [True]
    grid = jnp.asarray(GRID[:, :3])
    slope = jax.grad(lambda f: jnp.sum(both({"x": grid, "n": WHOLE[:, 0]}, f, FLAGS[:, 1])[0]))(REAL(2))
    assert float(slope) == pytest.approx(float(jnp.sum(grid)))


def test_threads_do_not_disturb_each_other():
    code = Compiled(record(_unrolled, GRID)[0])
    expected = [code([GRID + REAL(i)]) for i in range(8)]
    wrong = []

    def work(i):
        for _ in range(200):
            found = code([GRID + REAL(i)])
            if not all(np.array_equal(a, b) for a, b in zip(found, expected[i], strict=True)):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_results_share_no_memory():
    code = Compiled(record(lambda x: (x, 2 * x), GRID)[0])
    kept = code([GRID])
    first = [np.array(each) for each in kept]
    code([OTHER])
    for mine, its in zip(kept, first, strict=True):
        np.testing.assert_array_equal(mine, its)
