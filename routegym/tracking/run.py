"""A run folder: what was trained, with what, and what came of it, readable on another machine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from routegym.errors import RunError
from routegym.policies.training import write_atomically

if TYPE_CHECKING:
    from routegym.graph.recording import Recording

__all__ = ["HISTORY", "SUMMARY", "Run", "RunConfig", "git_commit", "versions"]

#: Files of a run folder: what a training reported, a record in a line; and the numbers that came of it, by name.
HISTORY = "metrics.jsonl"
SUMMARY = "summary.json"

_PACKAGES = ("routegym", "gymnasium", "numpy", "torch", "stable-baselines3", "sb3-contrib")


class RunConfig(BaseModel):
    """``config.yaml``: everything that decides the result."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["routegym-run-1"] = "routegym-run-1"
    env: str
    """Environment id."""
    recording: str
    """Name of a shipped recording, or the path of one."""
    content_hash: str
    """Of the recording; evaluating on another one is refused. Empty while a live training has not written it yet."""
    pool: str | None = None
    """Pool file that the recording was grown from while learning; None where it was there before."""
    tasks: str | None = None
    """Where the tasks of such a recording come from, as it was given."""
    tasks_sha256: str | None = None
    """Of what they ask and how it is judged, and of their splits."""
    algo: str
    hyperparameters: dict[str, Any]
    seeds: Annotated[list[int], Field(min_length=1)]
    """One network is trained for each."""
    budget_usd: Literal["sampled"] | float | tuple[float, float] | None
    """Hard cap of the training episodes."""
    lambda_: float | tuple[float, float]
    """Price of cost in the training reward; a range is drawn from."""
    threads: int
    """Threads of torch; another number gives other rounding and so other weights."""
    versions: dict[str, str]
    machine: str
    commit: str | None = None
    """Of the git repository that the command was given in, with ``-dirty`` where that had changes; None outside one."""


class Run:
    """A run folder.

    Args:
        path: the folder; it need not exist.

    Attributes:
        ours: whether `start` has begun this run or gone on with it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.ours = False
        self._known: set[tuple[Any, Any]] | None = None

    @property
    def started(self) -> bool:
        """Whether there is a configuration in the folder."""
        return (self.path / "config.yaml").is_file()

    def start(self, config: RunConfig) -> None:
        """Make the folder, or go on in one that holds the same configuration.

        Raises:
            RunError: the folder holds something else.
        """
        if self.started:
            former = self.config
            # Tasks that are the same may have moved.
            grows = {"content_hash", "tasks"} if config.pool else set()
            ours, theirs = (c.model_dump(exclude={"versions", "machine", "commit"} | grows) for c in (config, former))
            differ = [name for name in ours if ours[name] != theirs[name]]
            if differ:
                tasks = f" (its tasks were {former.tasks}, as they were then)" if "tasks_sha256" in differ else ""
                raise RunError(
                    f"{self.path}: holds a run with another {', '.join(differ)}{tasks}; name another folder with "
                    "--out, or delete that one"
                )
            self.ours = True
            return
        if self.path.exists() and any(self.path.iterdir()):
            raise RunError(f"{self.path}: exists and is not a run folder; name another with --out")
        self.path.mkdir(parents=True, exist_ok=True)
        self._write(config)
        self.ours = True

    def recorded(self, content_hash: str) -> None:
        """Note the content hash of the recording that a live training has grown."""
        self._write(self.config.model_copy(update={"content_hash": content_hash}))

    def _write(self, config: RunConfig) -> None:
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        write_atomically(self.path / "config.yaml", text.encode())

    @property
    def config(self) -> RunConfig:
        """The checked configuration.

        Raises:
            RunError: there is none, or a field is wrong.
        """
        path = self.path / "config.yaml"
        try:
            raw = yaml.safe_load(path.read_text(encoding="utf-8"))
            return RunConfig.model_validate(raw)
        except FileNotFoundError:
            raise RunError(f"{path}: no such file; expected a run folder, such as `routegym train` writes") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RunError(f"{path}: not valid YAML ({error}); train again or copy the folder anew") from None
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "the whole file"
            raise RunError(
                f"{path}: field {field} = {str(first['input'])[:60]!r}: {first['msg']}; train again or correct it"
            ) from None

    def recording(self, moved: str | None = None) -> Recording:
        """The recording that it was trained on.

        Args:
            moved: where that is, if not where the configuration says.

        Raises:
            RunError: it is another one by now.
            RecordingError: it cannot be read.
        """
        from routegym.graph.library import load_recording

        config = self.config
        recording = load_recording(moved or config.recording)
        if recording.content_hash != config.content_hash:
            raise RunError(
                f"{self.path}: trained on a recording with content hash {config.content_hash[:12]}, and "
                f"{moved or config.recording!r} has {recording.content_hash[:12]}; name the right one with --recording"
            )
        return recording

    def history(self) -> list[dict[str, Any]]:
        """The records of ``metrics.jsonl``; a last line that an interruption cut off is left out."""
        path = self.path / HISTORY
        if not path.is_file():
            return []
        records = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), 1):
            if not line.endswith("\n"):
                break
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise RunError(
                    f"{path}: line {number} is not valid JSON ({error}); delete the line or the file"
                ) from None
        return records

    def append(self, record: Mapping[str, Any]) -> bool:
        """Add a line to ``metrics.jsonl``, and say whether that was done.

        A training that goes on from a checkpoint reports again what came after it: a record with the ``seed`` and the
        ``step`` of one that is there is left out.
        """
        if self._known is None:
            kept = self.history()
            write_atomically(self.path / HISTORY, "".join(f"{json.dumps(one)}\n" for one in kept).encode())
            self._known = {_moment(one) for one in kept}
        if _moment(record) in self._known:
            return False
        with (self.path / HISTORY).open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(record, allow_nan=False)}\n")
        self._known.add(_moment(record))
        return True

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file, all of it or nothing."""
        write_atomically(self.path / name, f"{json.dumps(content, indent=1)}\n".encode())


def _moment(record: Mapping[str, Any]) -> tuple[Any, Any]:
    return record.get("seed"), record.get("step")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result; absent ones are left out."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Commit of the git repository around the working directory, with ``-dirty`` if changed; None without one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
