"""``routegym bench``."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from collections.abc import Sequence

    from routegym.evaluation.bench import BenchSettings, Job
    from routegym.evaluation.comparison import Comparison
    from routegym.evaluation.outcomes import Grid, Outcomes
    from routegym.graph.recording import Recording
    from routegym.runners import RunnerName

__all__ = ["Bench"]


@dataclass(frozen=True)
class Bench:
    """Train and evaluate every router beside each other, on the same tasks, hard budgets and prices of cost.

    Beside them: each arm alone, the zero router, the clairvoyant optimum, and the attainable bound. Results are kept by
    what decides them: an interrupted bench goes on where it was, and a changed one redoes only what changed. Writes
    metrics.json, results.parquet, results.md, frontier.png and shares.png.

    examples:
      routegym bench                                        every router on AgentSteps, 5 seeds
      routegym bench --env routegym/Cascade-v0 --policies all_action maskable_ppo knn confidence_cascade
      routegym bench --policies maskable_ppo my_package.my_router:MyRouter --seeds 2 --steps 100000
      routegym bench --env routegym/SingleCall-v0 --recording recordings/mine --folds 5
      RAY_ADDRESS=auto routegym bench --runner ray --out /shared/bench
    """

    env: str | None = None
    """Environment id; that of the recording's kind by default, or routegym/AgentSteps-v0."""
    policies: tuple[str, ...] = ()
    """Names, or package.module:Class of your own; everything by default."""
    recording: str | None = None
    """A shipped recording's name or a recording folder; the environment's own by default."""
    out: Path | None = None
    """Folder of the results; runs/bench-RECORDING by default."""
    seed: int = 0
    """The first training seed."""
    seeds: int = 5
    """How many seeds; fixed rules and success predictors are fitted once."""
    steps: int | None = None
    """Environment steps of every learner that counts them; the tuned numbers by default."""
    budgets: tuple[float, ...] = ()
    """Hard caps in USD; 10 over the recording's range by default. No cap is always played as well."""
    lambdas: tuple[float, ...] = ()
    """Prices of cost that a policy is asked to respect at each budget; 7 from 0 to 0.5 by default."""
    train_lambda: tuple[float, float] | None = None
    """Prices that learners are trained for, drawn for every episode, log-uniformly if the lower one is above 0; by
    default 0.002 to 8 for single calls, and else 0 to 0.2: where higher ones are played, name a range that holds
    them."""
    split: str = "test"
    """Tasks to evaluate on: train, val or test."""
    folds: int = 0
    """Cross-validate: deal the tasks into so many parts, hold each out once, and report all of them together."""
    attainable: Annotated[bool | None, tyro.conf.arg(constructor=bool)] = None
    """Work out the attainable bound; done by default, but not with folds: it belongs to one split."""
    workers: int = 0
    """Fits at once, each in a process of its own; one per core by default."""
    runner: Literal["local", "ray"] = "local"
    """Where they are: on this machine, or on a Ray cluster (RAY_ADDRESS; a local one without it), whose machines all
    see OUT and the recording."""

    def run(self) -> None:
        """Do it."""
        import sys

        import numpy as np
        from rich.console import Console

        from routegym.cli.problem import everywhere, find_recording
        from routegym.errors import ConfigError
        from routegym.evaluation.bench import BenchSettings, Job, bench_parts, entries, held_out
        from routegym.evaluation.comparison import Comparison, check_comparable
        from routegym.evaluation.outcomes import LAMBDAS, Grid
        from routegym.evaluation.references import references
        from routegym.policies.algorithm import algorithm_names, family_of

        if self.folds and (self.folds < 2 or self.split != "test" or self.attainable):
            raise ConfigError(
                f"folds = {self.folds}, split = {self.split!r}, attainable = {bool(self.attainable)}; expected at "
                "least 2 folds, which replace the splits, and no --attainable: that bound belongs to one split"
            )
        if self.seeds < 1 or self.seed < 0 or self.workers < 0:
            raise ConfigError(
                f"seed = {self.seed}, seeds = {self.seeds}, workers = {self.workers}; "
                "expected seed >= 0, seeds >= 1 and workers >= 0"
            )
        attainable = not self.folds if self.attainable is None else self.attainable
        sys.path.insert(0, os.getcwd())  # a module of one's own beside the command
        env, source, recording = find_recording(self.env, self.recording)
        split = "all" if self.folds else self.split
        check_comparable(recording, split, self.folds)
        grid = Grid.of(recording, self.budgets or None, self.lambdas or LAMBDAS)
        out = self.out or Path("runs") / f"bench-{Path(source).name}"
        cache = (out / "cache").resolve()  # the processes of a cluster are in folders of their own
        console = Console(stderr=True)
        with console.status("reading"):
            parts = bench_parts(everywhere(source), recording, self.folds, cache)
        settings = [
            BenchSettings.of(env, name, part, grid, self.split, self.steps, self.train_lambda)
            for name, part in parts.items()
        ]
        jobs = [
            Job(name, self.seed + number, own, cache)
            for number in range(self.seeds)
            for name in self.policies or algorithm_names()
            if number == 0 or family_of(name) in ("bandit", "learner")
            for own in settings
        ]
        for job in jobs:
            _ = job.hyperparameters  # a misspelt name is told before anything starts
        refused = _run(jobs, self.runner, self.workers, console)
        for name, reason in refused.items():
            console.print(f"[bold]{name}[/] left out: {reason}", highlight=False)
        jobs = [job for job in jobs if job.name not in refused]
        bound = _bound(recording, grid, settings[0], cache, console) if attainable else None
        with console.status("references and intervals"):
            against = references(recording, split, grid, bound)
            comparison = Comparison(recording, split, grid, entries(jobs, held_out(parts)), against)
            metrics = comparison.metrics()
        metrics |= {"env": env, "made": _made(jobs, source, self.folds), "decisions": _decisions(jobs)}
        if self.folds:
            metrics["made"]["first_fold_tasks"] = len(next(iter(parts.values())).split("test"))
            metrics["validation_tasks"] = len(np.unique(np.concatenate([part.split("val") for part in parts.values()])))
        _write(env, out, comparison, metrics, jobs)


