"""Reading and writing cells of memory, and copying them, as lines of LLVM's assembly."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .cells import SIZES, Memory, Move, Read
from .lines import STORED, Lines, literal

_UNROLLED = 4
"""Copies that are written one by one."""


@dataclass
class _Bytes:
    """Bytes that are copied from `source`, zeros where it is None, to `target`; in each round of a loop by so many
    bytes further on."""

    source: int | None
    target: int
    count: int
    from_step: int
    to_step: int

    def joined(self, after: _Bytes) -> bool:
        """Whether these bytes, made to go on to the end of others, are both; arrays begin at multiples of 8."""
        steps = self.from_step or self.to_step
        whole = self.count if steps else -(-self.count // 8) * 8
        if after.target != self.target + whole or (after.from_step, after.to_step) != (self.from_step, self.to_step):
            return False
        if (None if self.source is None else self.source + whole) != after.source:
            return False
        self.count = whole + after.count
        return True


class Places(Lines):
    """Lines of a function of the memory `%a` and the number `%i` of the round of the loop that it is in. `names` are
    the values that are known in the block that is being written, by their address; `same` are those that are read alike
    in all rounds of its loop."""

    def __init__(self, memory: Memory, declared: set[str]) -> None:
        super().__init__(declared)
        self.memory, self.label, self.labels = memory, "entry", 0
        self.frames: dict[int, str] = {}
        self.names: dict[int, str] = {}
        self.same: dict[int, str] = {}
        self.open: list[tuple[str, int]] = []

    def text(self) -> str:
        """The lines of the function."""
        first = []
        for moved, name in self.frames.items():
            first += [f"  {name}o = mul i64 %i, {moved}", f"  {name} = getelementptr i8, ptr %a, i64 {name}o"]
        return "\n".join([*first, *self.lines])

    def new(self) -> str:
        """A label that no block has."""
        self.labels += 1
        return f"b{self.labels}"

    def begin(self, label: str) -> None:
        """The beginning of a block."""
        self.lines.append(f"{label}:")
        self.label = label

    def jump(self, label: str) -> None:
        """To a block that begins here."""
        self.do(f"br label %{label}")
        self.begin(label)

    def frame(self, moved: int) -> str:
        """The memory, moved on by so many bytes in each round of the loop around this function."""
        if not moved:
            return "%a"
        if moved not in self.frames:
            self.frames[moved] = f"%f{len(self.frames)}"
        return self.frames[moved]

    def load(self, kind: str, offset: str | int, moved: int = 0) -> str:
        """A number of the memory."""
        address = self.put(f"getelementptr i8, ptr {self.frame(moved)}, i64 {offset}")
        value = self.put(f"load {STORED[kind]}, ptr {address}, align {SIZES[kind]}")
        return self.put(f"trunc i8 {value} to i1") if kind == "bool" else value

    def store(self, kind: str, value: str, offset: str | int, moved: int = 0) -> None:
        """Puts a number into the memory."""
        address = self.put(f"getelementptr i8, ptr {self.frame(moved)}, i64 {offset}")
        if kind == "bool":
            value = self.put(f"zext i1 {value} to i8")
        self.do(f"store {STORED[kind]} {value}, ptr {address}, align {SIZES[kind]}")

    def after(self, base: int, step: int, index: str) -> str | int:
        """The offset of an entry that is `index` times a step after another."""
        if not step:
            return base
        return self.put(f"add i64 {self.put(f'mul i64 {index}, {step}')}, {base}")

    def rounds(self, count: int) -> str:
        """The beginning of a block that is done `count` times; the number of the round."""
        before, label = self.label, self.new()
        self.jump(label)
        self.lines.append(f"  %{label}i = phi i64 [ 0, %{before} ], [ %{label}n, %{label}e ]")
        self.open.append((label, count))
        return f"%{label}i"

    def next(self) -> None:
        """The end of the block that was begun last."""
        label, count = self.open.pop()
        self.jump(f"{label}e")
        self.do(f"%{label}n = add i64 %{label}i, 1")
        self.do(f"%{label}m = icmp ne i64 %{label}n, {count}")
        end = self.new()
        self.do(f"br i1 %{label}m, label %{label}, label %{end}")
        self.begin(end)

    def read(self, read: Read, index: str | None, moved: int = 0) -> str:
        """The number that a step reads in a round."""
        known = None if moved else self.memory.literal(read)
        if known is not None:
            return literal(read.kind, known)
        if read.table is None and not moved:
            if index is not None and not read.stride and read.base in self.same:
                return self.same[read.base]
            if read.base in self.names and (index is None or read.stride == SIZES[read.kind]):
                return self.names[read.base]
        if read.table is not None:
            table = self.memory.constant(read.table.astype(np.int32)).at.item(0)
            place = self.load("int32", self.after(table, 4, str(index)))
            return self.load(read.kind, self.put(f"zext i32 {place} to i64"), moved)
        value = self.load(read.kind, read.base if index is None else self.after(read.base, read.stride, index), moved)
        if index is None and not moved:
            self.names[read.base] = value
        return value

    def moves(self, moves: list[Move]) -> None:
        """Copies numbers: those that follow each other in both places at once."""
        self.names, self.same = {}, {}
        runs: list[_Bytes] = []
        for move in moves:
            run = self.bytes_of(move)
            if run is None:
                self.one_by_one(move)
            elif not (runs and runs[-1].joined(run)):
                runs.append(run)
        for run in runs:
            self.copy(run)

    def bytes_of(self, move: Move) -> _Bytes | None:
        """A move as a copy of bytes; None where it is none, or is better done otherwise."""
        size = SIZES[move.source.kind]
        known = None if move.from_step else self.memory.literal(move.source)
        if known is not None:
            source = None
            if np.any(known):
                return None
        else:
            source = move.source.base
            if move.length == 1 or move.source.table is not None or move.source.stride != size:
                return None
        return _Bytes(source, move.target, move.length * size, move.from_step, move.to_step)

    def copy(self, run: _Bytes) -> None:
        """Copies bytes."""
        to = self.put(f"getelementptr i8, ptr {self.frame(run.to_step)}, i64 {run.target}")
        if run.source is None:
            self.declared.add("declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)")
            self.do(f"call void @llvm.memset.p0.i64(ptr {to}, i8 0, i64 {run.count}, i1 false)")
            return
        place = self.put(f"getelementptr i8, ptr {self.frame(run.from_step)}, i64 {run.source}")
        self.declared.add("declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)")
        self.do(f"call void @llvm.memcpy.p0.p0.i64(ptr {to}, ptr {place}, i64 {run.count}, i1 false)")

    def one_by_one(self, move: Move) -> None:
        """Copies numbers that stand apart."""
        if move.length > _UNROLLED:
            self.moved(move, move.source, self.rounds(move.length))
            self.next()
            self.names, self.same = {}, {}
            return
        source = move.source
        for place in range(move.length):
            base = source.base + place * source.stride if source.table is None else int(source.table[place])
            one = Read(source.kind, base, 0, None)
            self.moved(replace(move, target=move.target + place * SIZES[source.kind]), one, None)

    def moved(self, move: Move, source: Read, index: str | None) -> None:
        """Copies one number."""
        kind = source.kind
        target = move.target if index is None else self.after(move.target, SIZES[kind], index)
        self.store(kind, self.read(source, index, move.from_step), target, move.to_step)
