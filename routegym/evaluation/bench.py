"""Fitting and playing many algorithms with many seeds: in parallel, resumable, each result kept by what decides it."""

from __future__ import annotations

import hashlib
import inspect
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from platform import node
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

import routegym
from routegym.errors import ConfigError, MissingExtraError, RoutegymError, RunError, WorkerError
from routegym.evaluation.comparison import Comparison, Entry
from routegym.evaluation.outcomes import Grid, Outcomes, play
from routegym.evaluation.references import references
from routegym.graph.folds import fold_recordings
from routegym.graph.library import load_recording
from routegym.policies.algorithm import Problem, algorithm_class, family_of
from routegym.policies.config import hyperparameters, tuned
from routegym.policies.storage import load_policies, save_policies
from routegym.policies.training import Training, write_atomically
from routegym.runners import check_shared

if TYPE_CHECKING:
    from routegym.graph.recording import Recording
    from routegym.policies.policy import Policy
    from routegym.runners import Runner

__all__ = [
    "BenchSettings",
    "Job",
    "OpenBench",
    "bench_parts",
    "bound_file",
    "entries",
    "held_out",
    "keep_outcomes",
    "open_bench",
    "policy_of_job",
    "read_outcomes",
    "run_jobs",
]

_UNKNOWN_SCALES = " (or the recording has other prices or scales by now: this bench was made before they were noted)"


@dataclass(frozen=True)
class BenchSettings:
    """What all jobs share."""

    env: str
    """Environment id: chooses the tuned hyperparameters."""
    recording: str
    """Name of a shipped recording or path of one."""
    content_hash: str
    scales: str
    """Names the recording's prices, cost scale and range of budgets, which its content hash leaves out."""
    budgets: tuple[float, ...]
    """Finite caps of the grid, USD."""
    lambdas: tuple[float, ...]
    """Prices of the grid."""
    split: str = "test"
    steps: int | None = None
    """Environment steps of those that count them; the tuned number by default."""
    train_lambda: tuple[float, float] = (0.0, 0.2)
    """Prices of cost that are learned for."""

    @classmethod
    def of(
        cls,
        env: str,
        source: str,
        recording: Recording,
        grid: Grid,
        split: str = "test",
        steps: int | None = None,
        train_lambda: tuple[float, float] | None = None,
    ) -> BenchSettings:
        """The settings of a bench on an opened recording; learners train for its usual prices unless told otherwise."""
        caps, prices = tuple(grid.caps.tolist()), tuple(grid.lambdas.tolist())
        learned = Problem(recording, lambda_=train_lambda).lambda_range
        return cls(env, source, recording.content_hash, _scales(recording), caps, prices, split, steps, learned)

    @property
    def grid_digest(self) -> str:
        """Names the grid in files."""
        return _digest([self.budgets, self.lambdas])


