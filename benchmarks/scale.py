"""How importing, saving, opening, training and evaluating grow with the table, and the same training job with peers.

    python benchmarks/scale.py                       # 10^4 to 10^7 rows
    python benchmarks/scale.py --rows 10000 100000   # only these
    python benchmarks/scale.py --out docs/scale.md   # also puts the tables into this file

Synthetic tables: a row for each (query, arm), ten arms, prompts of about 100 characters, hashed into 16 columns. Every
phase runs in a process of its own (saving in that of the import), on one thread, and reports its wall time and the
highest resident memory of its process beyond what the libraries take. `peers.py` makes the second table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import common
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from routegym.graph import Recording
from routegym.graph.imports import Imported, import_table
from routegym.graph.library import load_recording

PACKAGES = ("routegym", "numpy", "numba", "pyarrow", "torch")
HEADER = ("phase", "rows", "wall", "CPU", "CPU per row", "peak memory", "memory per row")
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
ARMS, DIMS = 10, 16
TOPICS, WORDS, LENGTH = 64, 24, 14  # kinds of prompts, the words that each is made of, and words in a prompt
CHUNK = 50_000  # queries written at a time
UPDATES = 100  # of the learner, whatever the size
PRICE = 0.1  # of cost, where the learned policy is evaluated


class Meter:
    """Wall and CPU seconds, and the highest memory beyond what the process had at the start, of successive phases."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[float, float, int]] = {}
        load_recording("single_call")  # brings libraries that are only loaded when something is read
        self._before = common.peak_bytes()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what happens inside."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        peak = common.peak_bytes() - self._before
        self.found[name] = time.perf_counter() - wall, time.process_time() - cpu, peak


