"""What tracking costs a training: CPU time of a report, and that of all reports in the time of the training.

    python benchmarks/tracking_cost.py            # a table, under a minute
    python benchmarks/tracking_cost.py --write    # also puts it into docs/tracking.md

MaskablePPO on a shipped recording, with its tuned hyperparameters; then what it has reported is reported again to every
service. CPU seconds of the training's own process; W&B runs offline and writes its files in a process of its own.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import common

from routegym.graph import Recording
from routegym.graph.library import load_recording
from routegym.policies.algorithm import Problem
from routegym.policies.config import tuned
from routegym.policies.training import Training
from routegym.tracking import Run, Service, Tracking

PACKAGES = ("routegym", "stable-baselines3", "torch", "tensorboard", "wandb")
HEADER = ("beside metrics.jsonl", "ms per report", "of the training's time")


def trained(recording: Recording, steps: int) -> tuple[float, list[Mapping[str, Any]]]:
    """CPU seconds of a training without tracking, and its records."""
    records: list[Mapping[str, Any]] = []
    learner: Any = tuned("maskable_ppo", "routegym/AgentSteps-v0", {"steps": steps})
    began = time.process_time()
    learner.fit(Problem(recording), 0, Training(report=records.append))
    return time.process_time() - began, records


def cost(service: Service, recording: Recording, records: list[Mapping[str, Any]], seconds: float) -> float:
    """CPU seconds of a report."""
    step = itertools.count()
    with tempfile.TemporaryDirectory() as folder, Tracking(Run(Path(folder) / "run"), recording, service) as tracking:

        def play() -> int:
            for record in records:
                tracking.report({**record, "step": next(step)})
            return len(records)

        return 1 / common.rate(play, seconds=seconds, repeats=3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="too short to mean anything: does it run")
    parser.add_argument("--write", action="store_true", help="put the table into docs/tracking.md")
    options = parser.parse_args()
    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    recording = load_recording("agent_steps")
    seconds, records = trained(recording, 20_000 if options.quick else 200_000)
    table = []
    for service in get_args(Service):
        each = cost(service, recording, records, 0.05 if options.quick else 1.0)
        table.append((service, f"{each * 1e3:.2f}", f"{each * len(records) / seconds:.2%}"))
    note = f"`python benchmarks/tracking_cost.py`: {len(records)} reports in {seconds:.1f} CPU seconds of training; "
    note += common.machine(PACKAGES)
    common.show("What tracking costs", HEADER, table, note)
    if options.write:
        common.write("tracking cost", HEADER, table, note, common.DOCS.with_name("tracking.md"))


if __name__ == "__main__":
    main()
