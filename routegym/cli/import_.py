"""``routegym import``."""

from __future__ import annotations

import inspect
import shlex
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from routegym.evaluation.import_report import ImportReport
    from routegym.graph.recording import Recording

__all__ = ["Import", "import_help"]

_NAMED_DELIMITERS = {"tab": "\t", "\\t": "\t"}


@dataclass(frozen=True)
class Import:
    """Make a recording of somebody else's results: which arm got which query right, at what cost.

    Prints a report: rows read and dropped, arms, oracle, units, leaks. A file that is not what it should be is refused
    with file, line and field, and nothing is written. See docs/import.md.

    examples:
      routegym import table results.csv -o recordings/theirs
      routegym import table results.csv.gz --queries queries.jsonl.gz --columns query=query_id arm=model \\
          prompt=question prompt_tokens=in_tokens completion_tokens=out_tokens -o recordings/theirs
      routegym import table results.csv --delimiter ";" --missing mask --report report.md -o recordings/theirs
      routegym import table results.csv --queries queries.jsonl --kind cascade --verdict -o recordings/theirs
      routegym import steps steps.csv --prices prices.csv --kind attempts -o recordings/theirs
    """

    format: Annotated[str, tyro.conf.Positional]
    """Name of the format."""
    source: Annotated[Path, tyro.conf.Positional]
    """File or folder of results."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Recording folder; a recording that is there is replaced, anything else is left alone."""
    queries: Path | None = None
    """Table of the queries: query, prompt, and perhaps kind, reference and split."""
    turns: Path | None = None
    """Table of the turns of each attempt: query, arm, turn, feedback, and perhaps tokens, cost_usd and reward."""
    prices: Path | None = None
    """Table of prices: arm, usd_in_per_m and usd_out_per_m, USD per million prompt and completion tokens."""
    columns: tuple[str, ...] = ()
    """Where a column has another name in the files, as query=query_id, or in one of them, as prices.arm=model; columns
    that make an arm or a query together are joined by +, as arm=model+effort."""
    delimiter: str | None = None
    """Between the fields of a CSV file, such as ";" or tab; a comma by default, a tab in .tsv."""
    verdict: bool = False
    """The environment itself told at run time whether an attempt had succeeded."""
    kind: Literal["single_call", "cascade", "attempts"] = "single_call"
    """What is to be learned: one call; calls until an answer is accepted; or attempts watched turn by turn."""
    arms: tuple[str, ...] = ()
    """Which arms, in which order; all by default, the cheapest first."""
    missing: Literal["drop", "mask"] = "drop"
    """A query that some arm has no row for is left out, or that arm is not legal there. Nothing is filled in."""
    costs: Literal["stated", "tokens"] | None = None
    """Charge the dollars of the source, or its tokens at its prices; dollars by default where there are any."""
    most_attempts: int = 2
    """Calls or attempts in one episode of a cascade or of attempts."""
    text: Literal["tfidf", "minilm", "hashing", "none"] = "tfidf"
    """What a router sees of a prompt."""
    dims: int = 64
    """Columns of that."""
    seed: int = 0
    """Fixes what is random in that, and the split of queries that name none."""
    name: str | None = None
    """Of the recording; that of its folder by default."""
    set: tuple[str, ...] = ()
    """Further options of the format, as name=value, such as max_steps=3 of mint; see docs/import.md."""
    report: Path | None = None
    """File to write the report to, as Markdown."""

    def run(self) -> None:
        """Read, report, save."""
        from routegym.cli.recording import writing
        from routegym.errors import ConfigError, RecordingError
        from routegym.evaluation.import_report import import_page, import_report
        from routegym.graph.imports import import_data
        from routegym.policies.training import write_atomically

        if self.out.exists() and not (self.out / "meta.json").is_file():
            raise RecordingError(f"{self.out}: exists and is not a recording; name another folder with --out")
        if self.report is not None and self.report.is_dir():
            raise ConfigError(f"{self.report}: is a folder; name a file with --report")
        options = self._options()
        with _status(f"reading {self.source}"):
            imported = import_data(self.format, self.source, **options)
        imported.recording.name = self.name or self.out.name
        with _status("looking for leaks and odd units"):
            report = import_report(imported)
        provenance = imported.recording.provenance
        provenance["made_by"] = self._command()
        provenance["imported"]["report"] = report.summary()
        if self.report is not None:
            with writing(self.report):
                self.report.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self.report, import_page(report).encode())
        with _status(f"writing {self.out}"), writing(self.out):
            imported.recording.save(self.out)
        _show(report)
        self._say_next(report, imported.recording)

    def _options(self) -> dict[str, Any]:
        """The options that were given, as the reader and the conversion take them."""
        from routegym.cli.train import changes
        from routegym.errors import ConfigError

        converting = {
            "kind": self.kind,
            "arms": self.arms,
            "missing": self.missing,
            "costs": self.costs,
            "most_attempts": self.most_attempts,
            "text": self.text,
            "dims": self.dims,
            "seed": self.seed,
        }
        further = changes(self.set)
        for name in further:
            if name in converting:
                raise ConfigError(f"--set {name}; it is an option of its own: --{name.replace('_', '-')}")
        reading = {
            "queries": self.queries,
            "turns": self.turns,
            "prices": self.prices,
            "columns": _pairs(self.columns),
            "delimiter": _NAMED_DELIMITERS.get(self.delimiter or "", self.delimiter),
            "verdict": self.verdict or None,
        }
        given = {name: value for name, value in reading.items() if value not in (None, {})}
        return given | further | converting

    def _command(self) -> str:
        """The command without folders of this machine."""
        words = ["routegym", "import", self.format, self.source.name]
        for name in ("queries", "turns", "prices"):
            if (path := getattr(self, name)) is not None:
                words += [f"--{name}", path.name]
        for name in ("columns", "arms", "set"):
            if values := getattr(self, name):
                words += [f"--{name}", *values]
        if self.verdict:
            words.append("--verdict")
        for name in ("delimiter", "kind", "missing", "costs", "most_attempts", "text", "dims", "seed", "name"):
            if (value := getattr(self, name)) != type(self).__dataclass_fields__[name].default:
                words += [f"--{name.replace('_', '-')}", str(value)]
        return shlex.join([*words, "-o", self.out.name])

    def _say_next(self, report: ImportReport, recording: Recording) -> None:
        from routegym.registration import ENV_IDS, kind_of

        print(f"\n{self.out}: content hash {recording.content_hash[:12]}")
        if report.no_trade_off:
            print("next: nothing to train, there is no cost to trade off; import arms whose costs differ")
            return
        for env in ENV_IDS:
            if kind_of(env) == self.kind:
                where = f"--env {env} --recording {shlex.quote(str(self.out))}"
                cascade = "fixed_cascade " if recording.tells_success else ""
                bench = f"routegym bench {where} --policies knn logistic random_mixture {cascade}all_action --seeds 1"
                if report.tasks.get("test"):
                    print(f"next: routegym train {where} --algo all_action --seeds 1")
                    print(f"      {bench}")
                else:
                    print(f"next: {bench} --folds 5")


