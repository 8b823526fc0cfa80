"""What the commands that call models share: a pool, its tasks, progress with spending, and a clean stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console

    from routegym.pool.arms import Arm, PriceTable
    from routegym.pool.backend import Backend
    from routegym.pool.spend import SpendCap
    from routegym.tasks.taskset import TaskSet

__all__ = ["Connected", "Embedding", "load_tasks_to_route", "pool_file", "progress", "terminated_like_interrupted"]

Embedding = Literal["tfidf", "hashing", "minilm", "none"]


class Connected(NamedTuple):
    """A pool whose calls are made by a backend of ours."""

    arms: tuple[Arm, ...]
    prices: PriceTable
    backend: Backend


def pool_file(name: str) -> Path | None:
    """Path of a pool file by what was given for it; None = the embedded pool."""
    return None if name == "embedded" else Path(name)


def load_tasks_to_route(source: str, seed: int = 0, embed: Embedding | None = None, validate: bool = True) -> TaskSet:
    """Tasks with what a router sees of them.

    Args:
        source: see `routegym.tasks.load_tasks`.
        seed: fixes what is generated.
        embed: method of `routegym.tasks.embeddings`, or ``none``; None = tfidf, or none where all prompts are
            arithmetic, whose operations are shown instead.
        validate: prove first that every reference scores 1 with its own grader.

    Raises:
        TaskError, GraderError: the tasks make no sense, or a reference does not score 1.
    """
    from routegym.tasks.arithmetic import next_operation
    from routegym.tasks.sources import load_tasks

    tasks = load_tasks(source, seed=seed)
    if validate:
        tasks.validate()
    arithmetic = all(next_operation(f"({prompt})") is not None for prompt in tasks.prompts)
    method = embed or ("none" if arithmetic else "tfidf")
    return tasks if method == "none" else tasks.with_embedding(method, seed=seed)


@contextmanager
def progress(console: Console, spend: SpendCap) -> Iterator[Callable[[int, int], None]]:
    """A line with answers, spending, rate and the time that the known rest takes.

    What a batch cost is written down when it ends, so only the line's last state shows all of it.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    cap = "" if spend.cap_usd == float("inf") else f" of ${spend.cap_usd:g}"
    bar = Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("answers  {task.fields[rate]}/s  {task.fields[spent]}"),
        TimeRemainingColumn(),
        console=console,
    )
    began, looked, seen = time.monotonic(), -1.0, (0, 0)
    with bar:
        line = bar.add_task("", total=None, rate="-", spent="")

        def show() -> None:
            asked, answered = seen
            rate = f"{answered / max(time.monotonic() - began, 1e-3):,.1f}"
            bar.update(line, completed=answered, total=asked, rate=rate, spent=f"${spend.spent_usd:.6f}{cap}")

        def watch(asked: int, answered: int) -> None:
            nonlocal looked, seen
            seen = asked, answered
            if time.monotonic() - looked > 0.5:
                looked = time.monotonic()
                show()

        try:
            yield watch
        finally:
            show()


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM stops as cleanly as Ctrl-C does."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