@dataclass(frozen=True)
class Job:
    """One algorithm fitted with one seed, and its outcomes on the validation and the evaluated tasks."""

    name: str
    """Of the algorithm, or ``package.module:Class``."""
    seed: int
    settings: BenchSettings
    cache: Path
    """Folder of all jobs' results."""

    def __getstate__(self) -> dict[str, Any]:
        """Without what was derived: a process with other code has to see that it derives something else."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @cached_property
    def hyperparameters(self) -> dict[str, Any]:
        """Everything that decides the fit beside the problem and the seed."""
        cls: Any = algorithm_class(self.name)
        if not hasattr(cls, "fit"):
            return {}
        counted = "steps" in getattr(cls, "__dataclass_fields__", {})
        return hyperparameters(tuned(self.name, self.settings.env, {"steps": self.settings.steps} if counted else {}))

    @cached_property
    def folder(self) -> Path:
        """Where the fit is kept: named by what decides it, so that a change of any of it is another folder."""
        problem = {name: Problem.__dataclass_fields__[name].default for name in ("budget_usd", "split")}
        decides = {
            "version": routegym.__version__,
            "algorithm": self.name,
            "source": Path(inspect.getfile(algorithm_class(self.name))).read_text(encoding="utf-8"),
            "hyperparameters": self.hyperparameters,
            "seed": self.seed,
            "recording": self.settings.content_hash,
            "scales": self.settings.scales,
            "problem": problem | {"lambda_": self.settings.train_lambda},
        }
        return self.cache / f"{self.name.replace(':', '.')}-{self.seed}-{_digest(decides)}"

    def outcomes_file(self, split: str) -> Path:
        """Where the outcomes on a split are kept."""
        return self.folder / f"{split}-{self.settings.grid_digest}.safetensors"

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return all(self.outcomes(split) is not None for split in ("val", self.settings.split))

    def outcomes(self, split: str) -> Outcomes | None:
        """The outcomes on a split, if they were worked out and can be read."""
        return read_outcomes(self.outcomes_file(split))

    @property
    def seconds(self) -> float:
        """CPU seconds of the fit."""
        return float(json.loads((self.folder / "fit.json").read_text(encoding="utf-8"))["cpu_seconds"])


def bench_parts(source: str, recording: Recording, folds: int, cache: Path) -> dict[str, Recording]:
    """What is fitted and played on, by name or folder: the recording itself, or without regard to its splits its folds.

    Folds are made once and kept: text features are fitted anew for each.
    """
    if not folds:
        return {source: recording}
    name = f"{recording.content_hash[:12]}-{_scales(recording)}"
    places = [cache / "folds" / f"{name}-{fold}-of-{folds}" for fold in range(folds)]
    if not all((place / "meta.json").is_file() for place in places):
        for place, part in zip(places, fold_recordings(recording, folds), strict=True):
            part.save(place)
    return {str(place): load_recording(place) for place in places}


def held_out(parts: Mapping[str, Recording]) -> dict[str, npt.NDArray[np.int64]] | None:
    """Where the evaluated tasks of each fold stand among all tasks; None where there are no folds."""
    return None if len(parts) == 1 else {name: part.split("test") for name, part in parts.items()}


def run_jobs(
    jobs: Sequence[Job],
    runner: Runner,
    report: Callable[[int, Sequence[Job]], None] | None = None,
) -> dict[str, str]:
    """Do what is not done yet.

    Killed and started again it goes on: finished jobs are kept, and those that write checkpoints resume from them.

    Args:
        jobs: what to do; their cache and their recordings lie where every process of the runner finds them.
        runner: does them, as many at once as it has workers.
        report: is told how many jobs are done, and which are running.

    Returns:
        Why an algorithm could not be fitted here, by its name: it needs signals that the recording lacks, or a package
        that is not installed.

    Raises:
        WorkerError: a job's process died again and again, a job failed, or a machine does not see the cache or has
            other code.
    """
    waiting = [job for job in jobs if not job.done]
    done = len(jobs) - len(waiting)
    refused: dict[str, str] = {}
    running = dict[Future[str | None], Job]()
    while waiting or running:
        while waiting and len(running) < runner.workers:
            job = waiting.pop(0)
            if job.name in refused:
                done += 1
                continue
            job.cache.mkdir(parents=True, exist_ok=True)
            running[runner.submit(_work, job, job.folder)] = job
        if report is not None:
            report(done, list(running.values()))
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            job = running.pop(future)
            reason = future.result()
            if reason is not None:
                refused[job.name] = reason
            done += 1
    if report is not None:
        report(done, [])
    return refused


def entries(jobs: Sequence[Job], places: Mapping[str, npt.NDArray[np.int64]] | None = None) -> dict[str, Entry]:
    """The finished jobs as competitors, by name.

    Args:
        jobs: of every algorithm those of all seeds, and of all folds where there are any.
        places: for the recording of each fold where its evaluated tasks stand among all tasks; None without folds.
    """
    found: dict[str, list[Job]] = {}
    for job in jobs:
        found.setdefault(job.name, []).append(job)
    return {name: _entry(name, mine, places) for name, mine in found.items()}


def _entry(name: str, jobs: Sequence[Job], places: Mapping[str, npt.NDArray[np.int64]] | None) -> Entry:
    sides: list[Mapping[int, Outcomes]] = []
    for split in (jobs[0].settings.split, "val"):
        known: dict[int, list[tuple[Job, Outcomes]]] = {}
        for job in jobs:
            outcome = job.outcomes(split)
            if outcome is None:
                raise ConfigError(f"{name}: no outcomes of seed {job.seed} on split {split!r}; run the bench again")
            known.setdefault(job.seed, []).append((job, outcome))
        sides.append({seed: _joined(parts, places if split != "val" else None) for seed, parts in known.items()})
    seconds = float(np.mean([job.seconds for job in jobs]))
    return Entry.of(*sides, learned=family_of(name) == "learner", seconds=seconds)


def _joined(parts: Sequence[tuple[Job, Outcomes]], places: Mapping[str, npt.NDArray[np.int64]] | None) -> Outcomes:
    """The outcomes of the folds of one seed over all their tasks, in the order of these if their places are given."""
    found = [outcome for _, outcome in parts]
    if len(found) == 1:
        return found[0]
    scores, costs = (np.concatenate([getattr(one, name) for one in found], axis=1) for name in ("scores", "costs"))
    if places is not None:
        order = np.argsort(np.concatenate([places[job.settings.recording] for job, _ in parts]))
        scores, costs = scores[:, order], costs[:, order]
    violations, calls = (np.sum([getattr(one, name) for one in found], axis=0) for name in ("violations", "calls"))
    return Outcomes(scores, costs, violations, calls)


@dataclass(frozen=True)
class OpenBench:
    """What a bench left in its folder."""

    comparison: Comparison
    played: Comparison
    """The same on the tasks that `policy` has not seen: the first fold where there are folds, else `comparison`."""
    policy: Callable[[str], Policy]
    """The policy that an algorithm fitted with the first seed, and on the first fold."""


def open_bench(
    folder: Path, metrics: Mapping[str, Any], recording: Recording, tell: Callable[[str], None] = lambda step: None
) -> OpenBench:
    """Read the fits and outcomes of a bench from its cache.

    Args:
        folder: that `routegym bench` wrote.
        metrics: its ``metrics.json``.
        recording: that it was made with.
        tell: is told what is done next.

    Raises:
        RunError: the metrics are damaged, the recording has other prices or scales by now, or the cache lacks
            something.
    """
    try:
        made = metrics["made"]
        scales = made.get("scales")
        if scales not in (None, _scales(recording)):
            raise RunError(
                f"{folder}: recording {recording.name!r} has other prices or scales than when the bench was run, "
                f"though the same content; make it again as it was, or run `{made['command']}` again"
            )
        grid = Grid.of(recording, metrics["budgets_usd"], metrics["lambdas"])
        folds = made.get("folds", 0)
        parts = bench_parts(made.get("recording", metrics["recording"]), recording, folds, folder / "cache")
        split = "test" if folds else metrics["split"]
        low, high = made.get("train_lambda", BenchSettings.train_lambda)
        settings = [
            BenchSettings.of(metrics["env"], name, part, grid, split, made.get("steps"), (low, high))
            for name, part in parts.items()
        ]
        jobs = {
            own: [Job(own, seed, one, folder / "cache") for seed in made["seeds"][: found["seeds"]] for one in settings]
            for own, found in metrics["policies"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{folder / 'metrics.json'}: damaged ({type(error).__name__}: {error}); run the bench again"
        ) from None
    tell("outcomes")
    every = [job for own in jobs.values() for job in own]
    try:
        found = entries(every, held_out(parts))
        first = entries([job for job in every if job.settings is settings[0]])
    except ConfigError as error:
        raise RunError(
            f"{folder / 'cache'}: {error}, with the same command, `{made['command']}`; "
            f"what is there is not fitted again{'' if scales else _UNKNOWN_SCALES}"
        ) from None
    tell("references")
    bound = None if metrics["attainable"] is None else read_outcomes(bound_file(folder / "cache", settings[0]))
    against = references(recording, metrics["split"], grid, bound)
    comparison = played = Comparison(recording, metrics["split"], grid, found, against)
    part = parts[settings[0].recording]
    if folds:
        played = Comparison(part, split, grid, first, references(part, split, grid))
    return OpenBench(comparison, played, lambda name: policy_of_job(jobs[name][0], part))


def policy_of_job(job: Job, recording: Recording) -> Policy:
    """The policy that a finished job fitted."""
    cls: Any = algorithm_class(job.name)
    if not hasattr(cls, "fit"):
        made: Policy = cls(recording)
        return made
    return load_policies(job.folder, recording)[job.seed]


def bound_file(cache: Path, settings: BenchSettings) -> Path:
    """Where a bench keeps the outcomes of the attainable bound."""
    of = f"{settings.content_hash[:12]}-{settings.scales}"
    return cache / f"attainable-{settings.split}-{of}-{settings.grid_digest}.safetensors"


def read_outcomes(path: Path) -> Outcomes | None:
    """What `keep_outcomes` wrote, or None if there is nothing that can be read."""
    try:
        return Outcomes(**load_file(path))
    except (OSError, SafetensorError, TypeError):
        return None


def keep_outcomes(path: Path, outcomes: Outcomes) -> None:
    """Write outcomes to a file, all of them or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, save({name: np.ascontiguousarray(array) for name, array in vars(outcomes).items()}))


