"""``routegym enjoy``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from routegym.core.vector_env import RoutingVectorEnv

__all__ = ["Enjoy"]


@dataclass(frozen=True)
class Enjoy:
    """Watch a trained policy route tasks, step by step: situation, what each arm would cost, choice, cost so far."""

    run_folder: Annotated[Path, tyro.conf.Positional]
    """Folder that `routegym train` wrote."""
    task: str | None = None
    """Id of the task; random ones by default."""
    budget_usd: float | None = None
    """Hard cap in USD; the middle of the recording's range by default."""
    episodes: int = 1
    """How many tasks to route."""
    policy_seed: int | None = None
    """Which of the run's networks; the first by default."""
    split: str = "test"
    """Where random tasks come from."""
    recording: str | None = None
    """Where the run's recording is, if it has moved."""
    seed: int = 0
    """Draws the tasks and the recorded samples."""

    def run(self) -> None:
        """Route and print."""
        from rich.console import Console

        from routegym.cli.evaluate import open_run
        from routegym.core.vector_env import RoutingVectorEnv
        from routegym.errors import ConfigError
        from routegym.tracking.run import Run

        if self.episodes < 1:
            raise ConfigError(f"episodes = {self.episodes}; expected at least 1")
        recording, policies = open_run(Run(self.run_folder), self.recording)
        chosen = min(policies) if self.policy_seed is None else self.policy_seed
        if chosen not in policies:
            raise ConfigError(f"policy_seed = {chosen}; this run has {sorted(policies)}")
        low, high = recording.budget_range_usd
        env = RoutingVectorEnv(
            1, recording, split=self.split, autoreset_mode="Disabled", budget_usd=self.budget_usd or (low * high) ** 0.5
        )
        console = Console()
        for episode in range(self.episodes):
            options = {} if self.task is None else {"task_id": self.task}
            observation, info = env.reset(seed=self.seed if episode == 0 else None, options=options)
            _route(env, policies[chosen], observation, info, console)


def _route(env: RoutingVectorEnv, policy: Any, observation: Any, info: dict[str, Any], console: Any) -> None:
    from rich.table import Table

    from routegym.core.render import format_usd

    names = env.recording.action_names
    table = Table(
        title=f"task {info['task_id'][0]}, budget {format_usd(info['budget_usd'][0])}", title_justify="left"
    )
    for column in ("step", "situation", "choice", "probability", "why it is affordable", "cost", "spent so far"):
        table.add_column(column, justify="right" if column in ("step", "probability", "cost") else "left")
    done = False
    step = 0
    while not done:
        masks = env.action_masks()
        probability = policy.probabilities(observation, masks)[0]
        action, _ = policy.predict(observation, action_masks=masks)
        worst = float(env.recording.graph.node_reserve[env.node[0], action[0]])
        left = float(env.ledger.remaining_usd[0])
        situation = str(info["text"][0])
        observation, _, terminated, truncated, info = env.step(action)
        step += 1
        table.add_row(
            str(step),
            situation,
            names[action[0]],
            f"{probability[action[0]]:.0%}",
            f"at most {format_usd(worst)} of {format_usd(left)}; {int(masks.sum())} of {len(names)} arms are",
            format_usd(float(info["cost_usd"][0])),
            format_usd(float(info["cost_usd_total"][0])),
        )
        done = bool(terminated[0] or truncated[0])
    console.print(table)
    task = env.recording.task_index[str(info["task_id"][0])]
    right = env.recording.tasks.references[task]
    console.print(f"ended with {info['text'][0]!r} (right: {right!r}), score {info['score'][0]:g}\n")
