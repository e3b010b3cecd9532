"""Reductions of a scan on the device, behind one small protocol: nothing of the size of the space ever leaves a block.

A reduction has `init()`, a state of arrays; `update(state, block)`, pure and traced; and `finish(state)` on the host.
A `Block` holds the values of one block of configurations; an index into it plus the block's number names one."""

from __future__ import annotations

from typing import Any, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..phases.end_to_end import REASONS


class Block(eqx.Module):
    """Flat arrays over one block: the two objectives as numbers to maximise (above 0, 0 where infeasible) and the int8
    reason code, −1 for padding; `number` is the block's."""

    first: Any
    second: Any
    reason: Any
    number: Any


class Reduction(Protocol):
    """What every reduction offers."""

    def init(self) -> Any:
        """The state before any block."""
        ...

    def update(self, state: Any, block: Block) -> Any:
        """The state after one more block."""
        ...

    def finish(self, state: Any) -> Any:
        """The result, on the host."""
        ...


class Counts(eqx.Module):
    """How many configurations have each reason code."""

    def init(self) -> Any:
        """Low and high 20 bits, so that counts pass 2^31 without 64-bit integers."""
        return jnp.zeros((2, len(REASONS)), jnp.int32)

    def update(self, state: Any, block: Block) -> Any:
        """Adds a block (of fewer than 2^20 configurations a reason and carry)."""
        counts = jnp.stack([jnp.sum(block.reason == code, dtype=jnp.int32) for code in range(len(REASONS))])
        low = state[0] + counts
        return jnp.stack([low & 0xFFFFF, state[1] + (low >> 20)])

    def finish(self, state: Any) -> dict[str, int]:
        """Counts by reason, zero counts left out."""
        low, high = np.asarray(state, dtype=np.int64)
        return {reason: int(n) for reason, n in zip(REASONS, (high << 20) + low, strict=True) if n}


class Best(eqx.Module):
    """The configuration with the largest value of one objective; of equals, the earliest."""

    objective: int = eqx.field(static=True)

    def init(self) -> Any:
        """(value, block, index)."""
        return jnp.zeros(()), jnp.asarray(-1, jnp.int32), jnp.asarray(-1, jnp.int32)

    def update(self, state: Any, block: Block) -> Any:
        """Takes the block's maximum first and looks for its place only where it is better than what is known."""
        values = block.second if self.objective else block.first
        top = jnp.max(values)

        def better() -> Any:
            return top, block.number, jnp.argmax(values).astype(jnp.int32)

        return jax.lax.cond(top > state[0], better, lambda: state)

    def finish(self, state: Any) -> tuple[float, int, int] | None:
        """(value, block, index), or None where nothing is feasible."""
        value, number, index = (np.asarray(part) for part in state)
        return None if number < 0 else (float(value), int(number), int(index))


_BINS = 4096  # of the ladder: 64 to an octave, 64 octaves
_LOWEST = (127 - 24) << 6  # the bin of 2^-24


def _bin(value: Any) -> Any:
    """Logarithmic bin of a positive float32: its exponent and the top six bits of its mantissa. Monotone."""
    bits = jax.lax.bitcast_convert_type(value.astype(jnp.float32), jnp.int32)
    return jnp.clip((bits >> 17) - _LOWEST, 0, _BINS - 1)


class Pareto(eqx.Module):
    """The exact frontier of both objectives: no other configuration is at least as good in both. Of equals, the
    earliest. `capacity` points are kept; where there are more, `finish` raises rather than losing any."""

    capacity: int = eqx.field(static=True, default=4096)
    batch: int = eqx.field(static=True, default=4096)

    def init(self) -> Any:
        """Frontier sorted by falling first objective: (first, second, block, index, ladder, overflow)."""
        empty = jnp.zeros(self.capacity)
        none = jnp.full(self.capacity, -1, jnp.int32)
        return empty, empty, none, none, jnp.zeros(_BINS), jnp.asarray(False)

    def update(self, state: Any, block: Block) -> Any:
        """A ladder of the best second objective above each bin of the first rules out almost everything at once; what
        is left is merged in batches. Where much is left, the block's own ladder goes first."""
        place = _bin(block.first)
        candidates = block.second > state[4][place]

        def thin(kept: Any) -> Any:
            tops = jnp.zeros(_BINS).at[place].max(jnp.where(kept, block.second, 0.0))
            above = jnp.concatenate([jax.lax.cummax(tops, reverse=True)[1:], jnp.zeros(1)])
            return kept & (block.second > above[place])

        def merge_all(kept: Any) -> Any:
            count = jnp.sum(kept, dtype=jnp.int32)
            kept = jax.lax.cond(count > self.batch, thin, lambda k: k, kept)

            def more(carry: Any) -> Any:
                return jnp.any(carry[1])

            def step(carry: Any) -> Any:
                current, left = carry
                (chosen,) = jnp.nonzero(left, size=self.batch, fill_value=left.size)
                left = left.at[chosen].set(False, mode="drop")
                return self._merge(current, block, chosen.astype(jnp.int32)), left

            merged, _ = jax.lax.while_loop(more, step, (state, kept))
            return merged

        return jax.lax.cond(jnp.any(candidates), merge_all, lambda _: state, candidates)

    def _merge(self, state: Any, block: Block, chosen: Any) -> Any:
        """The frontier of the kept points and some of a block's."""
        exists = chosen < block.first.size
        at = jnp.minimum(chosen, block.first.size - 1)
        first = jnp.concatenate([state[0], jnp.where(exists, block.first[at], 0.0)])
        second = jnp.concatenate([state[1], jnp.where(exists, block.second[at], 0.0)])
        number = jnp.concatenate([state[2], jnp.where(exists, block.number, -1)])
        index = jnp.concatenate([state[3], jnp.where(exists, at, -1)])
        # Falling first, then falling second; a stable sort keeps the earlier of equals ahead.
        order = jnp.lexsort((-second, -first))
        first, second, number, index = first[order], second[order], number[order], index[order]
        reached = jnp.concatenate([jnp.zeros(1), jax.lax.cummax(second)[:-1]])
        keep = (second > reached) & (number >= 0)
        rank = jnp.cumsum(keep) - 1
        target = jnp.where(keep, rank, self.capacity)

        def packed(values: Any, fill: Any) -> Any:
            return jnp.full(self.capacity, fill, values.dtype).at[target].set(values, mode="drop")

        first, second = packed(first, 0), packed(second, 0)
        tops = jnp.zeros(_BINS).at[_bin(first)].max(second)
        ladder = jnp.concatenate([jax.lax.cummax(tops, reverse=True)[1:], jnp.zeros(1)])
        overflow = state[5] | (jnp.sum(keep) > self.capacity)
        return first, second, packed(number, -1), packed(index, -1), ladder, overflow

    def finish(self, state: Any) -> list[tuple[float, float, int, int]]:
        """Points as (first, second, block, index), falling in the first.

        **Raises** `OverflowError` where points were lost.
        """
        first, second, number, index, _, overflow = (np.asarray(part) for part in state)
        if overflow:
            raise OverflowError(f"the frontier has more than {self.capacity} points; raise Pareto(capacity=...)")
        held = number >= 0
        return [
            (float(a), float(b), int(n), int(i))
            for a, b, n, i in zip(first[held], second[held], number[held], index[held], strict=True)
        ]
