"""The transition graph: situations and recorded choices as flat arrays.

A *node* is a situation of a task, an *edge* one recorded sample of an action taken there. Actions
are the arms, in pool order, followed by the workflow's control actions (``accept``, ...).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["OPEN", "TERMINATED", "TRUNCATED", "TransitionGraph", "edge_dtype", "with_room"]

#: Values of `TransitionGraph.node_status`.
OPEN, TERMINATED, TRUNCATED = 0, 1, 2

_NODE = np.dtype(
    [
        ("floor_usd", "f8"),
        ("score", "f4"),
        ("task", "i4"),
        ("step", "i2"),
        ("running", "i2"),
        ("status", "u1"),
        ("last", "u1"),
    ],
    align=True,
)

Array = npt.NDArray[Any]


def edge_dtype(signal_width: int) -> np.dtype[np.void]:
    """One edge as a record, so that a step of the environment touches one place in memory."""
    return np.dtype(
        [
            ("cost_usd", "f8"),  # what every step reads comes first, mostly in one cache line
            ("next", "i4"),
            ("latency_s", "f4"),
            ("signals", "f4", (signal_width,)),
            ("reserve_usd", "f8"),
            ("flops", "f8"),
            ("tokens", "i4", (4,)),
            ("lost", "i4", (2,)),  # prompt and completion tokens charged for attempts that failed
            ("charge_usd", "f8"),  # dollars that were charged as such: a stated bill, a fee per call
            ("gpu_s", "f4"),
            ("fallback", "i2"),  # 0, or 1 + the arm that answered in place of the one that was asked
            ("retries", "u2"),  # attempts that failed before the answer came
        ],
        align=True,
    )


class TransitionGraph:
    """Arrays of nodes and edges that grow by appending.

    Args:
        n_tasks: number of tasks, >= 1.
        n_arms: number of arms.
        n_actions: arms plus control actions.
        node_signals: width of the signals of a situation.
        edge_signals: width of the signals of a response.
        nodes, edges: capacities to reserve.

    Attributes:
        task_start: int32 (n_tasks,), start node of each task, -1 until it is set.
    """

    def __init__(
        self,
        *,
        n_tasks: int,
        n_arms: int,
        n_actions: int,
        node_signals: int,
        edge_signals: int,
        nodes: int = 0,
        edges: int = 0,
    ) -> None:
        self.n_tasks, self.n_arms, self.n_actions = n_tasks, n_arms, n_actions
        self.task_start = np.full(n_tasks, -1, dtype=np.int32)
        self.n_nodes = self.n_edges = 0
        self._nodes = np.zeros(nodes, dtype=_NODE)
        self._signals = np.zeros((nodes, node_signals), dtype=np.float32)
        self._reserve = np.zeros((nodes, n_actions), dtype=np.float64)
        self._first = np.zeros((nodes, n_actions), dtype=np.int32)
        self._count = np.zeros((nodes, n_actions), dtype=np.uint8)
        self._edges = np.zeros(edges, dtype=edge_dtype(edge_signals))
        self.max_samples = 1
        self.version = 0  # raised by every append, so that an environment knows when to look again

    # -- views -------------------------------------------------------------------------------
    @property
    def nodes(self) -> Array:
        """Records (n_nodes,) with fields floor_usd, score, task, step, running, status, last."""
        return self._nodes[: self.n_nodes]

    @property
    def node_task(self) -> Array:
        """int32 (n_nodes,): the task each situation belongs to."""
        return self.nodes["task"]

    @property
    def node_step(self) -> Array:
        """int16 (n_nodes,): how far along the episode is, usually the calls made; every edge leads to a larger step."""
        return self.nodes["step"]

    @property
    def node_running(self) -> Array:
        """int16 (n_nodes,): the arm whose attempt goes on in a situation, -1 where none is under way."""
        return self.nodes["running"]

    @property
    def node_last(self) -> Array:
        """uint8 (n_nodes,): 1 where no other arm may take over from the attempt that goes on."""
        return self.nodes["last"]

    @property
    def node_status(self) -> Array:
        """uint8 (n_nodes,): `OPEN`, `TERMINATED` or `TRUNCATED`."""
        return self.nodes["status"]

    @property
    def node_score(self) -> Array:
        """float32 (n_nodes,): graded score in [0, 1] of ended situations, NaN of open ones."""
        return self.nodes["score"]

    @property
    def node_floor(self) -> Array:
        """float64 (n_nodes,): USD of the cheapest legal action's reserve, inf where there is none."""
        return self.nodes["floor_usd"]

    def arm_floor(self, nodes: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """USD of the cheapest arm's reserve in these situations, controls left out; inf where there is none."""
        return _floor(self.node_reserve[nodes, : self.n_arms])

    @property
    def node_signals(self) -> Array:
        """float32 (n_nodes, k) in [0, 1]: what the router may see of a situation."""
        return self._signals[: self.n_nodes]

    @property
    def node_reserve(self) -> Array:
        """float64 (n_nodes, n_actions): worst case in USD; NaN = not legal, inf = not known."""
        return self._reserve[: self.n_nodes]

    @property
    def edge_first(self) -> Array:
        """int32 (n_nodes, n_actions): first recorded sample of an action, -1 = never recorded."""
        return self._first[: self.n_nodes]

    @property
    def edge_count(self) -> Array:
        """uint8 (n_nodes, n_actions): number of recorded samples."""
        return self._count[: self.n_nodes]

    @property
    def edges(self) -> Array:
        """Records (n_edges,), see `edge_dtype`; samples of one (node, action) stand together."""
        return self._edges[: self.n_edges]

    # -- growth ------------------------------------------------------------------------------
    def append_nodes(
        self,
        *,
        task: npt.ArrayLike,
        step: npt.ArrayLike,
        status: npt.ArrayLike,
        score: npt.ArrayLike,
        signals: npt.ArrayLike,
        reserve_usd: npt.ArrayLike,
        running: npt.ArrayLike = -1,
        last: npt.ArrayLike = 0,
    ) -> npt.NDArray[np.int32]:
        """Add situations and return their node ids, int32 (n,); where `last` is set, no arm but `running` is legal."""
        status = np.asarray(status, dtype=np.uint8)
        reserve = np.asarray(reserve_usd, dtype=np.float64).reshape(len(status), self.n_actions)
        low, high = self.n_nodes, self.n_nodes + len(status)
        for name in ("_nodes", "_signals", "_reserve", "_first", "_count"):
            setattr(self, name, with_room(getattr(self, name), high))
        rows = self._nodes[low:high]
        rows["task"], rows["step"], rows["status"], rows["score"] = task, step, status, score
        rows["running"], rows["last"] = running, last
        if rows["last"].any():
            others = np.arange(self.n_actions) != rows["running"][:, None]
            others[:, self.n_arms :] = False
            reserve = np.where(others & (rows["last"] > 0)[:, None], np.nan, reserve)
        rows["floor_usd"] = _floor(reserve)
        self._signals[low:high] = signals
        self._reserve[low:high] = reserve
        self._first[low:high] = -1
        self._count[low:high] = 0
        self.n_nodes = high
        self.version += 1
        return np.arange(low, high, dtype=np.int32)

    def append_edges(
        self, node: npt.ArrayLike, action: npt.ArrayLike, records: npt.NDArray[np.void]
    ) -> npt.NDArray[np.int32]:
        """Add recorded samples; those of one (node, action) stand together and come all at once.

        Args:
            node, action: integers (n,).
            records: `edge_dtype` records (n,).

        Returns:
            Edge ids, int32 (n,).
        """
        low, high = self.n_edges, self.n_edges + len(records)
        if len(self._edges):
            self._edges = with_room(self._edges, high)
            self._edges[low:high] = records
        else:
            self._edges = records  # a large recording is not held twice while it is loaded
        if len(records):
            place = np.asarray(node, dtype=np.int64) * self.n_actions + np.asarray(action)
            starts = np.flatnonzero(np.concatenate([[True], place[1:] != place[:-1]]))
            place = place[starts]
            self._first.reshape(-1)[place] = low + starts
            counts = np.diff(starts, append=len(records))
            self._count.reshape(-1)[place] = counts
            self.max_samples = max(self.max_samples, int(counts.max()))
        self.n_edges = high
        self.version += 1
        return np.arange(low, high, dtype=np.int32)

    def set_reserves(self) -> None:
        """Take the reserve of every recorded (node, action) from its edges: the largest of its samples."""
        place = np.flatnonzero(self.edge_count)
        first, count = self.edge_first.reshape(-1)[place], self.edge_count.reshape(-1)[place]
        reserve = self.edges["reserve_usd"][first]
        for sample in range(1, self.max_samples):
            reserve = np.maximum(reserve, self.edges["reserve_usd"][first + np.minimum(sample, count - 1)])
        self._reserve.reshape(-1)[place] = reserve
        self._nodes["floor_usd"][: self.n_nodes] = _floor(self.node_reserve)
        self.version += 1

    def complete_reserves(self, nodes: npt.NDArray[Any], reserve_usd: npt.NDArray[np.float64]) -> None:
        """Put worst cases (n, n_actions) where those of these nodes are not known."""
        rows = self._reserve[nodes]
        self._reserve[nodes] = np.where(np.isinf(rows), reserve_usd, rows)
        self._nodes["floor_usd"][: self.n_nodes] = _floor(self.node_reserve)
        self.version += 1

    def raise_reserves(
        self, nodes: npt.NDArray[Any], actions: npt.NDArray[Any], cost_usd: npt.NDArray[np.float64]
    ) -> None:
        """Raise the worst case of these (node, action) to what they cost, (n,) each, where it is lower."""
        np.maximum.at(self._reserve, (nodes, actions), cost_usd)
        self._nodes["floor_usd"][nodes] = _floor(self._reserve[nodes])
        self.version += 1

    def edge_sources(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """The (node, action) that each edge was recorded for, int32 (n_edges,) each."""
        place = np.flatnonzero(self.edge_count)
        first = self.edge_first.reshape(-1)[place]
        if (first[1:] < first[:-1]).any():  # a loaded recording is in order
            place = place[np.argsort(first, kind="stable")]
        place = np.repeat(place, self.edge_count.reshape(-1)[place])
        return (place // self.n_actions).astype(np.int32), (place % self.n_actions).astype(np.int32)

    @property
    def complete(self) -> bool:
        """Whether every legal action of every open situation that can be reached is recorded."""
        missing = (self.edge_first < 0) & ~np.isnan(self.node_reserve)
        return not missing[self.node_status == OPEN].any()

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays in use."""
        used = (
            self.nodes,
            self.node_signals,
            self.node_reserve,
            self.edge_first,
            self.edge_count,
            self.edges,
        )
        return sum(array.nbytes for array in used)


def _floor(reserve: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The smallest legal reserve of each row; fmin passes over NaN."""
    return np.asarray(np.fmin.reduce(reserve, axis=1, initial=np.inf))


def with_room(array: Array, size: int) -> Array:
    """`array`, or a copy of it with room for `size` rows (doubling, so that growth is linear)."""
    if size <= len(array):
        return array
    larger = np.zeros((max(size, 2 * len(array)), *array.shape[1:]), dtype=array.dtype)
    larger[: len(array)] = array
    return larger
