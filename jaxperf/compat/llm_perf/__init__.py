"""The public tool llm_perf (github.com/spiceMonkey/llm_perf, commit fdc49cc, MIT) by its own published equations.

`evaluate(inputs)` returns what the tool returns; `load_inputs` reads its spec files. Where the tool's conventions
differ from jaxperf's, docs/differences.md says by how much. The arithmetic is jaxperf's stage primitives, put together
differently."""

from .run import evaluate, evaluate_cases, evaluate_with_algorithms, resolve_algorithms
from .specs import load_inputs, load_spec

__all__ = [
    "evaluate",
    "evaluate_cases",
    "evaluate_with_algorithms",
    "load_inputs",
    "load_spec",
    "resolve_algorithms",
]
