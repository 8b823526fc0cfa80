"""From recorded attempts to a graph: every situation that they allow, and what each choice there brought."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from routegym.errors import ImportDataError
from routegym.graph.graph import OPEN, TERMINATED, edge_dtype
from routegym.graph.pricing import edge_costs
from routegym.graph.recording import Recording

__all__ = ["KINDS", "AttemptTable", "Kind", "count_choices", "fill_graph", "signal_names", "squashed"]

Kind = Literal["single_call", "cascade", "attempts"]

#: Environment families that recorded data can be played in.
KINDS: tuple[Kind, ...] = ("single_call", "cascade", "attempts")

_SQUASH = 1000.0  # tokens that take up half of the range
_MOST_EDGES, _MOST_STEPS = 2**31 - 1, 2**15  # that a graph numbers

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class AttemptTable:
    """Recorded attempts and their turns: the attempts of a task together, and the turns of an attempt, in order."""

    task: Ints
    """Task of each attempt, ascending, (n,)."""
    arm: Ints
    """Its arm, (n,)."""
    score: Floats
    """Its score in [0, 1], (n,)."""
    name: Sequence[str]
    """What texts call it: its arm; the number of a trial may tell its score, (n,)."""
    first: Ints
    """Its first turn, (n,)."""
    turns: Ints
    """How many it has, >= 1, (n,)."""
    charge_usd: Floats
    """Dollars charged for each turn as such, (m,)."""
    tokens: Ints
    """Prompt and completion tokens of each turn, (m, 2)."""
    latency_s: Floats
    """Seconds of each turn, (m,)."""
    feedback: Ints
    """What the environment said to each turn, an index into `feedback_names`, (m,)."""
    feedback_names: tuple[str, ...]
    reward: Floats
    """Reward in [0, 1] that the environment showed after each turn, (m,); empty where it showed none."""
    verdict: bool
    """Whether the environment said at run time that an attempt had succeeded."""


def signal_names(kind: Kind, table: AttemptTable, arms: Sequence[str]) -> tuple[str, ...]:
    """What a router may see of a situation of imported data."""
    if kind == "single_call":
        return ()
    spent = ("prompt_tokens", "completion_tokens") if table.tokens.any() else ()
    tried = tuple(f"tried_{arm}" for arm in arms)
    if kind == "cascade":
        return (*spent, "calls", *(f"last_{arm}" for arm in arms), *tried)
    said = table.feedback_names
    return (
        "turn",
        *(f"feedback_{name}" for name in said),
        *(f"share_{name}" for name in said),
        *(("reward", "best_reward") if len(table.reward) else ()),
        *spent,
        "attempts",
        *(f"running_{arm}" for arm in arms),
        *tried,
    )


def squashed(tokens: Ints) -> Floats:
    """Numbers of tokens as signals in [0, 1)."""
    return np.asarray(tokens / (tokens + _SQUASH))


def fill_graph(recording: Recording, kind: Kind, table: AttemptTable, most: int) -> None:
    """Put every situation that recorded attempts allow into an empty recording.

    An action is an arm: the one whose attempt is under way lets it go on by a turn, any other begins one of its
    recorded attempts that was not used yet, each as likely as the others. An attempt that the environment called a
    success ends the episode. Any other leaves the choice until `most` attempts, or all that were recorded, are used up:
    then the episode ends with the score of the last one. The control, if there is one, hands in the last attempt where
    it has come to its end, and nothing (score 0) otherwise.

    Args:
        recording: of this kind and without nodes; its tasks and arms are those of the table.
        kind: how the signals and texts of situations are written.
        table: the recorded attempts.
        most: attempts in one episode.

    Raises:
        ImportDataError: there are more choices than a graph can number.
    """
    _Walk(recording, kind, table, most).run()


def count_choices(table: AttemptTable, most: int, controls: int) -> float:
    """Edges of the graph that `fill_graph` grows, or some number above all that a graph can hold.

    A few too many where an arm has several attempts at a task: none of them is begun while another is under way, which
    is not taken into account.
    """
    _, task, count = np.unique(table.task, return_inverse=True, return_counts=True)
    solved = (table.score >= 1) & table.verdict
    left = ~solved | (table.turns > 1)  # others may be begun after it
    others = np.bincount(task, left)[task] - left
    total, before = float(len(table.task) + controls * len(count)), np.ones(len(table.task))
    for begun in range(1, min(most, int(count.max())) + 1):  # this attempt, after each set of so many others less one
        fresh = np.where(begun < most, count[task] - begun, 0)
        chosen = (table.turns - 1) * (1 + fresh + controls) + (~solved & (fresh > 0)) * (fresh + controls)
        total += float((before * chosen).sum())
        if total > _MOST_EDGES:
            break
        before = before * np.maximum(others - begun + 1, 0) / begun
    return total


class _States(NamedTuple):
    """Situations, (n,) each: which attempts were begun, the last of them, and how many of its turns were played.

    Attempts are numbered within their task.
    """

    task: Ints
    used: Ints
    """(n, most - 1): those before the last, ascending, -1 where there are fewer."""
    last: Ints
    """-1 before the first one."""
    turn: Ints

    def take(self, rows: Any) -> _States:
        return _States(*(column[rows] for column in self))


class _Steps(NamedTuple):
    """Choices, (n,) each: where, which action, and which recorded turn it played (-1: none)."""

    source: Ints
    action: Ints
    row: Ints

    def take(self, rows: Any) -> _Steps:
        return _Steps(*(column[rows] for column in self))


class _Walk:
    """Grows the graph by ascending step; what arrives at a step is made one where it is the same situation."""

    def __init__(self, recording: Recording, kind: Kind, table: AttemptTable, most: int) -> None:
        self.recording, self.graph, self.kind, self.table = recording, recording.graph, kind, table
        self.longest = int(table.turns.max())
        self.count = np.bincount(table.task, minlength=self.graph.n_tasks)
        self.offset = np.concatenate([[0], np.cumsum(self.count)[:-1]])
        self.width = int(self.count.max())
        self.asked, self.most = most, min(most, self.width)  # more than were recorded are never begun
        self.steps = self.most * self.longest + 2
        if self.steps > _MOST_STEPS:
            raise ImportDataError(
                f"{recording.name}: {self.most:,} attempts of up to {self.longest:,} turns in an episode; a graph "
                f"holds {_MOST_STEPS:,} steps; allow fewer attempts per episode, or leave out the longest"
            )
        choices = count_choices(table, most, len(recording.controls))
        if choices > _MOST_EDGES or self.graph.n_tasks * self.steps * (len(table.task) + 1) >= 2**63:
            raise ImportDataError(
                f"{recording.name}: {self.graph.n_tasks:,} queries with {self.width:,} attempts each and {most:,} "
                f"attempts per episode make more choices than the {_MOST_EDGES:,} that a graph holds; allow fewer "
                "attempts per episode, or name fewer arms"
            )
        self.told = _Told(table) if kind == "attempts" else None
        self.arrivals: dict[int, list[tuple[_States, _Steps]]] = {}
        self.edges: list[tuple[_Steps, Ints]] = []
        self.ends: list[tuple[Ints, Ints, Floats, _Steps]] = []

    def run(self) -> None:
        """Everything from the start of every task."""
        n = self.graph.n_tasks
        none, zero = np.full(n, -1, dtype=np.int64), np.zeros(n, dtype=np.int64)
        start = _States(np.arange(n), np.full((n, self.most - 1), -1, dtype=np.int64), none, zero)
        self.graph.task_start[:] = self._add(start, 0)
        self._leave(start, self.graph.task_start.astype(np.int64), 0)
        while self.arrivals:
            step = min(self.arrivals)
            states, choices = zip(*self.arrivals.pop(step), strict=True)
            self._arrive(_join(_States, states), _join(_Steps, choices), step)
        self._end()
        self._record()

    def _attempt(self, states: _States) -> Ints:
        """Row of the last attempt in the table."""
        return self.offset[states.task] + np.maximum(states.last, 0)

    def _arrive(self, states: _States, choices: _Steps, step: int) -> None:
        """Take up what choices lead to at one step: new situations, or ends."""
        attempt, table = self._attempt(states), self.table
        over = states.turn == table.turns[attempt]
        begun = 1 + (states.used >= 0).sum(axis=1)
        solved = (table.score[attempt] >= 1) & table.verdict
        ended = over & (solved | (begun == self.most) | (begun == self.count[states.task]))
        if ended.any():
            self._finish(states.task[ended], step, table.score[attempt[ended]], choices.take(ended))
            states, choices = states.take(~ended), choices.take(~ended)
        if not len(states.task):
            return
        key, size = states.task, self.graph.n_tasks
        for column in (*states.used.T, states.last):
            if size * (self.width + 1) >= 2**63:
                _, key = np.unique(key, return_inverse=True)
                size = len(key)
            key, size = key * (self.width + 1) + (column + 1), size * (self.width + 1)
        _, first, place = np.unique(key, return_index=True, return_inverse=True)
        fresh = states.take(first)
        nodes = self._add(fresh, step).astype(np.int64)
        self.edges.append((choices, nodes[place]))
        self._leave(fresh, nodes, step)

    def _leave(self, states: _States, nodes: Ints, step: int) -> None:
        """All choices in open situations of one step."""
        table, attempt = self.table, self._attempt(states)
        begun = (states.used >= 0).sum(axis=1) + (states.last >= 0)
        running = (states.last >= 0) & (states.turn < table.turns[attempt])
        if running.any():
            on, played = states.take(running), attempt[running]
            choices = _Steps(nodes[running], table.arm[played], table.first[played] + on.turn)
            self._send(on._replace(turn=on.turn + 1), choices, step + 1)
        allowed = begun < self.most
        for number in range(self.width if allowed.any() else 0):
            fresh = self.offset[states.task] + number
            may = allowed & (number < self.count[states.task]) & (states.last != number)
            may &= ~(states.used == number).any(axis=1)
            fresh = np.where(may, fresh, 0)
            may &= ~(running & (table.arm[fresh] == table.arm[attempt]))  # that choice lets the attempt go on
            if not may.any():
                continue
            chosen, fresh = states.take(may), fresh[may]
            # in ascending order, so that equal sets are equal rows; another attempt fits in, so one of them is -1
            used = np.sort(np.column_stack([chosen.used, chosen.last]), axis=1)[:, 1:]
            after = _States(chosen.task, used, np.full(len(fresh), number), np.ones(len(fresh), dtype=np.int64))
            choices = _Steps(nodes[may], table.arm[fresh], table.first[fresh])
            for many in np.unique(begun[may]):  # attempts that were begun before decide the step
                rows = begun[may] == many
                self._send(after.take(rows), choices.take(rows), int(many) * self.longest + 1)
        if self.recording.controls:
            score = np.where((states.last >= 0) & ~running, table.score[attempt], 0.0)
            control = np.full(len(nodes), self.graph.n_arms)
            self._finish(states.task, step + 1, score, _Steps(nodes, control, np.full(len(nodes), -1)))

    def _send(self, states: _States, choices: _Steps, step: int) -> None:
        self.arrivals.setdefault(step, []).append((states, choices))

    def _finish(self, task: Ints, step: int, score: Floats, choices: _Steps) -> None:
        self.ends.append((task, np.full(len(task), step), score, choices))

    def _add(self, states: _States, step: int) -> npt.NDArray[np.int32]:
        """Append open situations."""
        table, attempt, n = self.table, self._attempt(states), len(states.task)
        running = (states.last >= 0) & (states.turn < table.turns[attempt])
        self.recording.texts.extend(self._texts(states, attempt))
        return self.graph.append_nodes(
            task=states.task,
            step=np.full(n, step),
            status=np.full(n, OPEN),
            score=np.full(n, np.nan),
            signals=self._signals(states, attempt, running),
            reserve_usd=np.full((n, self.graph.n_actions), np.nan),
            running=np.where(running, table.arm[attempt], -1),
        )

    def _end(self) -> None:
        """Append ended situations: one for each task, step and score."""
        task, step, score, choices = zip(*self.ends, strict=True)
        values, code = np.unique(np.concatenate(score).astype(np.float32), return_inverse=True)
        key = (np.concatenate(task) * self.steps + np.concatenate(step)) * len(values) + code
        fresh, place = np.unique(key, return_inverse=True)
        code, before = fresh % len(values), fresh // len(values)
        nodes = self.graph.append_nodes(
            task=before // self.steps,
            step=before % self.steps,
            status=np.full(len(fresh), TERMINATED),
            score=values[code],
            signals=np.zeros((len(fresh), len(self.recording.node_signal_names))),
            reserve_usd=np.full((len(fresh), self.graph.n_actions), np.nan),
        )
        texts = [f"= {value}" for value in values.tolist()]
        self.recording.texts.extend([texts[number] for number in code.tolist()])
        self.edges.append((_join(_Steps, choices), nodes.astype(np.int64)[place]))

    def _record(self) -> None:
        """Append the edges, each with what its turn took."""
        chosen, landing = zip(*self.edges, strict=True)
        choices, after, table = _join(_Steps, chosen), np.concatenate(landing), self.table
        order = np.lexsort((choices.action, choices.source))
        choices, after = choices.take(order), after[order]
        records = np.zeros(len(after), dtype=edge_dtype(0))
        records["next"] = after
        called = np.flatnonzero(choices.row >= 0)
        row = choices.row[called]
        records["charge_usd"][called] = table.charge_usd[row]
        records["latency_s"][called] = table.latency_s[row]
        records["tokens"][called, 0] = table.tokens[row, 0]
        records["tokens"][called, 2] = table.tokens[row, 1]
        recording = self.recording
        records["cost_usd"], records["reserve_usd"] = edge_costs(
            recording.prices, recording.arms, choices.action, records
        )
        self.graph.append_edges(choices.source, choices.action, records)
        self.graph.set_reserves()

    # -- what is seen --------------------------------------------------------------------------
    def _signals(self, states: _States, attempt: Ints, running: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
        n, n_arms, table = len(states.task), self.graph.n_arms, self.table
        if self.kind == "single_call":
            return np.zeros((n, 0), dtype=np.float32)
        begun, everyone = states.last >= 0, np.arange(n)
        row = table.first[attempt] + np.maximum(states.turn - 1, 0)
        tried = np.zeros((n, n_arms), dtype=bool)
        for column in states.used.T:
            known = column >= 0
            tried[everyone[known], table.arm[self.offset[states.task[known]] + column[known]]] = True
        last = np.zeros((n, n_arms), dtype=bool)
        last[everyone[begun], table.arm[attempt[begun]]] = True
        spent = np.where(begun[:, None], squashed(table.tokens[row]), 0.0)
        columns: list[npt.NDArray[Any]] = [spent] if table.tokens.any() else []
        share = ((states.used >= 0).sum(axis=1) + begun)[:, None] / self.asked
        if self.kind == "cascade":
            return np.hstack([*columns, share, last, tried | last]).astype(np.float32)
        assert self.told is not None
        said = np.where(begun[:, None], self.told.rows[row], 0.0)
        here = last & running[:, None]
        turn = states.turn[:, None] / self.longest
        return np.hstack([turn, said, *columns, share, here, tried | (last & ~here)]).astype(np.float32)

    def _texts(self, states: _States, attempt: Ints) -> list[str]:
        """The prompt at the start; then the attempts begun, and how far the last of them has come."""
        table, prompts = self.table, self.recording.tasks.prompts
        if not (states.last >= 0).any():
            return [prompts[task] for task in states.task.tolist()]
        texts = []
        said = table.feedback_names
        offset = self.offset[states.task].tolist()
        row = (table.first[attempt] + states.turn - 1).tolist()
        for low, used, now, turn, at in zip(
            offset, states.used.tolist(), attempt.tolist(), states.turn.tolist(), row, strict=True
        ):
            situation: dict[str, Any] = {"arm": table.name[now]}
            if self.kind == "attempts":
                situation |= {"turn": turn, "feedback": said[table.feedback[at]]}
            if tried := [table.name[low + number] for number in used if number >= 0]:
                situation["tried"] = tried
            texts.append(json.dumps(situation, ensure_ascii=False, separators=(",", ":")))
        return texts


class _Told:
    """What the environment has said in an attempt up to each of its turns."""

    def __init__(self, table: AttemptTable) -> None:
        n, width = len(table.feedback), len(table.feedback_names)
        now = np.zeros((n, width))
        now[np.arange(n), table.feedback] = 1.0
        total = np.cumsum(now, axis=0)
        before = np.repeat(table.first, table.turns)
        shares = (total - total[before] + now[before]) / table.turns.max()
        columns = [now, shares]
        if len(table.reward):
            best = table.reward.copy()
            at = np.arange(n) - before
            for turn in range(1, int(table.turns.max())):
                rows = np.flatnonzero(at == turn)
                best[rows] = np.maximum(best[rows], best[rows - 1])
            columns += [table.reward[:, None], best[:, None]]
        self.rows = np.hstack(columns)


def _join(kind: Any, parts: Sequence[Any]) -> Any:
    """Rows of several `_States` or `_Steps`, one after the other."""
    return parts[0] if len(parts) == 1 else kind(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
