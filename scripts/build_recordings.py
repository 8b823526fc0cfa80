"""Record the embedded pool: rebuild every shipped recording from nothing, and say where it differs.

examples:
  python scripts/build_recordings.py                          all four,  into routegym/data/recordings/
  python scripts/build_recordings.py --check                  rebuild into a temporary folder and compare only
  python scripts/build_recordings.py --kinds cascade --tasks 200 --out /tmp/small
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from routegym.envs.agent_steps import AgentStepsWorkflow
from routegym.envs.attempts import AttemptsWorkflow
from routegym.envs.cascade import CascadeWorkflow
from routegym.envs.single_call import SingleCallWorkflow
from routegym.graph import Expander, Recording, Workflow, explore, start_recording
from routegym.pool.pool import Pool, load_pool
from routegym.tasks import TaskSet, generate_tasks

_SHIPPED = Path(__file__).resolve().parents[1] / "routegym" / "data" / "recordings"
_SEEDS = {"agent_steps": 1, "single_call": 2, "cascade": 2, "attempts": 3}
_TASKS = {"agent_steps": 3000, "single_call": 1000, "cascade": 1000, "attempts": 1000}

Kind = Literal["single_call", "cascade", "agent_steps", "attempts"]


@dataclass(frozen=True)
class Build:
    """Record the embedded pool on its tasks, completely: every arm in every situation that any arm leads to."""

    out: Path = _SHIPPED
    """Where the recordings are written."""
    kinds: tuple[Kind, ...] = ("single_call", "cascade", "agent_steps", "attempts")
    """Which to build."""
    tasks: int | None = None
    """Number of tasks of each; the shipped number by default."""
    check: bool = False
    """Compare a fresh build with the recordings in OUT, and leave them as they are."""
    threads: int = 1
    """Threads of torch."""

    def run(self) -> int:
        """Build; the number of recordings that differ from what was there."""
        torch.set_num_threads(self.threads)
        pool, console, differing = load_pool(), Console(), 0
        for kind in self.kinds:
            began = time.monotonic()
            fresh = _record(kind, pool, self.tasks or _TASKS[kind], console)
            with tempfile.TemporaryDirectory() as folder:
                fresh.save(Path(folder) / kind)
                size = sum(file.stat().st_size for file in (Path(folder) / kind).iterdir())
            target = self.out / kind
            known = Recording.load(target) if (target / "meta.json").is_file() else None
            graph = fresh.graph
            console.print(
                f"{kind}: {graph.n_tasks:,} tasks, {graph.n_nodes:,} situations, {graph.n_edges:,} calls, "
                f"{size / 1e6:.1f} MB, {time.monotonic() - began:.0f} s, content hash {fresh.content_hash[:12]}"
            )
            same = known is not None and _identity(known) == _identity(fresh)
            if known is not None and not same:
                differing += 1
                console.print(f"  [bold red]differs[/] from {target}: " + ", ".join(_differences(known, fresh)))
            elif known is not None:
                console.print(f"  identical to {target}")
            if not self.check and not same:
                fresh.save(target)
                console.print(f"  written to {target}")
        return differing


def _record(kind: Kind, pool: Pool, count: int, console: Console) -> Recording:
    workflow, tasks = _problem(kind, pool, count)
    command = f"python scripts/build_recordings.py --kinds {kind} --tasks {count}"
    recording = start_recording(
        kind, workflow, pool, tasks, {"made_by": command, "pool": pool.prices.note, "complete": True}
    )
    with Progress(TextColumn(f"{kind}: {{task.description}}"), TimeElapsedColumn(), console=console) as bar:
        line = bar.add_task("start")
        explore(
            Expander(workflow, pool, recording),
            progress=lambda done, left: bar.update(line, description=f"{done:,} calls recorded, {left:,} waiting"),
        )
    recording.fix_scales()
    return recording


def _problem(kind: Kind, pool: Pool, count: int) -> tuple[Workflow, TaskSet]:
    if kind == "agent_steps":
        return AgentStepsWorkflow(), generate_tasks(count, seed=_SEEDS[kind])
    if kind == "attempts":
        return AttemptsWorkflow([arm.name for arm in pool.arms]), generate_tasks(count, seed=_SEEDS[kind])
    single = generate_tasks(count, operations=(1, 1), seed=_SEEDS[kind])
    tasks = TaskSet(single.ids, tuple(text[1:-1] for text in single.prompts), single.references, single.splits)
    if kind == "single_call":
        return SingleCallWorkflow(), tasks
    return CascadeWorkflow([arm.name for arm in pool.arms]), tasks


def _identity(recording: Recording) -> tuple[object, ...]:
    """What must not change from build to build."""
    return recording.content_hash, recording.prices, recording.cost_scale_usd, recording.budget_range_usd


def _differences(known: Recording, fresh: Recording) -> list[str]:
    """What differs, from the coarse to the fine."""
    found = []
    for name, before, after in (
        ("arms", known.action_names, fresh.action_names),
        ("tasks", known.tasks.prompts, fresh.tasks.prompts),
        ("situations", known.graph.n_nodes, fresh.graph.n_nodes),
        ("calls", known.graph.n_edges, fresh.graph.n_edges),
        ("prices", known.prices, fresh.prices),
        ("scales", known.budget_range_usd, fresh.budget_range_usd),
    ):
        if before != after:
            shown = f"{before} -> {after}" if isinstance(before, int) else f"other {name}"
            found.append(f"{name}: {shown}")
    if not found:
        texts = sum(a != b for a, b in zip(known.texts, fresh.texts, strict=True))
        found.append(f"{texts} situations read otherwise; the rest is in tokens or signals")
    return found


if __name__ == "__main__":
    raise SystemExit(min(tyro.cli(Build, description=__doc__).run(), 1))
