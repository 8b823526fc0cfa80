"""Ray Tune as a backend: asynchronous successive halving over the same trials, for one machine or a cluster.

Paper: Li et al., "A System for Massively Parallel Hyperparameter Tuning" (ASHA), 1810.05934.

What came of each trial is kept in ``trials/NUMBER.json``, and a sweep that was interrupted goes on from there: Ray's
own files of a former process are not read, as they are pickles.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from routegym.errors import ConfigError, MissingExtraError, RunError
from routegym.policies.training import write_atomically
from routegym.sweeps.config import Objective, SweepConfig, Value
from routegym.sweeps.optuna_study import distribution, sampler
from routegym.sweeps.outcomes import Outcome
from routegym.sweeps.trial import Trial

os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C ends a sweep, and does not finish it
try:
    import ray
    from ray import tune
    from ray.tune.schedulers import AsyncHyperBandScheduler
    from ray.tune.search.optuna import OptunaSearch
except ImportError as error:
    raise MissingExtraError("ray", "ray") from error

__all__ = ["run_tune"]

_POLL_S = 0.2
_MODES = {"maximize": "max", "minimize": "min"}
#: What the scheduler looks at while a trial goes on, of which much is good; and what the searcher is told at its end.
_MEASURE, _VALUE = "measure", "value"


def run_tune(
    config: SweepConfig,
    objectives: Sequence[Objective],
    folder: Path,
    *,
    trials: int,
    jobs: int,
    seed: int,
    tell: Callable[[list[Outcome]], None],
) -> list[Outcome]:
    """Run what is left of a sweep; as `routegym.sweeps.optuna_study.run_study`, with one objective.

    A trial that was under way when the sweep was interrupted is not gone on with: another one takes its number.

    Raises:
        ConfigError: there are several objectives.
    """
    if len(objectives) > 1:
        raise ConfigError(f"backend = 'ray' with {len(objectives)} objectives; expected one, or --backend optuna")
    folder = folder.resolve()
    former = _clear(folder)
    settings: dict[str, Any]
    if config.method == "grid":
        left = [point for point in config.grid() if all(point != one.values for one in former)]
        left = left[: max(trials - len(former), 0)]
        # A point is one thing: the product of its parameters would hold what is done already.
        settings, space = {}, {"point": tune.grid_search(left)}
    else:
        left = [{}] * max(trials - len(former), 0)
        settings, space = {"search_alg": _search(config, objectives[0], former, seed)}, {}
    if not left:
        return former
    local: Any = {"address": "local", "num_cpus": jobs, "include_dashboard": False}
    ray.init(log_to_driver=False, logging_level=logging.ERROR, **local)
    try:
        with tempfile.TemporaryDirectory(prefix="routegym-ray-") as scratch:
            tuner = tune.Tuner(
                _trainable(config, objectives, folder),
                param_space=space,
                tune_config=tune.TuneConfig(
                    num_samples=1 if config.method == "grid" else len(left),
                    scheduler=_scheduler(config),
                    **settings,
                ),
                run_config=tune.RunConfig(storage_path=scratch, verbose=0, callbacks=[_Tell(folder, tell)]),
            )
            tuner.fit()
    finally:
        ray.shutdown()
    return _kept(folder)


def _trainable(
    config: SweepConfig, objectives: Sequence[Objective], folder: Path
) -> Callable[[Mapping[str, Any]], None]:
    directory = Path.cwd()  # Ray's workers have one of their own

    def run(chosen: Mapping[str, Any]) -> None:
        values: Mapping[str, Value] = chosen.get("point", chosen)
        number = _claim(folder)
        outcome = Outcome(number, dict(values), "running")
        with Trial(config, values, folder, number, directory) as process:
            try:
                while True:
                    running = process.running
                    for iteration, value in process.reports():
                        _keep(folder, replace(outcome, iterations=iteration, seconds=round(process.seconds, 1)))
                        if config.early_terminate and config.early_terminate.looks_at(iteration):
                            tune.report({_MEASURE: value, "iteration": iteration, "number": number})
                    if not running:
                        break
                    time.sleep(_POLL_S)
                outcome = replace(outcome, iterations=process.iterations, seconds=round(process.seconds, 1))
                summary = process.summary(objectives)
            except RunError as error:
                _keep(folder, replace(outcome, state="failed", problem=str(error)))
                raise
            _keep(folder, replace(outcome, state="finished", summary=summary))
            tune.report({_VALUE: summary[objectives[0].name], "iteration": process.iterations, "number": number})

    return run


class _Search(OptunaSearch):
    """Is told the objective at the end of a trial, and nothing before; one without it was pruned."""

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: what the scheduler looks at is another number."""


def _search(config: SweepConfig, objective: Objective, former: Sequence[Outcome], seed: int) -> OptunaSearch:
    told = [one for one in former if one.state == "finished"]
    known: dict[str, Any] = {}
    if told:
        known = {
            "points_to_evaluate": [dict(one.values) for one in told],
            "evaluated_rewards": [one.summary[objective.name] for one in told],
        }
    return _Search(
        {name: distribution(parameter) for name, parameter in config.parameters.items()},
        metric=_VALUE,
        mode=_MODES[objective.goal],
        sampler=sampler(config.method, (seed, len(former))),
        **known,
    )


def _scheduler(config: SweepConfig) -> Any:
    ends = config.early_terminate
    if ends is None:
        return None
    return AsyncHyperBandScheduler(
        time_attr="iteration",
        metric=_MEASURE,
        mode="max",
        grace_period=ends.first_rung,
        reduction_factor=ends.eta,
        max_t=10**9,  # trials end by themselves
    )


class _Tell(tune.Callback):
    """Passes on how it stands whenever a trial begins or ends."""

    def __init__(self, folder: Path, tell: Callable[[list[Outcome]], None]) -> None:
        self._folder, self._tell = folder, tell

    def __reduce__(self) -> Any:
        """Ray keeps a copy of everything; that one tells nobody."""
        return _Tell, (self._folder, _nobody)

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._tell(_kept(self._folder))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        number = (trial.last_result or {}).get("number")
        if number is not None:
            _pruned(self._folder, number)
        self._tell(_kept(self._folder))


def _nobody(outcomes: list[Outcome]) -> None:
    pass


def _clear(folder: Path) -> list[Outcome]:
    """The outcomes so far, numbered anew without those that were under way, whose files are deleted."""
    (folder / "trials").mkdir(exist_ok=True)
    done = [one for one in _kept(folder) if one.state != "running"]
    ours = {one.number for one in done}
    for path in (folder / "trials").iterdir():
        if path.is_dir() and int(path.name) not in ours:
            shutil.rmtree(path)
    return done


def _claim(folder: Path) -> int:
    """The least number that is free, taken."""
    number = 0
    while True:
        try:
            (folder / "trials" / f"{number:04d}").mkdir()
        except FileExistsError:
            number += 1
        else:
            return number


def _keep(folder: Path, outcome: Outcome) -> None:
    write_atomically(folder / "trials" / f"{outcome.number:04d}.json", json.dumps(asdict(outcome)).encode())


def _kept(folder: Path) -> list[Outcome]:
    return [Outcome(**json.loads(path.read_text())) for path in sorted((folder / "trials").glob("*.json"))]


def _pruned(folder: Path, number: int) -> None:
    """Where a trial has ended and nothing came of it, the scheduler ended it."""
    for one in _kept(folder):
        if one.number == number and one.state == "running":
            _keep(folder, replace(one, state="pruned"))
