"""LLVM as a just-in-time compiler for this machine's processor."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..tape import NoKernelError
from .code import CALLED, scalar_function
from .target import Target

Function = Callable[[int], None]
"""A compiled function of the address of its arguments."""


@functools.cache
def llvm() -> Any:
    """The binding, made ready. **Raises** `NoKernelError` where it is not there."""
    try:
        import llvmlite.binding as binding
    except (ImportError, OSError) as error:  # no build of it for this Python or platform
        raise NoKernelError(f"no LLVM: {error}") from None
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding


INTERLEAVED = 2
"""Registers that a vector of the code fills."""

COSTS = {1: 1.1, 2: 1.0, 4: 0.9}
"""What a lane costs in the loop over batches, by the registers that a vector fills there: an estimate from trials on
one processor, with registers of 16, 8 and 4 floats. It decides how fast a scan is, not what it finds."""


def available() -> bool:
    """Whether machine code can be made here."""
    try:
        target(np.dtype(np.float32))
    except NoKernelError:
        return False
    return True


def _machine(effort: int) -> Any:
    """A description of this processor, for code that is optimised with some effort (0 to 3); an engine owns it."""
    binding = llvm()
    features = binding.get_host_cpu_features().flatten()
    here = binding.Target.from_default_triple()
    return here.create_target_machine(cpu=binding.get_host_cpu_name(), features=features, opt=effort, jit=True)


@functools.cache
def target(real: np.dtype) -> Target:
    """What this machine's code is written for.

    **Raises** `NoKernelError` where there is no LLVM or no library of mathematical functions.
    """
    features = llvm().get_host_cpu_features()
    machine = platform.machine().lower()
    width, letter, permute = 16, "", ""
    if machine in ("x86_64", "amd64"):
        width, letter = 16, "b"
        if features.get("avx512f"):
            width, letter = 64, "e"
            permute = "x86.avx512.permvar.sf.512" if real.itemsize == 4 else "x86.avx512.permvar.df.512"
        elif features.get("avx2"):
            width, letter = 32, "d"
            permute = "x86.avx2.permps" if real.itemsize == 4 else ""
    elif machine in ("aarch64", "arm64"):
        letter = "n"
    lanes = width // real.itemsize
    for name in sorted(CALLED):
        if not locate(scalar_function(name, real)):
            raise NoKernelError(f"no {scalar_function(name, real)} here")
    fused = machine in ("aarch64", "arm64") or bool(features.get("fma"))
    functions = _vector_functions(letter, lanes, real) if letter else {}
    return Target(real, INTERLEAVED * lanes, lanes, functions, fused, permute, 8 * real.itemsize)


def for_batches(target: Target, batches: int) -> Target:
    """The target whose vectors take least time for a list of so many batches, filled up to whole vectors."""
    widths = [(cost * -(-batches // (n * target.called)) * n, -n) for n, cost in COSTS.items()]
    return replace(target, lanes=-min(widths)[1] * target.called)


def _vector_functions(letter: str, lanes: int, real: np.dtype) -> dict[str, str]:
    """The vector functions of GNU's C library, which are named by a fixed scheme; none elsewhere."""
    symbols = {
        name: f"_ZGV{letter}N{lanes}v{'v' * (name == 'pow')}_{scalar_function(name, real)}" for name in sorted(CALLED)
    }
    return {name: symbol for name, symbol in symbols.items() if locate(symbol, "libmvec.so.1")}


def locate(symbol: str, library: str | None = None) -> bool:
    """Tells LLVM where a function of a C library is, by default of the one that Python uses; whether it is there."""
    if library is None and os.name != "posix":
        library = "ucrtbase"
    try:
        address = ctypes.cast(getattr(ctypes.CDLL(library), symbol), ctypes.c_void_p).value
    except (AttributeError, OSError):
        return False
    llvm().add_symbol(symbol, address)
    return True


class Library:
    """A module as machine code: its functions by name. **Raises** `NoKernelError` where LLVM refuses it."""

    def __init__(self, text: str, names: tuple[str, ...], effort: int) -> None:
        binding = llvm()
        try:
            module = binding.parse_assembly(text)
            self._engine = binding.create_mcjit_compiler(module, _machine(effort))
            self._engine.finalize_object()
        except RuntimeError as error:  # an older LLVM, or one that does not know this processor
            raise NoKernelError(f"LLVM: {error}") from None
        kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        self.functions: dict[str, Function] = {}
        for name in names:
            self.functions[name] = kind(self._engine.get_function_address(name))
            self.functions[name].engine = self._engine  # pyright: ignore, the code lives as long as what calls it


@functools.lru_cache(maxsize=32)
def library(text: str, names: tuple[str, ...], effort: int = 2) -> Library:
    """The machine code of a module; made once for each text. Without effort (0) it is made four times as fast and runs
    a few times as long; it gives the same numbers, bit for bit."""
    return Library(text, names, effort)
