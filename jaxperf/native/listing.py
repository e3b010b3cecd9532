"""A list of configurations that share nothing: every number of each is an input, every operation is done for each."""

from __future__ import annotations

import numpy as np

from .graph import Graph
from .jit import library, target
from .kernel import Unfolded
from .levels import ATTRIBUTES, Function, flops

ARGUMENTS = ("count", "stride", "inputs", "given", "results")


class Listing:
    """Results as machine code over a list. `inputs` are the inputs that it reads, (mask of the axis, place) each;
    `flops` are those of a configuration. `effort` is LLVM's (see `jit.library`)."""

    def __init__(self, program: Unfolded, results: list[int], effort: int = 0) -> None:
        self.real = program.graph.real
        chosen = [program.results[index] for index in results]
        nodes = program.graph.needed(chosen)
        self.results = len(chosen)
        self.flops = flops(program.graph, nodes)
        self.inputs, self.given, text = _module(program.graph, nodes, chosen)
        self.library = library(text, ("list",), effort)

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """The results of a list, [result, configuration], from its inputs, [input, configuration]."""
        lanes, count = target(self.real).lanes, inputs.shape[1]
        length = -(-count // lanes) * lanes
        if length != count or inputs.dtype != self.real or not inputs.flags.c_contiguous:
            full = np.empty((inputs.shape[0], length), self.real)
            full[:, :count] = inputs
            full[:, count:] = inputs[:, -1:]
            inputs = full
        results = np.empty((self.results, length), self.real)
        addresses = {"inputs": inputs, "given": self.given, "results": results}
        given = {"count": length, "stride": length} | {name: array.ctypes.data for name, array in addresses.items()}
        arguments = np.asarray([given[name] for name in ARGUMENTS], np.int64)
        self.library.functions["list"](arguments.ctypes.data)
        return results[:, :count]


def _module(graph: Graph, nodes: list[int], results: list[int]) -> tuple[list[tuple[int, int]], np.ndarray, str]:
    """Inputs and given values that the code reads, in order, and the code."""
    t, declared = target(graph.real), set()
    inputs = [node for node in nodes if graph.names[node] == "input"]
    known = [node for node in nodes if graph.masks[node] == 0 and not graph.literal[node]]
    place = {node: index for index, node in enumerate(inputs)} | {node: index for index, node in enumerate(known)}
    f = Function(graph, t, declared, ARGUMENTS)
    code = f.code
    count, stride = f.number("count"), f.number("stride")
    given, table, out = f.address("given"), f.address("inputs"), f.address("results")
    code.do("br label %next")
    code.label("next")
    code.do("%n = phi i64 [ 0, %entry ], [ %n_after, %each ]")
    code.do(f"%more = icmp slt i64 %n, {count}")
    code.do("br i1 %more, label %each, label %end")
    code.label("each")

    def load(node: int) -> str | None:
        if graph.masks[node] == 0:
            return code.spread_at(given, str(place[node])) if node in place else None
        at = code.put(f"add i64 {code.put(f'mul i64 {stride}, {place[node]}')}, %n")
        return code.from_real(code.vector_at(table, at), graph.kinds[node])

    computed = [node for node in nodes if graph.names[node] != "input" and graph.masks[node]]
    names = code.compute(computed, load, set(results))
    for index, node in enumerate(results):
        value = t.splat(graph.values[node], graph.kinds[node]) if graph.literal[node] else names.get(node) or load(node)
        at = code.put(f"add i64 {code.put(f'mul i64 {stride}, {index}')}, %n")
        code.keep(code.as_real(str(value), graph.kinds[node]), out, at)
    code.do(f"%n_after = add i64 %n, {t.lanes}")
    code.do("br label %next")
    code.label("end")
    code.do("ret void")
    text = "\n".join(["define void @list(ptr noalias %a) #0 {", "entry:", *code.lines, "}", *sorted(declared)])
    values = np.asarray([graph.values[node] for node in known] or [0], graph.real)
    return [(graph.masks[node], graph.operands[node][0]) for node in inputs], values, f"{text}\n{ATTRIBUTES}\n"