def import_help() -> str:
    """The description of the command, with every format and the first line of what its reader says."""
    from routegym.graph.imports.registry import FORMATS, reader_of

    about = inspect.cleandoc(str(Import.__doc__))
    firsts = {name: str(reader_of(name).__doc__).strip().splitlines()[0] for name in FORMATS}
    return "\n".join([about, "", "formats:", *(f"  {name:<16} {line}" for name, line in firsts.items())])


def _status(text: str) -> AbstractContextManager[Any]:
    """What is being done, on stderr, where somebody is watching."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True)
    return console.status(escape(text)) if console.is_terminal else nullcontext()


def _pairs(columns: tuple[str, ...]) -> dict[str, str]:
    from routegym.errors import ConfigError

    found: dict[str, str] = {}
    for pair in columns:
        name, equals, column = pair.partition("=")
        if not (name and equals and column):
            raise ConfigError(f"--columns {pair}; expected NAME=COLUMN, such as query=query_id")
        if name in found:
            raise ConfigError(f"--columns names {name!r} twice; name it once")
        found[name] = column
    return found


def _show(report: ImportReport) -> None:
    from rich.markup import escape

    from routegym.cli.evaluate import wide_console
    from routegym.evaluation.import_report import arm_table, row_table

    console = wide_console()
    for table in (row_table(report), arm_table(report)):
        cells = [tuple(escape(cell) for cell in row) for row in table.rows]
        console.print(replace(table, title=escape(table.title), rows=cells).rich(), highlight=False)
    for title, lines in (("warning", report.warnings), ("leak", tuple(map(str, report.leaks)))):
        for line in lines:
            console.print(f"[bold yellow]{title}:[/] {escape(line)}", highlight=False, soft_wrap=True)