# -- phases: each in a process of its own, which imports what it needs before its meter starts -------------------------
def write(folder: Path, rows: int) -> Meter:
    """A table of outcomes and one of queries: how well an arm does depends on the topic of the prompt."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = pa.array(["".join(rng.choice(letters, size)) for size in rng.integers(4, 10, TOPICS * WORDS)])
    skill = rng.random((TOPICS, ARMS)) * np.linspace(0.5, 1.0, ARMS)
    usd = np.geomspace(1e-7, 1e-5, ARMS)  # per token
    names = pa.array([f"arm{arm}" for arm in range(ARMS)])
    texts = pa.schema({"query": pa.string(), "prompt": pa.string()})
    counts = {"score": pa.int8(), "prompt_tokens": pa.int32(), "completion_tokens": pa.int32()}
    table = pa.schema({"query": pa.string(), "arm": pa.string(), "cost_usd": pa.float64()} | counts)
    meter = Meter()
    with (
        meter.phase("write"),
        pacsv.CSVWriter(folder / "queries.csv", texts) as queries,
        pacsv.CSVWriter(folder / "outcomes.csv", table) as outcomes,
    ):
        for first in range(0, rows // ARMS, CHUNK):
            n = min(CHUNK, rows // ARMS - first)
            topic = rng.integers(0, TOPICS, n)
            chosen = topic * WORDS + rng.integers(0, WORDS, (LENGTH, n))
            prompts = pc.binary_join_element_wise(*(words.take(pa.array(column)) for column in chosen), " ")
            ids = pa.array([f"q{number:07d}" for number in range(first, first + n)])
            queries.write_table(pa.table([ids, prompts], texts))
            arm = np.tile(np.arange(ARMS), n)
            prompt, completion = np.repeat(rng.integers(20, 60, n), ARMS), rng.integers(10, 400, n * ARMS)
            score = (rng.random((n, ARMS)) < skill[topic]).reshape(-1)
            query = ids.take(pa.array(np.repeat(np.arange(n), ARMS)))
            columns = (query, names.take(pa.array(arm)), (prompt + completion) * usd[arm], score, prompt, completion)
            arrays = [pa.array(column).cast(field.type) for column, field in zip(columns, table, strict=True)]
            outcomes.write_table(pa.table(arrays, table))
    return meter


def read(folder: Path, rows: int) -> Meter:
    """Import the table and save the recording."""
    del rows
    meter = Meter()
    with meter.phase("import"):
        imported = read_table(folder)
    with meter.phase("save"):
        imported.recording.save(folder / "recording")
    return meter


def read_table(folder: Path) -> Imported:
    """The table as a recording of single calls."""
    return import_table(folder / "outcomes.csv", queries=folder / "queries.csv", text="hashing", dims=DIMS)


def load(folder: Path, rows: int) -> Meter:
    """Open the recording."""
    del rows
    meter = Meter()
    with meter.phase("load"):
        Recording.load(folder / "recording")
    return meter


def predict(folder: Path, rows: int) -> Meter:
    """Fit a router that predicts from the table."""
    from routegym.policies.success import KNN

    return _train(folder, "train knn", KNN(), rows)


def learn(folder: Path, rows: int) -> Meter:
    """Train a network by policy gradient, a fixed number of updates."""
    from routegym.policies.all_action import AllAction

    return _train(folder, "train all_action", AllAction(updates=UPDATES), rows)


def _train(folder: Path, phase: str, algorithm: Any, rows: int) -> Meter:
    from routegym.policies.algorithm import Problem
    from routegym.policies.storage import save_policies

    del rows
    meter = Meter()
    recording = Recording.load(folder / "recording")
    with meter.phase(phase):
        policy = algorithm.fit(Problem(recording), 0)
    run = folder / phase
    run.mkdir()
    save_policies(run, recording, {0: policy})
    return meter


def evaluate(folder: Path, rows: int) -> Meter:
    """Play the trained network on every task, without a cap and at one price."""
    import routegym.policies.network  # noqa: F401
    from routegym.evaluation.outcomes import Grid, play
    from routegym.policies.storage import load_policies

    meter = Meter()
    recording = Recording.load(folder / "recording")
    policy = load_policies(folder / "train all_action", recording)[0]
    with meter.phase("evaluate"):
        outcomes = play(policy, recording, "all", Grid(np.array([np.inf]), np.array([PRICE])))
    if outcomes.scores.shape != (1, rows // ARMS):
        raise SystemExit(f"{outcomes.scores.shape} episodes played; expected (1, {rows // ARMS})")
    return meter


PHASES = {phase.__name__: phase for phase in (write, read, load, predict, learn, evaluate)}


# -- tables ------------------------------------------------------------------------------------
def measure(rows: int, place: Path | None) -> dict[str, tuple[float, float, int]]:
    """Wall seconds, CPU seconds and bytes of every phase at one size."""
    found: dict[str, tuple[float, float, int]] = {}
    with tempfile.TemporaryDirectory(dir=place) as folder:
        for phase in PHASES:
            command = [sys.executable, __file__, "--phase", phase, "--folder", folder, "--rows", str(rows)]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
            found |= json.loads(answer)
    return found


def sizes(all_rows: list[int], place: Path | None) -> list[tuple[str, ...]]:
    """Rows of the first table, the sizes of each phase together."""
    found = {rows: measure(rows, place) for rows in all_rows}
    table = []
    for phase in found[all_rows[0]]:
        for rows in all_rows:
            wall, cpu, peak = found[rows][phase]
            times = f"{wall:.2f} s", f"{cpu:.2f} s", f"{cpu / rows * 1e6:.2f} µs"
            table.append((phase, f"{rows:,}", *times, f"{peak / 1e6:,.0f} MB", f"{peak / rows:,.0f} B"))
    return table


def with_peers(folder: Path | None, quick: bool, out: Path | None) -> None:
    """The second table, of somebody's recorded data where they are there, otherwise of synthetic ones."""
    import peers

    folder = folder or peers.TABLE
    if folder.is_dir() and not quick:
        recording = peers.table_of(folder)
    else:
        with tempfile.TemporaryDirectory() as place:
            write(Path(place), 1_000 if quick else 40_000)
            recording = read_table(Path(place)).recording
    rows = peers.compare(recording, quick)
    note = (
        f"{recording.name}: {len(recording.tasks):,} queries, {len(recording.arms)} arms. "
        f"{common.machine(peers.PACKAGES)}. Command: `python benchmarks/scale.py --table peers --out docs/scale.md`"
    )
    common.show("The same training job", peers.HEADER, rows, note)
    if out:
        common.write("peers", peers.HEADER, rows, note, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=list(SIZES), help="rows of the synthetic tables")
    parser.add_argument("--table", choices=("sizes", "peers"), help="only this one")
    parser.add_argument("--data", type=Path, help="folder with a table for the peers (see peers.py)")
    parser.add_argument("--place", type=Path, help="folder for the files, 1 GB at 10^7 rows")
    parser.add_argument("--quick", action="store_true", help="every row of the tables, but too small to mean anything")
    parser.add_argument("--out", type=Path, help="Markdown file to put the tables into")
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.phase:
        print(json.dumps(PHASES[args.phase](args.folder, args.rows[0]).found))
        return
    if args.table != "peers":
        rows = sizes([1_000] if args.quick else args.rows, args.place)
        note = f"{common.machine(PACKAGES)}. Command: `python benchmarks/scale.py --table sizes --out docs/scale.md`"
        common.show("Growth with the table", HEADER, rows, note)
        if args.out:
            common.write("scale", HEADER, rows, note, args.out)
    if args.table != "sizes":
        with_peers(args.data, args.quick, args.out)


if __name__ == "__main__":
    main()
