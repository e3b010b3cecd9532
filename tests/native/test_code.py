"""Machine code against NumPy: elementary functions, folding, what is not there."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxperf.native import jit
from jaxperf.native.code import Code
from jaxperf.native.graph import BATCH, CHUNK, FORMATS, ROW, SYSTEM, Graph
from jaxperf.native.kernel import NEW_FORMATS, NEW_LAYOUT, NEW_SYSTEM, Kernel, Lines, lines, unfolded
from jaxperf.native.levels import levels, steps
from jaxperf.native.listing import Column, Listing, Table, own_columns
from jaxperf.native.target import Target
from jaxperf.native.words import edges, pack, present
from jaxperf.tape import NoKernelError, record

REALS = [np.dtype(np.float32), np.dtype(np.float64)]


def applied(real, write, *columns):
    """What a line of code gives for columns of numbers."""
    target, declared = jit.target(real), set()
    code = Code(Graph(real), target, declared)
    places = [code.vector_at("%x", str(index * target.lanes)) for index in range(len(columns))]
    code.keep(write(code, *places), "%y", "0")
    head = ["define void @f(ptr %a) {", "%x = load ptr, ptr %a", "%q = getelementptr ptr, ptr %a, i64 1"]
    text = "\n".join([*head, "%y = load ptr, ptr %q", *code.lines, "ret void", "}", *sorted(declared)])
    function = jit.Library(text, ("f",), 2).functions["f"]
    found = []
    for first in range(0, len(columns[0]), target.lanes):
        part = np.concatenate([np.resize(column[first : first + target.lanes], target.lanes) for column in columns])
        part, out = part.astype(real), np.empty(target.lanes, real)
        arguments = np.asarray([part.ctypes.data, out.ctypes.data], np.int64)
        function(arguments.ctypes.data)
        found.append(out)
    return np.concatenate(found)[: len(columns[0])]


@pytest.mark.parametrize("real", REALS)
def test_the_exponential_is_within_two_roundings(real):
    wide = 700 if real.itemsize == 8 else 86
    x = np.concatenate([np.linspace(-wide, wide, 20_001), np.linspace(-1, 1, 2_001)]).astype(real)
    found = applied(real, lambda code, value: code._exponential(value), x)
    expected = np.exp(x.astype(np.longdouble))
    assert np.max(np.abs(found / expected - 1)) < 2 * np.finfo(real).eps
    edge = np.asarray([np.nan, np.inf, -np.inf, 0.0, -1e30, 1e30], real)
    np.testing.assert_array_equal(
        applied(real, lambda code, v: code._exponential(v), edge), [np.nan, np.inf, 0, 1, 0, np.inf]
    )


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("name", ["exp2", "expm1", "log", "log1p", "log2", "pow"])
def test_called_functions_are_numpys(real, name):
    x = np.geomspace(1e-6, 50, 333).astype(real)
    columns = (x, np.linspace(-3, 3, 333).astype(real)) if name == "pow" else (x,)
    expected = {"pow": np.power}.get(name) or getattr(np, name)
    found = applied(real, lambda code, *given: code._called(name, list(given)), *columns)
    np.testing.assert_allclose(found, expected(*columns), rtol=8 * np.finfo(real).eps)


def test_functions_that_no_library_has_for_vectors_are_called_lane_by_lane(monkeypatch):
    real = REALS[0]
    have = jit.target(real)
    monkeypatch.setattr(jit, "target", lambda _: Target(real, have.lanes, have.called, {}, have.fused))
    x = np.geomspace(1e-3, 9, 40).astype(real)
    found = applied(real, lambda code, value: code._called("log1p", [value]), x)
    np.testing.assert_allclose(found, np.log1p(x), rtol=4e-7)


def test_what_is_zero_or_one_leaves_no_code():
    graph = Graph(np.dtype(np.float32))
    x, zero, one = graph.input(0, ROW, "f"), graph.constant(np.float32(0)), graph.constant(np.float32(1))
    given = graph.given(np.float32(3), "head")
    assert graph.apply("mul", (x, zero), "f") == zero
    assert graph.apply("mul", (one, x), "f") == x
    assert graph.apply("add", (zero, x), "f") == x
    assert graph.apply("div", (x, one), "f") == x
    assert graph.values[graph.apply("mul", (given, given), "f")] == 9
    assert not graph.literal[graph.apply("mul", (given, given), "f")]
    assert graph.apply("select_n", (graph.apply("gt", (given, one), "b"), x, zero), "f") == zero
    assert graph.apply("add", (x, given), "f") == graph.apply("add", (given, x), "f")


def test_inner_loops_multiply_by_inverses_of_outer_numbers():
    graph = Graph(np.dtype(np.float32), reciprocals=True)
    row, batch = graph.input(0, ROW, "f"), graph.input(0, ROW | BATCH, "f")
    assert graph.names[graph.apply("div", (batch, row), "f")] == "mul"
    assert graph.names[graph.apply("div", (row, batch), "f")] == "div"
    assert graph.masks[graph.apply("add", (batch, graph.input(0, CHUNK, "f")), "f")] == ROW | BATCH | CHUNK


def test_choices_that_leave_the_same_literal_are_made_at_once():
    graph = Graph(np.dtype(np.float32), reciprocals=True)
    row, both = graph.input(0, ROW, "f"), graph.input(0, ROW | BATCH, "f")
    none, one = graph.constant(np.float32(-np.inf)), graph.constant(np.float32(1))
    inner, second = graph.apply("gt", (both, one), "b"), graph.apply("lt", (both, row), "b")
    chosen = graph.apply("select_n", (inner, none, graph.apply("select_n", (second, none, both), "f")), "f")
    assert graph.operands[chosen] == (graph.apply("and", (inner, second), "b"), none, both)
    alone = graph.apply("gt", (graph.input(0, BATCH, "f"), one), "b")
    outer = graph.apply("is_finite", (row,), "b")
    for flags in ((alone, outer), (outer, alone)):  # neither belongs to a loop within the other's
        chosen = graph.apply("select_n", (flags[0], none, graph.apply("select_n", (flags[1], none, row), "f")), "f")
        assert graph.operands[chosen] == (graph.apply("and", flags, "b"), none, row)
    no = graph.constant(np.bool_(False))
    chosen = graph.apply("select_n", (graph.apply("and", (inner, outer), "b"), no, outer), "b")
    assert graph.operands[chosen][0] == inner
    chosen = graph.apply("select_n", (graph.apply("and", (inner, outer), "b"), none, row), "f")
    assert graph.operands[chosen] == (inner, none, graph.apply("select_n", (outer, none, row), "f"))
    kept = graph.apply("select_n", (inner, none, graph.apply("select_n", (second, both, none), "f")), "f")
    assert graph.names[graph.operands[kept][2]] == "select_n"


def test_flags_that_were_made_numbers_are_flags_again():
    graph = Graph(np.dtype(np.float32))
    x = graph.input(0, ROW, "f")
    zero, one, two = (graph.constant(np.float32(n)) for n in (0, 1, 2))
    flag = graph.apply("gt", (x, one), "b")
    number = graph.apply("select_n", (flag, zero, one), "f")
    assert graph.apply("gt", (number, zero), "b") == flag
    assert graph.apply("eq", (zero, number), "b") == graph.apply("not", (flag,), "b")
    assert graph.values[graph.apply("lt", (number, two), "b")]
    assert graph.names[graph.apply("gt", (number, x), "b")] == "gt"


def toy(fixed, row, batch, chunk):
    """Every kind of operation that a model has, over all axes."""
    table, (size, real) = fixed, batch
    weights = jnp.sum(table * jnp.stack([row["a"], row["b"], jnp.ceil(row["a"])]))
    load = jax.lax.fori_loop(0, 3, lambda i, x: x * 0.5 + weights / (1 + i), row["b"])
    time = jnp.where(size > row["k"], jnp.exp(-size / load), jnp.sqrt(size) * load) + jnp.log1p(chunk / row["a"])
    time += 1e-3 * jnp.sqrt(size / row["a"]) * (row["k"] + jnp.floor(size / row["k"])) / row["b"]
    time = jnp.maximum(time, jax.lax.cond(table[0] > 1, lambda: chunk**2 * 1e-4, lambda: size))
    fits = real & (time < 40)
    scores = [jnp.where(fits, time, -jnp.inf), jnp.where(fits, time * row["a"], -jnp.inf), jnp.where(fits, time, 0.0)]
    return [*scores, jnp.where(real, jnp.where(time < 40, 0.0, 6.0), -1.0)]


@pytest.fixture(scope="module")
def kernel_and_reference():
    real = np.dtype(jnp.result_type(float))
    draw = np.random.default_rng(0)
    rows = {name: draw.uniform(1, 9, 37).astype(real) for name in ("a", "b", "k")}
    batches, chunks, table = (
        np.arange(1, 71).astype(real),
        np.asarray([64, 100, 512]).astype(real),
        np.asarray([2, 0, 1]),
    )
    one = {name: column[0] for name, column in rows.items()}
    tape, _ = record(toy, table.astype(real), one, (batches[0], np.ones((), bool)), chunks[0])
    program = unfolded(tape, [table.astype(real)], [ROW, SYSTEM, FORMATS], 2, real)
    kernel = Kernel(program, [0, 1])
    shared = kernel.share(lines(_inputs(kernel, rows)), 37, chunks)
    filled = kernel.batches(np.stack([batches, np.ones_like(batches)]), np.asarray([1, 0]))
    price = jax.vmap(
        jax.vmap(jax.vmap(lambda r, c, b: toy(table.astype(real), r, (b, True), c), (None, None, 0)), (None, 0, None)),
        (0, None, None),
    )
    expected = [np.asarray(each) for each in jax.jit(price)(rows, chunks, batches)]
    return kernel, program, shared, filled, expected, (rows, chunks, batches)


def test_a_product_is_what_jax_computes(kernel_and_reference):
    kernel, _, shared, filled, expected, _ = kernel_and_reference
    found = kernel.block(shared, filled, everything=True)
    for index in range(2):
        np.testing.assert_allclose(found.scores[index][..., :70], expected[index], rtol=1e-5)
        np.testing.assert_array_equal(found.scores[index][..., 70:], -np.inf)
    np.testing.assert_array_equal(found.reasons[..., :70], expected[3])
    assert {0, 6} == set(np.unique(expected[3]))
    np.testing.assert_array_equal(found.counts, np.bincount(found.reasons.ravel() + 1, minlength=len(found.counts)))
    np.testing.assert_array_equal(found.counts, kernel.block(shared, filled).counts)


def test_runs_leave_their_highest_scores_and_give_all_again(kernel_and_reference):
    kernel, _, shared, filled, _, _ = kernel_and_reference
    full, short = kernel.block(shared, filled, everything=True), kernel.block(shared, filled)
    assert short.scores is None
    runs = full.scores.reshape(*full.scores.shape[:3], filled.runs, filled.length)
    np.testing.assert_array_equal(short.highest, runs.max(axis=-1))
    row, chunk, run = (np.asarray(each) for each in ([0, 36, 5], [2, 0, 1], [filled.runs - 1, 0, 1]))
    again = kernel.listed(shared, filled, row, chunk, run)
    np.testing.assert_array_equal(again, runs[:, row, chunk, run])


@pytest.mark.parametrize("scores", [[2], [2, 2], [0, 2, 1], [1, 0, 2, 2, 0]])
@pytest.mark.parametrize("count", [1, 19, 40, 70])
def test_any_number_of_scores_and_batches_leave_their_highest(kernel_and_reference, scores, count):
    _, program, _, _, expected, (rows, chunks, batches) = kernel_and_reference
    kernel = Kernel(program, scores, effort=0, batches=count)
    filled = kernel.batches(np.stack([batches[:count], np.ones(count, kernel.real)]), np.asarray([1, 0]))
    shared = kernel.share(lines(_inputs(kernel, rows)), 37, chunks)
    found = kernel.block(shared, filled, everything=True)
    for index, score in enumerate(scores):
        np.testing.assert_allclose(found.scores[index][..., :count], expected[score][..., :count], rtol=1e-5)
    runs = found.scores.reshape(*found.scores.shape[:3], filled.runs, filled.length)
    np.testing.assert_array_equal(found.highest, runs.max(axis=-1))
    np.testing.assert_array_equal(found.counts, np.bincount(found.reasons.ravel() + 1, minlength=len(found.counts)))
    row, chunk, run = np.indices(found.highest.shape[1:]).reshape(3, -1)
    np.testing.assert_array_equal(kernel.listed(shared, filled, row, chunk, run), runs[:, row, chunk, run])


@pytest.mark.parametrize("registers", [4, 8, 16])
def test_vectors_are_no_longer_than_the_batches_ask_for(registers):
    real = REALS[0]
    narrow = Target(real, 2 * registers, registers)
    widths = {count: jit.for_batches(narrow, count).lanes // registers for count in (1, registers, 2 * registers, 4096)}
    assert widths == {1: 1, registers: 1, 2 * registers: 2, 4096: 4}


@pytest.mark.parametrize("scores", [[2], [2, 2, 2]])
def test_sums_in_place_of_maxima(kernel_and_reference, scores):
    _, program, _, filled, expected, (rows, chunks, _) = kernel_and_reference
    kernel = Kernel(program, scores, total=True)
    found = kernel.block(kernel.share(lines(_inputs(kernel, rows)), 37, chunks), filled)
    for total in found.highest:
        np.testing.assert_allclose(total.sum(axis=-1), expected[2].sum(axis=-1), rtol=1e-5)


def test_what_all_rows_have_alike_is_one_vector(kernel_and_reference):
    kernel, _, _, filled, _, (rows, chunks, _) = kernel_and_reference
    rows = rows | {"b": np.full(37, 2.5, kernel.real)}
    table = _inputs(kernel, rows)
    expected = kernel.block(kernel.share(lines(table), 37, chunks), filled)
    full = lines(table)
    one, place = np.full(kernel.target.lanes, 2.5, kernel.real), kernel.inputs.index(1)
    addresses, steps = full.addresses.copy(), full.steps.copy()
    addresses[place], steps[place] = one.ctypes.data, 0
    shared = kernel.share(Lines(full.rows, addresses, steps, (*full.held, one), full.changes), 37, chunks)
    np.testing.assert_array_equal(kernel.block(shared, filled).highest, expected.highest)


@pytest.mark.parametrize("without", [("avx512",), ("avx", "fma", "f16c", "vaes", "vpclmulqdq", "evex512", "amx")])
def test_processors_with_narrower_registers_compute_the_same(kernel_and_reference, without, monkeypatch):
    _, program, _, _, expected, (rows, chunks, batches) = kernel_and_reference
    binding = jit.llvm()
    features = binding.get_host_cpu_features()
    fewer = type(features)({name: on and not name.startswith(without) for name, on in features.items()})
    try:
        monkeypatch.setattr(binding, "get_host_cpu_features", lambda: fewer)
        jit.target.cache_clear()
        kernel = Kernel(program, [0, 1])
        filled = kernel.batches(np.stack([batches, np.ones_like(batches)]), np.asarray([1, 0]))
        shared = kernel.share(lines(_inputs(kernel, rows)), 37, chunks)
        found = kernel.block(shared, filled, everything=True)
        places, columns = listed(rows, chunks, batches, 101)
        listing = Listing(program.graph, [program.results[index] for index in (0, 1, -1)])
        one_by_one = listing([columns[each.name] for each in listing.columns])
    finally:
        monkeypatch.undo()
        jit.target.cache_clear()
    assert kernel.target.called * kernel.real.itemsize <= 32
    for index in range(2):
        np.testing.assert_allclose(found.scores[index][..., :70], expected[index], rtol=1e-5)
    np.testing.assert_array_equal(found.reasons[..., :70], expected[3])
    np.testing.assert_array_equal(found.counts, np.bincount(found.reasons.ravel() + 1, minlength=len(found.counts)))
    runs = found.scores.reshape(*found.scores.shape[:3], filled.runs, filled.length)
    np.testing.assert_array_equal(found.highest, runs.max(axis=-1))
    np.testing.assert_array_equal(one_by_one[:2], found.scores[:, *places])


def test_what_neighbouring_rows_have_in_common_is_computed_once_with_the_same_bits(kernel_and_reference):
    kernel, program, _, filled, _, (rows, chunks, _) = kernel_and_reference
    found = levels(program.graph, [program.results[0], program.results[-1]])
    assert [bool(needed) for _, needed in steps(program.graph, found, [])["batch"]] == [True, True, True]
    rows = rows | {"a": np.repeat(rows["a"], 12)[:37], "k": np.repeat(rows["k"], 4)[:37]}
    alone = lines(_inputs(kernel, rows))
    changes = np.full(alone.rows, NEW_SYSTEM)
    changes[:37:4], changes[:37:12], changes[37:] = NEW_FORMATS, NEW_LAYOUT, NEW_LAYOUT
    expected = kernel.block(kernel.share(alone, 37, chunks), filled, everything=True)
    together = kernel.block(kernel.share(replace(alone, changes=changes), 37, chunks), filled, everything=True)
    np.testing.assert_array_equal(together.scores, expected.scores)
    np.testing.assert_array_equal(together.highest, expected.highest)
    wrong = kernel.block(kernel.share(replace(alone, changes=0 * changes + NEW_SYSTEM), 37, chunks), filled)
    assert not np.array_equal(wrong.highest, expected.highest)  # so the parts are indeed left out


def test_lines_that_are_no_rows_are_refused(kernel_and_reference):
    kernel, _, _, _, _, (rows, chunks, _) = kernel_and_reference
    table = _inputs(kernel, rows)
    other = np.dtype(np.float64 if kernel.real.itemsize == 4 else np.float32)
    for wrong in (table[:, :37].copy(), table[:2], table.astype(other)):
        with pytest.raises(ValueError, match="rows must"):
            kernel.share(lines(wrong), 37, chunks)
    with pytest.raises(ValueError, match="side by side"):
        lines(table[:, ::2])


def _inputs(kernel, rows):
    lanes = kernel.target.lanes
    full = np.stack([np.resize(rows[name], -(-37 // lanes) * lanes) for name in ("a", "b", "k")])[kernel.inputs]
    return np.ascontiguousarray(full)


def test_sorted_words_give_the_product_bit_for_bit(kernel_and_reference):
    kernel, _, shared, filled, _, _ = kernel_and_reference
    whole = kernel.block(shared, filled, everything=True)
    draw = np.random.default_rng(1)
    row, chunk, batch = np.sort(draw.integers(0, 37, 500)), draw.integers(0, 3, 500), draw.integers(1, 71, 500)
    begins = np.append(np.flatnonzero(np.diff(row, prepend=-1)), 500)
    words = np.zeros(600, np.int64)[:500]
    words[:] = chunk << 7 | batch
    found = kernel.segments(shared, words, begins, np.unique(row), (7, 2), everything=True)
    np.testing.assert_array_equal(found.scores, whole.scores[:, row, chunk, batch - 1])
    np.testing.assert_array_equal(found.highest, np.maximum.reduceat(found.scores, begins[:-1], axis=1))
    codes = whole.reasons[row, chunk, batch - 1]
    assert (found.counts[1], found.counts[7]) == (np.sum(codes == 0), np.sum(codes == 6))


MASK = {"a": ROW, "b": SYSTEM, "k": FORMATS}


def listed(rows, chunks, batches, count):
    """Random configurations of the toy: where they are in the product, and their columns."""
    draw = np.random.default_rng(2)
    row, chunk, batch = draw.integers(0, 37, count), draw.integers(0, 3, count), draw.integers(0, 70, count)
    columns = {(MASK[name], place): rows[name][row] for place, name in enumerate(rows)}
    columns |= {(BATCH, 0): batches[batch], (BATCH, 1): np.ones(count), (CHUNK, 0): chunks[chunk]}
    return (row, chunk, batch), columns


@pytest.mark.parametrize("count", [5, 101])
def test_a_list_is_what_the_product_gives(kernel_and_reference, count):
    kernel, program, shared, filled, expected, axes = kernel_and_reference
    listing = Listing(program.graph, [program.results[index] for index in (0, 1, 3)])
    places, columns = listed(*axes, count)
    found = listing([columns[each.name] for each in listing.columns])
    for place, index in enumerate((0, 1, 3)):
        np.testing.assert_allclose(found[place], expected[index][places], rtol=1e-5)
    whole = kernel.block(shared, filled, everything=True)
    listing = Listing(program.graph, [program.results[index] for index in (0, 1, -1)])
    found = listing([columns[each.name] for each in listing.columns])
    np.testing.assert_array_equal(found[:2], whole.scores[:, *places])
    np.testing.assert_array_equal(found[2], whole.reasons[places])


@pytest.mark.parametrize("entries", [1, 3, 8, 16, 40])
def test_entries_of_tables_are_what_columns_would_say(kernel_and_reference, entries):
    program, axes = kernel_and_reference[1], kernel_and_reference[-1]
    results = [program.results[index] for index in (0, 1, 3)]
    _, columns = listed(*axes, 101)
    which = np.random.default_rng(entries).integers(0, entries, 101)
    values = np.random.default_rng(0).uniform(1, 9, (2, entries))
    columns |= {(SYSTEM, 1): values[0, which], (FORMATS, 2): values[1, which], "which": which}
    index = Column("which", whole=True)
    tables = {SYSTEM: Table(index, {1: values[0]}), FORMATS: Table(index, {2: values[1]})}
    origins = {(BATCH, 1): 1.0, (BATCH, 0): Column((BATCH, 0), whole=True)}
    plain = Listing(program.graph, results)
    tabled = Listing(program.graph, results, tables, lambda *key: origins.get(key) or own_columns(*key))
    assert {column.name for column in tabled.columns} == {"which", (ROW, 0), (BATCH, 0), (CHUNK, 0)}
    assert 0 < tabled.flops < plain.flops
    found = tabled([columns[each.name] for each in tabled.columns])
    np.testing.assert_array_equal(found, plain([columns[each.name] for each in plain.columns]))


def test_a_loop_of_unknown_length_has_no_scalar_form():
    def endless(fixed, row, batch, chunk):
        found = jax.lax.while_loop(lambda x: x < 100, lambda x: x * 2, row)
        return [found, found]

    one = np.ones((), np.dtype(jnp.result_type(float)))
    tape, _ = record(endless, one, one, (one, np.ones((), bool)), one)
    with pytest.raises(NoKernelError, match="while"):
        unfolded(tape, [one], [ROW], 2, one.dtype)


def test_words_pack_and_part():
    draw = np.random.default_rng(3)
    first, second = (draw.integers(0, n, 100_003).astype(np.int32) for n in (50, 900))
    ranks = np.arange(1000, dtype=np.int32) // 3
    words = pack([first, second], [None, ranks], [0, 6])
    np.testing.assert_array_equal(words, first.astype(np.int64) | ranks[second].astype(np.int64) << 6)
    np.testing.assert_array_equal(np.flatnonzero(present(second, 999)), np.unique(second))
    words = np.sort(words)
    expected = np.append(np.flatnonzero(np.diff(words >> 6, prepend=-1)), len(words))
    np.testing.assert_array_equal(edges(words, 6), expected)
