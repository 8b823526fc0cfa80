"""Seeds of a run, trained side by side in other processes.

What decides a seed's training stands in the run's configuration, so that it comes to the same wherever it is done. Each
has a folder in the run's own, with its checkpoints, its records and at last its policy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any

from routegym.graph.recording import Recording
from routegym.policies.algorithm import Problem
from routegym.policies.config import tuned
from routegym.policies.policy import Policy
from routegym.policies.storage import load_policies, save_policies
from routegym.policies.training import Training
from routegym.runners import Runner, check_shared
from routegym.tracking.run import Run
from routegym.tracking.tracking import Tracking

__all__ = ["seed_folder", "train_seeds"]

_POLL_S = 0.5


def seed_folder(run: Run, seed: int) -> Path:
    """Where a seed's checkpoints are while it is trained."""
    return run.path / f"checkpoints-{seed}"


def train_seeds(
    run: Run,
    recording: Recording,
    source: str,
    seeds: Sequence[int],
    runner: Runner,
    report: Callable[[Mapping[str, Any]], None],
) -> Iterator[tuple[int, Policy]]:
    """Train seeds of a run that was begun, as many at once as the runner has workers.

    Args:
        run: its folder lies where every process of the runner finds it.
        recording: that it is trained on.
        source: name or path under which every process finds that.
        seeds: which.
        runner: where they are trained.
        report: is given the records of all seeds as they come; some again where a training goes on.

    Yields:
        Each seed and its policy, as they end.

    Raises:
        WorkerError: a process died again and again, a training failed, or a machine does not see the folder.
        RoutegymError: what a training raised.
    """
    waiting, told = list(seeds), dict.fromkeys(seeds, 0)
    running: dict[Future[None], int] = {}
    while waiting or running:
        while waiting and len(running) < runner.workers:
            running[runner.submit(_train, run.path.resolve(), waiting[0], source)] = waiting[0]
            del waiting[0]
        ended = wait(running, _POLL_S, FIRST_COMPLETED).done
        for seed in running.values():
            records = Run(seed_folder(run, seed)).history()[told[seed] :]
            told[seed] += len(records)
            for record in records:
                report(record)
        for future in ended:
            seed = running.pop(future)
            future.result()
            yield seed, load_policies(seed_folder(run, seed), recording)[seed]


def _train(folder: Path, seed: int, source: str) -> None:
    """Train a seed in this process."""
    check_shared(folder)
    import torch

    run = Run(folder)
    config, recording = run.config, run.recording(source)
    mine = Run(seed_folder(run, seed))
    if (mine.path / "policy.json").is_file():  # trained, and whoever waited for it was interrupted
        return
    mine.path.mkdir(exist_ok=True)
    torch.set_num_threads(config.threads)
    training = Training(mine.path, Tracking(mine, recording).report)
    algorithm: Any = tuned(config.algo, config.env, config.hyperparameters)
    policy = algorithm.fit(Problem(recording, config.budget_usd, config.lambda_), seed, training)
    save_policies(mine.path, recording, {seed: policy})
