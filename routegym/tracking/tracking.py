"""What a run reports while it goes on: into its ``metrics.jsonl`` always, and to a service beside it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from routegym.errors import ConfigError, RunError
from routegym.evaluation.collapse import largest_share, selection_entropy
from routegym.graph.library import load_recording, recording_folder
from routegym.graph.recording import Recording
from routegym.tracking.run import SUMMARY, Run

if TYPE_CHECKING:
    from pathlib import Path

    from routegym.tracking.results import Results

__all__ = ["Service", "Tracking"]

Service = Literal["none", "tensorboard", "wandb"]


class Sink(Protocol):
    """A service that records are passed on to."""

    def log(self, number: int, record: Mapping[str, Any]) -> None:
        """Take the number-th record of the run."""
        ...

    def results(self, results: Results) -> None:
        """Take what came of the run; its folder holds the pictures and the policies by now."""
        ...

    def close(self, failed: bool) -> None:
        """Write what is left."""
        ...


class Tracking:
    """Reports of a run, for its ``metrics.jsonl`` and for TensorBoard or W&B. A context manager.

    A run that is gone on with is the same run to the service: what was reported before is read from ``metrics.jsonl``
    and passed on again wherever the service does not have it.

    Args:
        run: the folder; made if it is not there.
        recording: tells the names of actions; a shipped one's name or a folder becomes an artifact of W&B.
        service: beside ``metrics.jsonl``. Where W&B keeps its runs is said by W&B's own environment variables
            (``WANDB_MODE``, ``WANDB_PROJECT``, ``WANDB_ENTITY``).
        config: what the service shows as the run's configuration; nothing secret.

    Raises:
        ConfigError: there is no such service.
        MissingExtraError: its package is not installed.
        RecordingError: there is no such recording.
        RunError: W&B has no API key, or does not let the run begin; or, when it is entered, the folder holds a run with
            another configuration.
    """

    def __init__(
        self,
        run: Run,
        recording: Recording | str | Path,
        service: Service = "none",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.run = run
        self._recording = load_recording(recording)
        self._folder = None if isinstance(recording, Recording) else recording_folder(recording)
        self._open = _opener(service)  # a package that is missing is told before anything is written
        self._config = dict(config or {})
        self._sink: Sink | None = None
        self._began: dict[Any, tuple[float, int]] = {}
        self._records = 0

    def __enter__(self) -> Tracking:
        self.run.path.mkdir(parents=True, exist_ok=True)
        self._check_config()
        self._sink = None if self._open is None else self._open(self.run.path, self._config, self._folder)
        for record in self.run.history():
            self._pass_on(record)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sink is not None:
            self._sink.close(kind is not None)

    def report(self, metrics: Mapping[str, Any]) -> None:
        """Take a record of a training: numbers by name, with its ``step`` and ``seed`` (0 where there is none).

        One with the step and seed of a former one is left out: a training that goes on from a checkpoint repeats some.

        ``shares`` of all actions become ``share/ACTION`` each, with the ``selection_entropy`` and the ``largest_share``
        among arms; ``steps_per_second`` is added where it is missing.

        Raises:
            ConfigError: no ``step``, or not as many shares as there are actions.
        """
        record = self._named(metrics)
        if self.run.append(record):
            self._pass_on(record)

    def results(self, results: Results) -> None:
        """Take what an evaluation of the run found; its scalars stand in ``summary.json``."""
        self.run.write_json(SUMMARY, dict(results.scalars))
        if self._sink is not None:
            self._sink.results(results)

    def _pass_on(self, record: Mapping[str, Any]) -> None:
        if self._sink is not None:
            self._sink.log(self._records, record)
        self._records += 1

    def _named(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        record = {name: _plain(value) for name, value in metrics.items() if name != "shares"}
        seed, step, now = record.setdefault("seed", 0), record.get("step"), time.monotonic()
        if not isinstance(step, int):
            raise ConfigError(f"step = {step!r} in a report; expected how many steps or updates were made so far")
        before = self._began.setdefault(seed, (now, step))
        if "steps_per_second" not in record and step > before[1]:
            record["steps_per_second"] = round((step - before[1]) / max(now - before[0], 1e-9), 3)
        if "shares" in metrics:
            names = self._recording.action_names
            if len(metrics["shares"]) != len(names):
                raise ConfigError(f"{len(metrics['shares'])} shares in a report; expected one for each of {names}")
            shares = dict(zip(names, map(_plain, metrics["shares"]), strict=True))
            arms = list(shares.values())[: len(self._recording.arms)]
            record["selection_entropy"] = _plain(selection_entropy(arms))
            record["largest_share"] = _plain(largest_share(arms))
            record |= {f"share/{action}": share for action, share in shares.items()}
        return record

    def _check_config(self) -> None:
        """Refuse a folder that was begun with another configuration, and keep this one, where no command did."""
        path = self.run.path / "config.json"
        if self.run.started:
            return
        if not path.is_file():
            self.run.write_json(path.name, self._config)
            return
        former = json.loads(path.read_text(encoding="utf-8"))
        differ = sorted(name for name in {*former, *self._config} if former.get(name) != self._config.get(name))
        if differ:
            raise RunError(
                f"{self.run.path}: holds a run with another {', '.join(differ)}; a folder is one training: name "
                "another, or delete that one"
            )


def _opener(service: Service) -> Callable[[Path, Mapping[str, Any], Path | None], Sink] | None:
    """What begins a run at a service, given the run folder, its configuration and the folder of its recording."""
    match service:
        case "none":
            return None
        case "tensorboard":
            from routegym.tracking.tensorboard import TensorBoard

            return TensorBoard
        case "wandb":
            from routegym.tracking.weights_and_biases import WeightsAndBiases, check_settings

            check_settings()
            return WeightsAndBiases
    raise ConfigError(f"service = {service!r}; expected one of {', '.join(get_args(Service))}")


def _plain(value: Any) -> Any:
    """A number as JSON has it: of Python's own types, and null where it is not finite."""
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
