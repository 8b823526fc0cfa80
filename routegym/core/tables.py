"""What a step looks up, as one bundle of arrays per graph that every environment of it shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from routegym.core.observation import static_features
from routegym.graph.graph import with_room

if TYPE_CHECKING:
    from routegym.graph.graph import TransitionGraph
    from routegym.graph.recording import Recording

__all__ = ["Fields", "Outcome", "Slots", "Tables", "tables_of"]

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class Slots(NamedTuple):
    """State of N episodes, written in place."""

    node: npt.NDArray[np.int64]
    ended: Flags
    spent_usd: Floats
    budget_usd: Floats
    lambda_: Floats
    response_signals: npt.NDArray[np.float32]  # (N, signals of a response)
    key: npt.NDArray[np.uint64]
    group: npt.NDArray[np.int64]  # the slot whose key draws this slot's episodes
    episode: npt.NDArray[np.int64]  # episodes begun
    draws: npt.NDArray[np.int64]  # responses met


class Outcome(NamedTuple):
    """What a step brought, (N,) each; zeros where an episode was over already."""

    edge: npt.NDArray[np.int64]  # -1 where an episode was over already
    cost_usd: Floats
    score: Floats
    terminated: Flags
    truncated: Flags

    @classmethod
    def empty(cls, size: int) -> Outcome:
        """Room for N results."""
        return cls(
            np.empty(size, dtype=np.int64), np.empty(size), np.empty(size), np.empty(size, bool), np.empty(size, bool)
        )


class Fields(NamedTuple):
    """Columns of a graph, as views."""

    reserve_usd: Floats  # (nodes, actions)
    first: npt.NDArray[np.int32]  # (nodes, actions)
    samples: npt.NDArray[np.uint8]  # (nodes, actions)
    floor_usd: Floats
    score: npt.NDArray[np.float32]
    status: npt.NDArray[np.uint8]
    next: npt.NDArray[np.int32]
    cost_usd: Floats
    signals: npt.NDArray[np.float32]  # (edges, signals of a response)
    features: npt.NDArray[np.float32]  # (nodes, static columns of the observation and its last one), or (0, 0)


class Tables:
    """The arrays of a growing graph as kernels want them.

    Attributes:
        scale_usd: the recording's cost scale.
        fields: views of the graph's columns, up to date after `refresh`, as are
        nodes, edges: its records, and
        many: whether an action may have more than one recorded sample.
    """

    fields: Fields
    nodes: npt.NDArray[np.void]
    edges: npt.NDArray[np.void]
    many: bool

    def __init__(self, recording: Recording) -> None:
        self.scale_usd = recording.cost_scale_usd
        self._features = np.zeros((0, 0), dtype=np.float32)
        self._known = 0
        self._version = -1

    def refresh(self, recording: Recording, features: bool) -> None:
        """Take up what the graph has grown by; build the features of situations if they are wanted."""
        graph = recording.graph
        if self._version == graph.version and (not features or self._known == graph.n_nodes):
            return
        if features:
            self._extend(recording)
        self.nodes, self.edges, self.many = graph.nodes, graph.edges, graph.max_samples > 1
        self.fields = Fields(
            reserve_usd=graph.node_reserve,
            first=graph.edge_first,
            samples=graph.edge_count,
            floor_usd=self.nodes["floor_usd"],
            score=self.nodes["score"],
            status=self.nodes["status"],
            next=self.edges["next"],
            cost_usd=self.edges["cost_usd"],
            signals=self.edges["signals"],
            features=self._features[: self._known],
        )
        self._version = graph.version

    def _extend(self, recording: Recording) -> None:
        size = recording.graph.n_nodes
        fresh = static_features(recording, slice(self._known, size))
        if self._known:
            self._features = with_room(self._features, size)
            self._features[self._known : size] = fresh
        else:
            self._features = fresh
        self._known = size


_TABLES: WeakKeyDictionary[TransitionGraph, Tables] = WeakKeyDictionary()


def tables_of(recording: Recording) -> Tables:
    """The tables of a recording's graph; made anew when its cost scale has changed."""
    tables = _TABLES.get(recording.graph)
    if tables is None or tables.scale_usd != recording.cost_scale_usd:
        tables = _TABLES[recording.graph] = Tables(recording)
    return tables
