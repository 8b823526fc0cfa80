"""``routegym evaluate --live`` and ``routegym train --live``: the live side of both commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from routegym.cli.connection import (
    Connected,
    load_tasks_to_route,
    pool_file,
    progress,
    terminated_like_interrupted,
)

if TYPE_CHECKING:
    from routegym.graph.recording import Recording
    from routegym.policies.algorithm import Problem
    from routegym.pool.backend import Failure, Response
    from routegym.tracking.run import Run

__all__ = ["check_live", "live_problem"]

#: Hard caps of a live check: three over the recording's range, beside none.
_CHECKED_BUDGETS = 3
_CHECKED_PRICE = 0.1


@contextmanager
def _connected(
    pool_name: str, store: Path, spend_cap: float | None, run: str, show: bool
) -> Iterator[tuple[Connected, Callable[[Any], None]]]:
    """A pool with its store and cap, and what is told of every result: it counts, and stops at the cap."""
    from rich.console import Console

    from routegym.errors import SpendCapError
    from routegym.pool.backend import Failure
    from routegym.pool.pool import load_pool
    from routegym.pool.spend import SpendCap
    from routegym.pool.store import ResponseStore

    pool = load_pool(pool_file(pool_name))
    with ExitStack() as stack:
        stack.enter_context(terminated_like_interrupted())
        known = stack.enter_context(ResponseStore(store))
        spend = stack.enter_context(SpendCap(store, spend_cap, run))
        backend = pool.connect(known, spend)
        stack.callback(backend.close)
        watch = stack.enter_context(progress(Console(stderr=True), spend)) if show else None
        answered = 0

        def tell(result: Response | Failure) -> None:
            nonlocal answered
            if isinstance(result, Failure) and isinstance(result.error, SpendCapError):
                raise result.error
            answered += 1
            if watch is not None:
                watch(answered, answered)

        yield Connected(pool.arms, pool.prices, backend), tell


def check_live(
    run: Run,
    recording: Recording,
    policies: Any,
    *,
    split: str,
    budgets: tuple[float, ...],
    seed: int,
    pool: str | None,
    store: Path | None,
    spend_cap: float | None,
) -> None:
    """Play the run's first policy on the recording and on the pool; print and write ``live.json``."""
    import numpy as np

    from routegym.cli.evaluate import wide_console
    from routegym.envs import workflow_of
    from routegym.evaluation.drift import drift_table, measure_drift
    from routegym.evaluation.outcomes import Grid, budget_grid

    workflow = workflow_of(run.config.env, [arm.name for arm in recording.arms], recording.tasks)
    # Not Grid.of: a recording that grew with its policy does not know what its other arms may cost; the pool does.
    caps = np.unique([*(budgets or budget_grid(recording, _CHECKED_BUDGETS)), np.inf])
    grid = Grid(caps, np.array([_CHECKED_PRICE]))
    name = pool or run.config.pool or "embedded"
    with _connected(name, store or run.path / "live.store", spend_cap, "live check", True) as (connected, tell):
        drift = measure_drift(
            policies[min(policies)], recording, workflow, connected, grid, split, seed, on_result=tell
        )
    run.write_json("live.json", {"pool": Path(name).name, "split": split} | drift.metrics())
    console = wide_console()
    console.print(drift_table(drift, f"{run.path.name} on {Path(name).name}").rich())
    if np.isnan(drift.live.score).any():
        console.print("the same command asks again for what failed")
    console.print(f"written to {run.path / 'live.json'}")


@contextmanager
def live_problem(
    run: Run,
    make: Callable[..., Problem],
    *,
    env: str,
    pool: str,
    tasks: str,
    store: Path | None,
    spend_cap: float | None,
    seed: int,
) -> Iterator[Problem]:
    """A problem whose recording grows while it is played; it is kept in the run folder, also after an interruption.

    Args:
        run: of the training, started or not.
        make: makes the problem of ``recording`` and ``expander``.
    """
    from routegym.envs import workflow_of
    from routegym.graph.growth import Expander, start_recording
    from routegym.graph.recording import Recording

    place = run.path / "recording"
    answers = store or run.path.with_name(f"{run.path.name}.store")
    with _connected(pool, answers, spend_cap, run.path.name, False) as (connected, tell):
        if (place / "meta.json").is_file():
            recording = Recording.load(place)
            workflow = workflow_of(env, [arm.name for arm in recording.arms], recording.tasks)
            expander = Expander(workflow, connected, recording, on_result=tell)
        else:
            asked = load_tasks_to_route(tasks, seed)
            workflow = workflow_of(env, [arm.name for arm in connected.arms], asked)
            recording = start_recording(run.path.name, workflow, connected, asked)
            expander = Expander(workflow, connected, recording, on_result=tell)
            recording.fix_scales()
        try:
            yield make(recording=recording, expander=expander)
        finally:
            if run.started:
                recording.provenance |= {"made_by": "routegym train --live", "complete": recording.graph.complete}
                recording.save(place)
                run.recorded(recording.content_hash)