def _work(job: Job, folder: Path) -> str | None:
    """Fit and play; a reason if this cannot be done here."""
    check_shared(job.cache)
    if job.folder != folder:
        raise WorkerError(
            f"machine {node()} has another routegym, or another {job.name}, than where the bench was started; install "
            "the same on every machine"
        )
    recording = load_recording(job.settings.recording)
    grid = Grid.of(recording, job.settings.budgets, job.settings.lambdas)
    job.folder.mkdir(parents=True, exist_ok=True)
    try:
        policy = _fit(job, recording)
    except (ConfigError, MissingExtraError) as error:
        return str(error)
    for split in ("val", job.settings.split):
        if job.outcomes(split) is None:
            keep_outcomes(job.outcomes_file(split), play(policy, recording, split, grid))
    return None


def _fit(job: Job, recording: Recording) -> Policy:
    if (job.folder / "fit.json").is_file():
        try:
            return policy_of_job(job, recording)
        except RoutegymError:
            pass  # damaged: fitted again
    training = Training(job.folder)
    cls: Any = algorithm_class(job.name)
    began = time.process_time()
    if hasattr(cls, "fit"):
        algorithm = cls(**job.hyperparameters)
        policy: Any = algorithm.fit(Problem(recording, lambda_=job.settings.train_lambda), job.seed, training)
        save_policies(job.folder, recording, {job.seed: policy})
    else:
        policy = cls(recording)
    spent = {"cpu_seconds": time.process_time() - began}
    write_atomically(job.folder / "fit.json", json.dumps(spent).encode())
    training.clear()
    fitted: Policy = policy
    return fitted


def _scales(recording: Recording) -> str:
    prices = {model: asdict(price) for model, price in recording.prices.prices.items()}
    return _digest([prices, recording.cost_scale_usd, recording.budget_range_usd])


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]
