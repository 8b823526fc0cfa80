"""A recording in numbers: tasks, arms, what always calling one of them brings, and what the best choices would."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from routegym.graph.graph import OPEN
from routegym.graph.values import always_arm_actions
from routegym.pool.arms import TOKEN_KINDS

if TYPE_CHECKING:
    from routegym.evaluation.statistics import Interval
    from routegym.graph.graph import TransitionGraph
    from routegym.graph.recording import Recording

__all__ = ["ArmSummary", "OracleSummary", "RecordingSummary", "always_arm", "summarize"]


@dataclass(frozen=True)
class ArmSummary:
    """One arm: what its recorded calls took, and what calling nothing else brings."""

    name: str
    calls: int
    """Recorded calls, all samples."""
    tokens: Mapping[str, float]
    """Mean tokens of a call by kind."""
    latency_s: tuple[float, float]
    """Median and 95th percentile of a call's seconds, as measured while recording; NaN without calls."""
    timed: bool
    """Whether any of its calls has a duration: imported data may have none."""
    gpu_s: float
    """GPU-seconds of all its calls."""
    retries: int
    """Failed attempts before an answer, all calls together."""
    lost_tokens: int
    """Tokens charged for failed attempts."""
    fallbacks: int
    """Calls that another arm answered."""
    tasks: int
    """Tasks on which always calling it is recorded to the end."""
    score: Interval | None
    """Mean score of always calling it, over these tasks; None where there are none."""
    cost_usd: Interval | None
    """Mean cost, likewise."""
    score_by_kind: Mapping[str, float]
    """Mean score by kind of task, of kinds with such tasks."""


@dataclass(frozen=True)
class OracleSummary:
    """The clairvoyant optimum on the tasks that are recorded completely."""

    tasks: int
    score: float
    """Mean score without a cap."""
    cost_usd: float
    """Least mean cost of that score."""
    score_by_kind: Mapping[str, float]
    best_arm: str
    """The single arm with the best mean score on the same tasks."""
    best_arm_score: float
    best_arm_cost_usd: float
    score_at_that_cost: float
    """What the optimum scores at the best arm's mean cost."""
    cost_of_that_score_usd: float
    """What the optimum pays for the best arm's mean score."""


@dataclass(frozen=True)
class RecordingSummary:
    """See `summarize`."""

    name: str
    kind: str
    content_hash: str
    complete: bool
    """Whether every legal action of every situation is recorded."""
    tasks: Mapping[str, Mapping[str, int]]
    """Number of tasks by kind ("" = no kind is given) and split."""
    situations: int
    ended: int
    """Situations in which an episode is over."""
    calls: int
    """Recorded calls of arms, all samples."""
    control_actions: int
    """Recorded control actions; they call nobody."""
    arms: tuple[ArmSummary, ...]
    oracle: OracleSummary | None
    """None where no task is recorded completely."""
    provenance: Mapping[str, Any]

    @property
    def licence(self) -> str:
        """What the provenance says of it."""
        return str(self.provenance.get("licence", "not stated"))


def summarize(recording: Recording) -> RecordingSummary:
    """Work the numbers out: exact over the recorded samples; intervals are bootstraps over tasks, 95 %."""
    graph, tasks = recording.graph, recording.tasks
    _, action = graph.edge_sources()
    counted: dict[str, Counter[str]] = {}
    for kind, split in zip(tasks.kinds, tasks.splits, strict=True):
        counted.setdefault(kind, Counter())[split] += 1
    outcomes = [always_arm(graph, arm) for arm in range(graph.n_arms)]
    return RecordingSummary(
        name=recording.name,
        kind=recording.kind,
        content_hash=recording.content_hash,
        complete=graph.complete,
        tasks={kind: dict(counted[kind]) for kind in sorted(counted)},
        situations=graph.n_nodes,
        ended=int((graph.node_status != OPEN).sum()),
        calls=int((action < graph.n_arms).sum()),
        control_actions=int((action >= graph.n_arms).sum()),
        arms=tuple(
            _arm_summary(recording, arm, graph.edges[action == arm], *outcomes[arm]) for arm in range(graph.n_arms)
        ),
        oracle=_oracle(recording, outcomes),
        provenance=recording.provenance,
    )


