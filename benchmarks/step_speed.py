"""Steps per second of the environment beside its peers and beside the bound of copying the observations.

    python benchmarks/step_speed.py            # prints the table
    python benchmarks/step_speed.py --write    # also puts it into docs/speed.md

One thread, random actions drawn beforehand, no budget (every arm is legal), info="lean". CPU seconds of one
process, best of several windows; AsyncVectorEnv, which works in other processes, by the wall clock.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any

import common
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from routegym.core import RoutingEnv, RoutingVectorEnv
from routegym.graph import Recording
from routegym.graph.library import load_recording
from routegym.policies.training import Training

HEADER = ("stepping", "N", "observation", "steps/s", "x SyncVectorEnv (64)", "share of the gather")
PACKAGES = ("routegym", "numpy", "numba", "gymnasium", "stable-baselines3", "torch", "pufferlib")


@dataclass
class Bench:
    """Rows of the table as they are measured."""

    recording: Recording
    seconds: float
    repeats: int
    rows: list[tuple[str, str, str, float | None, float | None]] = field(default_factory=list)

    def add(self, name: str, size: int, seen: str, value: float | None, gather: float | None = None) -> None:
        """Keep one result; `gather` is the bound it is compared with."""
        self.rows.append((name, str(size) if size else "-", seen, value, gather))

    def actions(self, size: int, sets: int = 16) -> npt.NDArray[np.int64]:
        """Random actions, int64 (sets, size)."""
        return np.random.default_rng(0).integers(0, self.recording.graph.n_actions, (sets, size))

    def rate(self, step: Callable[[Any], Any], size: int, clock: Callable[[], float] = time.process_time) -> float:
        """Steps per second of `step` on random actions."""
        actions = self.actions(size)

        def play() -> int:
            for some in actions:
                step(some)
            return actions.size

        return common.rate(play, seconds=self.seconds, repeats=self.repeats, clock=clock)

    # -- peers -------------------------------------------------------------------------------
    def single(self) -> None:
        """One environment in a Python loop."""
        env = RoutingEnv(self.recording, info="lean")
        env.reset(seed=0)

        def step(actions: npt.NDArray[Any]) -> None:
            _, _, terminated, truncated, _ = env.step(actions[0])
            if terminated or truncated:
                env.reset()

        self.add("RoutingEnv", 1, "flat", self.rate(step, 1))

    def gymnasium(self, kind: type[SyncVectorEnv] | type[AsyncVectorEnv], size: int) -> None:
        """Gymnasium's own batches of single environments."""
        recording = self.recording
        env = kind([lambda: RoutingEnv(recording, info="lean")] * size)
        try:
            env.reset(seed=0)
            clock = time.perf_counter if kind is AsyncVectorEnv else time.process_time
            self.add(f"gymnasium {kind.__name__}", size, "flat", self.rate(env.step, size, clock))
        finally:
            env.close()

    def stable_baselines3(self, size: int) -> None:
        """SB3's batch of single environments."""
        name = "SB3 DummyVecEnv"
        if find_spec("stable_baselines3") is None:
            self.add(f"{name}: not installed", size, "flat", None)
            return
        from stable_baselines3.common.vec_env import DummyVecEnv

        env = DummyVecEnv([lambda: RoutingEnv(self.recording, info="lean")] * size)  # type: ignore[list-item]
        env.reset()
        self.add(name, size, "flat", self.rate(env.step, size))

    def pufferlib(self) -> None:
        """PufferLib's serial vectorisation, where it installs."""
        if find_spec("pufferlib") is None:
            self.add("PufferLib Serial: not installed", 64, "flat", None)
            return
        import pufferlib.emulation
        import pufferlib.vector

        env = pufferlib.vector.make(
            lambda **kwargs: pufferlib.emulation.GymnasiumPufferEnv(RoutingEnv(self.recording, info="lean"), **kwargs),
            num_envs=64,
            backend=pufferlib.vector.Serial,
        )
        env.reset()
        self.add("PufferLib Serial", 64, "flat", self.rate(env.step, 64))

    # -- routegym ----------------------------------------------------------------------------
    def gather(self, recording: Recording, size: int) -> float:
        """Rows per second of copying rows as wide as an observation, right where a flat env would: after each step.

        Only the copying is timed. Copying the same rows in a loop of its own would find them in the cache.
        """
        env = native(recording, size, "index")
        env.reset(seed=0)
        actions = self.actions(size)
        width = native(recording, 1, "flat").layout.width
        matrix = np.random.default_rng(0).random((recording.graph.n_nodes, width), dtype=np.float32)
        out = np.empty((size, width), dtype=np.float32)
        best, taken = 0.0, 0
        for _ in range(self.repeats):
            spent = rows = 0.0
            while spent < self.seconds:
                nodes = env.step(actions[taken % len(actions)])[0]
                taken += 1
                start = time.process_time()
                matrix.take(nodes, axis=0, out=out, mode="clip")
                spent += time.process_time() - start
                rows += size
            best = max(best, rows / spent)
        return best

    def native(self, sizes: tuple[int, ...], kernels: tuple[str, ...]) -> None:
        """The batch environment, every kernel and observation."""
        wide = common.synthetic(20_000 if self.seconds < 0.1 else 400_000, node_signals=384)
        for size in sizes:
            bounds = {"flat": self.gather(self.recording, size), "flat, wide": self.gather(wide, size)}
            for kernel in kernels:
                os.environ["ROUTEGYM_KERNEL"] = kernel
                for seen in ("index", "flat", "flat, wide"):
                    env = native(wide if "wide" in seen else self.recording, size, seen.partition(",")[0])
                    env.reset(seed=0)
                    speed = self.rate(env.step, size)
                    self.add(f"native, {kernel}", size, described(env, seen), speed, bounds.get(seen))
            for seen, bound in bounds.items():
                recording = wide if "wide" in seen else self.recording
                self.add("plain gather", size, described(native(recording, 1, "flat"), seen), bound, bound)

    def budgets(self, kernels: tuple[str, ...]) -> None:
        """Hard budgets: what a masked policy pays for, step and masks; drawing legal actions is not counted."""
        for kernel in kernels:
            os.environ["ROUTEGYM_KERNEL"] = kernel
            env = native(self.recording, 16_384 if self.seconds >= 0.1 else 256, "index", budget_usd="sampled")
            env.reset(seed=0)
            rng, best = np.random.default_rng(0), 0.0
            for _ in range(self.repeats):
                spent = steps = 0.0
                while spent < self.seconds:
                    start = time.process_time()
                    masks = env.action_masks()
                    spent += time.process_time() - start
                    actions = np.argmax(rng.random(masks.shape, dtype=np.float32) * masks, axis=1)
                    start = time.process_time()
                    env.step(actions)
                    spent += time.process_time() - start
                    steps += env.num_envs
                best = max(best, steps / spent)
            self.add(f"native, {kernel}, budgets and masks", env.num_envs, "index", best)

    def ppo(self, steps: int) -> None:
        """PPO with the shipped settings on one thread: collection and learning."""
        name = "PPO, shipped settings: collect and learn"
        if find_spec("sb3_contrib") is None:
            self.add(f"{name}: not installed", 0, "flat", None)
            return
        import torch

        from routegym.policies.algorithm import Problem
        from routegym.policies.config import tuned

        torch.set_num_threads(1)
        algorithm: Any = tuned("maskable_ppo", "routegym/AgentSteps-v0", {"steps": steps})
        problem, reached = Problem(self.recording), [0]
        replace(algorithm, steps=algorithm.n_envs * algorithm.n_steps).fit(problem)  # loads and compiles
        start = time.process_time()
        algorithm.fit(problem, training=Training(report=lambda metrics: reached.append(metrics["step"])))
        self.add(name, algorithm.n_envs, "flat", reached[-1] / (time.process_time() - start))

    # -- the table ---------------------------------------------------------------------------
    def table(self) -> list[tuple[str, ...]]:
        """The rows as text, with ratios to SyncVectorEnv at 64."""
        sync = next(value for name, size, _, value, _ in self.rows if "SyncVectorEnv" in name and size == "64")
        assert sync
        return [
            (
                name,
                size,
                seen,
                common.figure(value),
                f"{value / sync:.3g}" if value else "-",
                f"{value / gather:.0%}" if value and gather else "-",
            )
            for name, size, seen, value, gather in self.rows
        ]


