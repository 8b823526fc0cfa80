"""``routegym train``."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from routegym.graph.recording import Recording
    from routegym.policies.algorithm import Problem
    from routegym.runners import Runner
    from routegym.tracking.run import Run
    from routegym.tracking.tracking import Service, Tracking

__all__ = ["Train", "changes", "set_threads"]


@dataclass(frozen=True)
class Train:
    """Train a policy, one for each seed; then evaluate it.

    Every episode gets a hard budget and a price of cost of its own, so that one policy serves them all. An interrupted
    training goes on where it was when the same command is given again.

    examples:
      routegym train                                         MaskablePPO on AgentSteps, 5 seeds
      routegym train --algo all_action --env routegym/Cascade-v0
      routegym train --workers 4                             four seeds at once
      routegym train --algo grpo --seeds 2 --set learning_rate=0.001 network=attention
      WANDB_MODE=offline routegym train --track wandb
      routegym train --live --pool pool.yaml --tasks tasks.jsonl --env routegym/Cascade-v0 --spend-cap 2
    """

    env: str | None = None
    """Environment id; that of the recording's kind by default, or routegym/AgentSteps-v0."""
    algo: str = "maskable_ppo"
    """Name of an algorithm, or package.module:Class of your own; `routegym bench --help` says more."""
    recording: str | None = None
    """A shipped recording's name or a recording folder; the environment's own by default."""
    out: Path | None = None
    """Run folder; runs/RECORDING by default, and in a sweep a folder of the trial's own."""
    seed: int = 0
    """The first training seed."""
    seeds: int = 5
    """How many seeds to train."""
    steps: int | None = None
    """Environment steps per seed, for those that count them; the tuned number by default."""
    set: tuple[str, ...] = ()
    """Hyperparameters to change, as name=value."""
    budget_usd: tuple[float, float] | None = None
    """Range of the budgets drawn in training, USD; the recording's own range by default."""
    lambda_: Annotated[tuple[float, float] | None, tyro.conf.arg(name="lambda")] = None
    """Range of the prices of cost drawn in training, on top of the hard budget: log-uniformly unless it begins at 0. By
    default 0.002 to 8 for single calls, and else 0 to 0.2."""
    threads: int = 1
    """Threads of torch; more are slower for networks this small."""
    workers: int | None = None
    """Seeds at once, each in a process of its own; 0 = one per core. By default one after the other here, and with
    --runner ray as many as the cluster has CPUs. What is learned does not depend on it."""
    runner: Literal["local", "ray"] = "local"
    """Where they are: on this machine, or on a Ray cluster (RAY_ADDRESS; a local one without it), whose machines all
    see OUT and the recording."""
    track: Literal["none", "tensorboard", "wandb"] | None = None
    """Show metrics elsewhere too, beside metrics.jsonl: TensorBoard's files in OUT/tensorboard, or a W&B run, which its
    own WANDB_PROJECT, WANDB_ENTITY and WANDB_MODE=offline direct. By default none, and wandb under `wandb agent`."""
    evaluate: bool = True
    """Compare with fixed rules and the oracle afterwards; for that a recording has to be complete."""
    split: Literal["val", "test"] = "test"
    """Tasks to compare on: hyperparameters are chosen on val, never on test."""
    live: bool = False
    """Grow the recording while learning: ask the pool for what is not known yet, and keep it in OUT/recording."""
    pool: str = "embedded"
    """With --live: pool file; `embedded` is the pool of small arithmetic models."""
    tasks: str | None = None
    """With --live: task file, reasoning_gym:NAME:SIZE, arithmetic:SIZE or operations:SIZE."""
    store: Path | None = None
    """With --live: folder in which answers are kept; OUT.store by default."""
    spend_cap: float | None = None
    """With --live: most USD that all calls for OUT may cost together."""

    def run(self) -> None:
        """Train, save, evaluate."""
        from rich.console import Console

        from routegym.cli.evaluate import Evaluate, open_run
        from routegym.cli.problem import DEFAULT_ENV, find_recording
        from routegym.errors import ConfigError
        from routegym.evaluation.comparison import check_comparable
        from routegym.policies.config import hyperparameters, tuned
        from routegym.runners import open_runner
        from routegym.tracking.results import results_of
        from routegym.tracking.run import RunConfig, git_commit, versions
        from routegym.tracking.tracking import Tracking

        if self.seeds < 1 or self.seed < 0:
            raise ConfigError(f"seed = {self.seed}, seeds = {self.seeds}; expected seed >= 0 and seeds >= 1")
        apart = self.runner == "ray" or self.workers not in (None, 1)
        if (self.workers or 0) < 0 or (apart and self.live):
            raise ConfigError(
                f"workers = {self.workers}, runner = {self.runner!r}; expected workers >= 0, and neither with --live, "
                "where all seeds ask one pool"
            )
        if self.live:
            env = self.env or DEFAULT_ENV
        else:
            env, source, found = find_recording(self.env, self.recording)
        sys.path.insert(0, os.getcwd())  # a module of one's own beside the command
        algorithm: Any = tuned(self.algo, env, {"steps": self.steps, **changes(self.set)})
        set_threads(self.threads)
        with ExitStack() as stack:
            run, problem, origin = self._live(env, stack) if self.live else self._recorded(source, found)
            recording = problem.recording
            if self.evaluate and not self.live:
                check_comparable(recording, self.split)
            if "network" in hyperparameters(algorithm):
                from routegym.policies.networks import make_actor

                make_actor(algorithm.network, algorithm.hidden, recording)
            config = RunConfig(
                env=env,
                algo=self.algo,
                hyperparameters={name: _plain(value) for name, value in hyperparameters(algorithm).items()},
                seeds=list(range(self.seed, self.seed + self.seeds)),
                budget_usd=self.budget_usd or "sampled",
                lambda_=problem.lambda_range,
                threads=self.threads,
                versions=versions(),
                machine=f"{platform.system()} {platform.machine()}",
                commit=git_commit(),
                **origin,
            )
            shown = recording if self.live else origin["recording"]
            tracking = Tracking(run, shown, self._service(), config.model_dump(mode="json"))
            run.start(config)
            console = Console(stderr=True)
            console.print(
                f"[bold]{self.algo}[/] on [bold]{env}[/], recording [bold]{recording.name}[/]: "
                f"{recording.graph.n_tasks:,} tasks, {recording.graph.n_edges:,} recorded calls, "
                f"arms {', '.join(arm.name for arm in recording.arms)}"
            )
            with tracking:
                runner = stack.enter_context(open_runner(self.runner, self.workers or 0)) if apart else None
                _train_seeds(run, problem, algorithm, tracking, console, runner)
                if self.evaluate and not self.live:
                    comparison, metrics, policies = Evaluate(run.path, split=self.split).on_recording(
                        run, *open_run(run)
                    )
                    tracking.results(results_of(comparison, metrics, self.algo, policies))
        if self.evaluate and self.live:
            print(f"next: routegym evaluate {run.path} --live --pool {self.pool}")

    def _run(self, name: str) -> Run:
        """The run folder: the one that was named, or the trial's, or runs/NAME."""
        from routegym.sweeps.trial import folder_of_this_trial
        from routegym.tracking.run import Run

        return Run(self.out or folder_of_this_trial() or Path("runs") / name)

    def _service(self) -> Service:
        from routegym.sweeps.trial import under_wandb_agent

        return self.track or ("wandb" if under_wandb_agent() else "none")

    def _recorded(self, source: str, recording: Recording) -> tuple[Run, Problem, dict[str, Any]]:
        """The run folder, the problem, and what the run's configuration says of its recording."""
        from routegym.policies.algorithm import Problem

        problem = Problem(recording, self.budget_usd or "sampled", self.lambda_)
        problem.env(1)  # a mistake is told before anything is written
        origin = {"recording": source, "content_hash": recording.content_hash}
        return self._run(Path(source).name), problem, origin

    def _live(self, env: str, stack: ExitStack) -> tuple[Run, Problem, dict[str, Any]]:
        """The same where the recording grows while learning."""
        from routegym.cli.connection import load_tasks_to_route
        from routegym.cli.live import live_problem, tasks_sha256
        from routegym.errors import ConfigError
        from routegym.policies.algorithm import Problem
        from routegym.registration import kind_of

        kind = kind_of(env)
        if self.tasks is None or self.recording is not None:
            raise ConfigError("--live takes --tasks, and makes the recording itself: leave --recording out")
        run = self._run(f"live-{kind}")
        tasks = load_tasks_to_route(self.tasks, self.seed)
        problem = live_problem(
            run,
            partial(Problem, budget_usd=self.budget_usd or "sampled", lambda_=self.lambda_),
            env=env,
            pool=self.pool,
            tasks=tasks,
            store=self.store,
            spend_cap=self.spend_cap,
        )
        origin = {
            "recording": str(run.path / "recording"),
            "content_hash": "",
            "pool": Path(self.pool).name,
            "tasks": self.tasks,
            "tasks_sha256": tasks_sha256(tasks),
        }
        return run, stack.enter_context(problem), origin


