"""The transition graph, recordings of it, its growth from a live pool, and imports: ``import_NAME``."""

from typing import Any

from routegym.graph.graph import OPEN, TERMINATED, TRUNCATED, TransitionGraph, edge_dtype
from routegym.graph.growth import Expander, explore, start_recording
from routegym.graph.recording import SCHEMA_VERSION, Recording, Texts
from routegym.graph.subset import keep_arms, vary_arms
from routegym.graph.values import always_arm_actions, evaluate_choices
from routegym.graph.workflow import Situation, Workflow

__all__ = [
    "OPEN",
    "SCHEMA_VERSION",
    "TERMINATED",
    "TRUNCATED",
    "Expander",
    "Recording",
    "Situation",
    "Texts",
    "TransitionGraph",
    "Workflow",
    "always_arm_actions",
    "edge_dtype",
    "evaluate_choices",
    "explore",
    "keep_arms",
    "start_recording",
    "vary_arms",
]


def __getattr__(name: str) -> Any:
    if name.startswith("import_"):  # pyarrow is loaded by those who import something
        from routegym.graph import imports

        return getattr(imports, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
