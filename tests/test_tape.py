"""A tape played by NumPy gives what the compiled program gives, or is not made."""

from __future__ import annotations

import itertools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

from jaxperf import compiling
from jaxperf.compiling import quick
from jaxperf.load import deployment, load_model, load_system, workload
from jaxperf.numpy_kernels import KERNELS
from jaxperf.phases.breakdown import breakdown_columns
from jaxperf.phases.end_to_end import evaluate
from jaxperf.spec.library import names
from jaxperf.tape import PASSED, NoKernelError, play, record

from .conftest import X64

REAL = np.float64 if X64 else np.float32
TOLERANCE = 1e-12 if X64 else 1e-5
GRID = np.asarray([[0.3, -1.7, 2.5, 0.0], [4.2, 0.9, -0.4, 1.0], [7.0, -3.1, 0.2, 5.5]], REAL)
OTHER = np.asarray([[1.3, 1.1, -2.5, 0.5], [0.2, 0.9, 3.4, -1.0], [2.0, 0.7, 0.2, 6.5]], REAL)
POSITIVE = np.abs(GRID) + REAL(0.1)
FLAGS = GRID > 0.5
WHOLE = np.asarray([[3, 1, 2, 0], [2, 2, 1, 3], [0, 1, 1, 2]], np.int32)


def _same(function, *arguments, rtol=TOLERANCE):
    """The tape's results are those of `jax.jit` in value, shape and type."""
    tape, structure = record(function, *arguments)
    found = play(pickle.loads(pickle.dumps(tape)), jax.tree.leaves(arguments))
    expected = jax.jit(function)(*arguments)
    assert structure == jax.tree.structure(expected)
    for mine, its in zip(found, jax.tree.leaves(expected), strict=True):
        assert np.shape(mine) == its.shape
        assert np.asarray(mine).dtype == its.dtype
        np.testing.assert_allclose(mine, its, rtol=rtol, atol=0 if rtol == 0 else 1e-300)


