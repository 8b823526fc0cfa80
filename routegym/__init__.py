"""routegym: learn which model to ask, step by step, within what a task may cost.

Importing it registers the environments with gymnasium; nothing heavy is loaded until it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from routegym.registration import ENV_IDS, register_envs

if TYPE_CHECKING:
    from routegym.core import RoutingEnv, RoutingVectorEnv
    from routegym.graph.library import load_recording
    from routegym.graph.recording import Recording
    from routegym.serving import Router, load_router

__version__ = "0.1.0"
__all__ = [
    "ENV_IDS",
    "Recording",
    "Router",
    "RoutingEnv",
    "RoutingVectorEnv",
    "__version__",
    "load_recording",
    "load_router",
]

_LAZY = {
    "Recording": "routegym.graph.recording",
    "Router": "routegym.serving",
    "RoutingEnv": "routegym.core",
    "RoutingVectorEnv": "routegym.core",
    "load_recording": "routegym.graph.library",
    "load_router": "routegym.serving",
}

register_envs()


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'routegym' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