def always_arm(graph: TransitionGraph, arm: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Expected score and cost of each task when one arm is always called, as `always_arm_actions` says.

    Unlike `evaluate_choices` it takes an incomplete graph.

    Returns:
        score and cost_usd, float64 (n_tasks,); NaN where a call that may be needed was not recorded, or is not legal.
    """
    source, action = graph.edge_sources()
    score = graph.node_score.astype(np.float64)
    cost = np.where(graph.node_status == OPEN, np.nan, 0.0)
    taken = np.flatnonzero(action == always_arm_actions(graph, arm)[source])
    step = graph.node_step[source[taken]]
    for layer in np.unique(step)[::-1]:  # every edge leads to a larger step
        edges = taken[step == layer]
        nodes, place, count = np.unique(source[edges], return_inverse=True, return_counts=True)
        records = graph.edges[edges]
        score[nodes] = np.bincount(place, score[records["next"]]) / count
        cost[nodes] = np.bincount(place, records["cost_usd"] + cost[records["next"]]) / count
    barred = np.isnan(graph.node_reserve[graph.task_start, arm])
    return np.where(barred, np.nan, score[graph.task_start]), np.where(barred, np.nan, cost[graph.task_start])


def _arm_summary(
    recording: Recording,
    arm: int,
    calls: npt.NDArray[np.void],
    score: npt.NDArray[np.float64],
    cost: npt.NDArray[np.float64],
) -> ArmSummary:
    from routegym.evaluation.statistics import mean_interval

    known = np.flatnonzero(~np.isnan(score))
    means = calls["tokens"].mean(axis=0) if len(calls) else np.zeros(len(TOKEN_KINDS))
    latency = np.percentile(calls["latency_s"], [50, 95]) if len(calls) else (np.nan, np.nan)
    return ArmSummary(
        name=recording.arms[arm].name,
        calls=len(calls),
        tokens=dict(zip(TOKEN_KINDS, means.tolist(), strict=True)),
        latency_s=(float(latency[0]), float(latency[1])),
        timed=bool(calls["latency_s"].any()),
        gpu_s=float(calls["gpu_s"].sum(dtype=np.float64)),
        retries=int(calls["retries"].sum(dtype=np.int64)),
        lost_tokens=int(calls["lost"].sum(dtype=np.int64)),
        fallbacks=int((calls["fallback"] > 0).sum()),
        tasks=len(known),
        score=mean_interval(score[known]) if len(known) else None,
        cost_usd=mean_interval(cost[known]) if len(known) else None,
        score_by_kind=_by_kind(recording, known, score[known]),
    )


def _by_kind(recording: Recording, tasks: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> dict[str, float]:
    kinds = np.array(recording.tasks.kinds)[tasks]
    return {str(kind): float(values[kinds == kind].mean()) for kind in np.unique(kinds)}


def _oracle(
    recording: Recording, outcomes: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]
) -> OracleSummary | None:
    from routegym.evaluation.oracle import oracle_at_lambda, oracle_frontier

    graph = recording.graph
    missing = (graph.edge_first < 0) & ~np.isnan(graph.node_reserve) & (graph.node_status == OPEN)[:, None]
    tasks = np.setdiff1d(np.arange(graph.n_tasks), graph.node_task[missing.any(axis=1)])
    if not len(tasks):
        return None
    score, cost = oracle_at_lambda(graph, tasks, 0.0)
    scores = [float(mine[tasks].mean()) for mine, _ in outcomes]
    best = int(np.argmax(scores))
    paid = float(outcomes[best][1][tasks].mean())
    costs, reached = oracle_frontier(graph, tasks)
    return OracleSummary(
        tasks=len(tasks),
        score=float(score.mean()),
        cost_usd=float(cost.mean()),
        score_by_kind=_by_kind(recording, tasks, score),
        best_arm=recording.arms[best].name,
        best_arm_score=scores[best],
        best_arm_cost_usd=paid,
        score_at_that_cost=float(np.interp(paid, costs, reached)),
        cost_of_that_score_usd=float(np.interp(scores[best], reached, costs)),
    )
