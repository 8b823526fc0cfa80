"""Watching an attempt or deciding between attempts: what it is worth that an attempt can be abandoned.

    python benchmarks/ablate_watching.py            # prints the table, about five minutes
    python benchmarks/ablate_watching.py --write    # also puts it into docs/ablations/watching.md

Attempts. Beside the recording one from which the choice in the middle of an attempt is taken: the arm at work goes on
until its attempt ends. Everything else is the same, the tasks, budgets and prices too.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import common
import numpy as np
import torch

from routegym.evaluation.frontier import aiq, hull
from routegym.evaluation.outcomes import Grid, play
from routegym.evaluation.references import arms_alone
from routegym.evaluation.statistics import Points, Sweep, bootstrap
from routegym.graph import Recording
from routegym.graph.library import load_recording
from routegym.graph.subset import keep_actions
from routegym.policies.algorithm import Problem, family_of
from routegym.policies.config import tuned

ENV = "routegym/Attempts-v0"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "ablations" / "watching.md"
PACKAGES = ("routegym", "numpy", "torch")
POLICIES = ("fixed_cascade", "predict_then_plan", "all_action")
HEADER = ("AIQ on the test tasks", "between attempts", "watching", "difference")


def between_attempts(recording: Recording) -> Recording:
    """The recording if nobody could abandon an attempt."""
    graph = recording.graph
    legal = np.ones(graph.node_reserve.shape, dtype=bool)
    busy = np.flatnonzero(graph.node_running >= 0)
    legal[busy] = False
    legal[busy, graph.node_running[busy]] = True
    return keep_actions(recording, legal)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recording", default="attempts", help="name or folder of a recording of Attempts")
    parser.add_argument("--quick", action="store_true", help="every row, but too short to mean anything")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="put the table into docs/ablations/watching.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    watched = load_recording(args.recording)
    ways = (between_attempts(watched), watched)
    tasks, grid = watched.split("test"), Grid.of(watched)
    costs, scores = arms_alone(watched, tasks).points()

    def of(points: Points) -> float:
        return aiq(hull(*points), float(costs.min()), float(costs.max()))

    seeds = range(1 if args.quick else args.seeds)
    rows = [("zero router", f"{of((costs, scores)):.3f}", f"{of((costs, scores)):.3f}", "")]
    for name in POLICIES:
        sweeps = []
        for recording in ways:
            changes = {"updates": 20} if args.quick and name == "all_action" else None
            fits = [
                tuned(name, ENV, changes).fit(Problem(recording), seed=seed)
                for seed in (seeds if family_of(name) != "rule" else seeds[:1])
            ]
            played = [play(fit, recording, "test", grid) for fit in fits]
            assert not sum(int(outcome.violations.sum()) for outcome in played)
            sweeps.append(
                Sweep(
                    np.array([outcome.scores for outcome in played], dtype=np.float64),
                    np.array([outcome.costs for outcome in played]),
                )
            )
        lead = bootstrap(lambda a, b: of(b) - of(a), sweeps)
        difference = f"{lead.estimate:+.3f} [{lead.low:+.3f}, {lead.high:+.3f}]"
        rows.append((name, *(f"{of(sweep.points()):.3f}" for sweep in sweeps), difference))

    note = (
        f"{len(tasks)} test tasks, {len(seeds)} seeds of what is trained; 95 % paired bootstrap over tasks and "
        f"seeds. No hard budget was exceeded. {time.process_time() - began:.0f} CPU seconds. "
        f"{common.machine(PACKAGES)}. Command: `python benchmarks/ablate_watching.py --write`"
    )
    common.show("Watching an attempt", HEADER, rows, note)
    if args.write:
        common.write("watching", HEADER, rows, note, PAGE)


if __name__ == "__main__":
    main()