ONE = {
    "abs": lax.abs,
    "ceil": lax.ceil,
    "cos": lax.cos,
    "sin": lax.sin,
    "exp": lax.exp,
    "exp2": lax.exp2,
    "expm1": lax.expm1,
    "floor": lax.floor,
    "is_finite": lambda x: lax.is_finite(1 / x),
    "logistic": lax.logistic,
    "neg": lax.neg,
    "sign": lax.sign,
    "square": lax.square,
    "tanh": lax.tanh,
    "stop_gradient": lax.stop_gradient,
    "integer_pow": lambda x: lax.integer_pow(x, -3),
    "cumsum": lambda x: lax.cumsum(x, 1, reverse=True),
    "cumprod": lambda x: lax.cumprod(x, 0),
    "cummax": lambda x: lax.cummax(x, 1, reverse=True),
    "cummin": lambda x: lax.cummin(x, 0),
    "cumlogsumexp": lambda x: lax.cumlogsumexp(x, 1, reverse=True),
    "argmax": lambda x: lax.argmax(x, 1, np.int32),
    "argmin": lambda x: lax.argmin(x, 0, np.int32),
    "reduce_sum": lambda x: jnp.sum(x, axis=0),
    "reduce_prod": lambda x: jnp.prod(x, axis=(0, 1)),
    "reduce_max": lambda x: jnp.max(x, axis=1),
    "reduce_min": lambda x: jnp.min(x),
    "broadcast_in_dim": lambda x: (
        lax.broadcast_in_dim(x, (2, 4, 3), (2, 1)[::-1])
        if x.shape == (4, 3)
        else lax.broadcast_in_dim(x, (3, 2, 4), (0, 2))
    ),
    "convert_element_type": lambda x: (
        (x > 0).astype(x.dtype),
        x.astype(np.int32),
        (x / 0).astype(np.int32),
        x.astype(np.float32),
    ),
    "reshape": lambda x: (x.reshape(4, 3), lax.reshape(x, (2, 6), (1, 0))),
    "transpose": lambda x: x.T,
    "rev": lambda x: lax.rev(x, (1,)),
    "slice": lambda x: (lax.slice(x, (1, 0), (3, 4), (1, 2)), x[1:, 2]),
    "split": lambda x: lax.split(x, (1, 3), 1),
    "squeeze": lambda x: lax.squeeze(x[:1], (0,)),
    "concatenate": lambda x: lax.concatenate([x, x[:1]], 0),
    "stack": lambda x: jnp.stack([x, 2 * x], axis=1),
    "pad": lambda x: (lax.pad(x, x[0, 0], ((1, 0, 0), (2, 3, 0))), lax.pad(x, x[0, 0], ((-1, 2, 0), (1, -2, 0)))),
    "unstack": lambda x: jnp.unstack(x, axis=1),
    "bitcast_convert_type": lambda x: lax.bitcast_convert_type(x, {4: jnp.int32, 8: jnp.int64}[x.dtype.itemsize]),
    "empty2": jax.grad(lambda x: lax.cond(x[0, 0] > 0, lambda: jnp.sum(jnp.sin(x)), lambda: jnp.sum(jnp.exp(x) ** 2))),
    "iota": lambda x: x + lax.broadcasted_iota(x.dtype, x.shape, 1),
    "copy": lambda x: jnp.array(x, copy=True),
    "clamp": lambda x: lax.clamp(x.dtype.type(-1), x, x.dtype.type(2)),
    "dynamic_slice": lambda x: lax.dynamic_slice(x, (x[0, 2].astype(int), 9), (1, 2)),
    "dynamic_update_slice": lambda x: lax.dynamic_update_slice(x, x[:1, :2] * 2, (2, 9)),
}
TWO = {
    "gather": lambda x, y: (
        jax.vmap(lambda row, i: row[i], in_axes=(None, 0))(x, jnp.floor(9 * y[:, 0]).astype(int)),
        jnp.take(y, jnp.asarray([[2, 0], [1, 5]]), axis=1, mode="clip"),
        lax.gather(
            x,
            jnp.asarray([[0, 1], [2, 3], [1, -4]]),
            lax.GatherDimensionNumbers(offset_dims=(0,), collapsed_slice_dims=(0,), start_index_map=(0, 1)),
            (1, 2),
            mode="clip",
        ),
    ),
    "add": lax.add,
    "div": lax.div,
    "eq": lax.eq,
    "ge": lax.ge,
    "gt": lax.gt,
    "le": lax.le,
    "lt": lax.lt,
    "max": lax.max,
    "min": lax.min,
    "mul": lax.mul,
    "ne": lax.ne,
    "sub": lax.sub,
    "select_n": lambda x, y: (lax.select(x > y, x, y), lax.select_n(x[0, 0] > y[0, 0], x, y)),
    "dot_general": lambda x, y: (x @ y.T, jnp.einsum("ab,ab->a", x, y), jnp.einsum("ab,cb->acb", x, y)),
}
POSITIVES = {
    "log": lax.log,
    "log2": jnp.log2,
    "log1p": lax.log1p,
    "sqrt": lax.sqrt,
    "pow": lambda x: lax.pow(x, x[::-1]),
}
LOGIC = {
    "and": lambda a: a & a[::-1],
    "or": lambda a: a | a[::-1],
    "not": lambda a: ~a,
    "reduce_and": lambda a: jnp.all(a, axis=1),
    "reduce_or": lambda a: jnp.any(a, axis=0),
    "population_count": lambda a: lax.population_count(jnp.cumsum(a.astype(jnp.int32))),
    "shift_left": lambda a: a.astype(jnp.int32) << 5,
}


@pytest.mark.parametrize("name", ONE)
def test_a_kernel_of_one(name):
    _same(ONE[name], GRID)


@pytest.mark.parametrize("name", TWO)
def test_a_kernel_of_two(name):
    _same(TWO[name], GRID, OTHER)


