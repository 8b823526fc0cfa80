"""Timing, synthetic recordings and tables that the benchmarks share."""

from __future__ import annotations

import gc
import os
import platform
import re
import resource
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from routegym.evaluation.frontier import aiq, hull
from routegym.evaluation.outcomes import Grid, Outcomes, play
from routegym.evaluation.statistics import Sweep
from routegym.graph import OPEN, TERMINATED, Recording, edge_dtype
from routegym.policies.algorithm import Algorithm, Problem
from routegym.pool.arms import Arm, Price, PriceTable
from routegym.tasks import TaskSet

DOCS = Path(__file__).resolve().parents[1] / "docs" / "speed.md"


def rate(
    play: Callable[[], int], *, seconds: float, repeats: int, clock: Callable[[], float] = time.process_time
) -> float:
    """Most steps per second of `repeats` windows; `play` takes some steps and returns how many.

    CPU seconds by default: on a machine with other work they tell more than the wall clock.
    """
    play()
    best = 0.0
    gc.collect()
    for _ in range(repeats):
        steps, start = 0, clock()
        while (spent := clock() - start) < seconds:
            steps += play()
        best = max(best, steps / spent)
    return best


def machine(packages: Sequence[str]) -> str:
    """Processor and versions, one line."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text(encoding="utf-8"))
        cpu = found[1].strip() if found else cpu
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    known = []
    for name in packages:
        try:
            known.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            known.append(f"{name} not installed")
    return f"{cpu}, {os.cpu_count()} cores{load}; Python {platform.python_version()}; {', '.join(known)}"


def peak_bytes() -> int:
    """Highest resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # the other one begins with what the process that started this one had
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="utf-8"))
        if found:
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def figure(value: float | None) -> str:
    """A number with three significant digits and a unit, or a dash."""
    if value is None:
        return "-"
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def show(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], note: str) -> None:
    """Print a table."""
    table = Table(title=title, caption=note)
    for column, name in enumerate(header):
        table.add_column(name, justify="left" if column == 0 else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=140).print(table)


def sweep(outcomes: Sequence[Outcomes]) -> Sweep:
    """All seeds together."""
    scores = np.array([one.scores for one in outcomes], dtype=np.float64)
    return Sweep(scores, np.array([one.costs for one in outcomes]))


def joined(parts: Sequence[Sweep]) -> Sweep:
    """The tasks of all parts, such as folds."""
    return Sweep(*(np.concatenate([getattr(part, name) for part in parts], axis=2) for name in ("scores", "costs")))


def held_out(router: Algorithm, parts: Sequence[Recording], grid: Grid, seeds: Sequence[int]) -> Sweep:
    """A router fitted on each part with every seed, on the tasks that they hold out; no budget may be exceeded."""
    sweeps = []
    for recording in parts:
        fits = [router.fit(Problem(recording), seed=seed) for seed in seeds]
        outcomes = [play(fit, recording, "test", grid) for fit in fits]
        assert not sum(int(outcome.violations.sum()) for outcome in outcomes)
        sweeps.append(sweep(outcomes))
    return joined(sweeps)


def quality(played: Sweep, alone: Sweep) -> float:
    """AIQ on the cost range of the whole pool; of the mean over seeds at each operating point."""
    costs, _ = alone.points()
    return float(aiq(hull(*played.points()), float(costs.min()), float(costs.max())))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1) -> list[str]:
    """Lines of a table; the first so many columns are names."""
    rule = f"|{' --- |' * names}{' ---: |' * (len(header) - names)}"
    return [f"| {' | '.join(header)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)]


def write(marker: str, header: Sequence[str], rows: Sequence[Sequence[str]], note: str, path: Path = DOCS) -> None:
    """Put the table between the marker's comments in a Markdown file, or at its end."""
    lines = markdown(header, rows)
    begin, end = f"<!-- {marker}: begin -->", f"<!-- {marker}: end -->"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    path.write_text(f"{before}{begin}\n" + "\n".join(lines) + f"\n\n{note}\n{end}{after}", encoding="utf-8")


def synthetic(edges: int, *, node_signals: int = 16, seed: int = 0) -> Recording:
    """A recording of about `edges` random edges: 8 arms, 4 calls, 8 situations after each call of a task."""
    arms, width, calls = 8, 8, 4
    per_task_edges = arms * (1 + (calls - 1) * width)
    per_task_nodes = 1 + calls * width
    tasks = max(edges // per_task_edges, 1)
    rng = np.random.default_rng(seed)
    ids = tuple(f"task-{index:06d}" for index in range(tasks))
    recording = Recording.empty(
        name=f"synthetic-{edges}",
        kind="synthetic",
        arms=tuple(Arm(f"arm{index}", "direct", 10**index, 16) for index in range(arms)),
        controls=(),
        prices=PriceTable("2026-01-01", "made up", {f"arm{i}": Price(i + 1.0, i + 1.0, 0.0, 0.0) for i in range(arms)}),
        tasks=TaskSet(ids, ids, ("",) * tasks, ("train",) * tasks),
        node_signal_names=tuple(f"n{index}" for index in range(node_signals)),
        edge_signal_names=("e0", "e1"),
        provenance={"made by": "benchmarks"},
    )
    graph = recording.graph
    step = np.array([0] + [call for call in range(1, calls + 1) for _ in range(width)], dtype=np.int16)
    ends = step == calls
    status = np.where(ends, TERMINATED, OPEN).astype(np.uint8)
    score = np.where(ends, rng.random((tasks, per_task_nodes)) < 0.5, np.nan)
    graph.append_nodes(
        task=np.repeat(np.arange(tasks, dtype=np.int32), per_task_nodes),
        step=np.tile(step, tasks),
        status=np.tile(status, tasks),
        score=score.reshape(-1),
        signals=rng.random((tasks * per_task_nodes, node_signals), dtype=np.float32),
        reserve_usd=np.where(np.tile(ends, tasks)[:, None], np.nan, np.inf).repeat(arms, axis=1),
    )
    graph.task_start[:] = np.arange(tasks) * per_task_nodes
    recording.texts.extend(f"situation {index}" for index in range(graph.n_nodes))

    source = np.repeat(np.flatnonzero(~ends), arms)  # within a task
    action = np.tile(np.arange(arms), per_task_edges // arms)
    target = 1 + step[source] * width + (source + action) % width
    first = (np.arange(tasks) * per_task_nodes)[:, None]
    records = np.zeros(tasks * per_task_edges, dtype=edge_dtype(2))
    records["next"] = (first + target).reshape(-1)
    records["tokens"][:, 0] = rng.integers(10, 60, len(records))
    records["cost_usd"] = records["tokens"][:, 0] * (np.tile(action, tasks) + 1) * 1e-6
    records["reserve_usd"] = records["cost_usd"]
    records["signals"] = rng.random((len(records), 2), dtype=np.float32)
    graph.append_edges((first + source).reshape(-1), np.tile(action, tasks), records)
    graph.set_reserves()
    recording.fix_scales()
    return recording
