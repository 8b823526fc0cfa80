"""Growing a recording with a strategy, in passes, up to a spend cap."""

from __future__ import annotations

import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from routegym.errors import CallRefusedError, ConfigError, PromptTooLongError, SpendCapError
from routegym.evaluation.summary import always_arm
from routegym.graph.growth import Expander, PoolLike, start_recording
from routegym.pool.arms import Arm, PriceTable
from routegym.pool.backend import Backend, Failure, OnResponse, Request, Response

if TYPE_CHECKING:
    from routegym.collect.strategies import Strategy
    from routegym.graph.recording import Recording
    from routegym.graph.workflow import Workflow
    from routegym.tasks.taskset import TaskSet

__all__ = ["Collected", "arm_rows", "collect", "share_of"]

#: Errors that another pass would only meet again.
_LASTING = (CallRefusedError, PromptTooLongError)
_PAUSE_S = 10.0


@dataclass(frozen=True)
class Collected:
    """What came of recording."""

    recording: Recording
    failures: Mapping[tuple[str, str, int], Failure] = field(repr=False)
    """Calls of the last pass that brought no answer, by (name of the arm, prompt, sample); those that the cap refused
    are among them, those that nobody asked for after that are not."""

    @property
    def refusal(self) -> SpendCapError | None:
        """What the spend cap said of the first call that it refused; None where it refused none."""
        errors = (failure.error for failure in self.failures.values())
        return next((error for error in errors if isinstance(error, SpendCapError)), None)


class _Watched:
    """A pool that tells how many answers were asked for and came, and asks no more once the cap has refused a call."""

    def __init__(self, pool: PoolLike, watch: Callable[[int, int], None] | None) -> None:
        self.arms: tuple[Arm, ...] = pool.arms
        self.prices: PriceTable = pool.prices
        self._pool, self._watch = pool, watch
        self._asked = self._answered = 0
        self.refused: SpendCapError | None = None

    @property
    def backend(self) -> Backend:
        return self

    def count_prompt_tokens(self, requests: Sequence[Request]) -> list[int]:
        return self._pool.backend.count_prompt_tokens(requests)

    def generate(self, requests: Sequence[Request], on_result: OnResponse | None = None) -> list[Response | Failure]:
        if self.refused is not None:
            raise self.refused
        self._asked += len(requests)
        self._tell()

        def report(index: int, result: Response | Failure) -> None:
            self._answered += 1
            self._tell()
            if on_result is not None:
                on_result(index, result)

        results = self._pool.backend.generate(requests, report)
        for result in results:
            if isinstance(result, Failure) and isinstance(result.error, SpendCapError):
                self.refused = result.error
        return results

    def _tell(self) -> None:
        if self._watch is not None:
            self._watch(self._asked, self._answered)


def collect(
    pool: PoolLike,
    workflow: Workflow,
    tasks: TaskSet,
    strategy: Strategy,
    *,
    name: str,
    samples: Mapping[str, int] | None = None,
    share: npt.NDArray[np.int64] | None = None,
    prepare: Callable[[Recording], None] | None = None,
    passes: int = 2,
    pause_s: float = _PAUSE_S,
    watch: Callable[[int, int], None] | None = None,
) -> Collected:
    """Record what a strategy asks for.

    With a pool that is connected to a store this goes on where an earlier, interrupted call with the same arguments
    was: the recording is grown anew, and what the store knows is not asked again.

    Args:
        pool: answers.
        workflow: the environment family.
        tasks: of the recording.
        strategy: chooses what is recorded.
        name: of the recording.
        samples: recorded samples for each arm name; 1 where an arm is not named.
        share: indices of the tasks that are recorded; all by default.
        prepare: called with the recording while it has nothing but start situations; by default scales are fixed
            at the end.
        passes: how often calls that brought no answer are tried.
        pause_s: wait before another pass.
        watch: called with (answers asked for so far, answers that came) whenever one of them changes.

    Raises:
        ConfigError: `samples` makes no sense, or `passes` is not at least 1.
        GraderError: an answer could not be graded; the answers are kept in the store.
        PoolError, StoreError: a backend or the store cannot be used.
    """
    if passes < 1:
        raise ConfigError(f"passes = {passes}; expected at least 1")
    watched = _Watched(pool, watch)
    recording = start_recording(name, workflow, watched, tasks)
    expander = Expander(workflow, watched, recording, samples)
    if prepare is not None:
        prepare(recording)
    mine = np.arange(len(tasks)) if share is None else share
    for number in range(passes):
        if number:
            time.sleep(pause_s)
        with expander.one_pass() as failures, suppress(SpendCapError):
            strategy(expander, mine)
        if watched.refused or all(isinstance(failure.error, _LASTING) for failure in failures.values()):
            break
    # A pool may only bound what it will be charged for a prompt; what was charged is what a loaded recording goes by.
    recording.graph.set_reserves()
    if prepare is None:
        recording.fix_scales()
    return Collected(recording, failures)


def share_of(tasks: TaskSet, index: int, count: int) -> npt.NDArray[np.int64]:
    """Indices of the tasks of one of `count` shares, ascending; tasks with the same prompt are in the same share."""
    shares = np.array([zlib.crc32(prompt.encode()) % count for prompt in tasks.prompts], dtype=np.int64)
    return np.flatnonzero(shares == index).astype(np.int64)


def arm_rows(collected: Collected) -> list[dict[str, Any]]:
    """What is recorded of each arm.

    Returns:
        One row per arm: ``arm``, ``choices`` (recorded; several may rest on one call), ``mean_cost_usd`` (of one,
        None where there is none), ``score`` (mean over all tasks of always this arm, None where that is not recorded)
        and ``failures`` (number by kind of error).
    """
    recording = collected.recording
    graph = recording.graph
    _, action = graph.edge_sources()
    rows = []
    for index, arm in enumerate(recording.arms):
        costs = graph.edges["cost_usd"][action == index]
        kinds = (type(f.error).__name__ for (asked, _, _), f in collected.failures.items() if asked == arm.name)
        score = float(always_arm(graph, index)[0].mean())
        rows.append(
            {
                "arm": arm.name,
                "choices": len(costs),
                "mean_cost_usd": float(costs.mean()) if len(costs) else None,
                "score": None if np.isnan(score) else score,
                "failures": dict(Counter(kinds)),
            }
        )
    return rows
