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


_BINS = 4096  # of the ladder: 64 to an octave, 64 octaves
_LOWEST = (127 - 24) << 6  # the bin of 2^-24


def _bin(value: Any) -> Any:
    """Logarithmic bin of a positive float32: its exponent and the top six bits of its mantissa. Monotone."""
    bits = jax.lax.bitcast_convert_type(value.astype(jnp.float32), jnp.int32)
    return jnp.clip((bits >> 17) - _LOWEST, 0, _BINS - 1)


_RUN = 32  # neighbours that are ruled out together


class Pareto(eqx.Module):
    """The exact frontier of both objectives: no other configuration is at least as good in both. Of equals, the
    earliest. `capacity` points are kept; where there are more, `finish` raises rather than losing any. `runs` runs of
    neighbours are merged at a time."""

    capacity: int = eqx.field(static=True, default=4096)
    runs: int = eqx.field(static=True, default=32)

    def init(self) -> Any:
        """Frontier sorted by falling first objective: (first, second, block, index, ladder, overflow)."""
        empty = jnp.zeros(self.capacity)
        none = jnp.full(self.capacity, -1, jnp.int32)
        return empty, empty, none, none, jnp.zeros(_BINS), jnp.asarray(False)

    def update(self, state: Any, block: Block) -> Any:
        """A run of neighbours is no better than the corner of its two maxima. A ladder of the best second objective
        above each bin of the first rules out almost every corner; what is left is merged a few runs at a time, and each
        merge raises the ladder for the next."""
        length = -(-block.first.size // _RUN) * _RUN
        padding = (0, length - block.first.size)
        first = jnp.pad(block.first, padding).reshape(-1, _RUN)
        second = jnp.pad(block.second, padding).reshape(-1, _RUN)
        corner, height = _bin(jnp.max(first, axis=1)), jnp.max(second, axis=1)

        def left(ladder: Any, done: Any) -> Any:
            return (height > ladder[corner]) & ~done

        def step(carry: Any) -> Any:
            current, waiting, done = carry
            chosen = jnp.nonzero(waiting, size=self.runs, fill_value=first.shape[0])[0].astype(jnp.int32)
            done = done.at[chosen].set(True, mode="drop")
            at = jnp.minimum(chosen, first.shape[0] - 1)
            real = (chosen < first.shape[0])[:, None]
            ahead, high = (jnp.where(real, part[at], 0.0).ravel() for part in (first, second))
            index = (at[:, None] * _RUN + jnp.arange(_RUN, dtype=jnp.int32)[None, :]).ravel()
            current = self._merge(current, ahead, high, block.number, index)
            return current, left(current[4], done), done

        done = jnp.zeros(first.shape[0], bool)
        merged, _, _ = jax.lax.while_loop(lambda c: jnp.any(c[1]), step, (state, left(state[4], done), done))
        return merged

    def _merge(self, state: Any, first: Any, second: Any, block: Any, index: Any) -> Any:
        """The frontier of the kept points and of others: these are sorted by themselves and woven in."""
        order = jnp.lexsort((index, -second, -first))
        first, second, index = first[order], second[order], index[order]
        kept_first, kept_second, kept_block, kept_index, _, overflow = state
        # The place of a newcomer among the kept, which fall in the first: after an equal that is at least as good.
        place = jnp.searchsorted(-kept_first, -first, side="left").astype(jnp.int32)
        near = jnp.minimum(place, self.capacity - 1)
        place = place + ((kept_first[near] == first) & (kept_second[near] >= second)).astype(jnp.int32)
        new_at = place + jnp.arange(place.size, dtype=jnp.int32)
        old_at = jnp.arange(self.capacity, dtype=jnp.int32)
        old_at = old_at + jnp.searchsorted(place, old_at, side="right").astype(jnp.int32)

        def woven(old: Any, new: Any) -> Any:
            joined = jnp.zeros(self.capacity + place.size, old.dtype)
            return joined.at[old_at].set(old, unique_indices=True).at[new_at].set(new, unique_indices=True)

        first, second = woven(kept_first, first), woven(kept_second, second)
        number = woven(kept_block, jnp.full(place.size, block, jnp.int32))
        index = woven(kept_index, index)
        reached = jnp.concatenate([jnp.zeros(1), jax.lax.cummax(second)[:-1]])
        keep = second > reached
        target = jnp.where(keep, jnp.cumsum(keep, dtype=jnp.int32) - 1, self.capacity)

        def packed(values: Any, fill: Any) -> Any:
            return jnp.full(self.capacity, fill, values.dtype).at[target].set(values, mode="drop")

        first, second = packed(first, 0), packed(second, 0)
        tops = jnp.zeros(_BINS).at[_bin(first)].max(second)
        ladder = jnp.concatenate([jax.lax.cummax(tops, reverse=True)[1:], jnp.zeros(1)])
        return first, second, packed(number, -1), packed(index, -1), ladder, overflow | (jnp.sum(keep) > self.capacity)

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
