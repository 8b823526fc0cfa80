"""Several recordings of the same pool and workflow as one: the union of what was recorded."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from routegym.errors import RecordingError
from routegym.graph.graph import OPEN
from routegym.graph.recording import Recording, Texts
from routegym.graph.subset import keep_arms
from routegym.graph.validate import validate_graph
from routegym.tasks.embeddings import settings_of
from routegym.tasks.taskset import TaskSet

__all__ = ["EDGE_CONTENT", "TASK_FIELDS", "differing", "merge_recordings", "shared_nodes"]

#: Fields of a `TaskSet` with one entry per task, the embedding apart.
TASK_FIELDS = ("ids", "prompts", "references", "splits", "graders", "kinds", "details")

#: Fields of an edge that say what was recorded; the others measure the machine or follow from the prices.
EDGE_CONTENT = ("next", "tokens", "lost", "charge_usd", "fallback", "flops", "signals")

_NODE_CONTENT = ("status", "score", "running", "last")
_NAMED = 3  # conflicts that a message spells out
_SHOWN = 60  # characters of a situation in a message

_Ints = npt.NDArray[np.int64]


def merge_recordings(
    recordings: Sequence[Recording],
    name: str,
    *,
    prefer: Literal["first"] | None = None,
    labels: Sequence[str] = (),
) -> Recording:
    """The union of recordings of one pool and one workflow.

    Tasks are matched by id, situations by task, step and text, calls by situation and action. What several recordings
    have is kept once; of two lists of samples, one of which goes on where the other stops, the longer one. The order of
    the recordings makes no difference to the content (and so to the content hash) of the result; measured latencies are
    those of the first recording that has the call. Scales are fixed anew.

    An embedding is fitted on the tasks of its own recording, so that a column means something else in each of them.
    Where the recordings have other tasks or other embeddings, one that `TaskSet.with_embedding` made is therefore made
    again, of all tasks together and with the smallest of their seeds. An embedding of any other description is kept as
    it is: the same description says that it is the same function of the prompt.

    Args:
        recordings: at least one; left as they are.
        name: of the result.
        prefer: what to do where recordings contradict each other: None = refuse; ``"first"`` = the first recording
            that knows the situation or the call is right.
        labels: what messages call the recordings; their names by default.

    Raises:
        RecordingError: they are recordings of other pools, prices, workflows or tasks of the same ids, or they
            contradict each other; the message names the first places. Or situations of one of them cannot be told
            apart, as after several trials of an arm.
        TaskError: a prompt is in the training split of one and in the test split of another; or the embedding is to be
            made again, and there are no training tasks.
        MissingExtraError: the embedding is to be made again, and a package for it is not installed.
    """
    if not recordings:
        raise RecordingError("no recordings to merge; name at least one")
    originals = recordings
    if labels:
        recordings = [replace(recording, name=label) for recording, label in zip(recordings, labels, strict=True)]
    first = recordings[0]
    for other in recordings[1:]:
        _check_alike(first, other)
    tasks = _merge_tasks(recordings)
    place = {task_id: index for index, task_id in enumerate(tasks.ids)}
    task_number = [np.array([place[task_id] for task_id in r.tasks.ids], dtype=np.int64) for r in recordings]
    number, of, node = shared_nodes(recordings, task_number)

    conflicts = _Contradictions()
    start = _merge_starts(recordings, task_number, number, len(tasks), conflicts)
    merged = Recording.empty(
        name=name,
        kind=first.kind,
        arms=first.arms,
        controls=first.controls,
        prices=first.prices,
        tasks=tasks,
        node_signal_names=first.node_signal_names,
        edge_signal_names=first.edge_signal_names,
        closed=first.closed,
    )
    graph = merged.graph
    _compare_nodes(recordings, number, of, node, conflicts)
    rows = {field: _gather([r.graph.nodes[field] for r in recordings], of, node) for field in (*_NODE_CONTENT, "step")}
    unrecorded = np.nan if merged.closed else np.inf
    own_task = [task_number[i][r.graph.node_task] for i, r in enumerate(recordings)]
    graph.append_nodes(
        task=_gather(own_task, of, node),
        signals=_gather([r.graph.node_signals for r in recordings], of, node),
        reserve_usd=np.where((rows["status"] == OPEN)[:, None], unrecorded, np.nan).repeat(graph.n_actions, axis=1),
        **rows,
    )
    graph.task_start[:] = start
    merged.texts = Texts(_gather_texts(recordings, of, node))
    source, action, records = _merge_edges(recordings, number, merged, prefer, conflicts)
    if conflicts.count and prefer is None:
        raise RecordingError(
            f"{conflicts.count} contradiction(s) between {', '.join(r.name for r in recordings)}: "
            f"{'; '.join(conflicts.named)}; "
            "record them again, or keep what the first recording says (prefer first)"
        )
    graph.append_edges(source, action, records)
    graph.set_reserves()
    if conflicts.count:  # what only discarded calls led to goes with them
        merged = keep_arms(merged, [arm.name for arm in merged.arms], keep_scales=False)
    merged.provenance = _provenance(originals, merged.graph.complete, prefer if conflicts.count else None)
    merged.fix_scales()
    validate_graph(merged)
    return merged


def shared_nodes(recordings: Sequence[Recording], task_number: Sequence[_Ints]) -> tuple[list[_Ints], _Ints, _Ints]:
    """Number the situations of all recordings together: equal task, step and text are one.

    Args:
        task_number: for each recording the common number of each of its tasks, int64 (n_tasks,).

    Returns:
        For each recording the common number of each of its nodes, int64 (n_nodes,); and for each common number the
        first recording that has the situation and its node there, int64 (n,) each. Numbers go by task and step.

    Raises:
        RecordingError: situations of one recording cannot be told apart.
    """
    texts = pa.chunked_array([r.texts.arrow() for r in recordings]).dictionary_encode().unify_dictionaries()
    text = np.concatenate([chunk.indices.to_numpy() for chunk in texts.chunks]).astype(np.int64)
    step = np.concatenate([r.graph.node_step for r in recordings]).astype(np.int64)
    task = np.concatenate([task_number[i][r.graph.node_task] for i, r in enumerate(recordings)])
    layer = np.unique(task * (int(step.max(initial=0)) + 1) + step, return_inverse=True)[1]
    key = layer * (int(text.max(initial=0)) + 1) + text
    _, row, shared = np.unique(key, return_index=True, return_inverse=True)
    ends = np.cumsum([r.graph.n_nodes for r in recordings])
    for recording, own in zip(recordings, np.split(shared, ends[:-1]), strict=True):
        if alike := len(own) - len(np.unique(own)):
            raise RecordingError(
                f"{recording.name}: {alike} situations have the task, step and text of another one, as those after "
                "several trials of an arm; import the tables of all of them together instead"
            )
    of = np.asarray(np.searchsorted(ends, row, side="right"), dtype=np.int64)
    node = np.asarray(row - np.concatenate([[0], ends[:-1]])[of], dtype=np.int64)
    return np.split(shared, ends[:-1]), of, node


def differing(
    ours: npt.NDArray[np.void], theirs: npt.NDArray[np.void], fields: Sequence[str] = EDGE_CONTENT
) -> dict[str, npt.NDArray[np.bool_]]:
    """Where two arrays of records (n,) differ, bool (n,) by field; NaN equals NaN."""
    found = {}
    for name in fields:
        a, b = ours[name], theirs[name]
        unequal = a != b
        if a.dtype.kind == "f":
            unequal &= ~(np.isnan(a) & np.isnan(b))
        found[name] = unequal.any(axis=tuple(range(1, unequal.ndim)))
    return found


class _Contradictions:
    """How many there are, and the first few in words."""

    def __init__(self) -> None:
        self.count = 0
        self.named: list[str] = []

    def note(self, rows: npt.NDArray[Any], describe: Callable[[int], str]) -> None:
        """Count these rows, and describe as many as are still wanted."""
        self.count += len(rows)
        self.named += [describe(int(row)) for row in rows[: max(_NAMED - len(self.named), 0)]]


def _check_alike(first: Recording, other: Recording) -> None:
    """Refuse recordings of another pool, workflow or price table."""
    for what, mine, theirs in (
        ("kind", first.kind, other.kind),
        ("arms", first.arms, other.arms),
        ("controls", first.controls, other.controls),
        ("closed", first.closed, other.closed),
        ("prices", _prices(first), _prices(other)),
        ("node signals", first.node_signal_names, other.node_signal_names),
        ("edge signals", first.edge_signal_names, other.edge_signal_names),
        ("embedder", _embedder(first), _embedder(other)),
        ("width of the embedding", first.tasks.embedding.shape[1], other.tasks.embedding.shape[1]),
    ):
        if mine != theirs:
            raise RecordingError(
                f"{first.name} and {other.name} cannot be merged: {what}: {_apart(mine, theirs)}; "
                "record both with the same pool, prices, workflow and embedding"
            )


def _embedder(recording: Recording) -> str:
    """What two recordings must have in common to be embedded together."""
    description = recording.tasks.embedder
    known = settings_of(description)
    return description if known is None else f"{known[0]}, {known[1]} columns"


def _prices(recording: Recording) -> str:
    table = recording.prices
    models = sorted({arm.model for arm in recording.arms})
    return f"{table.date}, {table.note}, {', '.join(str(table.prices[model]) for model in models)}"


def _apart(mine: Any, theirs: Any) -> str:
    """Two different values, in words."""
    if isinstance(mine, tuple) and isinstance(theirs, tuple):
        less, more = ([value for value in a if value not in b] for a, b in ((mine, theirs), (theirs, mine)))
        if not less and not more:
            return "another order"
        mine, theirs = ([getattr(value, "name", value) for value in values] for values in (less, more))
        if mine == theirs:
            return f"others of the same names, {', '.join(mine)}"
    return f"{mine or 'none'} and {theirs or 'none'}"


def _merge_tasks(recordings: Sequence[Recording]) -> TaskSet:
    """All tasks once, in an order that keeps the order of every recording where they agree."""
    settings = [made for recording in recordings if (made := settings_of(recording.tasks.embedder))]
    alike = len({(recording.tasks.embedder, frozenset(recording.tasks.ids)) for recording in recordings}) == 1
    found: dict[str, tuple[Recording, int]] = {}
    for recording in recordings:
        for index, task_id in enumerate(recording.tasks.ids):
            known, at = found.setdefault(task_id, (recording, index))
            for field in TASK_FIELDS:
                mine, theirs = getattr(known.tasks, field)[at], getattr(recording.tasks, field)[index]
                if mine != theirs:
                    raise RecordingError(
                        f"task {task_id!r} has {field.removesuffix('s')} {_cut(mine)!r} in {known.name} and "
                        f"{_cut(theirs)!r} in {recording.name}; a task is one question, rename one of them"
                    )
            if (known.tasks.embedding[at] != recording.tasks.embedding[index]).any():
                alike = False
                if not settings:
                    raise RecordingError(
                        f"task {task_id!r} has another embedding in {known.name} than in {recording.name}; "
                        "embed the tasks of both together"
                    )
    ids = _common_order([recording.tasks.ids for recording in recordings])
    places = [found[task_id] for task_id in ids]
    columns: dict[str, Any] = {f: tuple(getattr(r.tasks, f)[at] for r, at in places) for f in TASK_FIELDS}
    if settings and not alike:
        return TaskSet(**columns).with_embedding(*min(settings))  # they differ in the seed at most
    embedding = np.stack([recording.tasks.embedding[at] for recording, at in places])
    return TaskSet(**columns, embedding=embedding, embedder=recordings[0].tasks.embedder)


def _common_order(lists: Sequence[tuple[str, ...]]) -> list[str]:
    """Every id once, in the order of all lists where they leave no choice, by name where they do.

    Lists that contradict each other are put in the order of the names. The result does not depend on the order of the
    lists.
    """
    after: dict[str, set[str]] = {task_id: set() for ids in lists for task_id in ids}
    for ids in lists:
        for one, following in itertools.pairwise(ids):
            after[one].add(following)
    waiting = dict.fromkeys(after, 0)
    for followers in after.values():
        for task_id in followers:
            waiting[task_id] += 1
    ready = sorted(task_id for task_id, count in waiting.items() if not count)
    order = []
    while ready:
        order.append(heapq.heappop(ready))
        for task_id in after[order[-1]]:
            waiting[task_id] -= 1
            if not waiting[task_id]:
                heapq.heappush(ready, task_id)
    return order if len(order) == len(after) else sorted(after)


def _merge_starts(
    recordings: Sequence[Recording],
    task_number: Sequence[_Ints],
    number: Sequence[_Ints],
    n_tasks: int,
    conflicts: _Contradictions,
) -> _Ints:
    start = np.full(n_tasks, -1, dtype=np.int64)
    for recording, tasks, nodes in zip(recordings, task_number, number, strict=True):
        mine = nodes[recording.graph.task_start]

        def describe(row: int, recording: Recording = recording) -> str:
            return f"task {recording.tasks.ids[row]!r} starts from another situation in {recording.name}"

        conflicts.note(np.flatnonzero((start[tasks] >= 0) & (start[tasks] != mine)), describe)
        start[tasks] = np.where(start[tasks] < 0, mine, start[tasks])
    return start


def _compare_nodes(
    recordings: Sequence[Recording], number: Sequence[_Ints], of: _Ints, node: _Ints, conflicts: _Contradictions
) -> None:
    for index, recording in enumerate(recordings):
        graph = recording.graph
        for earlier in range(index):
            mine = np.flatnonzero(of[number[index]] == earlier)
            other, theirs = recordings[earlier], node[number[index][mine]]
            unequal = differing(graph.nodes[mine], other.graph.nodes[theirs], _NODE_CONTENT)
            unequal["signals"] = (graph.node_signals[mine] != other.graph.node_signals[theirs]).any(axis=1)
            for field, rows in unequal.items():

                def describe(at: int, field: str = field, one: Recording = recording, other: Recording = other) -> str:
                    return f"{_where(one, at)}: another {field} in {other.name} than in {one.name}"

                conflicts.note(mine[rows], describe)


def _merge_edges(
    recordings: Sequence[Recording],
    number: Sequence[_Ints],
    merged: Recording,
    prefer: Literal["first"] | None,
    conflicts: _Contradictions,
) -> tuple[_Ints, _Ints, npt.NDArray[np.void]]:
    """Source, action and record of every edge that is kept, sorted, and what contradicts them."""
    records = np.concatenate([recording.graph.edges for recording in recordings])
    n_actions = merged.graph.n_actions
    low, parts = 0, []
    for index, (recording, nodes) in enumerate(zip(recordings, number, strict=True)):
        graph = recording.graph
        records["next"][low : low + graph.n_edges] = nodes[graph.edges["next"]]
        cells = np.flatnonzero(graph.edge_count)
        place = nodes[cells // n_actions] * n_actions + cells % n_actions
        ended = merged.graph.node_status[place // n_actions] != OPEN  # for a recording that is not preferred
        cells, place = cells[~ended], place[~ended]
        count = graph.edge_count.reshape(-1)[cells].astype(np.int64)
        parts.append((place, np.full(len(cells), index), low + graph.edge_first.reshape(-1)[cells], count))
        low += graph.n_edges
    place, of, first, count = (np.concatenate(column) for column in zip(*parts, strict=True))

    # Lists of samples of one (node, action) stand together, the longest first; the others must be the start of it.
    order = np.lexsort((of, -count, place))
    place, of, first, count = place[order], of[order], first[order], count[order]
    fresh = np.append(True, place[1:] != place[:-1])[: len(place)]  # none of none
    head = np.maximum.accumulate(np.where(fresh, np.arange(len(place)), 0))
    contradicted = np.zeros(len(place), dtype=bool)
    for sample in range(int(count.max(initial=0))):
        row = np.flatnonzero(~fresh & (count > sample))
        mine, theirs = records[first[row] + sample], records[first[head[row]] + sample]
        for field, unequal in differing(mine, theirs).items():
            fresh_ones = np.flatnonzero(unequal & ~contradicted[row])
            contradicted[row] |= unequal

            def describe(
                spot: int, field: str = field, row: _Ints = row, mine: Any = mine, theirs: Any = theirs
            ) -> str:
                which = row[spot]
                a, b = (merged.texts[int(side["next"][spot])] for side in (theirs, mine))
                what = f"leads to {_cut(a)!r} and {_cut(b)!r}" if a != b else f"has other {field}"
                names = f"{recordings[of[head[which]]].name} and {recordings[of[which]].name}"
                node, action = divmod(int(place[which]), n_actions)
                return f"{_where(merged, node)}, {merged.action_names[action]} {what} in {names}"

            conflicts.note(fresh_ones, describe)

    if prefer == "first" and contradicted.any():  # the first recording's samples stand, few as they may be
        settled = np.isin(place, place[contradicted])
        earliest = np.lexsort((of, place))
        earliest = earliest[np.append(True, np.diff(place[earliest]) != 0)]
        kept = np.sort(np.concatenate([np.flatnonzero(fresh & ~settled), earliest[settled[earliest]]]))
    else:
        kept = np.flatnonzero(fresh)
    place, first, count = place[kept], first[kept], count[kept]
    inside = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    place = np.repeat(place, count)
    return place // n_actions, place % n_actions, records[np.repeat(first, count) + inside]


def _gather(columns: Sequence[npt.NDArray[Any]], of: _Ints, node: _Ints) -> npt.NDArray[Any]:
    """Row `node` of column `of`, for each pair."""
    low = np.concatenate([[0], np.cumsum([len(column) for column in columns])[:-1]])
    return np.concatenate(columns)[low[of] + node]


def _gather_texts(recordings: Sequence[Recording], of: _Ints, node: _Ints) -> pa.LargeStringArray:
    low = np.concatenate([[0], np.cumsum([recording.graph.n_nodes for recording in recordings])[:-1]])
    return pa.concat_arrays([recording.texts.arrow() for recording in recordings]).take(pa.array(low[of] + node))


def _provenance(recordings: Sequence[Recording], complete: bool, preferred: str | None) -> dict[str, Any]:
    sources = [{"name": r.name, "content_hash": r.content_hash, "provenance": r.provenance} for r in recordings]
    found: dict[str, Any] = {"merged_from": sources, "complete": complete}
    if preferred:
        found["preferred"] = preferred
    limits = {recording.provenance.get("imported", {}).get("most_attempts") for recording in recordings}
    if len(limits) == 1 and None not in limits:  # what is needed to say by which rules it came about
        found["imported"] = {"most_attempts": limits.pop()}
    licences: list[str] = sorted({_licence(recording.provenance) for recording in recordings})
    if licences != [_NOT_STATED]:
        found["licence"] = " and ".join(licences)
    return found


_NOT_STATED = "not stated"


def _licence(provenance: Mapping[str, Any]) -> str:
    return str(provenance.get("licence", _NOT_STATED))


def _where(recording: Recording, node: int) -> str:
    task = recording.tasks.ids[int(recording.graph.node_task[node])]
    return f"task {task!r}, situation {_cut(recording.texts[node])!r}"


def _cut(text: Any) -> str:
    text = str(text)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
