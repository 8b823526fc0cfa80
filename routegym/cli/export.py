"""``routegym export``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from routegym.graph.recording import Recording
    from routegym.policies.policy import Policy

__all__ = ["Export"]


@dataclass(frozen=True)
class Export:
    """Write a recording as a plain table, or episodes played on it as a Minari dataset.

    A table has a row for every task and arm where a task is one question (single_call, cascade), and for every recorded
    choice elsewhere; docs/recordings.md names the columns.

    examples:
      routegym export cascade -o cascade.parquet
      routegym export agent_steps --format minari -o datasets --episodes 10000
      routegym export agent_steps --format minari -o datasets --policy runs/agent_steps
    """

    recording: Annotated[str, tyro.conf.Positional]
    """A shipped recording's name or a recording folder."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """File of the table; of Minari the folder of its datasets (MINARI_DATASETS_PATH)."""
    format: Literal["parquet", "csv", "jsonl", "minari"] | None = None
    """What to write; by default the table that the file's ending names: .parquet, .csv or .jsonl."""
    policy: Path | None = None
    """Run folder of the policy that plays (minari); legal actions at random by default."""
    policy_seed: int | None = None
    """Which of the run's networks (minari); the first by default."""
    episodes: int = 1000
    """Episodes to play (minari)."""
    split: str = "train"
    """Tasks to play: train, val, test or all (minari)."""
    budget_usd: float | None = None
    """Hard cap of every episode in USD (minari); drawn from the recording's range by default."""
    lambda_: Annotated[float, tyro.conf.arg(name="lambda")] = 0.2
    """Price of cost in the reward (minari)."""
    seed: int = 0
    """Fixes tasks, budgets, responses and random choices (minari)."""

    def run(self) -> None:
        """Write it."""
        from routegym.cli.recording import writing
        from routegym.errors import ConfigError
        from routegym.evaluation.export import TABLE_FORMATS, export_minari, table_format, write_table
        from routegym.graph.library import load_recording

        if self.format != "minari":
            if self.policy is not None:
                raise ConfigError(f"--policy {self.policy} plays episodes; a table has none: add --format minari")
            form = table_format(self.out, self.format)
            recording = load_recording(self.recording)
            with writing(self.out):
                rows = write_table(recording, self.out, form)
            print(f"{self.out}: {rows:,} rows")
            return
        if self.out.suffix[1:].lower() in TABLE_FORMATS:
            raise ConfigError(f"{self.out}: minari writes a folder, but its ending says a table; change one of them")
        recording = load_recording(self.recording)
        behaviour, policy = self._behaviour(recording)
        with writing(self.out):
            dataset = export_minari(
                recording,
                self.out,
                policy=policy,
                behaviour=behaviour,
                source=self.recording,
                episodes=self.episodes,
                split=self.split,
                budget_usd="sampled" if self.budget_usd is None else self.budget_usd,
                lambda_=self.lambda_,
                seed=self.seed,
            )
        print(
            f'{dataset}: {self.episodes:,} episodes; MINARI_DATASETS_PATH={self.out}, minari.load_dataset("{dataset}")'
        )

    def _behaviour(self, recording: Recording) -> tuple[str, Policy | None]:
        """Name and policy of who plays."""
        from routegym.cli.evaluate import open_run
        from routegym.errors import ConfigError
        from routegym.tracking.run import Run

        if self.policy is None:
            return "random", None
        run = Run(self.policy)
        policies = open_run(run, self.recording)[1]
        seed = min(policies) if self.policy_seed is None else self.policy_seed
        if seed not in policies:
            raise ConfigError(f"policy_seed = {seed}; this run has {sorted(policies)}")
        return f"{run.config.algo}-seed{seed}", policies[seed]
