# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # jaxperf in ten cells
# Load, estimate, scan, plot, calibrate, search. Everything goes through one function, `jaxperf.evaluate`.

# %%
import jax
import matplotlib.pyplot as plt

import jaxperf
from jaxperf.calibrate import Measurement

model = jaxperf.load_model("llama-3.1-70b")
system = jaxperf.load_system("h100-sxm-8")

# %% One configuration: time to the first token, time per output token, what fits
metrics = jaxperf.estimate("llama-3.1-70b", "h100-sxm-8", tp=8, batch=64, isl=2048, osl=256)
print(
    f"TTFT {1e3 * metrics.ttft:.0f} ms, TPOT {1e3 * metrics.tpot:.1f} ms, {metrics.output_tokens_per_s:,.0f} tokens/s"
)
print(
    f"{metrics.memory.total / 1e9:.0f} of {metrics.memory.capacity / 1e9:.0f} GB; {metrics.max_batch:.0f} sequences fit"
)

# %% The same function, vmapped over batches
deployment = jaxperf.deployment("llama-3.1-70b", tp=8)


EXACT, SMOOTH = jaxperf.Exact(), jaxperf.Smooth(0.01)


def tpot(batch, ops=EXACT):
    return jaxperf.evaluate(model, system, deployment, jaxperf.workload(2048, 256, batch), ops).tpot


batches = jax.numpy.asarray([1.0, 8.0, 32.0, 128.0, 512.0])
print(1e3 * jax.jit(jax.vmap(tpot))(batches))

# %% And differentiated: what one more sequence costs everybody. A batch is whole: its slope is that of a smooth model
slope = jax.jit(jax.grad(tpot))(64.0, SMOOTH)
print(f"one more sequence adds {1e6 * slope:.0f} microseconds to every token")

# %% Scan a space: every layout, batch and format, the exact Pareto frontier
result = jaxperf.scan(
    {
        "models": ["llama-3.1-70b"],
        "systems": ["h100-sxm-8", "b200-8"],
        "workloads": [[2048, 256]],
        "tp": [1, 2, 4, 8],
        "batch": {"from": 1, "to": 256},
        "weights": ["bf16", "fp8"],
    }
)
result

# %% Plot the frontier
frontier = result.groups[0].frontier
figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
for name in ("h100-sxm-8", "b200-8"):
    rows = [row for row in frontier if row["system"] == name]
    axes.plot(
        [row["output_tokens_per_s_per_user"] for row in rows],
        [row["output_tokens_per_s_per_device"] for row in rows],
        ".",
        label=name,
    )
axes.set(xlabel="output tokens/s per user", ylabel="output tokens/s per device", xscale="log", yscale="log")
_ = axes.legend(frameon=False)

# %% Calibrate to measurements: Llama-2-70B on eight A100, medians of the public Splitwise runs (Patel et al., 2024)
prefill = {128: 0.0651, 256: 0.0668, 512: 0.0931, 1024: 0.1545, 4096: 0.6588, 8192: 1.55}
decode = {1: 0.0448, 2: 0.0446, 4: 0.0458, 8: 0.0465, 16: 0.0504, 32: 0.0530}
common = {"system": "a100-80gb-8", "engine": "vllm", "model": "llama-2-70b", "tp": 8, "osl": 128}
table = [Measurement(isl=isl, metric="ttft_s", value=value, **common) for isl, value in prefill.items()]
table += [
    Measurement(isl=512, batch=batch, prefill_batch=batch, metric="tpot_s", value=value, **common)
    for batch, value in decode.items()
]
calibration = jaxperf.calibrate(table, holdout=0.25)
calibration

# %% Search by gradients: the layout with most tokens per second and device at 25 ms a token
question = dict(constraints=["tpot_s<0.025"], max_devices=16, isl=2048, osl=256)
found = jaxperf.search("llama-3.1-70b", "h100-sxm-8", restarts=16, steps=40, **question)
found.best

# %% What limits it: elasticities of latency sum to one
jaxperf.elasticities("llama-3.1-70b", "h100-sxm-8", tp=8, batch=64, isl=2048, osl=256)
