"""Recordings of other people's data: which arm got which query right, at what cost.

``import_NAME`` is the importer of each of `FORMATS`: a function of the source and of the options of `import_data`.
"""

from collections.abc import Callable

from routegym.graph.imports.convert import Imported, to_recording
from routegym.graph.imports.data import QUERIES, RESPONSES, TURNS, RoutingData
from routegym.graph.imports.registry import FORMATS, import_data, importer, read_data
from routegym.graph.imports.tables import read_outcomes, read_prices, read_steps, read_turns

__all__ = [
    "FORMATS",
    "QUERIES",
    "RESPONSES",
    "TURNS",
    "Imported",
    "RoutingData",
    "import_data",
    "importer",
    "read_data",
    "read_outcomes",
    "read_prices",
    "read_steps",
    "read_turns",
    "to_recording",
]


def __getattr__(name: str) -> Callable[..., Imported]:
    kind, _, form = name.partition("_")
    if kind == "import" and form in FORMATS:
        return importer(form)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
