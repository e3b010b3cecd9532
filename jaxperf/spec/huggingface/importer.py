"""Import a Hugging Face config.json: config → model document, with everything that had to be assumed.

The text model alone is described: vision and audio parts are left out and named, and so are multi-token-prediction
layers, unless they are like the model's last layer."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...constants import PLACE_BITS, PLACE_WORDS, WEIGHT_CLASSES
from ...errors import InputError
from ..library import validate
from .config import Config, assume, flag, present, read_object, section, shown, text, whole
from .family import FAMILIES, not_read, promised_format, repository_of, slug, text_config
from .formats import check_layers, class_formats
from .groups import layer_groups
from .layers import layer_shapes
from .quantisation import Scheme, scheme_of


@dataclass(frozen=True)
class Imported:
    """A validated model document, what was assumed for it, and what may be wrong with it."""

    document: dict
    assumptions: list[str]
    warnings: list[str]


def import_model(path: str | Path, quant: str | Path | None = None, name: str | None = None) -> Imported:
    """The model document of a config.json.

    **Arguments:** the config's `path`; `quant`, an hf_quant_config.json (by default the one beside the config); `name`
    of the model (by default from the file's or the folder's name).

    **Raises** `InputError` for a file that cannot be read, an architecture that cannot be described, or values that
    cannot be.
    """
    path = Path(path)
    root = read_object(path)
    config = text_config(path, root)
    repository = repository_of(path)
    hidden = whole(config, "hidden_size", low=1)
    vocabulary = whole(config, "vocab_size", low=1)
    shapes = layer_shapes(config, hidden)
    groups = layer_groups(shapes, config.file)
    tied = _tied(config)
    section(config, "rope_scaling")  # engines need it; it changes no cost
    if present(config, "max_position_embeddings") is None:
        assume(config, "no limit of the context is given; none is checked")
    limit = whole(config, "max_position_embeddings", low=1) if present(config, "max_position_embeddings") else None

    schemes, quant_file = _schemes(path, root, config, quant, len(shapes))
    precision, warnings = _precision(config, schemes, shapes, hidden), []
    promised = promised_format(path, config, name)
    if promised and not schemes:
        warnings.append(
            f"{config.file}: the name says {promised.upper()}, but neither a quantization_config nor an "
            "hf_quant_config.json does; weights count as they are (give the file with --quant)"
        )
    elif promised and not any(promised in value for value in precision.values()):
        warnings.append(f"{config.file}: the name says {promised.upper()}, but the quantisation is {_words(precision)}")
    _left_out(config, root)
    predicting = _prediction_layers(config)
    not_read(config)

    final = 1 + (2 if config.family == "kimi_linear" and whole(config, "attn_res_block_size", default=0) else 0)
    approximation = _approximation(groups)
    called = name or slug((repository or path.stem).rsplit("/", 1)[-1])
    beside = {"mtp_layers": predicting} if predicting else {}
    beside |= {"final_norm_vectors": final} if final > 1 else {}
    beside |= _residuals(config)
    document = {
        "kind": "model",
        "name": called,
        "aliases": [repository] if repository and repository.lower() != called else [],
        "hidden_size": hidden,
        "vocabulary_size": vocabulary,
        "tied_embeddings": tied,
        "max_context_tokens": limit,
        "layer_groups": groups,
        **beside,
        "precision": precision,
        "exact_today": approximation is None,
        **({"approximation": approximation} if approximation else {}),
        "note": "; ".join(["Imported: the text model", *config.assumptions]) + ".",
        "sources": _sources(
            config.file,
            repository,
            quant_file,
            beside,
        ),
    }
    validate(document, str(path), "model")
    return Imported(document, list(config.assumptions), warnings)


def _tied(config: Config) -> bool:
    """Whether embedding and LM head are one matrix; where nothing is said, as the family's own default has it."""
    if present(config, "tie_word_embeddings") is None:
        tied = config.family.startswith("gemma")
        if config.family not in FAMILIES:
            assume(config, "embedding and LM head are two matrices")
        return tied
    return flag(config, "tie_word_embeddings")


def _schemes(
    path: Path, root: dict, config: Config, quant: str | Path | None, layers: int
) -> tuple[list[Scheme], str | None]:
    """The quantisations that apply, first the one that has the last word, and the name of a file beside the config."""
    found: list[Scheme] = []
    sibling = path.with_name(re.sub("config$", "hf_quant_config", path.stem) + ".json")
    beside = sibling if quant is None else Path(quant)
    file = None
    if quant is not None or (beside != path and beside.is_file()):
        content = read_object(beside)
        inner = content.get("quantization", content if "quant_method" in content else None)
        if not isinstance(inner, dict):
            raise InputError(f"{beside}: no 'quantization' object; expected an hf_quant_config.json")
        found.append(scheme_of(inner, str(beside)))
        file = beside.name
    own = section(config, "quantization_config") or root.get("quantization_config")
    if own is not None:
        if not isinstance(own, dict):
            raise InputError(f"{path}: quantization_config: expected an object, got {type(own).__name__}")
        own_scheme = scheme_of(own, str(path))
        if text(config, "expert_dtype") == "fp4" and not own_scheme.by_module:
            own_scheme.by_class["routed_experts"] = "mxfp4-w4a8"
        found.append(own_scheme)
    more = _predicted(config) or 1
    for scheme in found:
        check_layers(scheme, layers, more)
    return found, file


