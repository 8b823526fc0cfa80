"""One policy beside every simple strategy and the exact optimum, on the same tasks and budgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from routegym.core.vector_env import RoutingVectorEnv
from routegym.errors import ConfigError
from routegym.evaluation.frontier import aiq, hull
from routegym.evaluation.oracle import oracle_at_cap, oracle_at_lambda, oracle_frontier
from routegym.evaluation.plots import Curve
from routegym.evaluation.rollout import EpisodeTable, rollout
from routegym.evaluation.statistics import Interval, Sweep, aiq_difference, gap_closed_interval, score_bands
from routegym.graph.values import always_arm_actions, evaluate_choices
from routegym.policies.baselines import AlwaysArm, ConfidenceCascade, FirstLargeK, Random

if TYPE_CHECKING:
    from routegym.graph.recording import Recording
    from routegym.policies.policy import Policy

__all__ = ["Comparison", "budget_grid", "compare"]

_THRESHOLDS = (0.5, 0.8, 0.9, 0.95, 0.99)
_LAMBDAS = 25

#: Called with what is being evaluated, how many of them are done, and how many there are.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Comparison:
    """Outcomes of everything on one split, ready for a table, a picture and a file."""

    recording: str
    content_hash: str
    split: str
    tasks: npt.NDArray[np.int64]
    budgets: npt.NDArray[np.float64]
    """Hard caps in USD that everything was evaluated under; the fixed strategies also without one."""
    policy: Sweep
    """The learned policy: (seeds, budgets, tasks)."""
    arms: Sweep
    """Always-one-arm without a cap: (1, arms, tasks); its hull is the zero router."""
    fixed: Mapping[str, Sweep]
    """Each fixed strategy over its parameters and budgets, no cap included: (1, points, tasks)."""
    oracle_cap: Sweep
    """The clairvoyant optimum under each hard cap: (1, budgets, tasks)."""
    oracle_mean: Sweep
    """The clairvoyant optimum for a range of prices of cost: (1, lambdas, tasks)."""
    oracle_hull: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
    """Exact frontier under a mean budget: (costs, scores) of its vertices."""
    violations: int
    arm_shares: npt.NDArray[np.float64]
    """Share of the learned policy's calls that go to each action, by budget: (budgets, actions)."""
    action_names: tuple[str, ...]
    episodes: Mapping[str, Any] = field(default_factory=dict)
    """Columns of ``results.parquet``: one row per policy, seed and budget."""

    def metrics(self, resamples: int = 1000) -> dict[str, Any]:
        """Everything that is reported, as JSON-able numbers; intervals are paired bootstraps over tasks and seeds."""
        cost, score = self.policy.points()
        arm_cost, arm_score = self.arms.points()
        low, high = float(arm_cost.min()), float(arm_cost.max())
        zero = hull(arm_cost, arm_score)
        rivals = {"zero router": self.arms, **self.fixed}
        return {
            "recording": self.recording,
            "content_hash": self.content_hash,
            "split": self.split,
            "tasks": len(self.tasks),
            "seeds": int(self.policy.scores.shape[0]),
            "cost_range_usd": [low, high],
            "policy": {
                "aiq": aiq(hull(cost, score), low, high),
                "violations": self.violations,
                "budgets": [
                    {
                        "budget_usd": float(budget),
                        "score": float(score[i]),
                        "cost_usd": float(cost[i]),
                        "oracle_score": float(self.oracle_cap.scores[0, i].mean()),
                        "oracle_cost_usd": float(self.oracle_cap.costs[0, i].mean()),
                        "shares": dict(zip(self.action_names, self.arm_shares[i].tolist(), strict=True)),
                    }
                    for i, budget in enumerate(self.budgets)
                ],
            },
            "arms": {
                name: {"cost_usd": float(c), "score": float(s)}
                for name, c, s in zip(self.action_names, arm_cost, arm_score, strict=False)
            },
            "zero_router": {"aiq": aiq(zero, low, high)},
            "oracle": {"aiq": aiq(hull(*self.oracle_hull), low, high)},
            "oracle_gap_closed": _interval(
                gap_closed_interval(self.policy, self.oracle_mean, self.arms, resamples=resamples)
            ),
            "against": {
                name: {
                    "aiq": aiq(hull(*sweep.points()), low, high),
                    "difference": _interval(aiq_difference(self.policy, sweep, self.arms, resamples=resamples)),
                }
                for name, sweep in rivals.items()
            },
        }

    def curves(self) -> list[Curve]:
        """What `frontier_figure` draws: each fixed strategy as the hull of its points."""
        low, high = score_bands(self.policy)
        budgeted = self.policy.points()
        optimum = self.oracle_cap.points()
        zero = hull(*self.arms.points())
        families = {name: sweep for name, sweep in self.fixed.items() if not name.startswith("always ")}
        hulls = {name: hull(*sweep.points()) for name, sweep in families.items()}
        return [
            Curve("oracle, mean budget", *self.oracle_hull, kind="oracle"),
            Curve("oracle, hard budget", *optimum, kind="oracle"),
            Curve("learned policy", *budgeted, kind="policy", low=low, high=high),
            Curve("zero router", zero.costs, zero.scores, kind="zero"),
            *(Curve(name, found.costs, found.scores, kind="fixed") for name, found in hulls.items()),
            *(
                Curve(name, [cost], [score], kind="arm")
                for name, cost, score in zip(self.action_names, *self.arms.points(), strict=False)
            ),
        ]


