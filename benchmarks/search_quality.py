"""Does the gradient search find what exhaustive search finds? Twenty layout problems from the library.

    python benchmarks/search_quality.py

Every problem leaves tp, pp, ep, cp, attention_dp and the batch (1 to 512) free. The search knows nothing of the
exhaustive result, which scores every point of the same discrete space exactly. What the discrete descent finds without
any gradients stands beside it. Writes results/search_quality.json."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from jaxperf.search import define, exhaustive, solve

FREE = ("tp", "pp", "ep", "cp", "attention_dp", "batch")
DEVICE, PRICE = "output_tokens_per_s_per_device", "price_per_million_tokens"

PROBLEMS: list[dict[str, Any]] = [
    {"model": "llama-3.1-70b", "system": "h100-sxm-8", "max_devices": 16, "constraints": ["tpot_s<0.03"]},
    {
        "model": "llama-3.1-70b",
        "system": "h200-8",
        "max_devices": 8,
        "constraints": ["tpot_s<0.02"],
        "isl": 4096,
        "osl": 512,
    },
    {
        "model": "llama-3.1-70b",
        "system": "a100-80gb-8",
        "max_devices": 24,
        "objective": "ttft_s",
        "isl": 8192,
        "osl": 256,
    },
    {
        "model": "llama-3.1-70b",
        "system": "b200-8",
        "max_devices": 8,
        "objective": "output_tokens_per_s",
        "weights": "nvfp4",
    },
    {"model": "llama-3.1-405b", "system": "h100-sxm-8", "max_devices": 32, "constraints": ["tpot_s<0.06", "ttft_s<2"]},
    {
        "model": "llama-3.1-405b",
        "system": "gb200-nvl72",
        "max_devices": 72,
        "constraints": ["tpot_s<0.025"],
        "weights": "fp8",
    },
    {"model": "llama-3.1-405b", "system": "mi300x-8", "max_devices": 16, "objective": "tpot_s"},
    {"model": "llama-3.1-8b", "system": "a100-80gb-8", "max_devices": 8, "objective": PRICE},
    {
        "model": "llama-3.1-8b",
        "system": "h100-sxm-8",
        "max_devices": 12,
        "objective": PRICE,
        "constraints": ["tpot_s<0.008"],
    },
    {"model": "qwen2.5-32b", "system": "mi300x-8", "max_devices": 8, "constraints": ["tpot_s<0.015"]},
    {
        "model": "qwen2.5-14b",
        "system": "h100-sxm-8",
        "max_devices": 40,
        "objective": "ttft_s",
        "isl": 32000,
        "osl": 128,
    },
    {"model": "qwen3-32b", "system": "gb200-nvl72", "max_devices": 36, "objective": "e2e_s", "isl": 2048, "osl": 2048},
    {"model": "qwen3-235b-a22b", "system": "h200-8", "max_devices": 16, "constraints": ["tpot_s<0.03"]},
    {
        "model": "qwen3-235b-a22b",
        "system": "gb200-nvl72",
        "max_devices": 64,
        "constraints": ["tpot_s<0.02"],
        "isl": 2048,
    },
    {"model": "qwen3-30b-a3b", "system": "h100-sxm-8", "max_devices": 8, "objective": "output_tokens_per_s"},
    {
        "model": "qwen3-coder-480b-a35b",
        "system": "b200-8",
        "max_devices": 16,
        "constraints": ["tpot_s<0.04", "ttft_s<1"],
    },
    {"model": "mixtral-8x7b", "system": "a100-80gb-8", "max_devices": 16, "constraints": ["tpot_s<0.025"]},
    {
        "model": "mixtral-8x22b",
        "system": "h100-sxm-8",
        "max_devices": 16,
        "objective": PRICE,
        "constraints": ["tpot_s<0.03"],
    },
    {
        "model": "gpt-1.8t-moe",
        "system": "gb200-nvl72",
        "max_devices": 72,
        "constraints": ["tpot_s<0.05"],
        "weights": "fp8",
    },
    {"model": "gpt-1.8t-moe", "system": "h200-8", "max_devices": 64, "objective": "tpot_s", "weights": "fp8"},
]


def main() -> int:
    """Run all problems, print a line each, write the results, and fail below 19 hits of 20."""
    rows, hits, blind_hits, blind_evaluations = [], 0, 0, 0
    for question in PROBLEMS:
        problem = define(**{"objective": DEVICE, "free": FREE, **question})
        began = time.perf_counter()
        result = solve(problem)
        search_s = time.perf_counter() - began
        began = time.perf_counter()
        value, _, points = exhaustive(problem)
        exhaustive_s = time.perf_counter() - began
        gap = problem.sign * (result.best.value / value - 1)
        hit = abs(gap) <= 1e-6
        hits += hit
        blind = solve(problem, steps=0)
        blind_hits += abs(blind.best.value / value - 1) <= 1e-6
        blind_evaluations += blind.evaluations
        row = {
            "question": question,
            "hit": hit,
            "relative_gap": gap,
            "found": result.best.value,
            "optimum": value,
            "layout": result.best.layout,
            "evaluations": result.evaluations,
            "gradients": result.gradients,
            "points": points,
            "search_s": round(search_s, 2),
            "exhaustive_s": round(exhaustive_s, 2),
        }
        rows.append(row)
        degrees = " ".join(f"{k[:3]}{v}" for k, v in result.best.layout.items() if k != "chunk")
        print(
            f"{'hit ' if hit else 'MISS'} {problem.model:<22} {problem.system:<12} {problem.objective[:24]:<24} "
            f"{degrees:<40} gap {gap:8.1e}  {result.evaluations:6d} of {points:8d} points  "
            f"{search_s:6.1f} s, {exhaustive_s:6.1f} s",
            flush=True,
        )
    evaluations = sum(row["evaluations"] for row in rows)
    points = sum(row["points"] for row in rows)
    summary = {
        "hits": hits,
        "problems": len(rows),
        "evaluations": evaluations,
        "without_gradients": {"hits": int(blind_hits), "evaluations": blind_evaluations},
        "points": points,
        "search_s": round(sum(row["search_s"] for row in rows), 1),
        "exhaustive_s": round(sum(row["exhaustive_s"] for row in rows), 1),
        "rows": rows,
    }
    target = Path(__file__).resolve().parent / "results" / "search_quality.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(summary, indent=1) + "\n")
    print(f"{hits} of {len(rows)} match the exhaustive optimum; {evaluations} of {points} points scored")
    print(f"rounding and discrete descent from the random starts alone: {blind_hits} hits, {blind_evaluations} points")
    return 0 if hits >= 19 else 1


if __name__ == "__main__":
    raise SystemExit(main())
