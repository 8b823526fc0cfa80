"""``routegym``: the command line."""

from __future__ import annotations

import sys
from typing import Annotated

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

_Commands = (
    Annotated[Train, tyro.conf.subcommand("train", description="Train a policy and compare it.")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate", description="Compare the policy of a run folder.")]
    | Annotated[Enjoy, tyro.conf.subcommand("enjoy", description="Watch the policy of a run folder route a task.")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor", description="Say what is installed and what is missing.")]
)


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a mistake of the user's is one line on stderr and exit code 2."""
    command = tyro.cli(
        _Commands,
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
