"""``routegym recording``: what is in recordings, and what can be done with them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from rich.console import Console

    from routegym.evaluation.diff import Change, RecordingDifference
    from routegym.evaluation.leaks import Leak
    from routegym.evaluation.report import Table

__all__ = ["Recording", "writing"]


@dataclass(frozen=True)
class Info:
    """Show what is in a recording, what its arms bring, and what the best choices would."""

    recording: Annotated[str, tyro.conf.Positional]
    """A shipped recording's name or a recording folder."""

    def run(self) -> None:
        """Print it."""
        from rich.console import Console
        from rich.markup import escape

        from routegym.evaluation import card
        from routegym.evaluation.summary import summarize
        from routegym.graph.library import load_recording

        recording = load_recording(self.recording)
        found = summarize(recording)
        folder = _folder(self.recording)
        size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
        console = Console()
        facts = {
            "recording": f"{found.name}, kind {found.kind}, {'complete' if found.complete else 'not complete'}",
            "folder": f"{folder}, {size / 1e6:,.1f} MB",
            "content hash": found.content_hash,
            "situations": f"{found.situations:,}, {found.ended:,} of them ended",
            "calls": f"{found.calls:,}, and {found.control_actions:,} control actions",
            "licence": found.licence,
            "provenance": card.provenance_text(found).replace("\n", f"\n{'':14}"),
        }
        for name, text in facts.items():
            console.print(f"[bold]{name:<14}[/]{escape(text)}", highlight=False, soft_wrap=True)
        tables = [card.task_table(found), card.outcome_table(found)]
        if len(found.tasks) > 1:
            tables.append(card.kind_table(found))
        for table in (*tables, card.call_table(found), card.price_table(recording)):
            _show(table, console)


@dataclass(frozen=True)
class Validate:
    """Check recordings whole: files, indices, numbers, content hash, and leaks. Exit code 2 if one is bad.

    A leak is a warning: prompts of one split in another, or a column that gives a score away; see docs/import.md.
    """

    recordings: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Shipped recordings' names or recording folders."""
    run_folder: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """A run folder: warn of what it was trained on and must not be evaluated on."""

    def run(self) -> None:
        """Print a line for each, and one for each of its leaks."""
        from routegym.errors import ConfigError, RoutegymError

        if not self.recordings:
            raise ConfigError("no recording is named; give a name or a folder of each")
        bad = 0
        for name in self.recordings:
            try:
                said, leaks = _check(name, self.run_folder)
                print(f"{name}: {said}", *(f"{name}: warning: {leak}" for leak in leaks), sep="\n")
            except RoutegymError as error:
                bad += 1
                print(f"{name}: BAD: {' '.join(str(error).split())}")
        if bad:
            raise SystemExit(2)


@dataclass(frozen=True)
class Merge:
    """Write the union of recordings of one pool and one workflow: other tasks, or more of the same ones.

    What several of them have is kept once. Where they contradict each other, nothing is written, unless the first is to
    be preferred.

    examples:
      routegym recording merge monday tuesday -o both
    """

    recordings: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Shipped recordings' names or recording folders."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder of the result; one that exists is never overwritten."""
    prefer: Literal["first"] | None = None
    """What to do with contradictions: keep what the first recording says, or (by default) refuse."""

    def run(self) -> None:
        """Merge, save, say what came of it."""
        from routegym.errors import RecordingError
        from routegym.graph.library import load_recording
        from routegym.graph.merge import merge_recordings

        if self.out.exists():
            raise RecordingError(f"{self.out}: exists; name another folder with --out, or delete it")
        sources = [load_recording(name) for name in self.recordings]
        merged = merge_recordings(sources, self.out.name, prefer=self.prefer, labels=self.recordings)
        chosen = f" --prefer {self.prefer}" if self.prefer else ""
        names = " ".join(source.name for source in sources)
        merged.provenance["made_by"] = f"routegym recording merge {names} -o {self.out.name}{chosen}"
        with writing(self.out):
            merged.save(self.out)
        graph = merged.graph
        whole = "complete" if graph.complete else "not complete"
        print(
            f"{self.out}: {graph.n_tasks:,} tasks, {graph.n_nodes:,} situations, {graph.n_edges:,} choices, {whole}, "
            f"content hash {merged.content_hash[:12]}"
        )


@dataclass(frozen=True)
class Diff:
    """Say what differs between two recordings. Exit code 1 if anything does; latency and provenance do not count."""

    first: Annotated[str, tyro.conf.Positional]
    """A shipped recording's name or a recording folder."""
    second: Annotated[str, tyro.conf.Positional]
    """The other one."""
    json: bool = False
    """Print JSON instead of tables."""
    named: int = 5
    """Most things of each kind that are named."""

    def run(self) -> None:
        """Compare and print."""
        from routegym.errors import ConfigError
        from routegym.evaluation.diff import compare_recordings
        from routegym.graph.library import load_recording

        if self.named < 0:
            raise ConfigError(f"named = {self.named}; expected 0 or more")
        found = compare_recordings(load_recording(self.first), load_recording(self.second), named=self.named)
        if self.json:
            print(json.dumps(found.as_dict(), indent=1, ensure_ascii=False))
        else:
            _show_difference(found, (self.first, self.second))
        if not found.same:
            raise SystemExit(1)