@pytest.mark.parametrize("name", POSITIVES)
def test_a_kernel_of_positive_numbers(name):
    _same(POSITIVES[name], POSITIVE)


@pytest.mark.parametrize("name", LOGIC)
def test_a_kernel_of_flags(name):
    _same(LOGIC[name], FLAGS)


def test_every_kernel_is_compared():
    compared = {*ONE, *TWO, *POSITIVES, *LOGIC, "polynomial", "add_any"}  # the sum that transposing a program makes
    assert set(KERNELS) == compared - PASSED
    for name, function in {**ONE, **TWO}.items():
        arguments = (GRID,) if name in ONE else (GRID, OTHER)
        tape, _ = record(function, *arguments)
        assert name in _used(tape) or name in ("copy", "stop_gradient"), name


def _used(tape) -> set[str]:
    """Names of a tape's instructions, those of branches and loops included."""
    inner = [_used(each) for _, given, _, _ in tape.instructions for each in given.get("branches", ())]
    return {name for name, *_ in tape.instructions}.union(*inner)


def test_infinities_pass_without_a_warning():
    """1/0, 0/0 and log 0 are numbers to a compiled program."""
    _same(lambda x: (1 / x, x / x, jnp.log(x), jnp.exp(1000 * x)), np.asarray([0.0, 1.0, -1.0], REAL))


def _loops(x):
    def body(carry, row):
        return carry * 0.5 + row, (carry, jnp.sum(row))

    forward = lax.scan(body, x[0], x)
    backward = lax.scan(body, x[0], x, reverse=True)
    branch = lax.cond(x[0, 0] > 0, lambda: x[1], lambda: x[2])
    several = lax.switch(x[1, 1].astype(int) + 7, [lambda: x[0], lambda: x[1], lambda: x[2]])
    counted = lax.while_loop(lambda s: s[0] < 10, lambda s: (s[0] + s[1], s[1] + 1), (x[0, 0], x[0, 3]))
    mapped = lax.map(lambda row: jnp.sum(row) * x[2, 2], x)
    return forward, backward, branch, several, counted, mapped


def test_branches_and_loops():
    _same(_loops, GRID)
    _same(jax.vmap(_loops), np.stack([GRID, -GRID, OTHER]))


def test_gradients_are_tapes_too():
    def function(x):
        (_, carried), _ = lax.scan(lambda c, row: ((c[0] + 1, c[1] * jnp.tanh(row)), row), (0.0, x[0]), x)
        return jnp.sum(jnp.where(x > 0, x * carried[None], jnp.exp(x)))

    _same(jax.value_and_grad(function), GRID)
    _same(jax.jit(jax.jacfwd(lambda x: jnp.sum(x * x, axis=1))), GRID)


@given(st.integers(-5, 9), st.integers(-5, 9))
def test_whole_numbers(left, right):
    """Sums, products and choices of integers wrap and compare as the compiled ones do."""
    a, b = np.int32(left), np.int32(right)
    _same(lambda x, y: (x + y, x * y - y, jnp.where(x > y, x, y), x**2), a, b, rtol=0)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: lax.sort(x),
        lambda x: x.astype(np.int32) // 2,
        lambda x: lax.pad(x, x[0, 0], ((0, 0, 1), (0, 0, 0))),
        lambda x: x.at[x[:, 0].astype(int)].get(mode="fill", fill_value=7.0),
        jax.vmap(lambda row: row[row[0].astype(int)]),
        lambda x: x.astype(np.int8) + np.int8(100),
        lambda x: lax.scan(lambda c, r: (c + r, r), x[0], x[:0])[0],
        lambda x: x.astype(jnp.bfloat16) * jnp.asarray(2, jnp.bfloat16),
        lambda x: jnp.max(x[:0], axis=1),
        lambda x: x + jax.random.uniform(jax.random.key(0), dtype=x.dtype),
    ],
    ids=[
        *("sort", "integer division", "inner padding", "filling gather", "mapped gather", "short integers"),
        *("no rounds", "half width", "nothing", "random numbers"),
    ],
)
def test_what_numpy_does_not_know_is_compiled(function):
    with pytest.raises(NoKernelError, match="no kernel for"):
        record(function, GRID)
    np.testing.assert_array_equal(quick(function)(GRID), function(jnp.asarray(GRID)))