def _precision(config: Config, schemes: list[Scheme], shapes: list[dict], hidden: int) -> dict[str, str]:
    """Formats by class, those that are not bf16."""
    base = _unquantised(config)
    precision = class_formats(config, schemes, shapes, hidden, base)
    if base != "bf16":
        precision = dict.fromkeys(WEIGHT_CLASSES, base) | precision
        precision["activations"] = base
    cache = next((scheme.kv_cache for scheme in schemes if scheme.kv_cache), None)
    if cache:
        precision["kv_cache"] = cache
    elif base == "fp16":
        precision["kv_cache"] = "fp16"
    elif base == "fp32":
        assume(config, "the KV cache is bfloat16")
    if schemes and any(scheme.usual for scheme in schemes) and "lm_head" not in precision:
        if not any("head" in pattern for scheme in schemes for pattern in scheme.excluded):
            assume(config, "the LM head is not quantised")
    return precision


def _unquantised(config: Config) -> str:
    """The format of weights that are not quantised. **Raises** `InputError` for a type that is none of the usual."""
    kinds = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
    key = "torch_dtype" if present(config, "torch_dtype") else "dtype"
    word = (text(config, key) or "auto").removeprefix("torch.")
    if word == "auto":
        assume(config, "weights that are not quantised are bfloat16")
        return "bf16"
    if word not in kinds:
        raise InputError(f"{config.file}: {key}: {shown(word)} is not known; expected {', '.join(kinds)}")
    return kinds[word]


def _words(precision: dict[str, str]) -> str:
    """A precision in words."""
    return ", ".join(f"{kind} {value}" for kind, value in precision.items()) or "none"


PREDICTION_KEYS = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules", "num_mtp_layers")
"""Keys that count layers or modules of multi-token prediction."""

OTHER_PREDICTION = ("deepseek_v4", "nemotron_h")
"""Families whose prediction layers are not like their last layer: a window alone, and two mixers."""


def _prediction_layers(config: Config) -> int:
    """Layers of multi-token prediction that `mtp_layers` stands for: each is one more like the last of the model."""
    count = _predicted(config)
    if not count or not flag(config, "use_mtp", True):
        return 0
    deep = whole(config, "mtp_transformer_layers", default=1) != 1
    if config.family in OTHER_PREDICTION or deep or flag(config, "mtp_use_dedicated_embeddings"):
        assume(config, "without its multi-token-prediction layers, which are not like its last layer")
        return 0
    assume(config, f"its multi-token-prediction layers ({count}) stand apart, each like its last layer")
    return count


def _predicted(config: Config) -> int:
    """The number under the keys of multi-token prediction."""
    return max(whole(config, key, default=0) for key in PREDICTION_KEYS)


def _left_out(config: Config, root: dict) -> None:
    """Note the parts of the checkpoint that the document leaves out."""
    parts = [key.removesuffix("_config") for key in ("vision_config", "audio_config") if root.get(key)]
    if parts:
        assume(config, f"without its {' and '.join(parts)} part")
    if config.family == "deepseek_v4":
        assume(config, "without the token tables of hash routing and the last hyper-connection mixer")


def _residuals(config: Config) -> dict[str, int]:
    """What a model has in place of ordinary residuals."""
    streams = whole(config, "hc_mult", default=1) if config.family == "deepseek_v4" else 1
    block = whole(config, "attn_res_block_size", default=0) if config.family == "kimi_linear" else 0
    found = {"residual_streams": streams} if streams > 1 else {}
    return found | ({"residual_block_layers": block} if block else {})


def _approximation(groups: list[dict]) -> str | None:
    """What is priced by an approximation, None where nothing is."""
    last = max((max(group["layers"]) for group in groups if "layers" in group), default=0)
    return "Pipeline stages hold the mean share of each kind of layer." if last >= PLACE_BITS * PLACE_WORDS else None


def _sources(file: str, repository: str | None, quant_file: str | None, more: Iterable[str]) -> dict:
    """Where every figure comes from: the files' names, never their folders."""
    text = f"{file} of {repository}, Hugging Face" if repository else f"{file}, Hugging Face"
    entry = {"source": text, "date": datetime.date.today().isoformat(), "estimate": False}
    fields = ["hidden_size", "vocabulary_size", "max_context_tokens", "layer_groups", *more]
    quant = {**entry, "source": f"{quant_file}, Hugging Face"} if quant_file else entry
    return dict.fromkeys(fields, entry) | {"precision": quant}


__all__ = ["FAMILIES", "Imported", "import_model", "repository_of", "text_config"]
