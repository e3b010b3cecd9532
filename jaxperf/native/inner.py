"""What the inner loops of a product and of a sorted list have in common: what they read, and what they leave."""

from __future__ import annotations

from .across import count
from .code import Load
from .levels import Function, Wanted
from .target import Target


class Inner:
    """A function with an inner loop as it is written. Its arguments have the addresses `given`, `live`, `chunk_live`,
    `counts`, `scores` (0 where they are not asked for) and `reasons`, and how far apart `scores` of two metrics are,
    `score_metric`."""

    def __init__(self, wanted: Wanted, target: Target, declared: set[str], names: tuple[str, ...]) -> None:
        f = self.arguments = Function(wanted.graph, target, declared, names)
        found = wanted.found
        self.graph, self.found, self.scores, self.reason = wanted.graph, found, wanted.scores, wanted.reason
        self.target = target
        self.code = f.code
        self.row_place = {node: index for index, node in enumerate(found.inner_live)}
        self.chunk_place = {node: index for index, node in enumerate(found.chunk_live)}
        self.given_place = {node: index for index, node in enumerate(found.given)}
        self.given, self.counts, self.all_scores, self.reasons = (
            f.address(name) for name in ("given", "counts", "scores", "reasons")
        )
        self.live, self.chunk_live, self.chunk_count = f.address("live"), f.address("chunk_live"), f.number("chunks")
        self.score_metric = f.number("score_metric")
        self.storing = self.code.put(f"icmp ne i64 {f.number('scores')}, 0")
        self.codes_at = self.code.put(f"alloca {target.scalar}, i64 {target.lanes}, align 64")
        self.row = ""

    def of_row(self, number: str) -> str:
        """Where what rows leave begins for the row of a number."""
        at = self.code.put(f"mul i64 {number}, {max(len(self.found.inner_live), 1)}")
        return self.code.at(self.live, at, self.target.scalar)

    def of_chunk(self, number: str, chunk: str = "0") -> str:
        """Where what chunks leave begins for a chunk of the row of a number."""
        at = self.code.put(f"add i64 {self.code.put(f'mul i64 {number}, {self.chunk_count}')}, {chunk}")
        at = self.code.put(f"mul i64 {at}, {max(len(self.found.chunk_live), 1)}")
        return self.code.at(self.chunk_live, at, self.target.scalar)

    def constant(self, node: int) -> str | None:
        """What is the same for all of the row at `row`."""
        code = self.code
        if node in self.given_place:
            return code.spread_at(self.given, str(self.given_place[node]))
        if node in self.row_place:
            return code.from_real(code.spread_at(self.row, str(self.row_place[node])), self.graph.kinds[node])
        return None

    def result(self, node: int, names: dict[int, str], load: Load) -> str:
        """The value of a result."""
        if self.graph.literal[node]:
            return self.target.splat(self.graph.values[node], "f")
        return str(names.get(node) or load(node))

    def leave(self, values: list[str], codes: str, to: str, after: str) -> None:
        """Scores and codes of a vector of configurations: stored from `to` on where they are asked for, the codes
        counted. Goes on at the label `after`."""
        code, t = self.code, self.target
        code.do(f"br i1 {self.storing}, label %store, label %count")
        code.label("store")
        for index, value in enumerate(values):
            shift = code.put(f"mul i64 {self.score_metric}, {index}")
            code.keep(value, self.all_scores, code.put(f"add i64 {to}, {shift}"))
        narrow = code.put(f"fptosi {t.vector()} {codes} to <{t.lanes} x i8>")
        code.do(f"store <{t.lanes} x i8> {narrow}, ptr {code.at(self.reasons, to, 'i8')}, align 1")
        code.do("br label %count")
        code.label("count")
        count(code, self.counts, codes, self.codes_at, after)

    def tops(self, before: str, after: str, total: bool = False) -> list[str]:
        """The highest scores so far, or their sums, of a loop that is entered from one block and goes on from another,
        after which they are what `raised` gives."""
        v, worst = self.target.vector(), self.target.splat(self.target.real.type(0 if total else "-inf"), "f")
        names = [f"%top{index}" for index in range(len(self.scores))]
        for name in names:
            self.code.do(f"{name} = phi {v} [ {worst}, %{before} ], [ {name}_after, %{after} ]")
        return names

    def raised(self, tops: list[str], values: list[str], total: bool = False) -> None:
        """The highest scores, or their sums, with a vector more."""
        code, v, flags = self.code, self.target.vector(), self.target.vector("b")
        for top, value in zip(tops, values, strict=True):
            if total:
                code.do(f"{top}_after = fadd {v} {top}, {value}")
                continue
            better = code.put(f"fcmp ogt {v} {value}, {top}")
            code.do(f"{top}_after = select {flags} {better}, {v} {value}, {v} {top}")
