"""Fits that are killed and started again, and what their parameters come to.

As a script it reads ``{"algorithm", "values", "folder", "kills", "seed"}`` from its standard input, kills a fit that
many times and prints ``{"whole", "ended", "resumed"}``: the digest of an uninterrupted fit, those of the fits that were
allowed to end, and how many starts found a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import diagnostics
import numpy as np
import torch

from routegym.policies.algorithm import Problem, algorithm_class
from routegym.policies.training import Training


@cache
def problem() -> Problem:
    recording = diagnostics.build(diagnostics.Saving())
    embedding = np.random.default_rng(0).random((len(recording.tasks), 4), dtype=np.float32)
    recording.tasks = replace(recording.tasks, embedding=embedding, embedder="noise")
    return Problem(recording)


def digest(policy: Any) -> str:
    """SHA-256 of a policy's arrays."""
    settings, arrays = policy.to_state()
    found = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def fit(algorithm: str, values: dict[str, Any], training: Training | None = None) -> str:
    """Digest of the policy of one fit."""
    return digest(algorithm_class(algorithm)(**values).fit(problem(), 7, training))


def _child(algorithm: str, values: dict[str, Any], folder: Path, fatal_write: int | None) -> int:
    """Start a fit in a process of its own; `fatal_write` kills it in the midst of that checkpoint."""
    child = os.fork()
    if child:
        return child
    try:
        if fatal_write is not None:
            replace, left = os.replace, [fatal_write]

            def failing(*args: Any) -> None:
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                replace(*args)

            os.replace = failing  # type: ignore[assignment]
        (folder / "digest").write_text(fit(algorithm, values, Training(folder, every_s=0)))
    finally:
        os._exit(0)


def main() -> None:
    order = json.load(sys.stdin)
    algorithm, values, folder = order["algorithm"], order["values"], Path(order["folder"])
    generator = np.random.default_rng(order["seed"])
    torch.set_num_threads(1)
    problem()
    began = time.monotonic()
    os.waitpid(_child(algorithm, values, folder, None), 0)
    seconds = time.monotonic() - began
    whole = (folder / "digest").read_text()
    ended: list[str] = []
    kills = resumed = 0
    shutil.rmtree(folder)
    while kills < order["kills"] or not ended:
        folder.mkdir(exist_ok=True)
        resumed += Training(folder).latest() is not None
        in_write = kills % 3 == 2  # every third is hit between writing a checkpoint and putting it in place
        child = _child(algorithm, values, folder, int(generator.integers(1, 4)) if in_write else None)
        if kills < order["kills"] and not in_write:
            time.sleep(generator.uniform(0.0, 0.4 * seconds))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            kills += 1
        else:
            ended.append((folder / "digest").read_text())
            shutil.rmtree(folder)
    sys.stdout.write(json.dumps({"whole": whole, "ended": ended, "resumed": resumed}))


if __name__ == "__main__":
    main()
