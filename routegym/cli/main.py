"""``routegym``: the command line."""

from __future__ import annotations

import sys

import tyro

from routegym.cli.doctor import Doctor
from routegym.cli.enjoy import Enjoy
from routegym.cli.evaluate import Evaluate
from routegym.cli.train import Train
from routegym.errors import RoutegymError

__all__ = ["main"]

_ABOUT = """Learn which model to ask, step by step, within what a task may cost.

examples:
  routegym train                                  learn on the embedded pool, compare, draw the frontier
  routegym train --seeds 1 --steps 200000 --out runs/short
  routegym evaluate runs/agent_steps              the same comparison again, from the run folder
  routegym enjoy runs/agent_steps --budget-usd 0.001
  routegym doctor                                 what is installed and what is missing
"""


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a mistake of the user's is one line on stderr and exit code 2."""
    command = tyro.cli(
        Train | Evaluate | Enjoy | Doctor,
        prog="routegym",
        description=_ABOUT,
        args=arguments,
        config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes),
    )
    try:
        command.run()
    except RoutegymError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)  # parsers' messages have several lines
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept, and the same command goes on from there", file=sys.stderr)
        raise SystemExit(130) from None