@dataclass(frozen=True)
class Card:
    """Write the card of a recording in Markdown: tasks, arms, what they bring, prices, licence, how it was made."""

    recording: Annotated[str, tyro.conf.Positional]
    """A shipped recording's name or a recording folder."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """File to write; standard output by default."""

    def run(self) -> None:
        """Write it."""
        from routegym.evaluation.card import recording_card
        from routegym.graph.library import load_recording
        from routegym.policies.training import write_atomically

        text = recording_card(load_recording(self.recording))
        if self.out is None:
            sys.stdout.write(text)
        else:
            with writing(self.out):
                self.out.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self.out, text.encode())
            print(self.out)


@dataclass(frozen=True)
class Recording:
    """Look into recordings; check, merge and compare them; write their cards.

    examples:
      routegym recording info cascade
      routegym recording validate recordings/monday recordings/tuesday
      routegym recording merge recordings/monday recordings/tuesday -o recordings/both
      routegym recording diff recordings/monday recordings/tuesday
      routegym recording card recordings/both -o recordings/both/CARD.md
    """

    command: (
        Annotated[Info, tyro.conf.subcommand("info")]
        | Annotated[Validate, tyro.conf.subcommand("validate")]
        | Annotated[Merge, tyro.conf.subcommand("merge")]
        | Annotated[Diff, tyro.conf.subcommand("diff")]
        | Annotated[Card, tyro.conf.subcommand("card")]
    )

    def run(self) -> None:
        """Do it."""
        self.command.run()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system refuses is the user's mistake: a folder in place of a file, a full disk, a missing right."""
    from routegym.errors import ConfigError

    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror or error}); name another place") from error


def _folder(source: str) -> Path:
    """The folder of a shipped recording, or the folder itself."""
    from importlib.resources import files

    shipped = Path(str(files("routegym.data"))) / "recordings" / source
    return shipped if (shipped / "meta.json").is_file() else Path(source)


def _check(source: str, run: Path | None) -> tuple[str, list[Leak]]:
    """What there is to say of a sound recording, and its leaks."""
    import tempfile

    from routegym.errors import RecordingError
    from routegym.evaluation.leaks import find_leaks
    from routegym.graph import storage
    from routegym.graph.recording import Recording as GraphRecording

    recording = GraphRecording.load(_folder(source))
    with tempfile.TemporaryDirectory() as folder:
        content_hash = storage.write_tables(recording, Path(folder))
    if content_hash != recording.content_hash:
        raise RecordingError(
            f"content_hash is {recording.content_hash[:12]!r} in meta.json and {content_hash[:12]} by its tables; "
            "somebody changed one of them: copy or rebuild the recording"
        )
    graph = recording.graph
    whole = "complete" if graph.complete else "not complete"
    said = f"sound, {graph.n_tasks:,} tasks, {graph.n_edges:,} choices, {whole}, content hash {content_hash[:12]}"
    return said, find_leaks(recording, run)


def _show(table: Table, console: Console) -> None:
    from rich.markup import escape

    console.print()
    cells = [tuple(escape(cell) for cell in row) for row in table.rows]
    console.print(replace(table, rows=cells).rich(), highlight=False)


def _show_difference(found: RecordingDifference, names: tuple[str, str]) -> None:
    from rich.console import Console
    from rich.markup import escape

    from routegym.evaluation.report import Table

    console = Console()
    if found.same:
        console.print("the recordings have the same content", highlight=False)
        return
    changes: dict[str, Change] = {
        "settings": found.settings,
        "arms": found.arms,
        "prices": found.prices,
        "tasks": found.tasks,
        "situations": found.situations,
        "choices": found.choices,
    }
    rows = [
        (name, *(f"{count:,}" for count in (change.removed, change.added, change.changed)))
        for name, change in changes.items()
    ]
    note = f"Of the changed choices {found.answers_differ:,} lead elsewhere, {found.tokens_differ:,} took other tokens."
    header = ("", f"only in {names[0]}", f"only in {names[1]}", "changed")
    _show(Table("what differs", header, rows, (note,)), console)
    for name, change in changes.items():
        if change.names:
            console.print(
                f"[bold]{name}[/]", *(f"  {escape(line)}" for line in change.names), sep="\n", highlight=False
            )
    cells = []
    for arm in found.by_arm:
        pairs = zip(arm.score, arm.cost_usd, strict=True)
        values = [("", "") if score is None else (f"{score:.3f}", f"{cost:.2e}") for score, cost in pairs]
        cells.append((arm.name, values[0][0], values[1][0], values[0][1], values[1][1]))
    titles = ("always", f"score in {names[0]}", f"score in {names[1]}", f"USD in {names[0]}", f"USD in {names[1]}")
    _show(Table("each arm alone, on the tasks that each recording has of it", titles, cells), console)
