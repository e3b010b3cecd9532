"""The command line: finds the verb, parses, and turns every error into one line and an exit code.

Exit codes: 0 done, 1 nothing feasible, 2 bad input, 70 a fault of jaxperf itself, 130 Ctrl-C. A verb is a module of
this package with `configure(parser)` and `run(arguments) -> int`; it is imported when it is used, and it imports JAX
only inside `run`, so that help answers at once."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from .. import __version__
from ..errors import InfeasibleError, InputError, nearest

VERBS = {
    "estimate": "price one configuration: latency, throughput, memory, cost, and what limits it",
    "scan": "price a whole space of configurations and keep the best",
    "calibrate": "fit efficiencies to a table of measurements",
    "predict": "predict a table of measurements, line by line",
    "search": "find the best layout or hardware by gradients",
    "sensitivity": "what a metric gains from a percent more of everything",
    "balance": "split a hardware budget where one more unit gains the same on both sides",
    "plot": "draw a result as PNG, SVG or PDF: the roofline of an estimate, the frontiers of a scan",
    "specs": "list, show and check the library of models and systems",
}
"""Every verb with its one line of help."""

DONE, INFEASIBLE, BAD_INPUT, INTERNAL, INTERRUPTED = 0, 1, 2, 70, 130


class Parser(argparse.ArgumentParser):
    """An argument parser without abbreviations that raises `InputError` and names the nearest option.

    `quoted` are options whose value holds options itself, and so may begin with a dash."""

    quoted: tuple[str, ...] = ()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        options.setdefault("allow_abbrev", False)
        super().__init__(*arguments, **options)

    def error(self, message: str) -> NoReturn:
        """Raise `InputError` in place of printing usage and leaving."""
        verb = self.prog.removeprefix("jaxperf ")
        raise InputError(f"{verb}: {message.removeprefix('argument ')} (see {self.prog} --help)")

    def parse_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Any = None, namespace: Any = None
    ) -> Any:
        """As in argparse, but an option that is not known is answered with the nearest that is."""
        words: list[str] = []
        for word in args or ():
            if words and words[-1] in self.quoted:
                words[-1] = f"{words[-1]}={word}"
            else:
                words.append(word)
        found, extra = self.parse_known_args(words, namespace)
        if extra:
            word = next((word for word in extra if word.startswith("-")), extra[0])
            if not word.startswith("-"):
                self.error(f"unexpected argument '{word}'")
            option = word.split("=")[0]
            self.error(f"unknown option '{option}'; {nearest(option, _options(self))}")
        return found

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            hint = f"'{value}' is not one of {', '.join(known)}; {nearest(str(value), known)}"
            raise argparse.ArgumentError(action, hint)


def _options(parser: argparse.ArgumentParser) -> set[str]:
    """The long options of a parser and of those below it."""
    known: set[str] = set()
    for action in parser._actions:
        known.update(option for option in action.option_strings if option.startswith("--"))
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                known |= _options(inner)
    return known


def _overview() -> argparse.ArgumentParser:
    lines = "\n".join(f"  {verb:<12} {text}" for verb, text in VERBS.items())
    parser = Parser(
        prog="jaxperf",
        usage="jaxperf [--help] [--version] VERB ...",
        description="How fast, how big and how costly LLM inference is, before anyone rents a cluster.",
        epilog=f"verbs:\n{lines}\n\n'jaxperf VERB --help' says more. For example:\n"
        "  jaxperf estimate --model llama-3.1-70b --system h100-sxm-8 --tp 8 --batch 64",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"jaxperf {__version__}")
    return parser


def _run(words: list[str]) -> int:
    if not words:
        raise InputError(f"no verb given; choose one of {', '.join(VERBS)} (see jaxperf --help)")
    verb = words[0]
    if verb.startswith("-"):
        _overview().parse_args(words[:1])
        raise InputError(f"no verb given; choose one of {', '.join(VERBS)} (see jaxperf --help)")
    if verb not in VERBS:
        raise InputError(f"no verb is called '{verb}'; {nearest(verb, VERBS)} (see jaxperf --help)")
    module = import_module(f"{__name__}.{verb}")
    parser = Parser(prog=f"jaxperf {verb}", description=VERBS[verb].capitalize() + ".")
    module.configure(parser)
    code = module.run(parser.parse_args(words[1:]))
    sys.stdout.flush()
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; no traceback unless `JAXPERF_DEBUG=1`.

    **Arguments:** `argv`, the words after the program's name (by default those of this process).
    """
    # Imports and traces make many objects that all stay: looking for garbage among them takes a tenth of a start.
    gc.set_threshold(100_000, 50, 100)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal without Unicode shows a question mark, not an error
            stream.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue]
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except SystemExit as stop:  # argparse leaves like this after --help and --version
        return stop.code if isinstance(stop.code, int) else DONE
    except InputError as error:
        return _complain(f"error: {error}", BAD_INPUT)
    except InfeasibleError as error:
        return _complain(f"infeasible: {error}", INFEASIBLE)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except BrokenPipeError:
        _abandon_output()
        return DONE
    except OSError as error:
        _abandon_output()
        return _complain(f"error: {error.filename or 'output'}: {error.strerror or error}", BAD_INPUT)
    except Exception as error:
        if os.environ.get("JAXPERF_DEBUG") == "1":
            import traceback

            traceback.print_exc()
        what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return _complain(f"internal error: {what}; please report it (JAXPERF_DEBUG=1 shows where)", INTERNAL)


def _complain(text: str, code: int) -> int:
    """One line on stderr."""
    print("jaxperf: " + " ".join(text.split()), file=sys.stderr)
    return code


def _abandon_output() -> None:
    """Send what is left in stdout's buffer nowhere, so that the interpreter does not fail on it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
