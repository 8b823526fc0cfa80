"""Arms, prices, the backends that answer for them and the engines below."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from routegym.pool.arms import TOKEN_KINDS, Arm, Price, PriceTable
from routegym.pool.backend import Attempt, Backend, Call, Completion, Engine, Failure, Request, Response

if TYPE_CHECKING:
    from routegym.pool.live import PoolBackend
    from routegym.pool.pool import Pool, load_pool
    from routegym.pool.simulated import SimulatedBackend
    from routegym.pool.spend import SpendCap
    from routegym.pool.store import ResponseStore

__all__ = [
    "TOKEN_KINDS",
    "Arm",
    "Attempt",
    "Backend",
    "Call",
    "Completion",
    "Engine",
    "Failure",
    "Pool",
    "PoolBackend",
    "Price",
    "PriceTable",
    "Request",
    "Response",
    "ResponseStore",
    "SimulatedBackend",
    "SpendCap",
    "load_pool",
]

# Loaded when first used, so that `import routegym` stays quick.
_LAZY = {
    "Pool": "routegym.pool.pool",
    "PoolBackend": "routegym.pool.live",
    "ResponseStore": "routegym.pool.store",
    "SimulatedBackend": "routegym.pool.simulated",
    "SpendCap": "routegym.pool.spend",
    "load_pool": "routegym.pool.pool",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
