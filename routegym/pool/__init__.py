"""Arms, prices and the backends that answer for them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from routegym.pool.arms import TOKEN_KINDS, Arm, Price, PriceTable
from routegym.pool.backend import Backend, Request, Response

if TYPE_CHECKING:
    from routegym.pool.pool import Pool, load_pool
    from routegym.pool.simulated import SimulatedBackend
    from routegym.pool.transformers import TransformersBackend

__all__ = [
    "TOKEN_KINDS",
    "Arm",
    "Backend",
    "Pool",
    "Price",
    "PriceTable",
    "Request",
    "Response",
    "SimulatedBackend",
    "TransformersBackend",
    "load_pool",
]

# Loaded when first used: torch and transformers take seconds to import.
_LAZY = {
    "Pool": "routegym.pool.pool",
    "SimulatedBackend": "routegym.pool.simulated",
    "TransformersBackend": "routegym.pool.transformers",
    "load_pool": "routegym.pool.pool",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
