"""`jaxperf estimate --draft …` and `--mtp …`: options, checks, and what speculative decoding adds to the result."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..spec.library import Spec, find
from .common import Configuration, build, check_layout
from .values import MOST_DEVICES, option_type, parse_share, whole

if TYPE_CHECKING:
    from ..phases.breakdown import Columns
    from ..phases.drafts import Speculation
    from ..phases.speculative import Speculated

MOST_DRAFTED = 32
"""The same as `phases.drafts.MOST_DRAFTED`, without importing JAX."""

OPTIONS = ("draft_length", "draft_tp", "draft_tree", "acceptance")
"""Options that mean something only beside `--draft` or `--mtp`."""


@dataclass(frozen=True)
class Drafting:
    """What the options ask to be drafted, checked: a `draft` model or `mtp` tokens of the target's own layers; the
    `length` of a chain or the widths of a `tree`; one `acceptance`, or one a level; the draft's `tp`."""

    draft: Spec | None
    mtp: int | None
    length: int | None
    tree: tuple[int, ...] | None
    acceptance: float | tuple[float, ...]
    tp: int | None


def _listed(parse: Any) -> Any:
    def convert(text: str) -> tuple[Any, ...]:
        return tuple(parse(part.strip()) for part in text.split(","))

    return option_type(convert)


