"""Recordings of other people's data: which arm got which query right, at what cost."""

from routegym.graph.imports.convert import Imported, to_recording
from routegym.graph.imports.data import QUERIES, RESPONSES, TURNS, RoutingData
from routegym.graph.imports.registry import FORMATS, import_data, importer, read_data
from routegym.graph.imports.tables import read_outcomes, read_prices, read_steps, read_turns

import_table = importer("table")
import_steps = importer("steps")

__all__ = [
    "FORMATS",
    "QUERIES",
    "RESPONSES",
    "TURNS",
    "Imported",
    "RoutingData",
    "import_data",
    "import_steps",
    "import_table",
    "importer",
    "read_data",
    "read_outcomes",
    "read_prices",
    "read_steps",
    "read_turns",
    "to_recording",
]
