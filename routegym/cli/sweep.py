"""``routegym sweep``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from collections.abc import Sequence

    from routegym.sweeps import Objective, Outcome, SweepConfig

__all__ = ["Sweep"]

_TRIALS = 20


@dataclass(frozen=True)
class Sweep:
    """Search for hyperparameters, as a YAML file in W&B's schema says: trials of its command, each a process.

    `wandb agent` runs the same files. Here they run offline: Optuna, or Ray Tune, chooses what to try, ends trials that
    fall behind, and goes on where it was when the same command is given again. Writes trials.parquet, sweep.md and
    parallel_coordinates.png.

    examples:
      routegym sweep sweeps/cascade-all_action.yaml
      routegym sweep sweeps/cascade-grpo.yaml --trials 40 --jobs 4 --set steps=100000
      routegym sweep sweeps/cascade-grpo.yaml --objectives score cost_usd     what no other trial beats in both
      routegym sweep sweeps/cascade-grpo.yaml --backend ray --jobs 8
      routegym sweep sweeps/cascade-grpo.yaml --backend wandb                 register it, and be an agent of it
    """

    file: Annotated[Path, tyro.conf.Positional]
    """The sweep: sweeps/ has one for every environment and learner."""
    backend: Literal["optuna", "wandb", "ray"] = "optuna"
    """Who chooses what to try: optuna and ray here and offline, wandb its server."""
    trials: int | None = None
    """How many there are to be in all, also where some are there already; the file's run_cap by default, or 20."""
    jobs: int = 1
    """How many run side by side; at most one for each core."""
    out: Path | None = None
    """Folder of the sweep; runs/sweeps/FILE by default."""
    seed: int = 0
    """Fixes, with the results, what is tried; the training's own seeds stand in the command."""
    objectives: tuple[str, ...] = ()
    """Numbers of summary.json to seek instead of the file's metric; with several, no trial ends early."""
    set: tuple[str, ...] = ()
    """Hyperparameters to fix instead of searching for them, as name=value."""

    def run(self) -> None:
        """Search, print, write."""
        from routegym.cli.train import changes
        from routegym.errors import ConfigError
        from routegym.sweeps import read_sweep
        from routegym.sweeps.folder import own_folder

        cores = os.cpu_count() or 1
        if not 1 <= self.jobs <= cores:
            raise ConfigError(f"jobs = {self.jobs}; expected 1 to {cores}, as many as this machine has cores")
        if self.seed < 0 or (self.trials is not None and self.trials < 1):
            raise ConfigError(f"seed = {self.seed}, trials = {self.trials}; expected seed >= 0 and trials >= 1")
        config = read_sweep(self.file).fixed(changes(self.set))
        _check_command(config)
        objectives = config.objectives(self.objectives)
        trials = self.trials or config.run_cap or (len(config.grid()) if config.method == "grid" else _TRIALS)
        out = self.out or Path("runs", "sweeps", self.file.stem)
        if self.backend == "wandb":
            self._agent(config, objectives, trials)
            return
        with own_folder(out, config, objectives, self.seed, self.backend):
            self._search(config, objectives, trials, out)

    def _search(self, config: SweepConfig, objectives: Sequence[Objective], trials: int, out: Path) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        columns = (TextColumn("trials"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, TextColumn("{task.description}"), console=console) as bar:
            line = bar.add_task("", total=trials)

            def tell(outcomes: list[Outcome]) -> None:
                done = sum(outcome.state != "running" for outcome in outcomes)
                bar.update(line, completed=done, description=_live(objectives, outcomes))

            arguments: Any = {"trials": trials, "jobs": self.jobs, "seed": self.seed, "tell": tell}
            if self.backend == "ray":
                from routegym.sweeps.ray_tune import run_tune

                outcomes = run_tune(config, objectives, out, **arguments)
            else:
                from routegym.sweeps.optuna_study import run_study

                outcomes = run_study(config, objectives, out, **arguments)
        self._show(config, objectives, outcomes, out)

    def _show(
        self, config: SweepConfig, objectives: Sequence[Objective], outcomes: Sequence[Outcome], out: Path
    ) -> None:
        import shlex
        import sys

        from rich.console import Console

        from routegym.sweeps import best_first
        from routegym.sweeps.report import command_of, outcome_table, write_results

        made = f"`{shlex.join(['routegym', *sys.argv[1:]])}`, {len(outcomes)} trials by {self.backend}"
        files = write_results(out, config, objectives, outcomes, made)
        console = Console()
        wide = Console(width=max(console.width, 60 + 14 * len(config.parameters)))
        wide.print(outcome_table(config, objectives, outcomes).rich())
        for outcome in outcomes:
            if outcome.problem:
                print(f"trial {outcome.number} failed: {outcome.problem}")
        best = best_first(outcomes, objectives)[:1]
        if best and best[0].state == "finished":
            print(f"best: {command_of(config, best[0])}")
        print(f"results: {out}   ({', '.join(files)})")

    def _agent(self, config: SweepConfig, objectives: Sequence[Objective], trials: int) -> None:
        from routegym.errors import ConfigError
        from routegym.sweeps.wandb_agent import run_agent

        if self.objectives or self.jobs > 1 or self.out is not None:
            raise ConfigError(
                f"backend = 'wandb' with objectives = {self.objectives}, jobs = {self.jobs}, out = {self.out}; "
                "expected the file's metric, one job and no out: start more agents with `wandb agent`, each keeps its "
                "runs in runs/sweeps/SWEEP"
            )
        run_agent(config, trials)


def _check_command(config: SweepConfig) -> None:
    """Where the command is `routegym train`, its hyperparameters are checked before anything runs."""
    import sys

    from routegym.cli.problem import DEFAULT_ENV
    from routegym.cli.train import Train
    from routegym.sweeps.checks import check_hyperparameters, option

    words = config.arguments({}, "python")
    if "train" not in words[1:] or not words[words.index("train") - 1].endswith("routegym"):
        return
    sys.path.insert(0, os.getcwd())  # a module of one's own beside the command
    check_hyperparameters(config, option(config, "--algo") or Train.algo, option(config, "--env") or DEFAULT_ENV, _pair)


def _pair(text: str) -> dict[str, Any]:
    from routegym.cli.train import changes

    return changes((text,))


def _live(objectives: Sequence[Objective], outcomes: Sequence[Outcome]) -> str:
    """How it stands, for the line of progress."""
    from routegym.sweeps import best_first

    count = {state: sum(one.state == state for one in outcomes) for state in ("pruned", "failed")}
    parts = [f"{number} {state}" for state, number in count.items() if number]
    best = best_first(outcomes, objectives)[:1]
    if best and best[0].state == "finished":
        parts.insert(0, f"best {objectives[0].name} {best[0].summary[objectives[0].name]:.4f}")
    return ", ".join(parts)
