"""``routegym train``."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from routegym.graph.recording import Recording
    from routegym.policies.network import NetworkPolicy
    from routegym.tracking.run import Run, RunConfig

__all__ = ["Train"]


@dataclass(frozen=True)
class Train:
    """Train a policy with MaskablePPO, one network per seed; then evaluate it.

    Every episode gets a hard budget of its own, so that one policy serves every budget. An interrupted training
    goes on with the seeds that are missing when the same command is given again.
    """

    env: str = "routegym/AgentSteps-v0"
    """Environment id."""
    algo: Literal["ppo"] = "ppo"
    """Learning algorithm; its hyperparameters are in policies/hyperparameters/."""
    recording: str | None = None
    """A shipped recording's name or a recording folder; the environment's own by default."""
    out: Path | None = None
    """Run folder; runs/RECORDING by default."""
    seed: int = 0
    """The first training seed."""
    seeds: int = 5
    """How many seeds to train."""
    steps: int | None = None
    """Environment steps per seed; the tuned number by default."""
    budget_usd: tuple[float, float] | None = None
    """Range of the budgets drawn in training, USD; the recording's own range by default."""
    lambda_: Annotated[float, tyro.conf.arg(name="lambda")] = 0.02
    """Price of cost in the reward, on top of the hard budget."""
    threads: int = 1
    """Threads of torch; more are slower for networks this small."""
    evaluate: bool = True
    """Compare with the fixed strategies and the oracle afterwards."""

    def run(self) -> None:
        """Train, save, evaluate."""
        from rich.console import Console

        from routegym.cli.evaluate import Evaluate
        from routegym.errors import ConfigError, MissingExtraError
        from routegym.graph.library import load_recording
        from routegym.policies.config import tuned
        from routegym.registration import ENV_IDS, kind_of
        from routegym.tracking.run import Run, RunConfig, versions

        if self.seeds < 1 or self.seed < 0:
            raise ConfigError(f"seed = {self.seed}, seeds = {self.seeds}; expected seed >= 0 and seeds >= 1")
        if self.env not in ENV_IDS:
            raise ConfigError(f"env = {self.env!r}; expected one of {', '.join(ENV_IDS)}")
        try:
            import torch
        except ImportError:
            raise MissingExtraError("torch", "train") from None

        torch.set_num_threads(self.threads)
        source = self.recording or kind_of(self.env)
        recording = load_recording(source)
        config = tuned(self.algo, self.env, {"steps": self.steps})
        settings = RunConfig(
            env=self.env,
            recording=source,
            content_hash=recording.content_hash,
            algo=self.algo,
            hyperparameters={name: _plain(value) for name, value in vars(config).items()},
            seeds=list(range(self.seed, self.seed + self.seeds)),
            budget_usd=self.budget_usd or "sampled",
            lambda_=self.lambda_,
            threads=self.threads,
            versions=versions(),
            machine=f"{platform.system()} {platform.machine()}",
        )
        _make(settings, recording, 1)  # a mistake is told before anything is written
        run = Run(self.out or Path("runs") / Path(source).name)
        run.start(settings)
        console = Console(stderr=True)
        console.print(
            f"[bold]{self.env}[/], recording [bold]{recording.name}[/]: {recording.graph.n_tasks:,} tasks, "
            f"{recording.graph.n_edges:,} recorded calls, arms {', '.join(arm.name for arm in recording.arms)}"
        )
        _train_seeds(run, recording, config, console)
        if self.evaluate:
            Evaluate(run.path).run()


def _train_seeds(run: Run, recording: Recording, config: Any, console: Any) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from routegym.policies.network import load_networks, save_networks
    from routegym.policies.ppo import network_of, train_ppo
    from routegym.tracking.callback import MetricsCallback

    settings = run.config
    done: dict[int, NetworkPolicy] = load_networks(run.path) if (run.path / "policy.json").is_file() else {}
    if done:
        console.print(f"going on in {run.path}: seeds {sorted(done)} are trained already")
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps  {task.fields[status]}"),
        TimeRemainingColumn(),
        console=console,
    )
    with bar:
        for seed in settings.seeds:
            if seed in done:
                continue
            line = bar.add_task(f"seed {seed}", total=config.steps, status="")

            def report(metrics: Mapping[str, Any], line: Any = line) -> None:
                run.append(metrics)
                status = "" if metrics["score"] is None else f"score {metrics['score']:.3f}"
                bar.update(line, completed=min(metrics["step"], config.steps), status=status)

            env = _make(settings, recording, config.n_envs)
            model = train_ppo(env, config, seed, MetricsCallback(report, seed))
            done[seed] = network_of(model, env)
            save_networks(run.path, done)


def _make(settings: RunConfig, recording: Recording, num_envs: int) -> Any:
    """The training environment."""
    from gymnasium import make_vec

    return make_vec(
        settings.env,
        num_envs=num_envs,
        vectorization_mode="vector_entry_point",
        recording=recording,
        budget_usd=settings.budget_usd,
        lambda_=settings.lambda_,
        autoreset_mode="SameStep",
        info="lean",
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
