"""How fast each learner learns: environment steps per CPU second, and CPU seconds to 95 % of its final AIQ.

    python benchmarks/train_speed.py            # prints both tables, about 8 minutes
    python benchmarks/train_speed.py --write    # also puts them into docs/speed.md

One thread, AgentSteps, tuned hyperparameters. The peers are stable-baselines3's PPO on a DummyVecEnv of the same single
environment, once with our PPO's roll-out and minibatch sizes and once with its own defaults, and the same network. The
second table evaluates snapshots on the validation tasks under the budgets of `routegym bench` at three prices;
"final" is each learner's own last value, and evaluation is not in the CPU seconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any

import common
import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from routegym.evaluation.frontier import aiq, hull
from routegym.evaluation.outcomes import Grid, play
from routegym.evaluation.references import arms_alone
from routegym.graph import Recording
from routegym.graph.library import load_recording
from routegym.policies.algorithm import Problem
from routegym.policies.config import tuned
from routegym.policies.network import NetworkPolicy
from routegym.policies.networks import make_actor
from routegym.policies.training import Arrays, Training

ENV = "routegym/AgentSteps-v0"
STEPPING = ("ppo", "maskable_ppo", "recurrent_ppo", "grpo", "rloo", "ppo_lagrangian", "masrouter")
#: Rows of the second table: an algorithm and what is changed of its tuned hyperparameters.
LEARNING: dict[str, tuple[str, dict[str, Any]]] = {
    "maskable_ppo": ("maskable_ppo", {}),
    "ppo": ("ppo", {}),
    "grpo": ("grpo", {}),
    "rloo": ("rloo", {}),
    "all_action": ("all_action", {}),
    "all_action, half the updates": ("all_action", {"updates": 200}),
}
PRICES = (0.0, 0.05, 0.2)
PACKAGES = ("routegym", "numpy", "numba", "stable-baselines3", "sb3-contrib", "torch")


class Snapshots(Training):
    """Keeps the actor every so many CPU seconds instead of writing checkpoints."""

    def __init__(self, every_s: float) -> None:
        super().__init__(report=self._note)
        self.every_s, self.began, self.last = every_s, time.process_time(), 0.0
        self.kept: list[tuple[float, Arrays]] = []
        self.steps = 0

    def _note(self, metrics: Mapping[str, Any]) -> None:
        self.steps = int(metrics["step"])

    @property
    def due(self) -> bool:
        """Whether so many CPU seconds have passed."""
        return time.process_time() - self.began - self.last >= self.every_s

    def save(self, number: int, settings: Mapping[str, Any], arrays: Arrays) -> None:
        """Keep a copy of the actor."""
        del number, settings
        self.last = time.process_time() - self.began
        actor = {
            name.removeprefix(place): array.copy()
            for name, array in arrays.items()
            for place in ("policy/mlp_extractor.actor.", "actor/")
            if name.startswith(place)
        }
        self.kept.append((self.last, actor))


def throughput(name: str, recording: Recording, steps: int) -> float:
    """Environment steps per CPU second of a learner, collection and learning."""
    algorithm = tuned(name, ENV, {"steps": steps})
    training = Snapshots(every_s=np.inf)
    algorithm.fit(Problem(recording), 0, training)
    return training.steps / (time.process_time() - training.began)


def peer(recording: Recording, steps: int, n_envs: int, **settings: Any) -> float:
    """Environment steps per CPU second of stable-baselines3's PPO on a DummyVecEnv of the single environment."""

    def make() -> gym.Env[Any, Any]:
        return Unmasked(gym.make(ENV, recording=recording, lambda_=0.1, info="lean"))

    model = PPO(
        "MlpPolicy", DummyVecEnv([make] * n_envs), policy_kwargs={"net_arch": [64, 64]}, device="cpu", **settings
    )
    start = time.process_time()
    model.learn(steps)
    return model.num_timesteps / (time.process_time() - start)


class Unmasked(gym.Wrapper[Any, Any, Any, Any]):
    """Without a budget every arm is legal, so that an algorithm without masks can play."""


