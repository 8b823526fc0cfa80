"""The folder of a sweep: whose it is, and that one process at a time works in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from routegym.errors import ConfigError, RunError
from routegym.policies.training import write_atomically
from routegym.pool.database import FileLock
from routegym.sweeps.config import Objective, SweepConfig

__all__ = ["own_folder"]

_NAME = "sweep.json"
#: What may change while a sweep is gone on with.
_FREE = {"name", "description", "project", "entity", "run_cap"}


@contextmanager
def own_folder(
    folder: Path, config: SweepConfig, objectives: Sequence[Objective], seed: int, backend: str
) -> Iterator[None]:
    """Have a sweep's folder for oneself; made if it is not there.

    Raises:
        ConfigError: it holds another sweep, or something else.
        RunError: another process works in it.
    """
    found = config.model_dump(mode="json", exclude=_FREE, exclude_none=True)
    found["parameters"] = list(found["parameters"].items())  # a grid is numbered in their order
    found = json.loads(json.dumps(found))
    found |= {"objectives": [[one.name, one.goal] for one in objectives], "seed": seed, "backend": backend}
    ours = not folder.exists() or (folder / _NAME).is_file()
    if not ours and any(not path.name.startswith(".") for path in folder.iterdir()):  # locks and drafts may be ours
        raise ConfigError(f"{folder}: exists and is not the folder of a sweep; name another with --out")
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    if not lock.try_exclusive():
        raise RunError(f"{folder}: another process is running this sweep; wait for it, or name another with --out")
    try:
        path = folder / _NAME
        if path.is_file():
            _check_same(folder, json.loads(path.read_text(encoding="utf-8")), found)
        else:
            write_atomically(path, f"{json.dumps(found, indent=1)}\n".encode())
        yield
    finally:
        lock.release()


def _check_same(folder: Path, former: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    differ = sorted(name for name in {*former, *found} if former.get(name) != found.get(name))
    if differ:
        raise ConfigError(
            f"{folder}: holds a sweep with another {', '.join(differ)}; name another folder with --out, or delete that "
            "one"
        )
