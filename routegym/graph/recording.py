"""Recordings: a transition graph on disk with its tasks, arms, prices and provenance.

A recording is a folder of ``meta.json``, ``tasks.parquet``, ``nodes.parquet`` and ``edges.parquet``.
Tokens are stored and dollars are not, so that a recording can be priced anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from routegym.errors import RecordingError
from routegym.graph.graph import TransitionGraph
from routegym.graph.validate import validate_graph
from routegym.graph.values import always_arm_actions, evaluate_choices
from routegym.graph.workflow import STOP
from routegym.pool.arms import Arm, PriceTable
from routegym.tasks.taskset import TaskSet

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SCHEMA_VERSION", "TABLES", "Recording", "Texts"]

SCHEMA_VERSION = 3

#: The files of a recording beside ``meta.json``.
TABLES = ("tasks.parquet", "nodes.parquet", "edges.parquet")

_ROOM = 1.25  # over the dearest first call: with none, only the very largest budget could pay for it


class Texts(Sequence[str]):
    """The text of every situation: a column in Arrow's memory plus what has been grown since."""

    def __init__(self, column: pa.LargeStringArray | None = None) -> None:
        self._column = column
        self._base = 0 if column is None else len(column)
        self._tail: list[str] = []

    def __len__(self) -> int:
        return self._base + len(self._tail)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.take(np.arange(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"text {index} of {len(self)}")
        index = int(index) % len(self)
        if self._column is None or index >= self._base:
            return self._tail[index - self._base]
        return self._column[index].as_py()

    def __iter__(self) -> Iterator[str]:
        if self._column is not None:
            yield from self._column.to_pylist()
        yield from self._tail

    def take(self, nodes: npt.NDArray[Any]) -> list[str]:
        """The texts of these nodes."""
        if self._column is None or (len(nodes) and nodes.max() >= self._base):
            return [self[int(node)] for node in nodes]
        return list(self._column.take(nodes).to_pylist())

    def arrow(self) -> pa.LargeStringArray:
        """All texts as one Arrow column."""
        import pyarrow as pa

        known = [] if self._column is None else [self._column]
        return pa.concat_arrays([*known, pa.array(self._tail, pa.large_string())])

    def extend(self, texts: Iterable[str]) -> None:
        """Add the texts of fresh nodes."""
        self._tail.extend(texts)


@dataclass
class Recording:
    """A transition graph and everything needed to route on it again elsewhere.

    Scales are fixed here, so that an observation or a reward means the same on every machine.
    """

    name: str
    kind: str
    """Environment family: ``single_call``, ``cascade``, ``agent_steps`` or a workflow of yours."""
    arms: tuple[Arm, ...]
    controls: tuple[str, ...]
    """Names of the actions that call no model."""
    prices: PriceTable
    tasks: TaskSet
    graph: TransitionGraph
    texts: Texts
    node_signal_names: tuple[str, ...]
    edge_signal_names: tuple[str, ...]
    provenance: dict[str, Any] = field(default_factory=dict)
    cost_scale_usd: float = 0.0
    """Mean cost of an episode on the training tasks when the dearest arm is always chosen."""
    budget_range_usd: tuple[float, float] = (0.0, 0.0)
    """Budgets that matter: from about always-cheapest to about always-dearest, or to a call of every arm where there
    are control actions."""
    content_hash: str = ""
    """sha256 of what was recorded (latency left out: it measures the machine); empty until saved."""
    closed: bool = False
    """Whether nothing can be added: an action that was not recorded in a situation is not legal there. Otherwise it is
    legal and yet to be recorded."""

    @classmethod
    def empty(
        cls,
        *,
        name: str,
        kind: str,
        arms: Sequence[Arm],
        controls: Sequence[str],
        prices: PriceTable,
        tasks: TaskSet,
        node_signal_names: Sequence[str],
        edge_signal_names: Sequence[str],
        provenance: dict[str, Any] | None = None,
        closed: bool = False,
    ) -> Recording:
        """A recording without nodes, for an `Expander` or a builder to fill; then `fix_scales`."""
        graph = TransitionGraph(
            n_tasks=len(tasks.ids),
            n_arms=len(arms),
            n_actions=len(arms) + len(controls),
            node_signals=len(node_signal_names),
            edge_signals=len(edge_signal_names),
        )
        return cls(
            name=name,
            kind=kind,
            arms=tuple(arms),
            controls=tuple(controls),
            prices=prices,
            tasks=tasks,
            graph=graph,
            texts=Texts(),
            node_signal_names=tuple(node_signal_names),
            edge_signal_names=tuple(edge_signal_names),
            provenance=dict(provenance or {}),
            closed=closed,
        )

    @property
    def tells_success(self) -> bool:
        """Whether the environment says that a task is solved, by ending the episode.

        An open situation after a call, or after an attempt, then means "not solved". Such a recording has the control
        ``stop``, which gives up with what there is, and none that hands in an answer.
        """
        return STOP in self.controls

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the actions: arms in pool order, then controls."""
        return (*(arm.name for arm in self.arms), *self.controls)

    @cached_property
    def task_ids(self) -> npt.NDArray[np.str_]:
        """Ids of the tasks, in order."""
        return np.array(self.tasks.ids)

    @cached_property
    def task_index(self) -> dict[str, int]:
        """Index of each task id."""
        return {name: index for index, name in enumerate(self.tasks.ids)}

    def split(self, name: str) -> npt.NDArray[np.int64]:
        """Indices of the tasks of a split; ``all`` takes every task.

        Raises:
            RecordingError: there is no such split or it is empty.
        """
        splits = np.array(self.tasks.splits)
        chosen = np.arange(len(splits)) if name == "all" else np.flatnonzero(splits == name)
        if not len(chosen):
            raise RecordingError(
                f"{self.name}: no task in split {name!r}; its splits are {sorted(set(self.tasks.splits))} and 'all'"
            )
        return chosen

    def fix_scales(self) -> None:
        """Set the cost scale and the range of budgets from the training tasks.

        A complete graph gives them exactly (always-dearest, always-cheapest); of an incomplete one
        only the worst case of a first call is known, and that is taken.
        """
        graph = self.graph
        starts = graph.task_start[self.split("train" if "train" in self.tasks.splits else "all")]
        floors = graph.arm_floor(graph.task_start)
        floor = float(floors[np.isfinite(floors)].max(initial=0.0))
        if graph.complete:
            costs = np.array(
                [evaluate_choices(graph, always_arm_actions(graph, arm))[1][starts] for arm in range(graph.n_arms)]
            )
            means = costs.mean(axis=1)
            self.cost_scale_usd = float(means.max())
            # where an answer can be thrown away and another arm called, one call of each is worth budgeting for
            most = costs.sum(axis=0) if self.controls else costs[means.argmax()]
            dearest = float(np.nan_to_num(graph.node_reserve[starts, means.argmax()], posinf=0.0).max())
            low, high = float(means.min()), max(float(np.quantile(most, 0.95)), _ROOM * dearest)
        else:
            first = np.where(np.isfinite(graph.node_reserve[starts]), graph.node_reserve[starts], 0.0)
            self.cost_scale_usd = high = float(first.max(axis=1).mean())
            low = floor
        if self.cost_scale_usd <= 0:
            self.cost_scale_usd = 1.0  # a pool that costs nothing: any scale gives the same reward
        low = max(low, floor) or high / 100  # budgets are drawn log-uniformly, so they cannot start at 0
        self.budget_range_usd = (low, max(high, low))

    # -- files -------------------------------------------------------------------------------
    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the recording to a folder, all of it or nothing.

        An existing recording in that place is replaced; anything else there is left alone.

        Raises:
            RecordingError: the recording is inconsistent, or the folder holds something else.
        """
        from routegym.graph import storage

        validate_graph(self)
        target = Path(path)
        if target.exists() and not (target / "meta.json").is_file():
            raise RecordingError(f"{target}: exists and is not a recording; name another folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
            draft = Path(folder) / target.name
            draft.mkdir()
            self.content_hash = storage.write_tables(self, draft)
            meta = self._meta() | {"files": {name: _sha256(draft / name) for name in TABLES}}
            (draft / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
            replaced = Path(folder) / "replaced"
            if target.exists():
                os.replace(target, replaced)
            try:
                os.replace(draft, target)
            except OSError:
                if replaced.exists():
                    os.replace(replaced, target)
                raise
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recording:
        """Read and check a recording; tables are streamed, never held twice.

        Raises:
            RecordingError: it is missing, damaged, inconsistent, or of another schema version.
        """
        from routegym.graph import storage

        folder = Path(path)
        meta = storage.read_meta(folder)
        for name, digest in meta.files.items():
            if not (folder / name).is_file():
                raise RecordingError(f"{folder / name}: missing; copy the whole recording folder again")
            if _sha256(folder / name) != digest:
                raise RecordingError(
                    f"{folder / name}: its sha256 is not the one in meta.json: the file is truncated or damaged; "
                    "copy or rebuild the recording"
                )
        return storage.read_tables(folder, meta)

    def _meta(self) -> dict[str, Any]:
        return {
            "format": "routegym-recording",
            "schema_version": SCHEMA_VERSION,
            "name": self.name,
            "kind": self.kind,
            "closed": self.closed,
            "arms": [asdict(arm) for arm in self.arms],
            "controls": list(self.controls),
            "prices": {
                "date": self.prices.date,
                "note": self.prices.note,
                "usd_per_million_tokens": {m: asdict(p) for m, p in self.prices.prices.items()},
            },
            "node_signal_names": list(self.node_signal_names),
            "edge_signal_names": list(self.edge_signal_names),
            "cost_scale_usd": self.cost_scale_usd,
            "budget_range_usd": list(self.budget_range_usd),
            "counts": {
                "tasks": self.graph.n_tasks,
                "nodes": self.graph.n_nodes,
                "edges": self.graph.n_edges,
            },
            "content_hash": self.content_hash,
            "embedder": self.tasks.embedder,
            "provenance": self.provenance,
        }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
