"""``routegym tasks``."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from rich.console import Console

    from routegym.tasks.taskset import TaskSet

__all__ = ["Tasks"]

_SHOWN = 400  # characters of a prompt


@dataclass(frozen=True)
class Tasks:
    """Check, show or write a task set.

    `validate` proves that every reference scores 1 with its own grader; `show` prints some tasks; `make` writes them as
    JSON lines. SPEC is a .jsonl, .csv or .parquet file, arithmetic:SIZE, operations:SIZE,
    reasoning_gym:NAME:SIZE?OPTION=VALUE, or several of these joined by +. See docs/tasks.md.
    """

    action: Annotated[Literal["validate", "show", "make"], tyro.conf.Positional]
    """What to do."""
    spec: Annotated[str, tyro.conf.Positional]
    """The tasks."""
    n: int = 5
    """How many tasks `show` prints."""
    split: Literal["train", "val", "test", "all"] = "all"
    """Which tasks `show` prints."""
    seed: int = 0
    """Fixes what is generated, and the splits of tasks that name none."""
    prompt: str = "prompt"
    """Column of the prompts in a file."""
    reference: str = "reference"
    """Column of the right answers in a file."""
    default_grader: str = "exact"
    """Grader of tasks in a file that name none."""
    out: Path = Path("tasks.jsonl")
    """File that `make` writes."""

    def run(self) -> None:
        """Load, then do what is asked."""
        from rich.console import Console

        from routegym.tasks.files import save_tasks
        from routegym.tasks.sources import load_tasks

        console = Console()
        tasks = load_tasks(
            self.spec,
            prompt=self.prompt,
            reference=self.reference,
            default_grader=self.default_grader,
            seed=self.seed,
        )
        if self.action == "show":
            self._show(tasks, console)
            return
        tasks.validate()
        _print_table(tasks, console)
        if self.action == "make":
            save_tasks(tasks, self.out)
            console.print(f"wrote {self.out}", markup=False, soft_wrap=True)

    def _show(self, tasks: TaskSet, console: Console) -> None:
        rows = range(len(tasks)) if self.split == "all" else tasks.in_split(self.split).tolist()
        for row in rows[: max(self.n, 0)]:
            title = f"{tasks.ids[row]}  [{tasks.splits[row]}, {tasks.graders[row]}] {tasks.kinds[row]}"
            console.print(title, style="bold", markup=False, highlight=False)
            console.print(_readable(tasks.prompts[row]), markup=False, highlight=False)
            console.print(f"-> {_readable(tasks.references[row])}\n", markup=False, highlight=False)


def _print_table(tasks: TaskSet, console: Console) -> None:
    from rich.table import Table

    counts = Counter(zip(tasks.kinds, tasks.graders, tasks.splits, strict=True))
    table = Table("kind", "grader", "train", "val", "test")
    for kind, grader in dict.fromkeys(zip(tasks.kinds, tasks.graders, strict=True)):
        table.add_row(kind or "-", grader, *(str(counts[kind, grader, split]) for split in ("train", "val", "test")))
    console.print(table)
    console.print(f"{len(tasks)} tasks; every reference scores 1 with its own grader", highlight=False)


def _readable(text: str) -> str:
    """Shortened, and without characters that a terminal obeys."""
    cut = text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ... ({len(text)} characters)"
    return "".join(c if c.isprintable() or c == "\n" else f"\\u{ord(c):04x}" for c in cut)