def curve(name: str, recording: Recording, seed: int) -> list[tuple[float, float]]:
    """(CPU seconds, validation AIQ) of snapshots along a training."""
    algo, changes = LEARNING[name]
    algorithm: Any = tuned(algo, ENV, changes)
    every_s = 0.5 if algo == "all_action" else 1.0
    training = Snapshots(every_s)
    policy = algorithm.fit(Problem(recording), seed, training)
    end = time.process_time() - training.began
    grid = Grid.of(recording, lambdas=PRICES)
    costs, _ = arms_alone(recording, recording.split("val")).points()
    span = float(costs.min()), float(costs.max())

    def measure(trained: Any) -> float:
        outcomes = play(trained, recording, "val", grid)
        return aiq(hull(outcomes.costs.mean(axis=1), outcomes.scores.mean(axis=1, dtype=np.float64)), *span)

    points = []
    for seconds, arrays in training.kept:
        actor = make_actor(algorithm.network, algorithm.hidden, recording)
        actor.load_state_dict({key: torch.as_tensor(array) for key, array in arrays.items()})
        points.append((seconds, measure(NetworkPolicy(actor, algorithm.network, algorithm.hidden))))
    return [*points, (end, measure(policy))]


def first(points: list[tuple[float, float]], level: float) -> float | None:
    """CPU seconds at which a value is first reached."""
    return next((seconds for seconds, value in points if value >= level), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recording", default="agent_steps", help="name or folder of a recording of AgentSteps")
    parser.add_argument("--quick", action="store_true", help="every row, but too short to mean anything")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the learning curves")
    parser.add_argument("--table", choices=("throughput", "learning"), help="only this one")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/speed.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    recording = load_recording(args.recording)
    note = f"{common.machine(PACKAGES)}. Command: `python benchmarks/train_speed.py --write`"
    if args.table != "learning":
        peer(recording, 64, 8, n_steps=8)  # loads and compiles
        _tables(stepping(recording, args.quick), "train_speed", "Training throughput", note, args.write)
    if args.table != "throughput" and not args.quick:
        _tables(learning(recording, args.seeds), "learning_speed", "Learning", note, args.write)


def stepping(recording: Recording, quick: bool) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of the first table."""
    steps = 20_000 if quick else 200_000
    ours: Any = tuned("ppo", ENV)
    if quick:
        peers: dict[str, Callable[[], float]] = {
            "SB3 PPO, DummyVecEnv, 8 envs": lambda: peer(recording, 2_048, 8, n_steps=64)
        }
    else:
        matched = {"n_steps": ours.n_steps, "batch_size": ours.batch_size, "n_epochs": ours.n_epochs}
        peers = {
            f"SB3 PPO, DummyVecEnv, {ours.n_envs} envs, minibatch {ours.batch_size}": lambda: peer(
                recording, 60_000, ours.n_envs, **matched
            ),
            "SB3 PPO, DummyVecEnv, 8 envs, SB3's defaults": lambda: peer(recording, 16_384, 8),
        }
    against = {name: measure() for name, measure in peers.items()}
    header = ("learner", "env steps per CPU s", *(f"x {name}" for name in against))
    rates = {**against, **{name: throughput(name, recording, steps) for name in STEPPING}}
    rows = [
        (name, common.figure(value), *(f"{value / other:.3g}" for other in against.values()))
        for name, value in rates.items()
    ]
    return header, rows


def learning(recording: Recording, seeds: int) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of the second table, means over the seeds."""
    curves = {name: [curve(name, recording, seed) for seed in range(seeds)] for name in LEARNING}
    goal = float(np.mean([points[-1][1] for points in curves["maskable_ppo"]]))
    rows = []
    for name, mine in curves.items():
        own = [first(points, 0.95 * points[-1][1]) for points in mine]
        theirs = [first(points, goal) for points in mine]
        rows.append(
            (
                name,
                f"{np.mean([points[-1][1] for points in mine]):.4f}",
                f"{np.mean([points[-1][0] for points in mine]):.1f}",
                _mean(own),
                _mean(theirs),
            )
        )
    header = (
        "learner",
        "final AIQ (val)",
        "CPU s in all",
        "CPU s to 95 % of it",
        f"CPU s to {goal:.4f} (maskable_ppo's)",
    )
    return header, rows


def _mean(values: list[float | None]) -> str:
    reached = [value for value in values if value is not None]
    text = f"{np.mean(reached):.1f}" if reached else "-"
    return text if len(reached) == len(values) else f"{text} ({len(reached)} of {len(values)} seeds)"


def _tables(
    table: tuple[tuple[str, ...], list[tuple[str, ...]]], marker: str, title: str, note: str, write: bool
) -> None:
    common.show(title, *table, note)
    if write:
        common.write(marker, *table, note)


if __name__ == "__main__":
    main()
