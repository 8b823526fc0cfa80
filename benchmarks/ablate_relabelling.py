"""Hindsight budget relabelling on and off: what a policy learned from logs does under budgets that were never logged.

    python benchmarks/ablate_relabelling.py            # prints the table, about four minutes
    python benchmarks/ablate_relabelling.py --write    # also puts it into docs/ablations/relabelling.md
    python benchmarks/ablate_relabelling.py --write --behaviour mixture    # the same for other logs

AgentSteps. Behaviour cloning and CQL learn from episodes that were all played under one budget, each under a budget
drawn log-uniformly from the recording's range, or all without a budget, and are played on the test tasks under
budgets that do not occur in the log, half of them below the one budget and half above it. The price of cost is
relabelled everywhere.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
import numpy as np
import numpy.typing as npt
import torch

from routegym.evaluation.outcomes import Grid, play
from routegym.evaluation.statistics import Points, Sweep, bootstrap
from routegym.graph.library import load_recording
from routegym.policies.algorithm import Problem
from routegym.policies.config import tuned
from routegym.policies.logs import collect

ENV = "routegym/AgentSteps-v0"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "ablations" / "relabelling.md"
PACKAGES = ("routegym", "numpy", "torch")
LAMBDAS = np.array([0.0, 0.1, 0.5])
HEADER = ("learner", "logged under", "budgets", "relabelled", "not relabelled", "difference")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recording", default="agent_steps", help="name or folder of a recording of AgentSteps")
    parser.add_argument("--quick", action="store_true", help="every row, but too short to mean anything")
    parser.add_argument("--behaviour", default="random", choices=("random", "mixture"), help="who plays the episodes")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="put the table into docs/ablations/relabelling.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    recording = load_recording(args.recording)
    began = time.process_time()
    seeds = range(1 if args.quick else args.seeds)
    size = {"updates": 20, "episodes": 400} if args.quick else {"updates": 1000, "episodes": 20_000}
    changes = {"behaviour": args.behaviour, **size}
    low, high = recording.budget_range_usd
    one = float(np.sqrt(low * high))
    caps = np.geomspace(low, high, 6)  # an even number: `one` is not among them
    grid = Grid(caps, LAMBDAS)
    problem = Problem(recording)

    rows = []
    for name in ("bc", "cql"):
        for title, logged in ((f"one budget, {one:.2e} USD", one), ("budgets drawn", "sampled"), ("no budget", None)):
            sweeps = []
            for relabelling in (True, False):
                algorithm: Any = replace(tuned(name, ENV, changes), relabelling=relabelling)  # type: ignore[type-var]
                outcomes = []
                for seed in seeds:
                    played = replace(problem, budget_usd=logged)
                    log = collect(played, algorithm.behaviour, algorithm.episodes, seed, algorithm.epsilon)
                    outcomes.append(play(algorithm.fit_log(log, problem, seed), recording, "test", grid))
                assert not sum(int(outcome.violations.sum()) for outcome in outcomes)
                sweeps.append(
                    Sweep(
                        np.array([outcome.scores for outcome in outcomes], dtype=np.float64),
                        np.array([outcome.costs for outcome in outcomes]),
                    )
                )
            for part, chosen in (("below", grid.points[0] < one), ("above", grid.points[0] > one)):

                def objective(points: Points, chosen: npt.NDArray[np.bool_] = chosen) -> float:
                    costs, scores = points
                    value = scores - grid.points[1] * costs / recording.cost_scale_usd
                    return float(value[chosen].mean())

                values = [f"{objective(sweep.points()):.3f}" for sweep in sweeps]
                lead = bootstrap(lambda a, b, of=objective: of(a) - of(b), sweeps)
                difference = f"{lead.estimate:+.3f} [{lead.low:+.3f}, {lead.high:+.3f}]"
                rows.append((name, title, part, *values, difference))

    note = (
        f"Mean of score - lambda cost / cost scale over lambda = {', '.join(f'{x:g}' for x in LAMBDAS)} and the "
        f"budgets {', '.join(f'{cap:.2g}' for cap in caps)} USD below or above {one:.2e}; "
        f"{len(recording.split('test'))} test tasks, {len(seeds)} seeds, {size['episodes']:,} logged episodes of the "
        f"behaviour {args.behaviour!r}, {size['updates']:,} updates; 95 % paired bootstrap over tasks and seeds. No "
        f"hard budget was exceeded. {time.process_time() - began:.0f} CPU seconds. {common.machine(PACKAGES)}. "
        f"Command: `python benchmarks/ablate_relabelling.py --write --behaviour {args.behaviour}`"
    )
    common.show("Hindsight budget relabelling", HEADER, rows, note)
    if args.write:
        common.write(f"relabelling, {args.behaviour}", HEADER, rows, note, PAGE)


if __name__ == "__main__":
    main()
