"""Finding recordings: those that routegym ships, and any folder."""

from __future__ import annotations

import difflib
from functools import lru_cache
from pathlib import Path

from routegym.errors import RecordingError
from routegym.graph.recording import Recording

__all__ = ["load_recording", "recording_folder", "shipped_recordings"]

_SHIPPED = Path(__file__).resolve().parents[1] / "data" / "recordings"


def shipped_recordings() -> tuple[str, ...]:
    """Names of the recordings in the package."""
    return tuple(sorted(path.parent.name for path in _SHIPPED.glob("*/meta.json")))


def load_recording(source: str | Path | Recording) -> Recording:
    """A shipped recording by name, or one in a folder; a `Recording` is handed back.

    Loaded once per process and shared: to grow one, use `Recording.load`.

    Raises:
        RecordingError: there is none, or it is damaged.
    """
    return source if isinstance(source, Recording) else _load(recording_folder(source))


def recording_folder(source: str | Path) -> Path:
    """Where the files of a recording are, that is shipped under this name or lies in this folder.

    Raises:
        RecordingError: there is no such folder.
    """
    if isinstance(source, str) and (_SHIPPED / source / "meta.json").is_file():
        return _SHIPPED / source
    if not isinstance(source, (str, Path)):
        raise RecordingError(f"recording = {source!r}; expected a name, the path of a folder, or a Recording")
    path = Path(source)
    if not path.exists():
        names = shipped_recordings()
        close = difflib.get_close_matches(str(source), names, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"shipped recordings: {', '.join(names) or 'none'}"
        raise RecordingError(f"recording {str(source)!r}: no folder of this path and no shipped recording; {hint}")
    return path.resolve()


@lru_cache(maxsize=8)
def _load(path: Path) -> Recording:
    return Recording.load(path)
