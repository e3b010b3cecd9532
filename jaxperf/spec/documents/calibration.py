"""The JSON forms of a workload and of a calibration."""

from __future__ import annotations

from ..schema import Listing, Number, Section, Table, Text
from .common import SOURCES

WORKLOAD = Section(
    {
        "kind": Text(("workload",)),
        "name": Text(),
        "aliases": Listing(Text(), default=[]),
        "isl": Number(low=1, high=1e8, integer=True, unit="tokens"),
        "osl": Number(low=1, high=1e8, integer=True, unit="tokens"),
        "slo_ttft_ms": Number(low=0, high=1e9, above=True, default=None, optional=True, unit="ms"),
        "slo_tpot_ms": Number(low=0, high=1e9, above=True, default=None, optional=True, unit="ms"),
        "note": Text(default=None, optional=True),
        "sources": SOURCES,
    }
)

_SHARE = Number(low=0, high=1, above=True)
EFFICIENCY_FIELDS = {
    "gemm_compute": _SHARE,
    "gemm_memory": _SHARE,
    "gemm_rows_half": Number(low=0, high=1e6, unit="rows at half of the peak rate"),
    "gemm_columns_half": Number(low=0, high=1e6),
    "gemm_depth_half": Number(low=0, high=1e6),
    "attention_prefill_compute": _SHARE,
    "attention_decode_compute": _SHARE,
    # Older calibrations lack it: null stands for that file's own attention_decode_compute.
    "latent_decode_compute": Number(low=0, high=1, above=True, optional=True, default=None),
    "attention_memory": _SHARE,
    "elementwise_memory": _SHARE,
    "memory_bytes_half": Number(low=0, high=1e12, unit="bytes at half of the bandwidth"),
    "operator_us": Number(low=0, high=1e6, unit="microseconds an operator"),
    "attention_us": Number(low=0, high=1e6, unit="microseconds an attention core, besides", default=0.0),
    "collective_latency_scale": Number(low=1, high=1e4),
    "collective_bandwidth": _SHARE,
    "collective_us": Number(low=0, high=1e6, unit="microseconds a collective, besides", default=0.0),
    "host_step_us": Number(low=0, high=1e7, unit="microseconds a step"),
    "host_sequence_us": Number(low=0, high=1e7, unit="microseconds a sequence and step"),
    "host_token_us": Number(low=0, high=1e7, unit="microseconds a new token"),
    "sharpness": Number(low=1, high=1e3, optional=True, default=None),
}
CALIBRATION = Section(
    {
        "kind": Text(("calibration",)),
        "name": Text(),
        "aliases": Listing(Text(), default=[]),
        "groups": Listing(
            Section(
                {
                    "system": Text(default=None, optional=True),
                    "engine": Text(default=None, optional=True),
                    "efficiency": Section(EFFICIENCY_FIELDS),
                    "report": Table(Table(Number(low=-1e12, high=1e12, optional=True)), default={}),
                }
            ),
            least=1,
        ),
        "note": Text(default=None, optional=True),
        "sources": SOURCES,
    }
)
