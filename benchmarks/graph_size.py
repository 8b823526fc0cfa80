"""How opening and stepping a recording grow with its number of edges.

    python benchmarks/graph_size.py            # 10^4 to 10^7 edges; the largest takes a few GB of disk and minutes
    python benchmarks/graph_size.py --write    # also puts the table into docs/speed.md

Random recordings (8 arms, 4 calls). Each is opened in a fresh process, which reports the time, the highest
resident memory beyond what importing takes, and the speed of 16,384 episodes on one thread.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import numpy as np
from gymnasium.vector import AutoresetMode

from routegym.core import RoutingVectorEnv
from routegym.graph import Recording

PACKAGES = ("routegym", "numpy", "numba", "pyarrow")
HEADER = ("edges", "situations", "on disk", "open", "arrays", "peak memory", "peak / arrays", "index", "flat")


def measure(folder: Path, quick: bool) -> dict[str, Any]:
    """Open a recording and step it; run in a process of its own."""
    import routegym.graph.storage  # noqa: F401  (its libraries are not the recording's memory)

    before = common.peak_bytes()
    start = time.perf_counter()
    recording = Recording.load(folder)
    opened = time.perf_counter() - start
    peak = common.peak_bytes() - before
    result: dict[str, Any] = {
        "open_s": opened,
        "peak": peak,
        "edges": recording.graph.n_edges,
        "nodes": recording.graph.n_nodes,
        "arrays": recording.graph.nbytes + recording.texts.arrow().nbytes,
    }
    size = 256 if quick else 16_384
    actions = np.random.default_rng(0).integers(0, recording.graph.n_actions, (16, size))
    for observation in ("index", "flat"):
        env = RoutingVectorEnv(
            size,
            recording,
            observation=observation,  # type: ignore[arg-type]
            autoreset_mode=AutoresetMode.SAME_STEP,
            info="lean",
            copy=False,
        )
        env.reset(seed=0)

        def play(env: RoutingVectorEnv = env) -> int:
            for some in actions:
                env.step(some)
            return actions.size

        seconds, repeats = (0.005, 1) if quick else (0.25, 7)
        result[observation] = common.rate(play, seconds=seconds, repeats=repeats)
    return result


def in_fresh_process(edges: int, quick: bool) -> dict[str, Any]:
    """Make a recording of this size and measure it elsewhere."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "recording"
        make = [sys.executable, __file__, "--make", str(folder), "--edges", str(edges)]
        subprocess.run(make, check=True)
        disk = sum(file.stat().st_size for file in folder.iterdir())
        child = [sys.executable, __file__, "--measure", str(folder), *(["--quick"] if quick else [])]
        answer = subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(answer) | {"disk": disk}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small recordings, too short to mean anything")
    parser.add_argument("--write", action="store_true", help="put the table into docs/speed.md")
    parser.add_argument("--edges", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        common.synthetic(args.edges).save(args.make)
        return
    if args.measure:
        print(json.dumps(measure(args.measure, args.quick)))
        return
    rows = []
    for edges in (1_000, 10_000) if args.quick else (10_000, 100_000, 1_000_000, 10_000_000):
        found = in_fresh_process(edges, args.quick)
        rows.append(
            (
                f"{found['edges']:,}",
                f"{found['nodes']:,}",
                f"{found['disk'] / 1e6:.1f} MB",
                f"{found['open_s']:.2f} s",
                f"{found['arrays'] / 1e6:.1f} MB",
                f"{found['peak'] / 1e6:.1f} MB",
                f"{found['peak'] / found['arrays']:.2f}",
                common.figure(found["index"]),
                common.figure(found["flat"]),
            )
        )
    note = (
        "index, flat: steps/s of 16,384 episodes. "
        f"{common.machine(PACKAGES)}. Command: `python benchmarks/graph_size.py --write`"
    )
    common.show("Growth with the graph", HEADER, rows, note)
    if args.write:
        common.write("graph_size", HEADER, rows, note)


if __name__ == "__main__":
    main()
