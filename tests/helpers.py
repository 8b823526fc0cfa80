"""Small recordings for tests: a simulated pool, the families over it, and graphs built by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from routegym.envs.agent_steps import AgentStepsWorkflow
from routegym.envs.attempts import AttemptsWorkflow
from routegym.envs.cascade import CascadeWorkflow
from routegym.envs.single_call import SingleCallWorkflow
from routegym.graph import OPEN, TERMINATED, Expander, Recording, edge_dtype, explore, start_recording
from routegym.pool.arms import Arm, Price, PriceTable
from routegym.pool.simulated import SimulatedBackend
from routegym.tasks import LEVELS, TaskSet, generate_tasks

KINDS = ("single_call", "cascade", "agent_steps", "attempts")
ID_OF_KIND = {
    "single_call": "routegym/SingleCall-v0",
    "cascade": "routegym/Cascade-v0",
    "agent_steps": "routegym/AgentSteps-v0",
    "attempts": "routegym/Attempts-v0",
}


@dataclass
class SimulatedPool:
    """Three arms of rising price and accuracy; a quarter of the wrong answers is malformed."""

    arms: tuple[Arm, ...] = tuple(Arm(f"m{i}", "direct", 10**i, 4 + i) for i in range(3))
    prices: PriceTable = field(
        default_factory=lambda: PriceTable(
            "2026-01-01", "made up", {f"m{i}": Price(10.0**i, 0.0, 4 * 10.0**i, 0.0) for i in range(3)}
        )
    )
    backend: SimulatedBackend = field(
        default_factory=lambda: SimulatedBackend(
            {f"m{i}/direct": dict.fromkeys(LEVELS, 0.5 + 0.2 * i) for i in range(3)}, malformed=0.25
        )
    )


def workflow_of(kind: str, pool: SimulatedPool) -> Any:
    names = [arm.name for arm in pool.arms]
    if kind == "attempts":
        return AttemptsWorkflow(names, most_turns=4)
    if kind == "single_call":
        return SingleCallWorkflow()
    return CascadeWorkflow(names) if kind == "cascade" else AgentStepsWorkflow()


def tasks_of(kind: str, count: int, seed: int = 0) -> TaskSet:
    if kind == "agent_steps":
        return generate_tasks(count, (2, 4), seed=seed)
    if kind == "attempts":
        return generate_tasks(count, (2, 3), seed=seed)
    tasks = generate_tasks(count, (1, 1), seed=seed)
    return TaskSet(tasks.ids, tuple(p[1:-1] for p in tasks.prompts), tasks.references, tasks.splits)


def start(
    kind: str, tasks: int = 60, seed: int = 0, samples: Mapping[str, int] | None = None
) -> tuple[Recording, Expander]:
    """A recording with nothing but start nodes, and what grows it."""
    pool = SimulatedPool()
    workflow = workflow_of(kind, pool)
    recording = start_recording(kind, workflow, pool, tasks_of(kind, tasks, seed))
    return recording, Expander(workflow, pool, recording, samples)


def build(kind: str, tasks: int = 60, seed: int = 0, samples: Mapping[str, int] | None = None) -> Recording:
    """A complete recording of one family."""
    recording, expander = start(kind, tasks, seed, samples)
    explore(expander)
    recording.provenance["complete"] = True
    recording.fix_scales()
    return recording


@cache
def saved(folder: Path) -> dict[str, Path]:
    """Complete recordings on disk by kind; those called ``*_sampled`` have several samples per edge."""
    paths = {kind: build(kind).save(folder / kind) for kind in KINDS}
    for kind in KINDS:
        samples = {"m0/direct": 3, "m1/direct": 2}
        paths[f"{kind}_sampled"] = build(kind, 20, samples=samples).save(folder / f"{kind}_sampled")
    return paths


# -- graphs by hand ----------------------------------------------------------------------------
@dataclass(frozen=True)
class Edge:
    """One recorded sample: from, action, to, completion tokens (USD 1e-6 each with `hand_made`)."""

    node: int
    action: int
    next: int
    tokens: int = 1
    signal: float = 0.5


def hand_made(
    nodes: Sequence[tuple[int, float | None]],
    edges: Sequence[Edge],
    *,
    limits: Sequence[int | None] = (10, 10),
    controls: Sequence[str] = (),
    splits: Sequence[str] = ("train",),
    task_of: Sequence[int] | None = None,
    complete: bool = True,
) -> Recording:
    """A recording from (step, score or None while open) per node and its edges, sorted by node and action.

    A completion token of arm i costs (i + 1) * 1e-6 USD, and a call may take `limits[i]` of them. The first
    node of each task is its start.
    """
    n_arms = len(limits)
    arms = tuple(Arm(f"a{i}", "t", 1, limit) for i, limit in enumerate(limits))
    prices = PriceTable("2026-01-01", "made up", {f"a{i}": Price(0, 0, i + 1, 0) for i in range(n_arms)})
    count = len(splits)
    tasks = TaskSet(
        tuple(f"t{i}" for i in range(count)),
        tuple(f"q{i}" for i in range(count)),
        tuple("r" for _ in range(count)),
        tuple(splits),
    )
    recording = Recording.empty(
        name="hand", kind="hand", arms=arms, controls=controls, prices=prices, tasks=tasks,
        node_signal_names=("n",), edge_signal_names=("e",), provenance={"complete": complete},
    )  # fmt: skip
    graph = recording.graph
    task = np.zeros(len(nodes), dtype=int) if task_of is None else np.asarray(task_of)
    status = np.array([OPEN if score is None else TERMINATED for _, score in nodes])
    unknown = np.where((status == OPEN)[:, None], np.inf, np.nan).repeat(graph.n_actions, axis=1)
    graph.append_nodes(
        task=task, step=[step for step, _ in nodes], status=status,
        score=[np.nan if score is None else score for _, score in nodes],
        signals=np.full((len(nodes), 1), 0.25), reserve_usd=unknown,
    )  # fmt: skip
    graph.task_start[:] = [int(np.argmax(task == index)) for index in range(count)]
    recording.texts.extend(f"s{index}" for index in range(len(nodes)))
    records = np.zeros(len(edges), dtype=edge_dtype(1))
    for row, edge in enumerate(edges):
        is_call = edge.action < n_arms
        records["next"][row], records["tokens"][row, 2] = edge.next, edge.tokens if is_call else 0
        records["cost_usd"][row] = edge.tokens * (edge.action + 1) * 1e-6 if is_call else 0.0
        limit = limits[edge.action] if is_call else 0
        worst = np.inf if limit is None else limit * (edge.action + 1) * 1e-6
        records["reserve_usd"][row] = max(records["cost_usd"][row], worst)
        records["signals"][row] = edge.signal
    if edges:
        graph.append_edges([edge.node for edge in edges], [edge.action for edge in edges], records)
        graph.set_reserves()
    recording.fix_scales()
    return recording


# -- acting ------------------------------------------------------------------------------------
def legal_actions(rng: np.random.Generator, masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """One legal action per row, uniformly."""
    return np.asarray(np.argmax(rng.random(masks.shape) * masks, axis=1))


def first_legal(masks: npt.NDArray[np.bool_], numbers: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """The number-th legal action of each row, cyclically: a policy without a state of its own."""
    rank = np.cumsum(masks, axis=1) - 1
    wanted = numbers % masks.sum(axis=1)
    return np.asarray(np.argmax(masks & (rank == wanted[:, None]), axis=1))


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, whatever the nesting."""
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    x, y = np.asarray(a), np.asarray(b)
    if x.dtype == object:
        return x.shape == y.shape and all(same(p, q) for p, q in zip(x.ravel(), y.ravel(), strict=True))
    return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
