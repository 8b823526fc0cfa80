"""A trial: the command of a sweep's file as a process, with a run folder of its own."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from routegym.errors import RunError
from routegym.sweeps import guard
from routegym.sweeps.config import Objective, SweepConfig, Value
from routegym.tracking.run import HISTORY, SUMMARY

__all__ = ["MEASURES", "Trial", "folder_of_this_trial", "under_wandb_agent"]

_FOLDER = "ROUTEGYM_OUT"
#: What early termination looks at while a trial goes on, in records of ``metrics.jsonl``: the first that is there.
MEASURES = ("return", "score")
_LAST_LINES = 8


class Trial:
    """A process that runs. A context manager: what still runs at its end is ended, kindly first.

    Args:
        config: of the sweep.
        values: of the hyperparameters.
        folder: of the sweep.
        number: of the trial: its run folder is ``trials/NUMBER`` in there, and what it prints goes into ``logs/``.
        directory: that the command is given in; the working directory by default.
    """

    def __init__(
        self,
        config: SweepConfig,
        values: Mapping[str, Value],
        folder: Path,
        number: int,
        directory: Path | None = None,
    ) -> None:
        self.path = folder / "trials" / f"{number:04d}"
        logs = folder / "logs"
        for needed in (self.path.parent, logs):
            needed.mkdir(parents=True, exist_ok=True)
        self._errors = logs / f"{number:04d}.err"
        self._began = time.monotonic()
        self._read = 0
        self.iterations = 0
        self._seed: Any = None
        # What came of a former process that was interrupted is not what comes of this one.
        (self.path / SUMMARY).unlink(missing_ok=True)
        command = config.arguments(values, sys.executable)
        # One thread: trials side by side, and none slower than alone.
        environment = {"OMP_NUM_THREADS": "1", **os.environ, _FOLDER: str(self.path.resolve())}
        with (logs / f"{number:04d}.out").open("wb") as out, self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, guard.__file__, *command],
                cwd=directory,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=errors,
                env=environment,
                process_group=0,  # an interruption of the sweep is not one of the trial: `end` is
            )

    def __enter__(self) -> Trial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began

    def end(self) -> None:
        """Ask it to end, kill it where it does not, and wait for that; an ended one is left alone."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def reports(self) -> list[tuple[int, float]]:
        """Records that came since the last time: iteration, counted from 1, and what is measured meanwhile.

        Of the first seed only, as the next one begins untrained.

        Raises:
            RunError: a line is no record.
        """
        found = []
        for line in self._lines():
            try:
                record = json.loads(line)
                value = next((float(record[name]) for name in MEASURES if record.get(name) is not None), None)
                seed = record.get("seed")
            except (ValueError, TypeError, AttributeError):
                raise RunError(f"{self.path / HISTORY}: {line[:60]!r} is no record of numbers") from None
            self.iterations += 1
            if self.iterations == 1:
                self._seed = seed
            if value is not None and seed == self._seed:
                found.append((self.iterations, value))
        return found

    def summary(self, objectives: Sequence[Objective]) -> dict[str, float]:
        """The numbers that came of it, once it has ended.

        Raises:
            RunError: it failed, with the last lines that it printed to stderr, or left a number out that is sought.
        """
        status = self._process.wait()
        if status:
            said = self._errors.read_text(encoding="utf-8", errors="replace").splitlines()
            last = [line for line in said if line.strip()][-_LAST_LINES:]
            raise RunError("\n".join([f"exit code {status}", *last]))
        try:
            found = dict(json.loads((self.path / SUMMARY).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            raise RunError(
                f"it left no {SUMMARY} in {self.path}; `routegym train` does, and so does Tracking.results of a script "
                f"whose run folder is that of the environment variable {_FOLDER}"
            ) from None
        numbers = {name: float(value) for name, value in found.items() if isinstance(value, int | float)}
        missing = [one.name for one in objectives if not math.isfinite(numbers.get(one.name, math.nan))]
        if missing:
            raise RunError(f"{self.path / SUMMARY} has no number {missing[0]!r}; it has {', '.join(numbers)}")
        return numbers

    def _lines(self) -> list[str]:
        """Whole lines of the history that were added."""
        try:
            with (self.path / HISTORY).open("rb") as file:
                file.seek(self._read)
                added = file.read()
        except FileNotFoundError:
            return []
        whole = added[: added.rfind(b"\n") + 1]
        self._read += len(whole)
        return whole.decode().splitlines()


def folder_of_this_trial() -> Path | None:
    """The run folder of the trial that this process is, if it is one: of a local backend, or of `wandb agent`."""
    named = os.environ.get(_FOLDER)
    if named:
        return Path(named)
    if under_wandb_agent():
        return Path("runs", "sweeps", os.environ["WANDB_SWEEP_ID"], os.environ["WANDB_RUN_ID"])
    return None


def under_wandb_agent() -> bool:
    """Whether `wandb agent` started this process."""
    ours, theirs = os.environ.get(_FOLDER), [os.environ.get(name) for name in ("WANDB_SWEEP_ID", "WANDB_RUN_ID")]
    return not ours and all(theirs)
