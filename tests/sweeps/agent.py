"""W&B's own sweep agent with a server that is made up: it hands out one run, and then has nothing left.

Arguments: the sweep's file, and hyperparameters as name=value. Everything that is done with the file and the command is
W&B's.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import wandb
import yaml
from wandb import wandb_agent
from wandb.apis.public import sweeps

SWEEP, RUN = "sweep1", "run1"


def main(file: str, *pairs: str) -> None:
    text = Path(file).read_text(encoding="utf-8")
    values = {name: {"value": yaml.safe_load(value)} for name, _, value in (pair.partition("=") for pair in pairs)}
    orders = [{"type": "run", "run_id": RUN, "program": yaml.safe_load(text).get("program"), "args": values}]

    def heartbeat(api: Any, agent: str, metrics: Any, running: dict[str, bool]) -> list[dict[str, Any]]:
        if not orders and not running:
            return [{"type": "exit"}]
        found, orders[:] = orders[:], []
        return found

    sweeps._sweep_with_runs = lambda *_: {"config": text}
    sweeps._register_agent = lambda *_, **__: {"id": "agent1"}
    sweeps._agent_heartbeat = heartbeat
    wandb.Api = SimpleNamespace
    wandb_agent.Agent.POLL_INTERVAL = 0.1
    wandb_agent.run_agent(SWEEP, project="made-up", entity="nobody")


if __name__ == "__main__":
    main(*sys.argv[1:])
