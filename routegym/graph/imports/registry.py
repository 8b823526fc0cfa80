"""The formats that can be imported, by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from routegym.errors import ImportDataError
from routegym.graph.imports.convert import Imported, to_recording
from routegym.graph.imports.data import RoutingData
from routegym.graph.imports.tables import with_prices

__all__ = ["FORMATS", "import_data", "importer", "read_data", "reader_of"]

_HERE = "routegym.graph.imports"

#: Where the reader of each format is, ``module:function``.
FORMATS = {
    "table": f"{_HERE}.tables:read_outcomes",
    "steps": f"{_HERE}.tables:read_steps",
    "bfcl": f"{_HERE}.formats.bfcl:read",
    "intercode": f"{_HERE}.formats.intercode:read",
    "llmrouter": f"{_HERE}.formats.llmrouter:read",
    "llmrouterbench": f"{_HERE}.formats.llmrouterbench:read",
    "mint": f"{_HERE}.formats.mint:read",
    "mmrbench": f"{_HERE}.formats.mmrbench:read",
    "routellm": f"{_HERE}.formats.routellm:read",
    "routerarena": f"{_HERE}.formats.routerarena:read",
    "routerbench": f"{_HERE}.formats.routerbench:read",
    "routereval": f"{_HERE}.formats.routereval:read",
    "swebench": f"{_HERE}.formats.swebench:read",
    "terminalbench": f"{_HERE}.formats.terminalbench:read",
    "zeroeval": f"{_HERE}.formats.zeroeval:read",
}


def reader_of(name: str) -> Callable[..., RoutingData]:
    """The function that reads a format.

    Raises:
        ImportDataError: there is no such format.
    """
    if name not in FORMATS:
        close = difflib.get_close_matches(name, FORMATS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(FORMATS)}"
        raise ImportDataError(f"format = {name!r}; {hint}")
    module, _, function = FORMATS[name].partition(":")
    found: Callable[..., RoutingData] = getattr(import_module(module), function)
    return found


def read_data(name: str, source: Path | str, /, **options: Any) -> RoutingData:
    """Read a source of a named format.

    Args:
        name: of the format.
        source: file or folder.
        options: of its reader; and ``prices`` for every format, see `tables.with_prices`.

    Raises:
        ImportDataError: the format is unknown or does not take an option; or the source is not what it should be.
    """
    read = reader_of(name)
    known = list(inspect.signature(read).parameters)[1:]
    takes = [*known, "prices"]
    prices = None if "prices" in known else options.pop("prices", None)
    for option in options:
        if option not in known:
            raise ImportDataError(f"format {name!r} takes no {option}; it takes {', '.join(dict.fromkeys(takes))}")
    data = read(source, **options)
    return data if prices is None else with_prices(data, prices)


def import_data(name: str, source: Path | str, /, **options: Any) -> Imported:
    """A recording of a source of a named format.

    Args:
        name: of the format, a key of `FORMATS`.
        source: file or folder.
        options: of the format's reader and of `to_recording`.

    Raises:
        ImportDataError: the source or an option is not what it should be; the message names it.
    """
    converting = inspect.signature(to_recording).parameters
    chosen = {option: value for option, value in options.items() if option in converting}
    data = read_data(name, source, **{option: value for option, value in options.items() if option not in chosen})
    return to_recording(data, **chosen)


def importer(name: str) -> Callable[..., Imported]:
    """`import_data` of one format, as a function of the source and the options."""

    def imported(source: Path | str, /, **options: Any) -> Imported:
        return import_data(name, source, **options)

    imported.__name__ = imported.__qualname__ = f"import_{name}"
    imported.__doc__ = f"A recording of a source of the format {name!r}; see `import_data` and its reader."
    return imported
