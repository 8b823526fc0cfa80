"""``routegym evaluate --live`` and ``routegym train --live``: the live side of both commands."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from routegym.cli.connection import (
    Connected,
    pool_file,
    progress,
    terminated_like_interrupted,
)

if TYPE_CHECKING:
    from routegym.graph.recording import Recording
    from routegym.policies.algorithm import Problem
    from routegym.pool.backend import Backend, Failure, OnResponse, Request, Response
    from routegym.pool.spend import SpendCap
    from routegym.tasks.taskset import TaskSet
    from routegym.tracking.run import Run

__all__ = ["check_live", "live_problem", "tasks_sha256"]

#: Hard caps of a live check: three over the recording's range, beside none.
_CHECKED_BUDGETS = 3
_CHECKED_PRICE = 0.1


class _Watched:
    """A backend that tells how many answers were asked for and came, and stops at the spend cap."""

    def __init__(self, backend: Backend, watch: Callable[[int, int], None] | None) -> None:
        self._backend, self._watch = backend, watch
        self._asked = self._answered = 0

    def count_prompt_tokens(self, requests: Sequence[Request]) -> list[int]:
        return self._backend.count_prompt_tokens(requests)

    def generate(self, requests: Sequence[Request], on_result: OnResponse | None = None) -> list[Response | Failure]:
        from routegym.errors import SpendCapError
        from routegym.pool.backend import Failure

        self._asked += len(requests)

        def report(index: int, result: Response | Failure) -> None:
            if isinstance(result, Failure) and isinstance(result.error, SpendCapError):
                raise result.error
            self._answered += 1
            if self._watch is not None:
                self._watch(self._asked, self._answered)
            if on_result is not None:
                on_result(index, result)

        return self._backend.generate(requests, report)


@contextmanager
def _connected(
    pool_name: str, store: Path, spend_cap: float | None, run: str, show: bool
) -> Iterator[tuple[Connected, SpendCap]]:
    """A pool with its store, and the cap that it stops at."""
    from rich.console import Console

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
        yield Connected(pool.arms, pool.prices, _Watched(backend, watch)), spend


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
    """Play the run's first policy on the recording and on the pool; print and write ``live.json``.

    Raises:
        SystemExit: with code 1, once that is done, if an episode failed.
    """
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
    with _connected(name, store or run.path / "live.store", spend_cap, "live check", True) as (connected, spend):
        before = spend.spent_usd
        drift = measure_drift(policies[min(policies)], recording, workflow, connected, grid, split, seed)
        total = spend.spent_usd
    now = round(total - before, 12)  # as exact as the cap counts
    metrics = {"pool": Path(name).name, "split": split, "spent_usd": now} | drift.metrics()
    run.write_json("live.json", metrics)
    console = wide_console()
    console.print(drift_table(drift, f"{run.path.name} on {Path(name).name}").rich())
    print(f"${now:.6f} spent now; ${total:.6f} by all checks with this store")
    print(f"written to {run.path / 'live.json'}")
    if drift.failures:
        named = ", ".join(f"{count:,} {kind}" for kind, count in drift.failure_kinds.items())
        first = " ".join(str(drift.failures[0].error).split())
        print(f"{len(drift.failures):,} calls failed or were dearer than expected ({named}; the first: {first})")
    if not drift.answered.all():
        print("the same command asks again for what brought no answer")
        raise SystemExit(1)


@contextmanager
def live_problem(
    run: Run,
    make: Callable[..., Problem],
    *,
    env: str,
    pool: str,
    tasks: TaskSet,
    store: Path | None,
    spend_cap: float | None,
) -> Iterator[Problem]:
    """A problem whose recording grows while it is played; it is kept in the run folder, also after an interruption.

    Args:
        run: of the training; nothing is kept unless it is begun meanwhile.
        make: makes the problem of ``recording`` and ``expander``.
    """
    from routegym.envs import workflow_of
    from routegym.graph.growth import Expander, start_recording
    from routegym.graph.recording import Recording

    place = run.path / "recording"
    answers = store or run.path.with_name(f"{run.path.name}.store")
    with _connected(pool, answers, spend_cap, run.path.name, False) as (connected, _):
        if (place / "meta.json").is_file():
            recording = Recording.load(place)
            workflow = workflow_of(env, [arm.name for arm in recording.arms], recording.tasks)
            expander = Expander(workflow, connected, recording)
        else:
            workflow = workflow_of(env, [arm.name for arm in connected.arms], tasks)
            recording = start_recording(run.path.name, workflow, connected, tasks)
            expander = Expander(workflow, connected, recording)
            recording.fix_scales()
        try:
            yield make(recording=recording, expander=expander)
        finally:
            if run.ours:
                recording.provenance |= {"made_by": "routegym train --live", "complete": recording.graph.complete}
                recording.save(place)
                run.recorded(recording.content_hash)


def tasks_sha256(tasks: TaskSet) -> str:
    """sha256 of what tasks ask, how it is judged and which split they are in."""
    columns = [tasks.ids, tasks.prompts, tasks.references, tasks.splits, tasks.graders, tasks.details]
    return hashlib.sha256(json.dumps(columns).encode()).hexdigest()
