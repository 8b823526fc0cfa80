"""Optuna as a backend: a study in a journal, and trials side by side.

Everything that was asked and told stands in ``journal.log``, so that a sweep that was interrupted, in whatever way,
goes on. A trial that was under way then is begun again in its own run folder, where a training finds its checkpoint.
What is tried next depends on the seed, on how many trials there are, and on their results: one that is gone on with
tries what an uninterrupted one would have tried, as long as one trial runs at a time.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from routegym.errors import MissingExtraError, RunError
from routegym.sweeps.config import Objective, Parameter, SweepConfig, Value, steps_between
from routegym.sweeps.outcomes import Outcome, State
from routegym.sweeps.trial import Trial

try:
    import optuna
    from optuna.distributions import (
        BaseDistribution,
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import FrozenTrial, TrialState
except ImportError as error:
    raise MissingExtraError("optuna", "sweep") from error

__all__ = ["distribution", "run_study", "sampler"]

optuna.logging.set_verbosity(optuna.logging.WARNING)  # whoever runs a sweep tells how it stands
_POLL_S = 0.2
_JOURNAL = "journal.log"
_STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
}


def run_study(
    config: SweepConfig,
    objectives: Sequence[Objective],
    folder: Path,
    *,
    trials: int,
    jobs: int,
    seed: int,
    tell: Callable[[list[Outcome]], None],
) -> list[Outcome]:
    """Run what is left of a sweep.

    Args:
        config: of it.
        objectives: one, or several for a Pareto front; trials end early only with one.
        folder: of the sweep.
        trials: how many there are to be in all; a grid has no more than it has points.
        jobs: how many run side by side.
        seed: with the results, fixes what is tried.
        tell: is told the outcomes so far whenever there is something new.

    Returns:
        The outcomes of all trials.
    """
    study = _Study(config, objectives, folder, seed, jobs)
    limit = min(trials, len(config.grid())) if config.method == "grid" else trials
    study.begin_again()
    with ExitStack() as stack:
        running: dict[int, tuple[optuna.Trial, Trial]] = {}
        while True:
            while len(running) < jobs and (asked := study.ask(limit)) is not None:
                number, trial = asked
                running[number] = trial, stack.enter_context(Trial(config, trial.params, folder, number))
                tell(study.outcomes())
            if not running:
                return study.outcomes()
            time.sleep(_POLL_S)
            for number, (trial, process) in list(running.items()):
                if study.watch(trial, process):
                    del running[number]
                    tell(study.outcomes())


def distribution(parameter: Parameter) -> BaseDistribution:
    """The same in Optuna's terms."""
    if parameter.min is None or parameter.max is None:
        return CategoricalDistribution(parameter.choices or ())
    low, high, step, logarithmic = parameter.min, parameter.max, parameter.step, parameter.logarithmic
    if parameter.whole:
        return IntDistribution(int(low), int(high), log=logarithmic, step=int(step or 1))
    if step is not None:
        high = low + steps_between(low, high, step) * step  # Optuna wants the last one to be the maximum
    return FloatDistribution(low, high, log=logarithmic, step=step)


def sampler(method: str, seed: Sequence[int], parallel: bool = False) -> optuna.samplers.BaseSampler:
    """What chooses: at random, or a tree-structured Parzen estimator for W&B's ``bayes``."""
    number = int(np.random.SeedSequence(seed).generate_state(1)[0])
    if method != "bayes":
        return optuna.samplers.RandomSampler(seed=number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=number, constant_liar=parallel)


