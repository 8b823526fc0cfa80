"""What a deployed router takes: CPU time of beginning a route, of a decision, and of taking up a response.

    python benchmarks/decision_latency.py            # a table, a minute or two
    python benchmarks/decision_latency.py --write    # also puts it into docs/serve.md

Policies on the shipped recording `cascade` (7 actions), trained as briefly as they can be: how long a decision takes
does not hang on what was learned. CPU time of the calling thread, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import common
import numpy as np
import torch

from routegym.graph import Recording
from routegym.graph.library import load_recording
from routegym.policies.algorithm import Problem
from routegym.policies.config import tuned
from routegym.pool.backend import Response
from routegym.serving import Router
from routegym.serving.router import rules_of

PACKAGES = ("routegym", "numpy", "torch", "scikit-learn")
HEADER = ("policy", "prompt seen as", "start p50", "next p50", "next p99", "observe p50")
ENV = "routegym/Cascade-v0"
ROUTERS: dict[str, dict[str, Any]] = {
    "confidence_cascade": {},
    "irt": {},
    "knn": {},
    "all_action": {"updates": 2},
    "maskable_ppo": {"steps": 4096},
    "grpo": {"steps": 4096, "network": "attention"},
}


def timed(call: Callable[[], Any], into: list[float]) -> Any:
    """What a call gives; its microseconds are noted."""
    began = time.thread_time_ns()
    found = call()
    into.append((time.thread_time_ns() - began) / 1e3)
    return found


def measure(recording: Recording, name: str, routes: int) -> tuple[str, ...]:
    """Microseconds of the parts of a route."""
    router = Router(recording, tuned(name, ENV, ROUTERS[name]).fit(Problem(recording), 0), rules_of(recording))
    prompts = recording.tasks.prompts
    parts: tuple[list[float], ...] = ([], [], [])
    for number in range(routes):
        route = timed(lambda: router.start(prompts[number % len(prompts)], 1.0, 0.1), parts[0])  # noqa: B023
        while timed(route.next, parts[1]) is not None:
            answer = Response(str(number % 1000), (8, 0, 4, 0), 0.0, 0.0, -0.1)
            timed(lambda: route.observe(answer), parts[2])  # noqa: B023
    start, following, observing = (np.array(part[len(part) // 10 :]) for part in parts)
    shown = (np.median(start), np.median(following), np.percentile(following, 99), np.median(observing))
    return tuple(f"{micros:,.0f} µs" for micros in shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="too short to mean anything: does it run")
    parser.add_argument("--write", action="store_true", help="put the table into docs/serve.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    plain = load_recording("cascade")
    embedded = replace(plain, tasks=plain.tasks.with_embedding("tfidf"))
    routes = 30 if options.quick else 3000
    rows = [(name, "level of the task", *measure(plain, name, routes)) for name in ROUTERS]
    rows += [(name, "TF-IDF, 64 columns", *measure(embedded, name, routes)) for name in ("all_action", "maskable_ppo")]
    note = f"`python benchmarks/decision_latency.py`: {routes:,} routes each; {common.machine(PACKAGES)}."
    common.show("What a deployed router takes", HEADER, rows, note)
    if options.write:
        common.write("decision latency", HEADER, rows, note, common.DOCS.with_name("serve.md"))


if __name__ == "__main__":
    main()
