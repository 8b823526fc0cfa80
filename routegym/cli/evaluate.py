"""``routegym evaluate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from routegym.evaluation.comparison import Comparison
    from routegym.graph.recording import Recording
    from routegym.policies.network import NetworkPolicy
    from routegym.tracking.run import Run

__all__ = ["Evaluate", "open_run"]


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a trained policy on held-out tasks over a range of hard budgets.

    Beside it: every arm alone, random routing, random mixtures (the zero router), first-large-k, confidence cascades,
    and the clairvoyant optimum. Writes metrics.json, results.parquet and frontier.png into the run folder.
    """

    run_folder: Annotated[Path, tyro.conf.Positional]
    """Folder that `routegym train` wrote."""
    split: str = "test"
    """Tasks to evaluate on: train, val, test or all."""
    budgets: tuple[float, ...] = ()
    """Hard caps in USD; 10 over the recording's range by default."""
    recording: str | None = None
    """Where the run's recording is, if it has moved."""
    seed: int = 0
    """Fixes the recorded samples met and the random strategy."""

    def run(self) -> None:
        """Evaluate, print, write."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        from routegym.evaluation.comparison import compare
        from routegym.evaluation.report import budget_table, evaluation_table
        from routegym.tracking.run import Run

        run = Run(self.run_folder)
        recording, policies = open_run(run, self.recording)
        console = Console()
        with Progress(
            TextColumn("evaluating"),
            BarColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
        ) as bar:
            line = bar.add_task("")
            result = compare(
                recording,
                policies,
                budgets=self.budgets or None,
                split=self.split,
                seed=self.seed,
                progress=lambda name, done, total: bar.update(line, description=name, completed=done, total=total),
            )
            bar.update(line, description="intervals")
            metrics = result.metrics()
            bar.update(line, description="done", completed=1, total=1)
        run.write_json("metrics.json", metrics)
        _write_results(run, result)
        console.print(budget_table(metrics), evaluation_table(metrics), sep="\n")
        drawn = _draw(run, result)
        console.print(f"run folder: {run.path}   (metrics.json, results.parquet{', frontier.png' if drawn else ''})")


def open_run(run: Run, moved: str | None = None) -> tuple[Recording, dict[int, NetworkPolicy]]:
    """The recording of a run and its policies by seed.

    Raises:
        RunError: the folder is damaged, or its recording is another one by now.
    """
    from routegym.errors import RunError
    from routegym.graph.library import load_recording
    from routegym.policies.network import load_networks

    config = run.config
    recording = load_recording(moved or config.recording)
    if recording.content_hash != config.content_hash:
        raise RunError(
            f"{run.path}: trained on a recording with content hash {config.content_hash[:12]}, and "
            f"{moved or config.recording!r} has {recording.content_hash[:12]}; name the right one with --recording"
        )
    networks = load_networks(run.path)
    from routegym.core.observation import ObservationLayout

    for network in networks.values():
        network.spec.check(ObservationLayout.of(recording).names, recording.action_names, str(run.path))
    return recording, networks


def _write_results(run: Run, result: Comparison) -> None:
    import os

    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pa.table(dict(result.episodes))
    rows = rows.add_column(0, "env", pa.array([run.config.env] * len(rows)))
    draft = run.path / ".results.draft"
    pq.write_table(rows, draft)
    os.replace(draft, run.path / "results.parquet")


def _draw(run: Run, result: Comparison) -> bool:
    import sys

    from routegym.errors import MissingExtraError
    from routegym.evaluation.plots import frontier_figure

    try:
        figure = frontier_figure(result.curves(), f"{run.config.env}, {result.split} split")
    except MissingExtraError as error:
        print(f"no picture: {error}", file=sys.stderr)
        return False
    figure.savefig(run.path / "frontier.png", dpi=150)
    return True