class _Study:
    """Optuna's study, in which a trial that was begun again is the same one."""

    def __init__(
        self, config: SweepConfig, objectives: Sequence[Objective], folder: Path, seed: int, jobs: int
    ) -> None:
        self._config, self._objectives, self._seed, self._jobs = config, objectives, seed, jobs
        self._distributions = {name: distribution(one) for name, one in config.parameters.items()}
        ends_early = config.early_terminate is not None and len(objectives) == 1
        self._study = optuna.create_study(
            storage=_storage(folder / _JOURNAL),
            study_name="sweep",
            load_if_exists=True,
            directions=[one.goal for one in objectives],
            pruner=_pruner(config) if ends_early else optuna.pruners.NopPruner(),
        )
        self._ends_early = ends_early

    def begin_again(self) -> None:
        """Have the trials that were under way wait for their turn again."""
        for tries in self._tries():
            last = tries[-1]
            interrupted = last.state == TrialState.FAIL and "problem" not in last.user_attrs
            if last.state == TrialState.RUNNING:
                self._study.tell(last.number, state=TrialState.FAIL)
                interrupted = True
            if interrupted:
                # A kill while it was asked for leaves a point of a grid in its attributes.
                point = {**last.system_attrs.get("fixed_params", {}), **last.params}
                self._study.enqueue_trial(point, user_attrs={"again": tries[0].number})

    def ask(self, limit: int) -> tuple[int, optuna.Trial] | None:
        """The next trial and its number; None where all have been begun."""
        waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        count = len(self._tries())
        if not waiting and count >= limit:
            return None
        self._study.sampler = sampler(self._config.method, (self._seed, count), self._jobs > 1)
        if not waiting and self._config.method == "grid":
            self._study.enqueue_trial(self._config.grid()[count])
        trial = self._study.ask(self._distributions)
        return next(n for n, tries in enumerate(self._tries()) if tries[-1].number == trial.number), trial

    def watch(self, trial: optuna.Trial, process: Trial) -> bool:
        """Take what it reports and what comes of it; True once it has ended."""
        running = process.running  # before reading, or its last records could be missed
        try:
            if any(self._ends_at(trial, iteration, value) for iteration, value in process.reports()):
                process.end()
                self._tell(trial, process, TrialState.PRUNED)
                return True
            if running:
                return False
            summary = process.summary(self._objectives)
        except RunError as error:
            process.end()
            trial.set_user_attr("problem", str(error))
            self._tell(trial, process, TrialState.FAIL)
            return True
        trial.set_user_attr("summary", summary)
        self._tell(trial, process, TrialState.COMPLETE, [summary[objective.name] for objective in self._objectives])
        return True

    def outcomes(self) -> list[Outcome]:
        """Of all trials, by number."""
        return [_outcome(number, tries[-1]) for number, tries in enumerate(self._tries())]

    def _ends_at(self, trial: optuna.Trial, iteration: int, value: float) -> bool:
        """Whether it is to end early; also where it has just ended, so that this does not depend on the clock."""
        ends = self._config.early_terminate if self._ends_early else None
        if ends is None or not ends.looks_at(iteration):
            return False
        trial.report(self._objectives[0].sign * value, iteration)  # a large return is good, whatever is sought
        return trial.should_prune()

    def _tell(
        self, trial: optuna.Trial, process: Trial, state: TrialState, values: Sequence[float] | None = None
    ) -> None:
        trial.set_user_attr("seconds", round(process.seconds, 1))
        trial.set_user_attr("iterations", process.iterations)
        self._study.tell(trial, values, state)

    def _tries(self) -> list[list[FrozenTrial]]:
        """Optuna's trials: those that were begun again, together with what they were begun again from."""
        found: dict[int, list[FrozenTrial]] = {}
        for trial in self._study.get_trials(deepcopy=False):
            found.setdefault(trial.user_attrs.get("again", trial.number), []).append(trial)
        return list(found.values())


def _outcome(number: int, trial: FrozenTrial) -> Outcome:
    told: Mapping[str, Any] = trial.user_attrs
    values: Mapping[str, Value] = trial.params or trial.system_attrs.get("fixed_params", {})
    return Outcome(
        number,
        values,
        _STATES[trial.state],
        told.get("summary", {}),
        told.get("iterations", 0),
        told.get("seconds", 0.0),
        told.get("problem", ""),
    )


def _pruner(config: SweepConfig) -> optuna.pruners.BasePruner:
    ends = config.early_terminate
    assert ends is not None
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=ends.first_rung, reduction_factor=ends.eta)


def _storage(path: Path) -> optuna.storages.JournalStorage:
    """The journal; nobody else has it open, so what a killed process left behind can be cleared away."""
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    if path.is_file():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):  # a line that was cut off would make the next one unreadable
            with path.open("rb+") as file:
                file.truncate(whole)
    return optuna.storages.JournalStorage(JournalFileBackend(str(path)))
