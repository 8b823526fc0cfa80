"""Checkpoints and reports of a training: one safe file each, replaced as a whole, the last two kept.

A checkpoint holds everything that decides what comes next (weights, optimiser, random generators, environment), so
that a training that is killed and started again ends with the parameters of one that was not.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

__all__ = ["Arrays", "Training", "nested", "pick", "write_atomically"]

Arrays = dict[str, npt.NDArray[Any]]

_KEPT = 2


class Training:
    """What a `fit` may use of the outside.

    Args:
        folder: where checkpoints are kept; none are without one.
        report: is given each record of metrics.
        every_s: seconds between two checkpoints.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        report: Callable[[Mapping[str, Any]], None] | None = None,
        every_s: float = 30.0,
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self._report = report
        self._every_s = every_s
        self._saved = time.monotonic()

    def report(self, metrics: Mapping[str, Any]) -> None:
        """Pass on a record of metrics; ``step`` is the number of environment steps or updates made."""
        if self._report is not None:
            self._report(metrics)

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return self.folder is not None and time.monotonic() - self._saved >= self._every_s

    def save(self, number: int, settings: Mapping[str, Any], arrays: Arrays) -> None:
        """Keep a checkpoint; with its predecessor it is what survives a crash.

        Args:
            number: grows from checkpoint to checkpoint.
            settings: what JSON can hold.
            arrays: everything else.
        """
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        content = save({k: np.ascontiguousarray(v) for k, v in arrays.items()}, {"settings": json.dumps(settings)})
        write_atomically(self.folder / f"checkpoint-{number:012d}.safetensors", content)
        for old in self._files()[:-_KEPT]:
            old.unlink(missing_ok=True)
        self._saved = time.monotonic()

    def latest(self) -> tuple[dict[str, Any], Arrays] | None:
        """Settings and arrays of the newest checkpoint that can be read, if there is one."""
        for path in reversed(self._files()):
            try:
                with safe_open(path, framework="numpy") as file:
                    arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 not a mapping
                    return json.loads(file.metadata()["settings"]), arrays
            except (OSError, SafetensorError, ValueError, KeyError, TypeError):
                continue  # cut off or damaged: the one before it is whole
        return None

    def clear(self) -> None:
        """Delete the checkpoints, and their folder if nothing else is in it: the policy is saved."""
        for path in self._files():
            path.unlink(missing_ok=True)
        if self.folder is not None and self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _files(self) -> list[Path]:
        return [] if self.folder is None else sorted(self.folder.glob("checkpoint-*.safetensors"))


def nested(prefix: str, arrays: Arrays) -> Arrays:
    """The arrays under ``prefix/``."""
    return {f"{prefix}/{name}": array for name, array in arrays.items()}


def pick(prefix: str, arrays: Arrays) -> Arrays:
    """The inverse of `nested`: those under ``prefix/``, without it."""
    return {name.removeprefix(f"{prefix}/"): a for name, a in arrays.items() if name.startswith(f"{prefix}/")}


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file as a whole and have it on the disk, so that an interruption leaves the former one."""
    draft = path.with_name(f".{path.name}.draft")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