def _run(jobs: Sequence[Job], runner: RunnerName, workers: int, console: Any) -> dict[str, str]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from routegym.evaluation.bench import run_jobs
    from routegym.runners import open_runner

    if all(job.done for job in jobs):
        return {}

    columns = (TextColumn("fitting and playing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, TextColumn("{task.description}"), console=console) as bar,
        open_runner(runner, workers) as at,
    ):
        line = bar.add_task("", total=len(jobs))

        def report(done: int, running: Sequence[Job]) -> None:
            names = ", ".join(f"{job.name} seed {job.seed}" for job in running)
            bar.update(line, completed=done, description=names)

        return run_jobs(jobs, at, report)


def _bound(recording: Recording, grid: Grid, settings: BenchSettings, cache: Path, console: Any) -> Outcomes:
    """The outcomes of the attainable bound, worked out once."""
    from routegym.evaluation.attainable import attainable_policy
    from routegym.evaluation.bench import bound_file, keep_outcomes, read_outcomes
    from routegym.evaluation.outcomes import play

    path = bound_file(cache, settings)
    found = read_outcomes(path)
    if found is None:
        with console.status("attainable bound: the best policy for these very tasks that sees only the observation"):
            found = play(attainable_policy(recording, settings.split), recording, settings.split, grid)
        keep_outcomes(path, found)
    return found


def _write(env: str, out: Path, comparison: Comparison, metrics: dict[str, Any], jobs: Sequence[Job]) -> None:
    from routegym.cli.evaluate import draw, wide_console, write_results
    from routegym.evaluation.report import comparison_table, evaluated_tasks, leaders, results_page
    from routegym.policies.training import write_atomically

    write_atomically(out / "metrics.json", (json.dumps(metrics, indent=1) + "\n").encode())
    write_results(out, comparison, env)
    write_atomically(out / "results.md", results_page(metrics).encode())
    console = wide_console()
    console.print(comparison_table(metrics).rich(columns=6), sep="\n")
    drawn = draw(out, comparison, f"{env}: {evaluated_tasks(metrics)}", leaders(metrics))
    if drawn:
        _draw_shares(out, comparison, _first(jobs))
    pictures = ", frontier.png, shares.png" if drawn else ""
    console.print(f"results: {out}   (results.md, metrics.json, results.parquet{pictures})")


def _first(jobs: Sequence[Job]) -> dict[str, Job]:
    """The job of the first seed, and of the first fold, of every algorithm."""
    return {job.name: job for job in reversed(jobs)}


def _made(jobs: Sequence[Job], source: str, folds: int) -> dict[str, Any]:
    """What was run, and where."""
    import platform
    import shlex
    import sys

    from routegym.tracking.run import versions

    return {
        "command": shlex.join(["routegym", *sys.argv[1:]]),
        "seeds": sorted({job.seed for job in jobs}),
        "recording": source,
        "scales": jobs[0].settings.scales,
        "folds": folds,
        "steps": jobs[0].settings.steps,
        "train_lambda": jobs[0].settings.train_lambda,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, one thread per fit",
        "versions": versions(),
    }


def _decisions(jobs: Sequence[Job]) -> dict[str, Any]:
    """Time per decision of each policy, and how well those that predict success are calibrated."""
    from dataclasses import asdict

    from routegym.evaluation.bench import policy_of_job
    from routegym.evaluation.calibration import success_calibration
    from routegym.evaluation.latency import decision_latency
    from routegym.graph.library import load_recording

    found = {}
    for name, job in _first(jobs).items():
        recording = load_recording(job.settings.recording)
        policy: Any = policy_of_job(job, recording)
        found[name] = asdict(decision_latency(policy, recording))
        if hasattr(policy, "predicted"):
            found[name] |= success_calibration(policy, recording, job.settings.split)
    return found


def _draw_shares(out: Path, comparison: Comparison, jobs: dict[str, Job]) -> None:
    """Who is called when, by the best learner and the best baseline."""
    from routegym.evaluation.bench import policy_of_job
    from routegym.evaluation.plots import shares_figure
    from routegym.evaluation.shares import call_shares
    from routegym.graph.library import load_recording

    named = [name for name in (comparison.best(learned=True), comparison.best(learned=False)) if name]
    shares = {}
    for name in named:
        recording = load_recording(jobs[name].settings.recording)
        policy = policy_of_job(jobs[name], recording)
        shares[name] = call_shares(policy, recording, jobs[name].settings.split, comparison.grid.caps)
    shares_figure(shares).savefig(out / "shares.png", dpi=150)