def _train_seeds(
    run: Run, problem: Problem, algorithm: Any, tracking: Tracking, console: Any, runner: Runner | None
) -> None:
    """Train what is not trained yet: here one seed after the other, or where a runner does it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from routegym.cli.problem import everywhere
    from routegym.policies.storage import load_policies, save_policies
    from routegym.tracking.seeds import seed_folder, train_seeds

    done: dict[int, Any] = {}
    if (run.path / "policy.json").is_file():
        done = dict(load_policies(run.path, problem.recording))
        console.print(f"going on in {run.path}: seeds {sorted(done)} are trained already")
    left = [seed for seed in run.config.seeds if seed not in done]
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps  {task.fields[status]}"),
        TimeRemainingColumn(),
        console=console,
    )
    total = getattr(algorithm, "steps", None) or getattr(algorithm, "updates", None)
    lines = {seed: bar.add_task(f"seed {seed}", start=False, total=total, status="") for seed in left}

    def report(metrics: Mapping[str, Any]) -> None:
        tracking.report(metrics)
        if (line := lines.get(metrics.get("seed", 0))) is not None:
            status = "" if metrics.get("score") is None else f"score {metrics['score']:.3f}"
            bar.start_task(line)
            bar.update(line, completed=min(metrics["step"], total or metrics["step"]), status=status)

    with bar:
        if runner is None:
            trained = _one_after_the_other(run, problem, algorithm, left, report)
        else:
            trained = train_seeds(run, problem.recording, everywhere(run.config.recording), left, runner, report)
        for seed, policy in trained:
            done[seed] = policy
            save_policies(run.path, problem.recording, dict(sorted(done.items())))
            shutil.rmtree(seed_folder(run, seed), ignore_errors=True)
            bar.update(lines[seed], completed=total, total=total)


def _one_after_the_other(
    run: Run, problem: Problem, algorithm: Any, seeds: Sequence[int], report: Callable[[Mapping[str, Any]], None]
) -> Iterator[tuple[int, Any]]:
    from routegym.policies.training import Training
    from routegym.tracking.seeds import seed_folder

    for seed in seeds:
        # A checkpoint would not know the situations of a graph that grows: its answers are kept instead.
        folder = None if problem.expander is not None else seed_folder(run, seed)
        yield seed, algorithm.fit(problem, seed, Training(folder, report))


def changes(pairs: tuple[str, ...]) -> dict[str, Any]:
    """What is given as name=value, after --set; a value is read as YAML."""
    import yaml

    from routegym.errors import ConfigError

    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set {pair}; expected name=value, such as learning_rate=0.001")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--set {pair}: {value!r} is not a value that YAML knows") from None
    return found


def set_threads(number: int) -> None:
    """Let torch use so many threads.

    Raises:
        MissingExtraError: there is no torch.
    """
    from routegym.errors import MissingExtraError

    try:
        import torch
    except ImportError:
        raise MissingExtraError("torch", "train") from None
    torch.set_num_threads(number)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
