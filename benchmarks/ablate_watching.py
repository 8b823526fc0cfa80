"""Watching an attempt or deciding between attempts: what it is worth that an attempt can be abandoned.

    python benchmarks/ablate_watching.py            # prints the table, about five minutes
    python benchmarks/ablate_watching.py --write    # also puts it into docs/ablations/watching.md
    python benchmarks/ablate_watching.py --recording recordings/mine --folds 5

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

from routegym.evaluation.outcomes import Grid
from routegym.evaluation.references import arms_alone
from routegym.evaluation.statistics import aiq_difference
from routegym.graph import Recording
from routegym.graph.folds import fold_recordings
from routegym.graph.library import load_recording
from routegym.graph.subset import keep_actions
from routegym.policies.algorithm import family_of
from routegym.policies.config import tuned

ENV = "routegym/Attempts-v0"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "ablations" / "watching.md"
PACKAGES = ("routegym", "numpy", "torch")
SHIPPED = "attempts"
POLICIES = ("fixed_cascade", "predict_then_plan", "all_action")
HEADER = ("AIQ on tasks held out", "between attempts", "watching", "difference")


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
    parser.add_argument("--recording", default=SHIPPED, help="name or folder of a recording of Attempts")
    parser.add_argument("--folds", type=int, default=0, help="cross-validate; 0 takes the recording's own split")
    parser.add_argument("--policies", nargs="+", default=POLICIES)
    parser.add_argument("--quick", action="store_true", help="every row, but too short to mean anything")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="put the table into docs/ablations/watching.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    recording = load_recording(args.recording)
    watched = fold_recordings(recording, args.folds) if args.folds else [recording]
    between = [between_attempts(part) for part in watched]
    grid = Grid.of(recording)
    alone = common.joined([arms_alone(part, part.split("test")) for part in watched])
    seeds = range(1 if args.quick else args.seeds)
    nobody = f"{common.quality(alone, alone):.3f}"
    rows = [("zero router", nobody, nobody, "")]
    for name in args.policies:
        own = seeds if family_of(name) == "learner" else seeds[:1]
        changes = {"updates": 20} if args.quick and name == "all_action" else None
        router = tuned(name, ENV, changes)
        pair = [common.held_out(router, parts, grid, own) for parts in (between, watched)]
        reached = (f"{common.quality(sweep, alone):.3f}" for sweep in pair)
        rows.append((name, *reached, aiq_difference(pair[1], pair[0], alone).signed()))

    command = "python benchmarks/ablate_watching.py"
    if args.recording != SHIPPED:
        command += f" --recording {args.recording}"
    if args.folds:
        command += f" --folds {args.folds}"
    of = f"{args.folds} folds" if args.folds else "of the test split"
    note = (
        f"{alone.scores.shape[2]} tasks, {of}; learners with {len(seeds)} seed{'s' * (len(seeds) > 1)}; 95 % paired "
        "bootstrap over tasks and seeds; * excludes 0. No hard budget was exceeded. "
        f"{time.process_time() - began:.0f} CPU seconds. {common.machine(PACKAGES)}. Command: "
        f"`{command} --policies {' '.join(args.policies)} --seeds {len(seeds)} --write`"
    )
    common.show("Watching an attempt", HEADER, rows, note)
    if args.write:
        marker = "watching" if args.recording == SHIPPED else f"watching {recording.name}"
        common.write(marker, HEADER, rows, note, PAGE)


if __name__ == "__main__":
    main()
