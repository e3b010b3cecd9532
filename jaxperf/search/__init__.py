"""Gradient search over layouts and hardware, hardware balance, and elasticities."""

from __future__ import annotations

from ..callable_module import make_callable
from .balance import Balance, balance
from .problem import Problem, define
from .run import Found, SearchResult, exhaustive, search, solve
from .sensitivity import Elasticities, elasticities

__all__ = [
    "Balance",
    "Elasticities",
    "Found",
    "Problem",
    "SearchResult",
    "balance",
    "define",
    "elasticities",
    "exhaustive",
    "search",
    "solve",
]

make_callable(__name__, search)
