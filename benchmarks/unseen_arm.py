"""An arm that training never saw: how much of its worth does the arm-attention network get out of its descriptor?

    python benchmarks/unseen_arm.py            # prints the table
    python benchmarks/unseen_arm.py --write    # also writes docs/ablations/unseen_arm.md

AgentSteps. Each arm in turn is left out of the pool. A policy trained without it is played without it, then with it,
having learned nothing; beside them a policy of the same recipe that was trained with it. AIQ is taken over hard budgets
and prices of cost on the test tasks, always on the cost range of the whole pool.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import machine, show

from routegym.core.rollout import rollout
from routegym.core.vector_env import RoutingVectorEnv
from routegym.evaluation.frontier import aiq, hull
from routegym.graph import Recording, always_arm_actions, evaluate_choices, keep_arms, vary_arms
from routegym.graph.library import load_recording
from routegym.policies.algorithm import Problem
from routegym.policies.all_action import AllAction
from routegym.policies.network import NetworkPolicy

PAGE = Path(__file__).resolve().parents[1] / "docs" / "ablations" / "unseen_arm.md"
LEARNER = AllAction(network="attention", updates=400, tasks_per_update=256, ent_coef=0.03)
DROP = 0.3
LAMBDAS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5)
N_BUDGETS = 8
HEADER = ("arm left out", "without it", "added unseen", "trained with it", "gain", "share of the gain recovered")


def cost_range(recording: Recording, tasks: np.ndarray) -> tuple[float, float]:
    """Mean cost (USD) of always the cheapest and always the dearest arm."""
    graph = recording.graph
    costs = [
        evaluate_choices(graph, always_arm_actions(graph, arm))[1][graph.task_start[tasks]].mean()
        for arm in range(graph.n_arms)
    ]
    return float(min(costs)), float(max(costs))


def quality(policy: NetworkPolicy, recording: Recording, split: str, bounds: tuple[float, float]) -> float:
    """AIQ of one policy over budgets and prices of cost."""
    tasks = recording.split(split)
    env = RoutingVectorEnv(len(tasks), recording, split=split, info="lean", autoreset_mode="SameStep")
    caps = np.append(np.geomspace(*recording.budget_range_usd, N_BUDGETS), np.inf)
    points = []
    for cap in caps:
        for price in LAMBDAS:
            table = rollout(policy, env, tasks, budget_usd=cap, lambda_=price)
            points.append((table.cost_usd.mean(), table.score.mean()))
    cost, score = np.transpose(points)
    return float(aiq(hull(cost, score), *bounds))


def measure(recording: Recording, learner: AllAction, seed: int, split: str) -> np.ndarray:
    """AIQ float64 (n_arms, 3): without each arm, with it unseen, with it trained."""
    bounds = cost_range(recording, recording.split(split))

    def fit(pool: Recording) -> NetworkPolicy:
        return learner.fit(Problem(vary_arms(pool, DROP, seed=seed)), seed)

    trained = quality(fit(recording), recording, split, bounds)
    rows = []
    for left_out in recording.arms:
        fewer = keep_arms(recording, [arm.name for arm in recording.arms if arm != left_out])
        policy = fit(fewer)
        without = quality(policy, fewer, split, bounds)
        rows.append((without, quality(policy.adapt(recording), recording, split, bounds), trained))
    return np.array(rows)


def table(recording: Recording, values: np.ndarray) -> list[list[str]]:
    """Rows of the table; `values` float64 (seeds, n_arms, 3)."""
    rows = []
    for arm, of_arm in zip(recording.arms, np.moveaxis(values, 1, 0), strict=True):
        mean, spread = of_arm.mean(axis=0), of_arm.std(axis=0)
        gain = of_arm[:, 2] - of_arm[:, 0]
        unseen = mean[1] - mean[0]
        # a gain that is no larger than the spread between seeds has no share worth naming
        worth = gain.mean() > 2 * gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else False
        share = f"{100 * unseen / gain.mean():.0f} %" if worth else "-"
        cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(mean, spread, strict=True)]
        rows.append([arm.name, *cells, f"{gain.mean():+.3f}", share])
    return rows


def page(rows: Sequence[Sequence[str]], note: str) -> str:
    """The page of docs/."""
    lines = [
        f"| {' | '.join(HEADER)} |",
        f"| --- |{' ---: |' * (len(HEADER) - 1)}",
        *(f"| {' | '.join(r)} |" for r in rows),
    ]
    return "\n".join(
        [
            "# An arm that training never saw",
            "",
            "The arm-attention network knows an arm by its descriptor (price, measured accuracy by kind of situation,",
            "latency, tokens), so a policy can be moved to a pool with another arm: `policy.adapt(recording)`.",
            "How much of the arm's worth does it get without learning anything more? AIQ on AgentSteps:",
            "",
            *lines,
            "",
            "± is the standard deviation between seeds. No share is given where the gain from training with the arm is",
            "within two standard errors of nothing: the other arms make up for it.",
            "",
            f"Every policy is trained with `vary_arms(recording, {DROP})`: each training task lacks a random part of",
            "the pool. Not shown: arms of other families of models, and descriptors measured on other tasks.",
            "",
            note,
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recording", default="agent_steps")
    parser.add_argument("--split", default="test")
    parser.add_argument("--quick", action="store_true", help="only show that it runs")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(arguments)
    recording, began = load_recording(options.recording), time.process_time()
    learner = replace(LEARNER, updates=5) if options.quick else LEARNER
    values = np.stack([measure(recording, learner, seed, options.split) for seed in range(options.seeds)])
    rows = table(recording, values)
    note = (
        f"{machine(['numpy', 'torch'])}; seeds 0 to {options.seeds - 1}, {options.split} split, "
        f"{time.process_time() - began:.0f} CPU s; `python benchmarks/unseen_arm.py --seeds {options.seeds} --write`"
    )
    show("AIQ with an arm that training never saw", HEADER, rows, note)
    if options.write:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(page(rows, note), encoding="utf-8")


if __name__ == "__main__":
    main()
