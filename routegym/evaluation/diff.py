"""What differs between two recordings: pool, prices, tasks, situations and calls."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from routegym.evaluation.summary import always_arm
from routegym.graph.merge import EDGE_CONTENT, TASK_FIELDS, differing, shared_nodes
from routegym.graph.recording import Recording

__all__ = ["ArmDifference", "Change", "RecordingDifference", "compare_recordings"]

_SAMPLES = 256  # more than a (node, action) may have


@dataclass(frozen=True)
class Change:
    """What came, went and changed of one kind of thing."""

    added: int
    """Only the second recording has them."""
    removed: int
    """Only the first one has them."""
    changed: int
    """Both have them, with other content."""
    names: tuple[str, ...] = ()
    """What they are, the first few: ``+ name``, ``- name``, ``~ name: what changed``."""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


@dataclass(frozen=True)
class ArmDifference:
    """One arm, always called, on the tasks that each recording has of it; None where it has not."""

    name: str
    tasks: tuple[int, int]
    """Tasks on which the outcome is recorded, in each."""
    score: tuple[float | None, float | None]
    """Mean score, in each."""
    cost_usd: tuple[float | None, float | None]
    """Mean cost, in each."""


@dataclass(frozen=True)
class RecordingDifference:
    """Everything that differs between two recordings; latency and provenance, which are no content, left out."""

    names: tuple[str, str]
    content_hashes: tuple[str, str]
    settings: Change
    """Kind, controls, signals, embedder, scales."""
    arms: Change
    prices: Change
    tasks: Change
    situations: Change
    choices: Change
    """Recorded calls and control actions, every sample on its own."""
    answers_differ: int
    """Changed choices that lead elsewhere."""
    tokens_differ: int
    """Changed choices that took other tokens."""
    by_arm: tuple[ArmDifference, ...]

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not any((self.settings, self.arms, self.prices, self.tasks, self.situations, self.choices))

    def as_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {"same": self.same} | asdict(self)


def compare_recordings(first: Recording, second: Recording, *, named: int = 5) -> RecordingDifference:
    """Compare two recordings, matching tasks by id, situations by text and calls by the name of the action.

    Args:
        first, second: any two recordings.
        named: most things of each kind that are named.
    """
    ids = list(dict.fromkeys((*first.tasks.ids, *second.tasks.ids)))
    place = {task_id: index for index, task_id in enumerate(ids)}
    pair = (first, second)
    numbers = [np.array([place[task_id] for task_id in r.tasks.ids], dtype=np.int64) for r in pair]
    shared, _, _ = shared_nodes(pair, numbers)
    choices, answers, tokens = _choices(pair, shared, named)
    return RecordingDifference(
        names=(first.name, second.name),
        content_hashes=(first.content_hash, second.content_hash),
        settings=_mappings(_settings(first), _settings(second), named),
        arms=_mappings(_arms(first), _arms(second), named, ordered=True),
        prices=_mappings(_prices(first), _prices(second), named),
        tasks=_mappings(_tasks(first), _tasks(second), named),
        situations=_situations(pair, shared, named),
        choices=choices,
        answers_differ=answers,
        tokens_differ=tokens,
        by_arm=_by_arm(pair),
    )


def _settings(recording: Recording) -> dict[str, Any]:
    return {
        "kind": recording.kind,
        "controls": list(recording.controls),
        "node signals": list(recording.node_signal_names),
        "edge signals": list(recording.edge_signal_names),
        "embedder": recording.tasks.embedder,
        "cost scale": recording.cost_scale_usd,
        "budget range": list(recording.budget_range_usd),
    }


def _arms(recording: Recording) -> dict[str, Any]:
    return {arm.name: asdict(arm) for arm in recording.arms}


def _prices(recording: Recording) -> dict[str, Any]:
    table = recording.prices
    return {"date": table.date, "note": table.note} | {model: asdict(p) for model, p in table.prices.items()}


def _tasks(recording: Recording) -> dict[str, Any]:
    tasks = recording.tasks
    embedding = [hashlib.sha256(row.tobytes()).hexdigest()[:12] for row in tasks.embedding]
    columns = zip(*(getattr(tasks, field) for field in TASK_FIELDS), embedding, strict=True)
    names = (*(field.removesuffix("s") for field in TASK_FIELDS), "embedding")
    return {values[0]: dict(zip(names, values, strict=True)) for values in columns}


def _mappings(first: Mapping[str, Any], second: Mapping[str, Any], named: int, ordered: bool = False) -> Change:
    added = [name for name in second if name not in first]
    removed = [name for name in first if name not in second]
    both = [name for name in first if name in second]
    changed = {name: _what(first[name], second[name]) for name in both if first[name] != second[name]}
    if ordered and not changed and both != [name for name in second if name in first]:
        changed["order"] = f"{', '.join(first)} -> {', '.join(second)}"
    lines = [f"- {name}" for name in removed[:named]] + [f"+ {name}" for name in added[:named]]
    lines += [f"~ {name}: {what}" for name, what in list(changed.items())[:named]]
    return Change(len(added), len(removed), len(changed), tuple(lines))


def _what(mine: Any, theirs: Any) -> str:
    if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
        return ", ".join(f"{name} {_what(mine[name], theirs[name])}" for name in mine if mine[name] != theirs[name])
    if isinstance(mine, list) and isinstance(theirs, list):
        less, more = ([_cut(value) for value in a if value not in b] for a, b in ((mine, theirs), (theirs, mine)))
        told = [f"{sign} {', '.join(values)}" for sign, values in (("-", less), ("+", more)) if values]
        return "; ".join(told) or "in another order"
    return f"{_cut(mine)} -> {_cut(theirs)}"


def _situations(pair: tuple[Recording, Recording], shared: Sequence[npt.NDArray[np.int64]], named: int) -> Change:
    first, second = pair
    _, mine, theirs = np.intersect1d(shared[0], shared[1], assume_unique=True, return_indices=True)
    unequal = differing(first.graph.nodes[mine], second.graph.nodes[theirs], ("status", "score"))
    if first.node_signal_names == second.node_signal_names:
        unequal["signals"] = (first.graph.node_signals[mine] != second.graph.node_signals[theirs]).any(axis=1)
    changed = np.logical_or.reduce(list(unequal.values()))
    removed, added = _alone(shared[0], mine), _alone(shared[1], theirs)
    lines = [f"- {_situation(first, node)}" for node in removed[:named]]
    lines += [f"+ {_situation(second, node)}" for node in added[:named]]
    for row in np.flatnonzero(changed)[:named]:
        what = ", ".join(name for name, rows in unequal.items() if rows[row])
        lines.append(f"~ {_situation(first, mine[row])}: {what}")
    return Change(len(added), len(removed), int(changed.sum()), tuple(lines))


def _choices(
    pair: tuple[Recording, Recording], shared: Sequence[npt.NDArray[np.int64]], named: int
) -> tuple[Change, int, int]:
    """Edges that came, went and changed; how many lead elsewhere; how many took other tokens."""
    first, second = pair
    actions = {name: index for index, name in enumerate(dict.fromkeys((*first.action_names, *second.action_names)))}
    keys, sources = [], []
    for recording, nodes in zip(pair, shared, strict=True):
        source, action = recording.graph.edge_sources()
        common = np.array([actions[name] for name in recording.action_names], dtype=np.int64)[action]
        start = recording.graph.edge_first[source, action]
        sample = np.arange(recording.graph.n_edges) - start
        keys.append((nodes[source] * len(actions) + common) * _SAMPLES + sample)
        sources.append((source, action))
    _, mine, theirs = np.intersect1d(keys[0], keys[1], assume_unique=True, return_indices=True)
    a, b = first.graph.edges[mine], second.graph.edges[theirs]
    a["next"], b["next"] = shared[0][a["next"]], shared[1][b["next"]]
    for recording, rows in zip(pair, (a, b), strict=True):  # by name: the arms may stand in another order
        names = [-1, *(actions[arm.name] for arm in recording.arms)]
        rows["fallback"] = np.array(names)[rows["fallback"]]
    same_signals = first.edge_signal_names == second.edge_signal_names
    unequal = differing(a, b, [name for name in EDGE_CONTENT if same_signals or name != "signals"])
    changed = np.logical_or.reduce(list(unequal.values()))

    def about(which: int, edge: int) -> str:
        source, action = (column[edge] for column in sources[which])
        return f"{_situation(pair[which], source)}, {pair[which].action_names[action]}"

    removed, added = _alone(keys[0], mine), _alone(keys[1], theirs)
    lines = [f"- {about(0, edge)}" for edge in removed[:named]] + [f"+ {about(1, edge)}" for edge in added[:named]]
    for row in np.flatnonzero(changed)[:named]:
        differ = [name for name, rows in unequal.items() if rows[row] and name != "next"]
        what = [f"{name} {_cut(a[name][row].tolist())} -> {_cut(b[name][row].tolist())}" for name in differ]
        if unequal["next"][row]:
            texts = (
                r.texts[int(r.graph.edges["next"][e])] for r, e in zip(pair, (mine[row], theirs[row]), strict=True)
            )
            what.insert(0, " -> ".join(repr(_cut(text)) for text in texts))
        lines.append(f"~ {about(0, mine[row])}: {', '.join(what)}")
    counts = Change(len(added), len(removed), int(changed.sum()), tuple(lines))
    return counts, int(unequal["next"].sum()), int(unequal["tokens"].sum())


def _alone(keys: npt.NDArray[np.int64], common: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Rows that are not among the common ones."""
    alone = np.ones(len(keys), dtype=bool)
    alone[common] = False
    return np.flatnonzero(alone)


def _by_arm(pair: tuple[Recording, Recording]) -> tuple[ArmDifference, ...]:
    found: dict[str, list[tuple[int, float | None, float | None]]] = {}
    for which, recording in enumerate(pair):
        for index, arm in enumerate(recording.arms):
            score, cost = always_arm(recording.graph, index)
            known = ~np.isnan(score)
            entry = found.setdefault(arm.name, [(0, None, None), (0, None, None)])
            if known.any():
                entry[which] = (int(known.sum()), float(score[known].mean()), float(cost[known].mean()))
    return tuple(ArmDifference(name, (a[0], b[0]), (a[1], b[1]), (a[2], b[2])) for name, (a, b) in found.items())


def _situation(recording: Recording, node: Any) -> str:
    task = recording.tasks.ids[int(recording.graph.node_task[node])]
    return f"task {task}, {_cut(recording.texts[int(node)])!r}"


def _cut(value: Any, most: int = 40) -> str:
    text = str(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."
