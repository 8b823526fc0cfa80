"""One policy for every budget beside one policy per budget: what conditioning on the budget costs.

    python benchmarks/ablate_conditioning.py            # prints the table, about 5 minutes
    python benchmarks/ablate_conditioning.py --write    # also puts it into docs/ablations/conditioning.md

AgentSteps, the all-action learner with its tuned hyperparameters. The conditioned policy draws a budget per episode;
the others are trained at one budget each, with as many updates as it has in all. Every policy is played at its
budgets and the same prices of cost on the test tasks; the frontier of the per-budget policies goes through all their
points.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import common
import numpy as np
import torch

from routegym.evaluation.frontier import aiq, hull
from routegym.evaluation.outcomes import LAMBDAS, Grid, play
from routegym.evaluation.references import arms_alone
from routegym.evaluation.statistics import Sweep, aiq_difference
from routegym.graph.library import load_recording
from routegym.policies.algorithm import Problem
from routegym.policies.config import tuned

ENV = "routegym/AgentSteps-v0"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "ablations" / "conditioning.md"
PACKAGES = ("routegym", "numpy", "torch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recording", default="agent_steps", help="name or folder of a recording of AgentSteps")
    parser.add_argument("--quick", action="store_true", help="every row, but too short to mean anything")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="put the table into docs/ablations/conditioning.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    recording = load_recording(args.recording)
    seeds = 1 if args.quick else args.seeds
    algorithm = tuned("all_action", ENV, {"updates": 5 if args.quick else None})
    caps = np.geomspace(*recording.budget_range_usd, 3 if args.quick else 6)
    grid = Grid(caps, np.array(LAMBDAS))
    arms = arms_alone(recording, recording.split("test"))
    low, high = arms.points()[0].min(), arms.points()[0].max()

    one, many = [], []
    for seed in range(seeds):
        one.append(play(algorithm.fit(Problem(recording), seed), recording, "test", grid))
        single = [
            play(
                algorithm.fit(Problem(recording, budget_usd=float(cap)), seed),
                recording,
                "test",
                Grid(np.array([cap]), grid.lambdas),
            )
            for cap in caps
        ]
        many.append((np.concatenate([part.scores for part in single]), np.concatenate([part.costs for part in single])))
    conditioned = Sweep(
        np.array([outcome.scores for outcome in one], dtype=np.float64), np.array([outcome.costs for outcome in one])
    )
    separate = Sweep(np.array([scores for scores, _ in many], dtype=np.float64), np.array([costs for _, costs in many]))

    def best(sweep: Sweep, number: int) -> float:
        """Score at a budget and the lowest price."""
        return float(sweep.scores[:, number * len(LAMBDAS)].mean())

    rows = [
        (f"budget {cap:.2e} USD: score", f"{best(conditioned, i):.3f}", f"{best(separate, i):.3f}", "")
        for i, cap in enumerate(caps)
    ]
    values = [aiq(hull(*sweep.points()), low, high) for sweep in (conditioned, separate)]
    lead = aiq_difference(conditioned, separate, arms)
    rows.append(
        (
            "AIQ of the frontier",
            *(f"{value:.4f}" for value in values),
            f"{lead.estimate:+.4f} [{lead.low:+.4f}, {lead.high:+.4f}], {lead.estimate / values[1]:+.1%}",
        )
    )
    header = ("", "one conditioned policy", "a policy per budget", "difference")
    note = (
        f"{len(recording.split('test'))} test tasks, {seeds} seeds, {vars(algorithm)['updates']:,} updates each; 95 % "
        f"paired bootstrap. {common.machine(PACKAGES)}. Command: `python benchmarks/ablate_conditioning.py --write`"
    )
    common.show("Conditioning on the budget", header, rows, note)
    if args.write:
        common.write("conditioning", header, rows, note, PAGE)


if __name__ == "__main__":
    main()
