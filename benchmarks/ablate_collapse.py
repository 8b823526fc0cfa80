"""Does a router collapse to the small arm under a sparse terminal reward, and what prevents it?

BoPO-style training on AgentSteps with and without its warm start and its reference-guided advantages:
`python benchmarks/ablate_collapse.py`; `--write` puts the table into docs/ablations/collapse.md.
"""

from __future__ import annotations

import argparse
import time
from itertools import product
from pathlib import Path

import common
import numpy as np
import torch

from routegym.core.rollout import rollout
from routegym.core.vector_env import RoutingVectorEnv
from routegym.graph.library import load_recording
from routegym.policies.algorithm import Problem
from routegym.policies.baselines import AlwaysArm
from routegym.policies.bopo import BoPO, Boundary
from routegym.policies.policy import Policy

PAGE = Path(__file__).resolve().parents[1] / "docs" / "ablations" / "collapse.md"
HEADER = ("training", "small", "success", "USD per task", "objective", "collapsed")
LAMBDA = 0.5
COLLAPSED = 0.9


def measure(policy: Policy, env: RoutingVectorEnv, small: int, budget: float) -> tuple[float, float, float, float]:
    """Share of calls of the small arm, success, mean cost in USD, score - lambda * cost."""
    table = rollout(policy, env, env.tasks, budget_usd=budget, lambda_=LAMBDA)
    share = table.arm_counts[:, small].sum() / table.arm_counts.sum()
    cost = table.cost_usd.mean()
    score = table.score.mean()
    return float(share), float(score), float(cost), float(score - LAMBDA * cost / env.recording.cost_scale_usd)


def row(name: str, results: list[tuple[float, float, float, float]]) -> tuple[str, ...]:
    """Means with their range over the seeds, and how many collapsed."""
    share, score, cost, objective = np.array(results).T
    several = len(results) > 1

    def spread(values: np.ndarray, form: str) -> str:
        text = format(values.mean(), form)
        return f"{text} ({values.min():{form}} to {values.max():{form}})" if several else text

    collapsed = f"{(share >= COLLAPSED).sum()} of {len(share)}" if several else "-"
    return name, spread(share, ".0%"), spread(score, ".3f"), f"{cost.mean():.2e}", spread(objective, ".3f"), collapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="too short to mean anything")
    parser.add_argument("--write", action="store_true", help="put the table into docs/ablations/collapse.md")
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    recording = load_recording("agent_steps")
    problems = {
        name: Problem(recording, budget, LAMBDA) for name, budget in (("no budget", None), ("budgets", "sampled"))
    }
    boundary = Boundary.measure(problems["no budget"], seed=0, rollouts=1)
    env = RoutingVectorEnv(len(recording.split("val")), recording, split="val", autoreset_mode="SameStep", info="lean")
    steps = 10_000 if args.quick else 150_000
    seeds = range(1 if args.quick else args.seeds)
    rows = [
        row(f"always {name}", [measure(AlwaysArm(recording, arm), env, boundary.small, np.inf)])
        for name, arm in (("small", boundary.small), ("large", boundary.large))
    ]
    began = time.process_time()
    for (drawn, problem), warm_start in product(problems.items(), (False, True)):
        budget = np.inf if problem.budget_usd is None else recording.budget_range_usd[1]
        for guidance, scale in (("none", "std"), ("append", "std"), ("floor", "std"), ("none", "none")):
            algorithm = BoPO(steps=steps, n_envs=512, guidance=guidance, scale=scale, warm_start=warm_start)
            results = [measure(algorithm.fit(problem, seed), env, boundary.small, budget) for seed in seeds]
            name = f"{drawn}, {'warm start' if warm_start else 'from scratch'}, {guidance}"
            rows.append(row(name + ", not scaled" * (scale == "none"), results))
    note = (
        f"{len(seeds)} seeds, {steps:,} steps each, {time.process_time() - began:.0f} CPU seconds in all; objective = "
        f"score - {LAMBDA} x cost / {recording.cost_scale_usd:.3g} USD. "
        f"{common.machine(('routegym', 'torch', 'stable-baselines3'))}. "
        "Command: `python benchmarks/ablate_collapse.py --write`"
    )
    common.show("Collapse to the small arm", HEADER, rows, note)
    if args.write:
        common.write("collapse", HEADER, rows, note, PAGE)


if __name__ == "__main__":
    main()
