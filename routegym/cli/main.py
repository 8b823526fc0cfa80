"""``routegym``: the command line."""

from __future__ import annotations

import sys
from functools import reduce
from operator import or_
from typing import Annotated, Any

import tyro

from routegym.cli.bench import Bench
from routegym.cli.doctor import Doctor
from routegym.cli.enjoy import Enjoy
from routegym.cli.evaluate import Evaluate
from routegym.cli.export import Export
from routegym.cli.import_ import Import, import_help
from routegym.cli.pool import Pool
from routegym.cli.record import Record
from routegym.cli.recording import Recording
from routegym.cli.report import Report
from routegym.cli.serve import Serve
from routegym.cli.sweep import Sweep
from routegym.cli.tasks import Tasks
from routegym.cli.train import Train
from routegym.errors import RoutegymError

__all__ = ["main"]

_ABOUT = """Learn which model to ask, step by step, within what a task may cost.

examples:
  routegym train                                  learn on the embedded pool, compare, draw the frontier
  routegym train --seeds 1 --steps 200000 --out runs/short
  routegym evaluate runs/agent_steps              the same comparison again, from the run folder
  routegym bench                                  every router beside each other, 5 seeds (takes a while)
  routegym sweep sweeps/cascade-grpo.yaml         search for hyperparameters
  routegym report runs/agent_steps                the results as one HTML page
  routegym enjoy runs/agent_steps --budget-usd 0.001
  routegym serve runs/mine --pool pool.yaml       answer OpenAI-compatible requests with what a policy chooses
  routegym pool check pool.yaml                   whether the models of a pool answer, and at what price
  routegym record --pool pool.yaml --tasks tasks.jsonl --spend-cap 5 --out recordings/mine
  routegym import table results.csv -o recordings/theirs     somebody else's results as a recording
  routegym doctor                                 what is installed and what is missing
"""


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a mistake of the user's is one line on stderr, with notes if it has any, and exit code 2."""
    given = sys.argv[1:] if arguments is None else arguments
    command: Any = tyro.cli(
        _commands(given),
        prog="routegym",
        description=_ABOUT,
        args=given,
        config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes),
    )
    try:
        command.run()
    except RoutegymError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)  # parsers' messages have several lines
        for note in getattr(error, "__notes__", ()):  # a program, whose lines are kept
            print(note, file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:  # the reader of our output has seen enough: `routegym recording info cascade | head`
        sys.stdout = None  # or Python complains once more when it exits
        raise SystemExit(0) from None
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept, and the same command goes on from there", file=sys.stderr)
        raise SystemExit(130) from None


def _commands(given: list[str]) -> Any:
    """The union of all commands; where none is given, the first line of what each says of itself is enough."""
    brief = not given or given[0].startswith("-")
    found: list[Any] = []
    for command in (
        Train,
        Evaluate,
        Bench,
        Report,
        Enjoy,
        Sweep,
        Record,
        Recording,
        Import,
        Export,
        Serve,
        Tasks,
        Pool,
        Doctor,
    ):
        text = str(command.__doc__).partition("\n\n")[0].strip()
        if command is Import and given[:1] == ["import"]:
            text = import_help()
        elif not brief:
            found.append(command)
            continue
        named = tyro.conf.subcommand(command.__name__.lower(), description=text)
        found.append(Annotated[command, named])
    return reduce(or_, found)