def budget_grid(recording: Recording, count: int = 10) -> npt.NDArray[np.float64]:
    """Budgets spaced evenly on a log scale over the recording's range, float64 (count,)."""
    low, high = recording.budget_range_usd
    return np.geomspace(low, high, count)


def compare(
    recording: Recording,
    policies: Mapping[int, Policy],
    *,
    budgets: npt.ArrayLike | None = None,
    split: str = "test",
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Evaluate a learned policy, the fixed strategies and the oracle on one split.

    Args:
        recording: complete.
        policies: the learned policy by training seed.
        budgets: hard caps in USD, `budget_grid` by default.
        split: tasks to evaluate on.
        seed: fixes the recorded samples met and the random strategy.
        progress: is told what is going on.

    Raises:
        ConfigError: no policy.
        BudgetError: a budget below the cheapest arm of a task.
        MissingEdgeError: the recording is incomplete.
    """
    if not policies:
        raise ConfigError("no policy to compare; train one first")
    tasks = recording.split(split)
    caps = np.sort(np.atleast_1d(np.asarray(budget_grid(recording) if budgets is None else budgets, dtype=np.float64)))
    arms = [AlwaysArm(recording, arm.name) for arm in recording.arms]
    strategies = _strategies(recording, tasks, seed)
    total, done = len(policies) + len(arms) + sum(map(len, strategies.values())) + 1, 0

    def play(name: str, policy: Policy, limits: npt.NDArray[np.float64]) -> EpisodeTable:
        nonlocal done
        if progress is not None:
            progress(name, done, total)
        done += 1
        env = RoutingVectorEnv(len(tasks) * len(limits), recording, split=split, info="lean", autoreset_mode="SameStep")
        return rollout(policy, env, np.tile(tasks, len(limits)), budget_usd=np.repeat(limits, len(tasks)), seed=seed)

    open_ended = np.append(caps, np.inf)
    learned = [play(f"policy, seed {number}", policy, caps) for number, policy in policies.items()]
    alone = [play(f"always {arm.name}", policy, open_ended) for arm, policy in zip(recording.arms, arms, strict=True)]
    fixed = {name: [play(name, policy, open_ended) for policy in variants] for name, variants in strategies.items()}
    fixed |= {f"always {arm.name}": [table] for arm, table in zip(recording.arms, alone, strict=True)}
    if progress is not None:
        progress("oracle", total - 1, total)
    capped = [oracle_at_cap(recording.graph, tasks, float(cap)) for cap in caps]
    prices = np.concatenate([[0.0], np.geomspace(1e-3, 1e3, _LAMBDAS)]) / recording.cost_scale_usd
    priced = [oracle_at_lambda(recording.graph, tasks, float(price)) for price in prices]
    uncapped = [_outcomes([table], len(tasks)) for table in alone]
    names = [f"policy/{number}" for number in policies] + [name for name, tables in fixed.items() for _ in tables]
    tables = learned + [table for variants in fixed.values() for table in variants]
    counts = np.sum([t.arm_counts for t in learned], axis=0).reshape(len(caps), len(tasks), -1).sum(axis=1)
    return Comparison(
        recording=recording.name,
        content_hash=recording.content_hash,
        split=split,
        tasks=tasks,
        budgets=caps,
        policy=Sweep(
            *(np.concatenate(part) for part in zip(*(_outcomes([t], len(tasks)) for t in learned), strict=True))
        ),
        arms=Sweep(*(np.concatenate([part[:, -1:] for part in side], axis=1) for side in zip(*uncapped, strict=True))),
        fixed={name: Sweep(*_outcomes(variants, len(tasks))) for name, variants in fixed.items()},
        oracle_cap=_sweep(capped),
        oracle_mean=_sweep(priced),
        oracle_hull=oracle_frontier(recording.graph, tasks),
        violations=int(sum(table.violations.sum() for table in learned)),
        arm_shares=counts / counts.sum(axis=1, keepdims=True),
        action_names=recording.action_names,
        episodes=_rows(names, tables, len(tasks)),
    )


def _strategies(recording: Recording, tasks: npt.NDArray[Any], seed: int) -> dict[str, list[Policy]]:
    """Each fixed strategy over its parameters.

    Ladders and pairs are built from the arms on the zero router's hull of these very tasks, which flatters them.
    """
    graph = recording.graph
    alone = [evaluate_choices(graph, always_arm_actions(graph, arm)) for arm in range(graph.n_arms)]
    starts = graph.task_start[tasks]
    points = [(float(cost[starts].mean()), float(score[starts].mean())) for score, cost in alone]
    kept = hull(*zip(*points, strict=True))
    ladder = [points.index(point) for point in zip(kept.costs.tolist(), kept.scores.tolist(), strict=True)]
    pairs = list(combinations(ladder, 2)) or [(ladder[0], ladder[0])]
    longest = int(graph.node_step.max())
    strategies: dict[str, list[Policy]] = {
        "random": [Random(recording, seed=seed)],
        "first-large-k": [
            FirstLargeK(recording, k, large=large, small=small) for small, large in pairs for k in range(1, longest)
        ],
        "confidence cascade": [
            ConfidenceCascade(recording, rungs, threshold) for rungs in (ladder, *pairs) for threshold in _THRESHOLDS
        ],
    }
    return {name: variants for name, variants in strategies.items() if variants}  # k needs a second call


def _outcomes(tables: Sequence[EpisodeTable], n_tasks: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Scores and costs, float64 (1, points, tasks) each."""
    return (
        np.concatenate([table.score.reshape(-1, n_tasks) for table in tables])[None],
        np.concatenate([table.cost_usd.reshape(-1, n_tasks) for table in tables])[None],
    )


def _sweep(points: Sequence[tuple[Any, Any]]) -> Sweep:
    return Sweep(np.array([score for score, _ in points])[None], np.array([cost for _, cost in points])[None])


def _rows(names: Sequence[str], tables: Sequence[EpisodeTable], n_tasks: int) -> dict[str, Any]:
    """One row per policy, seed and budget."""
    rows: dict[str, list[Any]] = {
        key: [] for key in ("policy", "seed", "budget_usd", "lambda", "score", "cost_usd", "violations")
    }
    for name, table in zip(names, tables, strict=True):
        policy, _, number = name.partition("/") if name.startswith("policy/") else (name, "", "")
        for low in range(0, len(table), n_tasks):
            part = slice(low, low + n_tasks)
            rows["policy"].append(policy)
            rows["seed"].append(int(number) if number else 0)
            rows["budget_usd"].append(float(table.budget_usd[low]))
            rows["lambda"].append(float(table.lambda_[low]))
            rows["score"].append(float(table.score[part].mean()))
            rows["cost_usd"].append(float(table.cost_usd[part].mean()))
            rows["violations"].append(int(table.violations[part].sum()))
    return rows


def _interval(interval: Interval) -> dict[str, Any]:
    return asdict(interval) | {"excludes_zero": interval.excludes_zero}
