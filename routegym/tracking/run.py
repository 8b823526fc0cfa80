"""A run folder: what was trained, with what, and what came of it, readable on another machine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from routegym.errors import RunError
from routegym.policies.training import write_atomically

__all__ = ["Run", "RunConfig", "versions"]

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
            ours, theirs = (c.model_dump(exclude={"versions", "machine"} | grows) for c in (config, former))
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

    def append(self, metrics: Mapping[str, Any]) -> None:
        """Add a line to ``metrics.jsonl``."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")

    def tidy_metrics(self) -> None:
        """Keep the last line of each (seed, step): those that a resumed training wrote again stand there twice."""
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return
        kept: dict[tuple[Any, Any], str] = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            kept[record.get("seed"), record.get("step")] = line
        write_atomically(path, "".join(f"{line}\n" for line in kept.values()).encode())

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file, all of it or nothing."""
        write_atomically(self.path / name, f"{json.dumps(content, indent=1)}\n".encode())


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result; absent ones are left out."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
