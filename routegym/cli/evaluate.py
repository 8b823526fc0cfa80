"""``routegym evaluate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rich.console import Console

    from routegym.evaluation.comparison import Comparison
    from routegym.graph.recording import Recording
    from routegym.policies.policy import Policy
    from routegym.tracking.run import Run, RunConfig

__all__ = ["Evaluate", "compare", "draw", "open_run", "wide_console", "write_results"]


_BASELINES = ("random", "first_large_k", "confidence_cascade", "fixed_cascade")


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a trained policy on held-out tasks over a range of hard budgets and prices of cost.

    Beside it: every arm alone, random mixtures of them (the zero router), fixed rules and success predictors fitted on
    the run's training tasks, and the clairvoyant optimum. Writes metrics.json, results.parquet and frontier.png into
    the run folder. `routegym bench` compares many trained policies.

    With --live the first policy plays the tasks on the recording and on the pool that answers now, and what has
    drifted is reported: score, cost and latency, with intervals. Exit code 1: live calls failed, and their episodes are
    left out.
    """

    run_folder: Annotated[Path, tyro.conf.Positional]
    """Folder that `routegym train` wrote."""
    split: str = "test"
    """Tasks to evaluate on: train, val, test or all."""
    budgets: tuple[float, ...] = ()
    """Hard caps in USD; 10 over the recording's range by default."""
    baselines: tuple[str, ...] | None = None
    """Algorithms to fit and evaluate beside it; by default random, first_large_k, and confidence_cascade or, where the
    environment says when a task is solved, fixed_cascade, as far as the recording has what they need."""
    attainable: bool = False
    """Work out the attainable bound as well, which takes about a minute; see docs/results.md."""
    recording: str | None = None
    """Where the run's recording is, if it has moved."""
    seed: int = 0
    """Fixes the recorded samples met and the random strategies."""
    live: bool = False
    """Check the policy against the live pool instead."""
    pool: str | None = None
    """With --live: the pool file that the recording was made with; `embedded` is the pool of arithmetic models."""
    store: Path | None = None
    """With --live: folder in which the check's answers are kept, RUN/live.store by default; another one asks anew."""
    spend_cap: float | None = None
    """With --live: most USD that the check may cost."""

    def run(self) -> None:
        """Evaluate, print, write."""
        from routegym.tracking.run import Run

        run = Run(self.run_folder)
        recording, policies = open_run(run, self.recording)
        if self.live:
            from routegym.cli.live import check_live

            check_live(
                run,
                recording,
                policies,
                split=self.split,
                budgets=self.budgets,
                seed=self.seed,
                pool=self.pool,
                store=self.store,
                spend_cap=self.spend_cap,
            )
            return
        self.on_recording(run, recording, policies)

    def on_recording(
        self, run: Run, recording: Recording, policies: Mapping[int, Policy]
    ) -> tuple[Comparison, dict[str, Any], dict[str, Mapping[int, Policy]]]:
        """Evaluate on the recording, print, write; what `compare` returns, with the metrics between."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        from routegym.evaluation.report import arm_table, comparison_table

        algo = run.config.algo
        columns = (TextColumn("evaluating"), BarColumn(), TextColumn("{task.description}"))
        with Progress(*columns, console=Console(stderr=True)) as bar:
            line = bar.add_task("", total=len({algo, *(self.baselines or _BASELINES)}) + 2, completed=-1)

            def tell(description: str) -> None:
                bar.update(line, description=description, advance=1)

            comparison, found = compare(
                run.config,
                recording,
                policies,
                self.split,
                self.budgets,
                self.baselines,
                self.attainable,
                self.seed,
                tell,
            )
            tell("intervals")
            metrics = comparison.metrics()
            tell("done")
        run.write_json("metrics.json", metrics)
        write_results(run.path, comparison, run.config.env)
        console = wide_console()
        console.print(arm_table(metrics, algo).rich(), comparison_table(metrics).rich(columns=5), sep="\n")
        drawn = draw(run.path, comparison, f"{run.config.env}, {self.split} split")
        console.print(f"run folder: {run.path}   (metrics.json, results.parquet{', frontier.png' if drawn else ''})")
        return comparison, metrics, found


def compare(
    config: RunConfig,
    recording: Recording,
    policies: Mapping[int, Policy],
    split: str,
    budgets: Sequence[float],
    baselines: Sequence[str] | None,
    attainable: bool,
    seed: int,
    tell: Callable[[str], None],
) -> tuple[Comparison, dict[str, Mapping[int, Policy]]]:
    """Play a run's policies, and beside them baselines that are fitted on the same training tasks.

    Args:
        config: of the run.
        recording, policies: from `open_run`.
        split, budgets, baselines, attainable, seed: as the options of `Evaluate`.
        tell: is told what is done next.

    Returns:
        The comparison, and all policies in it by name and seed.
    """
    from routegym.errors import ConfigError
    from routegym.evaluation.attainable import attainable_policy
    from routegym.evaluation.comparison import Comparison, Entry, check_comparable
    from routegym.evaluation.outcomes import Grid, play
    from routegym.evaluation.references import references
    from routegym.policies.algorithm import Problem
    from routegym.policies.config import tuned

    check_comparable(recording, split)
    grid = Grid.of(recording, budgets or None)
    entries, found = {}, {config.algo: policies}
    beside = _BASELINES if baselines is None else baselines
    for name in (config.algo, *(name for name in beside if name != config.algo)):
        tell(name)
        if name not in found:
            try:
                found[name] = {0: tuned(name, config.env).fit(Problem(recording), seed)}
            except ConfigError:
                if baselines is not None:
                    raise
                continue  # it needs what the recording does not tell, and nobody asked for it
        played, validated = (
            {number: play(policy, recording, side, grid, seed) for number, policy in found[name].items()}
            for side in (split, "val")
        )
        entries[name] = Entry.of(played, validated, learned=name == config.algo)
    tell("oracle")
    bound = play(attainable_policy(recording, split), recording, split, grid, seed) if attainable else None
    return Comparison(recording, split, grid, entries, references(recording, split, grid, bound)), found


def open_run(run: Run, moved: str | None = None) -> tuple[Recording, Mapping[int, Policy]]:
    """The recording of a run and its policies by seed.

    Raises:
        RunError: the folder is damaged, or its recording is another one by now.
    """
    from routegym.policies.storage import load_policies

    recording = run.recording(moved)
    return recording, load_policies(run.path, recording)


def wide_console() -> Console:
    """A console in which the tables keep their rows on one line each, also where the terminal is narrower."""
    from rich.console import Console

    return Console(width=max(Console().width, 136))


def write_results(folder: Path, comparison: Comparison, env: str) -> None:
    """Write ``results.parquet``: one row per policy, seed, budget and price."""
    import os

    import pyarrow as pa
    import pyarrow.parquet as pq

    draft = folder / ".results.draft"
    pq.write_table(pa.table(comparison.rows(env)), draft)
    os.replace(draft, folder / "results.parquet")


def draw(folder: Path, comparison: Comparison, title: str, named: Sequence[str] | None = None) -> bool:
    """Draw ``frontier.png``; False, with a word on stderr, if there is no matplotlib."""
    import sys

    from routegym.errors import MissingExtraError
    from routegym.evaluation.plots import frontier_figure

    try:
        figure: Any = frontier_figure(comparison.curves(named), title)
    except MissingExtraError as error:
        print(f"no picture: {error}", file=sys.stderr)
        return False
    figure.savefig(folder / "frontier.png", dpi=150)
    return True
