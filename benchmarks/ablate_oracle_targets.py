"""What it costs to learn from the clairvoyant oracle: its values use what the router cannot see.

    python benchmarks/ablate_oracle_targets.py            # prints the table, about 4 minutes
    python benchmarks/ablate_oracle_targets.py --write    # also puts it into docs/ablations/oracle_targets.md

Two learners that differ in one thing. Both are the all-action learner: same network, situations, optimiser and number
of updates. The first values an action by what the present policy makes of it, the second by what the clairvoyant
oracle would (exact dynamic programming from every situation under the episode's hard budget and price of cost). On
the embedded recordings, and on a problem made for this whose answer is hidden from the router.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import common
import numpy as np
import numpy.typing as npt
import torch

from routegym.evaluation.frontier import aiq, hull
from routegym.evaluation.outcomes import LAMBDAS, Grid, play
from routegym.evaluation.references import arms_alone
from routegym.evaluation.statistics import Sweep, aiq_difference
from routegym.graph.graph import OPEN, TERMINATED, edge_dtype
from routegym.graph.library import load_recording
from routegym.graph.recording import Recording
from routegym.policies.algorithm import Problem
from routegym.policies.all_action import AllAction, Learner
from routegym.policies.config import tuned
from routegym.policies.unrolling import Evaluation
from routegym.pool.arms import Arm, Price, PriceTable
from routegym.tasks.taskset import TaskSet

ENVS = {"agent_steps": "routegym/AgentSteps-v0", "cascade": "routegym/Cascade-v0"}
PAGE = Path(__file__).resolve().parents[1] / "docs" / "ablations" / "oracle_targets.md"
PACKAGES = ("routegym", "numpy", "torch")

_Floats = npt.NDArray[np.float64]


def oracle_q(
    recording: Recording, node: npt.NDArray[np.int64], spent: _Floats, budget: _Floats, price: _Floats
) -> _Floats:
    """What each action is worth if the oracle goes on, 0 where it is illegal, (m, n_actions).

    Args:
        recording: complete, with one sample of each edge.
        node, spent: situations, (m,) each.
        budget, price: hard cap in USD and score that a USD is worth, of the episode of each, (m,).
    """
    graph = recording.graph
    if graph.max_samples > 1:
        raise SystemExit("the oracle of this benchmark knows recordings with one sample of each edge only")
    layers = []
    while len(node):
        row, action = np.nonzero(spent[:, None] + graph.node_reserve[node] <= budget[:, None])
        edge = graph.edges[graph.edge_first[node[row], action]]
        landing, after = edge["next"].astype(np.int64), spent[row] + edge["cost_usd"]
        goes_on = graph.node_status[landing] == OPEN
        worth = np.where(goes_on, 0.0, graph.node_score[landing]) - price[row] * edge["cost_usd"]
        onward = np.flatnonzero(goes_on & (after + graph.node_floor[landing] <= budget[row]))
        layers.append((len(node), row, action, worth, onward))
        node, spent = landing[onward], after[onward]
        budget, price = budget[row[onward]], price[row[onward]]
    best: _Floats = np.zeros(0)
    q: _Floats = np.zeros((0, graph.n_actions))
    for n, row, action, worth, onward in reversed(layers):
        worth[onward] += best
        q = np.full((n, graph.n_actions), -np.inf)
        q[row, action] = worth
        best = q.max(axis=1)
    return np.where(np.isfinite(q), q, 0.0)


class Distiller(Learner):
    """Ascends the oracle's values of the actions in place of the policy's own."""

    def evaluate(self) -> Evaluation:
        """See `Learner.evaluate`."""
        found = super().evaluate()
        slots, recording = self.env.state(), self.env.recording
        budget, price = slots["budget_usd"], slots["lambda_"] / recording.cost_scale_usd
        q = oracle_q(recording, found.node, found.spent_usd, budget[found.episode], price[found.episode])
        return replace(found, q=q)


@dataclass(frozen=True)
class OracleTargets(AllAction):
    """The all-action learner with the values of the oracle."""

    learner: ClassVar[type[Learner]] = Distiller


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", nargs="*", default=list(ENVS), help="names or folders of recordings")
    parser.add_argument("--quick", action="store_true", help="every row, but too short to mean anything")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="put the table into docs/ablations/oracle_targets.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    seeds = 1 if args.quick else args.seeds
    changes = {"updates": 4, "tasks_per_update": 8} if args.quick else {"tasks_per_update": 64}
    recordings = [hidden(), *map(load_recording, args.recordings)]
    rows = [compare(recording, seeds, changes) for recording in recordings]
    header = ("test tasks", "AIQ, its own values", "AIQ, the oracle's values", "difference")
    note = (
        f"{seeds} seeds, 95 % paired bootstrap over tasks and seeds. {common.machine(PACKAGES)}. "
        "Command: `python benchmarks/ablate_oracle_targets.py --write`"
    )
    common.show("Learning from the clairvoyant oracle", header, rows, note)
    if args.write:
        common.write("oracle_targets", header, rows, note, PAGE)


def compare(recording: Recording, seeds: int, changes: dict[str, Any]) -> tuple[str, ...]:
    """The row of a recording."""
    settings = asdict(tuned("all_action", ENVS.get(recording.name, ""), changes))  # type: ignore[call-overload]
    grid = Grid.of(recording)
    arms = arms_alone(recording, recording.split("test"))
    low, high = arms.points()[0].min(), arms.points()[0].max()
    sweeps = []
    for algorithm in (AllAction(**settings), OracleTargets(**settings)):
        problem = Problem(recording, lambda_=(min(LAMBDAS), max(LAMBDAS)))
        found = [play(algorithm.fit(problem, seed), recording, "test", grid) for seed in range(seeds)]
        sweeps.append(
            Sweep(np.array([one.scores for one in found], dtype=np.float64), np.array([one.costs for one in found]))
        )
    mine, theirs = sweeps
    values = [aiq(hull(*sweep.points()), low, high) for sweep in sweeps]
    lead = aiq_difference(mine, theirs, arms)
    zero = aiq(hull(*arms.points()), low, high)
    return (
        f"{recording.name} (zero router {zero:.4f})",
        *(f"{value:.4f}" for value in values),
        f"{lead.estimate:+.4f} [{lead.low:+.4f}, {lead.high:+.4f}]",
    )


def hidden(tasks: int = 64) -> Recording:
    """A problem whose answer is hidden: nothing that is seen tells two equally frequent sorts of task apart.

    The arm ``safe`` scores 0.6 and is done. After a first call of ``left`` or ``right`` a second one scores 1 if it is
    the arm that is right for the task, and else 0. Every call costs the same. The best that a router can do is
    ``safe``; the oracle, which knows the sort, makes two calls and always scores 1.
    """
    names = tuple(f"task-{index}" for index in range(tasks))
    arms = tuple(Arm(name, "direct", 1, 1) for name in ("safe", "left", "right"))
    recording = Recording.empty(
        name="hidden",
        kind="hidden",
        arms=arms,
        controls=(),
        prices=PriceTable("2026-01-01", "made up", {arm.model: Price(0.0, 0.0, 1.0, 0.0) for arm in arms}),
        tasks=TaskSet(names, names, names, ("train", "test") * (tasks // 2)),
        node_signal_names=("n",),
        edge_signal_names=("e",),
        provenance={"made by": "benchmarks", "complete": True},
    )
    graph = recording.graph
    for task in range(tasks):
        start = graph.n_nodes
        graph.append_nodes(
            task=[task] * 5,
            step=[0, 1, 1, 2, 2],
            status=[OPEN, OPEN, TERMINATED, TERMINATED, TERMINATED],
            score=[np.nan, np.nan, 0.6, 0.0, 1.0],
            signals=np.zeros((5, 1)),
            reserve_usd=np.array([[1e-6]] * 2 + [[np.nan]] * 3).repeat(3, axis=1),
        )
        graph.task_start[task] = start
        records = np.zeros(6, dtype=edge_dtype(1))
        right = task // 2 % 2
        records["next"] = start + np.array([2, 1, 1, 3, 4 - right, 3 + right])
        records["cost_usd"] = records["reserve_usd"] = 1e-6
        graph.append_edges([start] * 3 + [start + 1] * 3, [0, 1, 2] * 2, records)
    recording.texts.extend([""] * graph.n_nodes)
    recording.fix_scales()
    recording.budget_range_usd = (2e-6, 4e-6)  # always pays for two calls
    return recording


if __name__ == "__main__":
    main()