def test_sums_keep_their_type_and_digits():
    many = np.full((300_000, 2), 0.1, REAL)
    _same(lambda x: (jnp.sum(x, axis=0), jnp.cumsum(x, axis=0)[-1]), many, rtol=1e-10 if X64 else 1e-4)
    large = np.full(3, 2**30, np.int32)
    _same(lambda x: (jnp.sum(x, dtype=jnp.int32), lax.cumsum(x), jnp.sum(x > 0, dtype=jnp.int32)), large, rtol=0)


def test_results_share_no_memory_with_arguments():
    given = np.arange(1024.0, dtype=REAL)
    found = quick(lambda x: x.reshape(2, 512))(given)
    given[:] = -1
    assert float(found[0, 1]) == 1


def test_what_is_being_traced_is_not_played():
    assert float(jax.grad(lambda y: quick(lambda x: x * y)(2.0))(3.0)) == 2


LAYOUTS = [
    dict(tp=8),
    dict(tp=4, pp=3, cp=2, attention_dp=2, chunk=512),
    dict(tp=8, weights="fp8", kv="fp8", engine="vllm"),
    dict(pp=5, ep=2, offload="weights"),
]


def test_every_model_of_the_library():
    """One tape serves them all, as one compiled program does: `Metrics` and breakdown."""
    compiled, tapes, shapes = jax.jit(lambda *a: (evaluate(*a), breakdown_columns(*a))), [], set()
    systems, layouts = itertools.cycle(names("system")), itertools.cycle(LAYOUTS)
    loads = itertools.cycle([(1, 1, 1), (1024, 128, 16), (30000, 7, 512)])
    for model, system, layout, load in zip(names("model"), systems, layouts, loads, strict=False):
        case = (load_model(model), load_system(system), deployment(model, **layout), workload(*load))
        shapes.add(tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(case)))
        if not tapes:
            tapes.append(record(lambda *a: (evaluate(*a), breakdown_columns(*a)), *case)[0])
        found = play(tapes[0], jax.tree.leaves(case))
        for mine, its in zip(found, jax.tree.leaves(compiled(*case)), strict=True):
            assert np.shape(mine) == its.shape
            assert np.asarray(mine).dtype == its.dtype
            np.testing.assert_allclose(mine, its, rtol=TOLERANCE if X64 else 2e-4, atol=1e-25)
    assert len(shapes) == 1


def test_quick_traces_once_for_a_shape_and_compiles_what_is_called_often(monkeypatch):
    traces, played, clock = [], [], itertools.count(step=0.4 * compiling.COMPILING_S)
    monkeypatch.setattr(compiling, "_native", lambda tape: None)
    monkeypatch.setattr(compiling, "play", lambda *given: played.append(1) or play(*given))
    monkeypatch.setattr(compiling.time, "perf_counter", lambda: next(clock))

    @quick
    def double(tree):
        traces.append(1)
        return {"twice": 2 * tree["value"]}

    for value in range(6):
        assert float(double({"value": jnp.asarray(float(value))})["twice"]) == 2 * value
    assert len(traces) == 1
    assert len(played) == 3
    np.testing.assert_array_equal(double({"value": jnp.arange(3.0)})["twice"], [0.0, 2.0, 4.0])
    assert len(traces) == 2
    assert len(played) == 4


def test_quick_under_a_transformation_is_the_function():
    square = quick(lambda x: x * x)
    assert float(jax.grad(square)(3.0)) == 6
    np.testing.assert_array_equal(jax.vmap(square)(jnp.arange(3.0)), [0, 1, 4])
    assert float(jax.jit(square)(3.0)) == 9
