"""Caution about the text: learners with and without swap noise on tasks' embeddings.

    python benchmarks/ablate_embedding_prior.py            # prints the table, about five minutes
    python benchmarks/ablate_embedding_prior.py --write    # also puts it into docs/ablations/embedding_prior.md
    python benchmarks/ablate_embedding_prior.py --recordings recordings/mine --policies all_action grpo --seeds 2

Recordings with embeddings, cross-validated. The learners differ in `embedding_prior` alone (`TrainingEnv`): 0 shows
every task as it is, the other is the learners' own.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch

from routegym.evaluation.outcomes import Grid, budget_grid
from routegym.evaluation.references import arms_alone
from routegym.evaluation.statistics import aiq_difference
from routegym.graph.folds import fold_recordings
from routegym.graph.library import load_recording
from routegym.policies.algorithm import usual_lambdas
from routegym.policies.config import tuned
from routegym.registration import ENV_IDS, kind_of

PAGE = Path(__file__).resolve().parents[1] / "docs" / "ablations" / "embedding_prior.md"
PACKAGES = ("routegym", "numpy", "torch", "stable-baselines3")
SHIPPED = ("smol_single_call", "smol_cascade")
QUICK: dict[str, dict[str, Any]] = {
    "all_action": {"updates": 20},
    "maskable_ppo": {"steps": 16384},
    "grpo": {"steps": 16384},
}
ENVS = {kind_of(env): env for env in ENV_IDS}
HEADER = ("AIQ on tasks held out", "training tasks", "zero router", "as it is", "with caution", "difference")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", nargs="+", default=SHIPPED, help="names or folders of recordings")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--policies", nargs="+", choices=QUICK, default=("all_action",))
    parser.add_argument("--quick", action="store_true", help="every row, but too short to mean anything")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--marker", default="shipped", help="part of the page that --write replaces")
    parser.add_argument("--write", action="store_true", help="put the table into docs/ablations/embedding_prior.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    seeds = range(1 if args.quick else args.seeds)
    rows = []
    for source in args.recordings:
        recording = load_recording(source)
        parts = fold_recordings(recording, args.folds)
        low, high = usual_lambdas(recording.kind)
        grid = Grid.of(recording, budget_grid(recording, 10).tolist(), np.geomspace(max(low, high / 100), high, 10))
        alone = common.joined([arms_alone(part, part.split("test")) for part in parts])
        tasks = round(np.mean([len(part.split("train")) for part in parts]))
        for name in args.policies:
            changes = QUICK[name] if args.quick else {}
            routers = [tuned(name, ENVS[recording.kind], changes | prior) for prior in ({"embedding_prior": 0.0}, {})]
            pair = [common.held_out(router, parts, grid, seeds) for router in routers]
            reached = (f"{common.quality(sweep, alone):.3f}" for sweep in (alone, *pair))
            difference = aiq_difference(pair[1], pair[0], alone).signed()
            rows.append((f"{source}: {name}", f"{tasks:,}", *reached, difference))

    command = "python benchmarks/ablate_embedding_prior.py"
    if tuple(args.recordings) != SHIPPED:
        command += f" --recordings {' '.join(args.recordings)} --marker {args.marker}"
    note = (
        f"{args.folds} folds, {len(seeds)} seed{'s' * (len(seeds) > 1)}; 95 % paired bootstrap over tasks and seeds; "
        f"* excludes 0. {time.process_time() - began:.0f} CPU seconds. {common.machine(PACKAGES)}. Command: `{command} "
        f"--folds {args.folds} --policies {' '.join(args.policies)} --seeds {len(seeds)} --write`"
    )
    common.show("Caution about the text", HEADER, rows, note)
    if args.write:
        common.write(args.marker, HEADER, rows, note, PAGE)


if __name__ == "__main__":
    main()
