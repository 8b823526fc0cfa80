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
        policy = policies[chosen]
        env = RoutingVectorEnv(
            1,
            recording,
            observation=getattr(policy, "observation", "flat"),
            split=self.split,
            autoreset_mode="Disabled",
            budget_usd=self.budget_usd or (low * high) ** 0.5,
        )
        console = Console()
        for episode in range(self.episodes):
            options = {} if self.task is None else {"task_id": self.task}
            observation, info = env.reset(seed=self.seed if episode == 0 else None, options=options)
            _route(env, policy, observation, info, console)


def _route(env: RoutingVectorEnv, policy: Any, observation: Any, info: dict[str, Any], console: Any) -> None:
    import numpy as np
    from rich.markup import escape

    from routegym.core.render import format_usd

    names, task = env.recording.action_names, str(info["task_id"][0])
    right = env.recording.tasks.references[env.recording.task_index[task]]
    console.print(
        f"[bold]task {task}[/], right answer {escape(right)}, hard budget {format_usd(info['budget_usd'][0])}"
    )
    step, done, state = 0, False, None
    while not done:
        masks = env.action_masks()
        sure = ""
        if hasattr(policy, "probabilities"):
            sure = f" ({policy.probabilities(observation, masks).max():.0%})"
        action, state = policy.predict(observation, state, np.array([step == 0]), True, masks)
        worst = float(env.recording.graph.node_reserve[env.node[0], action[0]])
        left = float(env.ledger.remaining_usd[0])
        situation = escape(str(info["text"][0]))
        observation, _, terminated, truncated, info = env.step(action)
        step += 1
        console.print(
            f"{step:>2}. {situation}\n"
            f"    [bold]{names[action[0]]}[/]{sure}: may cost {format_usd(worst)}, "
            f"{format_usd(left)} left, {int(masks.sum())}/{len(names)} affordable\n"
            f"    cost {format_usd(float(info['cost_usd'][0]))}, so far {format_usd(float(info['cost_usd_total'][0]))}",
            highlight=False,
        )
        done = bool(terminated[0] or truncated[0])
    console.print(f"    {escape(str(info['text'][0]))}\n[bold]score {info['score'][0]:g}[/]\n", highlight=False)
