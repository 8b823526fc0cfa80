"""An arm that training never saw: how much of its worth does the arm-attention network get out of its descriptor?

    python benchmarks/unseen_arm.py            # prints the table
    python benchmarks/unseen_arm.py --write    # also writes docs/ablations/unseen_arm.md
    python benchmarks/unseen_arm.py --recording recordings/mine --left-out big/direct,big/written other/direct

AgentSteps, or any recording. Each arm in turn, or each of the named groups of arms, is left out of the pool. A policy
trained without it is played without it, then with it, having learned nothing; beside them a policy of the same recipe
that was trained with it. AIQ is taken over hard budgets and prices of cost on the test tasks, always on the cost range
of the whole pool.
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
HEADER = ("left out", "without", "added unseen", "trained with", "gain", "share of the gain recovered", "calls to it")


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


def calls_to(policy: NetworkPolicy, recording: Recording, split: str, arms: Sequence[str]) -> float:
    """Share of the calls that go to some arms, over the budgets and at no price of cost."""
    tasks = recording.split(split)
    env = RoutingVectorEnv(len(tasks), recording, split=split, info="lean", autoreset_mode="SameStep")
    caps = np.geomspace(*recording.budget_range_usd, N_BUDGETS)
    calls = np.sum([rollout(policy, env, tasks, budget_usd=cap).arm_counts.sum(axis=0) for cap in caps], axis=0)
    named = [recording.action_names.index(arm) for arm in arms]
    return float(calls[named].sum() / calls[: len(recording.arms)].sum())


def measure(
    recording: Recording, groups: Sequence[Sequence[str]], learner: AllAction, seed: int, split: str
) -> np.ndarray:
    """For each group, float64 (groups, 4): AIQ without it, with it unseen, with it trained; share of calls to it."""
    bounds = cost_range(recording, recording.split(split))

    def fit(pool: Recording) -> NetworkPolicy:
        return learner.fit(Problem(vary_arms(pool, DROP, seed=seed)), seed)

    trained = quality(fit(recording), recording, split, bounds)
    rows = []
    for left_out in groups:
        fewer = keep_arms(recording, [arm.name for arm in recording.arms if arm.name not in left_out])
        policy = fit(fewer)
        without = quality(policy, fewer, split, bounds)
        moved = policy.adapt(recording)
        used = calls_to(moved, recording, split, left_out)
        rows.append((without, quality(moved, recording, split, bounds), trained, used))
    return np.array(rows)


def table(groups: Sequence[Sequence[str]], values: np.ndarray) -> list[list[str]]:
    """Rows of the table; `values` float64 (seeds, groups, 4)."""
    rows = []
    for arms, of_arm in zip(groups, np.moveaxis(values, 1, 0), strict=True):
        mean, spread = of_arm.mean(axis=0), of_arm.std(axis=0)
        gain = of_arm[:, 2] - of_arm[:, 0]
        unseen = mean[1] - mean[0]
        # a gain that is no larger than the spread between seeds has no share worth naming
        worth = gain.mean() > 2 * gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else False
        share = f"{100 * unseen / gain.mean():.0f} %" if worth else "-"
        cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(mean[:3], spread, strict=False)]
        rows.append([", ".join(arms), *cells, f"{gain.mean():+.3f}", share, f"{mean[3]:.0%}"])
    return rows


def page(name: str, rows: Sequence[Sequence[str]], note: str) -> str:
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
            f"How much of the arm's worth does it get without learning anything more? AIQ on `{name}`:",
            "",
            *lines,
            "",
            "± is the standard deviation between seeds. No share is given where the gain from training with the arm is",
            "within two standard errors of nothing: the other arms make up for it. The last column is the share of the",
            "calls that the unseen gets over the budgets.",
            "",
            f"Every policy is trained with `vary_arms(recording, {DROP})`: each training task lacks a random part of",
            "the pool. Not shown: descriptors measured on other tasks.",
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
    parser.add_argument("--left-out", nargs="+", metavar="ARM,ARM", help="groups of arms; each arm alone by default")
    parser.add_argument("--split", default="test")
    parser.add_argument("--quick", action="store_true", help="only show that it runs")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(arguments)
    recording, began = load_recording(options.recording), time.process_time()
    learner = replace(LEARNER, updates=5) if options.quick else LEARNER
    groups = [group.split(",") for group in options.left_out or [arm.name for arm in recording.arms]]
    values = np.stack([measure(recording, groups, learner, seed, options.split) for seed in range(options.seeds)])
    rows = table(groups, values)
    named = ""
    if options.left_out is not None:
        named = f"--recording {options.recording} --left-out {' '.join(options.left_out)} "
    note = (
        f"{machine(['numpy', 'torch'])}; seeds 0 to {options.seeds - 1}, {options.split} split, "
        f"{time.process_time() - began:.0f} CPU s; "
        f"`python benchmarks/unseen_arm.py {named}--seeds {options.seeds} --write`"
    )
    show("AIQ with an arm that training never saw", HEADER, rows, note)
    if options.write:
        place = PAGE if options.left_out is None else PAGE.with_stem(f"unseen_arm_{recording.name}")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(page(recording.name, rows, note), encoding="utf-8")


if __name__ == "__main__":
    main()