def native(recording: Recording, size: int, observation: Any, **kwargs: Any) -> RoutingVectorEnv:
    """The batch environment as it is timed."""
    settings: dict[str, Any] = {"copy": False, "info": "lean", "autoreset_mode": AutoresetMode.SAME_STEP}
    return RoutingVectorEnv(size, recording, observation=observation, **settings | kwargs)


def described(env: RoutingVectorEnv, seen: str) -> str:
    """The observation with its number of columns."""
    return seen if seen == "index" else f"flat, {env.layout.width} columns"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recording", default="agent_steps", help="name or folder of a recording of AgentSteps")
    parser.add_argument("--quick", action="store_true", help="every row, but too short to mean anything")
    parser.add_argument("--write", action="store_true", help="put the table into docs/speed.md")
    args = parser.parse_args()
    bench = Bench(load_recording(args.recording), *((0.005, 1) if args.quick else (0.25, 7)))
    kernels = ("numpy", "numba") if find_spec("numba") is not None else ("numpy",)
    bench.single()
    for size in (2, 64) if args.quick else (8, 64):
        bench.gymnasium(SyncVectorEnv, size)
    for size in (2,) if args.quick else (8, 64):
        bench.gymnasium(AsyncVectorEnv, size)
    for size in (2,) if args.quick else (8, 64):
        bench.stable_baselines3(size)
    bench.pufferlib()
    bench.native((64, 256) if args.quick else (64, 1_024, 16_384), kernels)
    bench.budgets(kernels)
    bench.ppo(16_384 if args.quick else 200_000)
    graph = bench.recording.graph
    note = (
        f"{graph.n_nodes:,} situations, {graph.n_edges:,} edges, {graph.n_actions} actions. "
        f"{common.machine(PACKAGES)}. Command: `python benchmarks/step_speed.py --write`"
    )
    common.show("Steps per second", HEADER, bench.table(), note)
    if args.write:
        common.write("step_speed", HEADER, bench.table(), note)


if __name__ == "__main__":
    main()