def _width(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise ValueError(f"'{text}' is no whole number; expected widths such as 4,2,2") from None
    if value < 1:
        raise ValueError(f"a width of {value} is out of range; expected whole numbers from 1, such as 4,2,2")
    return value


def add_speculation(parser: argparse.ArgumentParser) -> None:
    """Add the options of speculative decoding."""
    group = parser.add_argument_group("speculative decoding")
    group.add_argument("--draft", metavar="NAME", help="model that drafts tokens: a name, an alias, or a PATH.json")
    drafted = whole(high=MOST_DRAFTED)
    group.add_argument("--draft-length", type=drafted, metavar="N", help="tokens that it drafts a round (default 4)")
    group.add_argument("--draft-tp", type=whole(high=MOST_DEVICES), metavar="N", help="its tensor parallel degree")
    group.add_argument(
        "--draft-tree", type=_listed(_width), metavar="K,K,…", help="candidates below every node of a level"
    )
    group.add_argument("--mtp", type=drafted, metavar="N", help="tokens that the model's own prediction layers draft")
    group.add_argument(
        "--acceptance", type=_listed(parse_share), metavar="SHARE", help="of drafted tokens; one, or one a level"
    )


def read_drafting(arguments: argparse.Namespace, configuration: Configuration) -> Drafting | None:
    """What is drafted, None where nothing is.

    **Raises** `InputError` for options that do not go together and for a layout that the draft model does not admit.
    """
    draft, mtp = arguments.draft, arguments.mtp
    if draft is None and mtp is None:
        for name in OPTIONS:
            if getattr(arguments, name) is not None:
                raise InputError(f"--{name.replace('_', '-')} says how tokens are drafted; give --draft or --mtp, too")
        return None
    if draft is not None and mtp is not None:
        raise InputError("--draft and --mtp exclude each other; give one of them")
    if arguments.closed_form:
        raise InputError("--closed-form does not price speculative decoding; leave out --draft and --mtp")
    given = [name for name in OPTIONS[:3] if getattr(arguments, name) is not None]
    if mtp is not None and given:
        raise InputError(f"--{given[0].replace('_', '-')} is for a draft model; --mtp takes only --acceptance")
    if arguments.draft_tree is not None and arguments.draft_length is not None:
        raise InputError("--draft-tree and --draft-length exclude each other: the tree's levels are its length")
    if arguments.acceptance is None:
        raise InputError("--acceptance is missing: the share of drafted tokens that the model accepts, such as 0.8")
    spec = None if draft is None else find("model", draft)
    if spec is not None:
        _check_draft_layout(spec, configuration, arguments.draft_tp)
    chances = arguments.acceptance
    return Drafting(
        draft=spec,
        mtp=mtp,
        length=arguments.draft_length,
        tree=arguments.draft_tree,
        acceptance=chances[0] if len(chances) == 1 else chances,
        tp=arguments.draft_tp,
    )


def _check_draft_layout(draft: Spec, configuration: Configuration, tp: int | None) -> None:
    layout = configuration.layout
    most = layout["tp"] * layout["cp"]
    degree = layout["tp"] if tp is None else tp
    if degree > most:
        raise InputError(f"--draft-tp: {degree} is more than the {most} devices of one replica; choose 1 to {most}")
    try:
        check_layout(draft, configuration.system, {"tp": degree})
    except InputError as error:
        raise InputError(f"--draft-tp: {str(error).removeprefix('tp: ')}") from None


def breakdown_of_round(
    model: Any, system: Any, deployment: Any, workload: Any, speculation: Speculation
) -> dict[str, Columns]:
    """The breakdown of prefill, of the verify pass (as decode), and of one draft pass of one token a sequence. An MTP
    layer's product of hidden state and embedding has no row."""
    from ..ops import EXACT
    from ..phases.breakdown import breakdown_columns
    from ..phases.speculative import without_host_steps

    phases = breakdown_columns(model, system, deployment, workload, EXACT, speculation.verified)
    quiet = without_host_steps(speculation.deployment)
    return phases | {"draft": breakdown_columns(speculation.draft, system, quiet, workload)["decode"]}


def price_round(
    configuration: Configuration, drafting: Drafting, rows: bool
) -> tuple[Speculated, dict[str, Columns] | None]:
    """The configuration with speculative decoding and, where `rows` are wanted, its breakdown, on the host.

    **Raises** `InputError` for a draft that does not suit its target.
    """
    pytrees = build(configuration)

    from ..drafting import speculation
    from ..phases.speculative import speculate
    from .stored import stored

    drawn = speculation(
        configuration.model.path,
        pytrees[2],
        drafting.acceptance,
        draft=None if drafting.draft is None else drafting.draft.path,
        length=drafting.length,
        tree_widths=drafting.tree,
        tp=drafting.tp,
        mtp=drafting.mtp,
    )

    def compute(function: Any) -> Any:
        return stored(function, function.__name__)(*pytrees, drawn)

    return compute(speculate), compute(breakdown_of_round) if rows else None


def describe_round(configuration: Configuration, drafting: Drafting, found: Speculated) -> dict[str, Any]:
    """Speculative decoding as `--json` prints it under `speculative`: seconds, bytes, tokens."""
    from ..drafting import DEFAULT_LENGTH

    chain = drafting.mtp or drafting.length or DEFAULT_LENGTH
    levels = chain if drafting.tree is None else len(drafting.tree)
    chances = [float(chance) for chance in found.acceptance[:levels]]
    return {
        "draft": None if drafting.draft is None else drafting.draft.name,
        "mtp": drafting.mtp,
        "draft_length": levels,
        "draft_tree": None if drafting.tree is None else list(drafting.tree),
        "draft_tp": configuration.layout["tp"] if drafting.tp is None else drafting.tp,
        "acceptance": chances,
        "verified_tokens": found.verified,
        "tokens_per_verify": found.tokens_per_verify,
        "draft_s": found.draft_time,
        "verify_s": found.verify_time,
        "plain_tpot_s": found.plain_time,
        "speed_up": found.speed_up,
        "draft_prefill_s": found.draft_prefill_time,
        "draft_weights_bytes": found.draft_weights,
        "draft_kv_cache_bytes_per_sequence": found.draft_kv_cache,
    }


def draft_remarks(configuration: Configuration, drafting: Drafting) -> list[str]:
    """What of a draft is priced roughly, or does not quite fit its target, a sentence each."""
    texts, draft = [], drafting.draft
    if configuration.layout["pp"] > 1:
        texts.append("all sequences draft before they are verified; pipeline stages could do both at the same time")
    if draft is None:
        return texts
    if not draft.document["exact_today"]:
        texts.append(f"{draft.name}: {draft.document['approximation'] or 'priced by a first approximation today.'}")
    mine, other = (spec.document["vocabulary_size"] for spec in (draft, configuration.model))
    if mine != other:
        texts.append(f"{draft.name} has {mine:,} tokens, {configuration.model.name} {other:,}: taken for padding")
    return texts


def too_long_for_draft(configuration: Configuration, drafting: Drafting) -> str | None:
    """Why a request is too long for the draft model, None where it is not."""
    limit = None if drafting.draft is None else drafting.draft.document["max_context_tokens"]
    tokens = configuration.isl + configuration.osl
    if drafting.draft is None or limit is None or tokens <= limit:
        return None
    return f"longer than the draft's context: isl + osl is {tokens} tokens, {drafting.draft.name} reads at most {limit}"
