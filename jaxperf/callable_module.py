"""Subpackages that are called like the function they are about: `jaxperf.scan(...)` beside `jaxperf.scan.Space`."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


def make_callable(name: str, function: Callable[..., Any]) -> None:
    """Let the module `name` be called as `function`, with its signature and docstring.

    A package and a function of one name cannot both be `jaxperf.scan`: importing the package would hide the function.
    """

    class CallableModule(ModuleType):
        @functools.wraps(function)
        def __call__(self, *arguments: Any, **options: Any) -> Any:
            return function(*arguments, **options)

    module = sys.modules[name]
    module.__class__ = CallableModule
    module.__signature__ = inspect.signature(function)  # pyright: ignore[reportAttributeAccessIssue]
