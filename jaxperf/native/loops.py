"""The blocks of a program over cells of memory as LLVM's assembly: functions of bounded size, which pass all values
through memory."""

from __future__ import annotations

from .cells import SIZES, Body, Choice, Loop, Memory, Repeat, Step, Until
from .lines import TYPES
from .places import Places

_FUNCTION = 400
"""Steps after which another function begins."""

_ARGUMENTS = "(ptr noalias %a, i64 %i)"
"""What each function takes: the memory, and the number of the round of the loop that it is in."""


class Module:
    """The functions of a program as they are written."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.declared: set[str] = set()
        self.functions: list[str] = []

    def text(self, body: Body, name: str) -> str:
        """A module with a function of this name that runs a body."""
        calls = "\n".join(f"  call void @{each}(ptr %a, i64 0)" for each in self.body(body))
        main = f"define void @{name}(ptr noalias %a) {{\n{calls}\n  ret void\n}}"
        return "\n".join([*sorted(self.declared), *self.functions, main])

    def body(self, body: Body) -> list[str]:
        """Writes the functions of a body; their names in order."""
        names: list[str] = []
        parts: list[list[object]] = [[body.begin] if body.begin else []]
        steps = 0
        for block in body.blocks:
            if steps >= _FUNCTION:
                parts.append([])
                steps = 0
            parts[-1].append(block)
            steps += len(block.steps) if isinstance(block, Loop) else 1
        parts[-1] += [body.end] if body.end else []
        for part in parts:
            if part:
                written = _Function(self, part).text()
                names.append(f"f{len(self.functions)}")
                self.functions.append(
                    f"define internal void @{names[-1]}{_ARGUMENTS} {{\nentry:\n{written}\n  ret void\n}}"
                )
        return names


class _Function(Places):
    """One function: blocks and moves in order."""

    def __init__(self, module: Module, parts: list[object]) -> None:
        super().__init__(module.memory, module.declared)
        self.module = module
        for part in parts:
            match part:
                case Loop():
                    self.loop(part)
                case [*moves]:
                    self.moves(moves)
                case Repeat():
                    self.repeat(part)
                case Until():
                    self.until(part)
                case Choice():
                    self.choice(part)

    def loop(self, block: Loop) -> None:
        """Steps for each number."""
        self.names, self.same = {}, {}
        if block.length == 1:
            for step in block.steps:
                self.step(step, None)
            return
        for step in block.steps:
            for read in step.reads:
                if not read.stride and read.table is None and self.memory.literal(read) is None:
                    if read.base not in self.same:
                        self.same[read.base] = self.load(read.kind, read.base)
        index = self.rounds(block.length)
        for step in block.steps:
            self.step(step, index)
        self.next()

    def step(self, step: Step, index: str | None) -> None:
        """One step in one round."""
        given = [self.read(read, index) for read in step.reads]
        values = given if step.name == "copy" else self.operation(step.name, step.parameters, step.kind, given)
        for (kind, base), value in zip(step.writes, values, strict=True):
            self.names[base] = value
            if step.kept:
                self.store(kind, value, base if index is None else self.after(base, SIZES[kind], index))
        for number, target, moved in step.copies:
            kind = step.writes[number][0]
            place = target if index is None else self.after(target, SIZES[kind], index)
            self.store(kind, values[number], place, moved)

    def calls(self, body: Body, index: str) -> None:
        """Runs a body."""
        self.names = {}
        for name in self.module.body(body):
            self.do(f"call void @{name}(ptr %a, i64 {index})")

    def repeat(self, block: Repeat) -> None:
        """A loop of known length."""
        self.moves(block.before)
        index = self.rounds(block.length)
        if block.reverse:
            index = self.put(f"sub i64 {block.length - 1}, {index}")
        self.calls(block.body, index)
        self.next()

    def until(self, block: Until) -> None:
        """A loop that ends when its test says so."""
        self.moves(block.before)
        again, more, end = self.new(), self.new(), self.new()
        self.jump(again)
        self.calls(block.test, "0")
        going = self.read(block.flag, None)
        self.do(f"br i1 {going}, label %{more}, label %{end}")
        self.begin(more)
        self.calls(block.body, "0")
        self.do(f"br label %{again}")
        self.names = {}
        self.begin(end)

    def choice(self, block: Choice) -> None:
        """One of several bodies."""
        self.names = {}
        which = self.read(block.which, None)
        labels, end = [self.new() for _ in block.bodies], self.new()
        if block.which.kind == "bool":
            self.do(f"br i1 {which}, label %{labels[-1]}, label %{labels[0]}")
        else:
            of = TYPES[block.which.kind]
            held = self.extreme("max", block.which.kind, which, "0")
            cases = " ".join(f"{of} {number}, label %{label}" for number, label in enumerate(labels[:-1]))
            self.do(f"switch {of} {held}, label %{labels[-1]} [ {cases} ]")
        for label, body in zip(labels, block.bodies, strict=True):
            self.begin(label)
            self.calls(body, "%i")
            self.do(f"br label %{end}")
        self.names = {}
        self.begin(end)
