"""From imported data to a recording that can be routed on."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from routegym.errors import ImportDataError
from routegym.graph.imports.build import KINDS, AttemptTable, Kind, fill_graph, signal_names
from routegym.graph.imports.data import ATTEMPT, TOKENS, RoutingData, with_trial
from routegym.graph.recording import Recording
from routegym.pool.arms import Arm, Price, PriceTable
from routegym.tasks.taskset import SPLITS, TaskSet, prompt_hash, split_of

__all__ = ["Imported", "KeptRows", "Text", "to_recording"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Text = Literal["tfidf", "minilm", "hashing", "none"]

_MOST_FEEDBACKS = 200  # two signals each, in every situation
_CALLS = 2  # in an episode of a cascade or of attempts, unless something else is asked for
_VALIDATION = 8  # of the training prompts of a source without validation, one in so many


@dataclass(frozen=True)
class KeptRows:
    """The rows that a recording was made of, (n,) each; repeated trials are several rows."""

    task: Ints
    """Number of the task in the recording."""
    arm: Ints
    """Number of the arm."""
    score: Floats
    cost_usd: Floats
    """As stated, or tokens at the prices of the source."""


@dataclass(frozen=True)
class Imported:
    """A recording of other people's data, and what became of their rows."""

    recording: Recording
    data: RoutingData
    dropped: Mapping[str, int]
    """Rows that were read and are not in the recording, by reason."""
    moved: int
    """Queries put into another split because the same prompt is held out there."""
    masked: int
    """(query, arm) pairs without a row: those arms are not legal for those queries."""
    kept: KeptRows
    lost_arms: tuple[str, ...] = ()
    """Arms of which no row has a known query and a cost."""
    lost_turns: int = 0
    """Turns of attempts that the source has no row for; 0 where attempts are not watched."""
    validated: int = 0
    """Training queries put into the validation split, because the source names splits and has none."""
    usable: tuple[int, ...] = ()
    """Queries that each arm of the recording has a row for that can be used, whether others have one or not."""
    zeros: Mapping[str, int] = field(default_factory=dict)
    """Rows of the recording, or turns where attempts are watched, that a router is shown a 0 for: by what they lack."""


def to_recording(
    data: RoutingData,
    kind: Kind = "single_call",
    *,
    arms: Sequence[str] = (),
    missing: Literal["drop", "mask"] = "drop",
    costs: Literal["stated", "tokens"] | None = None,
    most_attempts: int = _CALLS,
    text: Text = "tfidf",
    dims: int = 64,
    seed: int = 0,
) -> Imported:
    """A closed recording of the queries and arms of a data set.

    Args:
        data: what was read.
        kind: ``single_call``; ``cascade``: call an arm, look, call another; ``attempts``: watch one turn by turn.
        arms: which arms, in which order; all by default, the cheapest first.
        missing: a query that some arm was not recorded for is left out (``drop``), or that arm is not legal there
            (``mask``). Nothing is ever filled in.
        costs: dollars as the source states them, or tokens at its prices; the former where there are any.
        most_attempts: calls or attempts in one episode of a cascade or of attempts.
        text: what a router sees of a prompt; see `routegym.tasks.embeddings.embed`.
        dims: columns of that.
        seed: of that, of the split of queries that name none, and of the training queries that are put into a
            validation split which the source lacks.

    Raises:
        ImportDataError: an option makes no sense for these data, or rows contradict each other; the message names them.
        MissingExtraError: a package for the text features is not installed.
    """
    _check_options(data, kind, most_attempts)
    rows = _Rows(data, arms, costs)
    if kind == "attempts":
        rows.need_turns()
    rows.complete(missing)
    names = rows.arms
    controls: tuple[str, ...] = () if kind == "single_call" else ("stop",) if data.verdict else ("accept",)
    if set(controls) & set(names):
        raise ImportDataError(
            f"{data.name}: arm {controls[0]!r} has the name of the action that ends an episode; rename the arm"
        )
    tasks, moved, validated = _tasks(rows, seed)
    if text != "none":
        tasks = tasks.with_embedding(text, dims, seed)
    table = rows.attempts(kind)
    prices, pool = _pool(rows, table, rows.charged(kind))
    recording = Recording.empty(
        name=data.name,
        kind=kind,
        arms=pool,
        controls=controls,
        prices=prices,
        tasks=tasks,
        node_signal_names=signal_names(kind, table, names),
        edge_signal_names=(),
        closed=True,
        provenance={
            "imported": {
                "files": dict(data.files),
                "notes": list(data.notes),
                "costs": rows.costs,
                "verdict": data.verdict,
                "dropped": dict(rows.dropped),
                "missing": missing,
                "most_attempts": 1 if kind == "single_call" else most_attempts,
            },
            "complete": True,
        },
    )
    fill_graph(recording, kind, table, 1 if kind == "single_call" else most_attempts)
    recording.fix_scales()
    kept = KeptRows(table.task, rows.arm, rows.score, rows.cost)
    masked = len(tasks) * len(names) - rows.pairs
    orphans = 0 if rows.turns is None else rows.turns.without_row
    dropped = dict(rows.dropped)
    zeros = {} if kind == "single_call" else rows.zeros()
    return Imported(recording, data, dropped, moved, masked, kept, rows.lost, orphans, validated, rows.usable, zeros)


class _Rows:
    """Rows of a data set that are used, as arrays in the order of query, arm and trial.

    Every step that drops some says why in `dropped`.
    """

    def __init__(self, data: RoutingData, arms: Sequence[str], costs: Literal["stated", "tokens"] | None) -> None:
        self.data = data
        self.dropped = {reason: count for reason, count in data.dropped.items() if count}
        table = data.responses.combine_chunks()
        self.ids = data.queries["query"].combine_chunks()
        twice = _first_double(self.ids.dictionary_encode().indices.to_numpy(zero_copy_only=False))
        if twice is not None:
            raise ImportDataError(f"{data.name}, queries: {self.ids[twice].as_py()!r} occurs twice; drop one of them")
        known = table["arm"].unique().to_pylist()
        _check_arms(data, arms, known)
        query = pc.index_in(table["query"], value_set=self.ids)
        if arms:
            table, query = self._keep(
                table, query, pc.is_in(table["arm"], pa.array(list(arms))), "of arms not asked for"
            )
        table, query = self._keep(table, query, query.is_valid(), "whose query is not in the table of queries")
        if not len(table):
            raise ImportDataError(f"{data.name}: no row is left; {_reasons(self.dropped)}")
        self.costs = costs or ("stated" if "cost_usd" in table.column_names else "tokens")
        cost = self._cost(table)
        table, query = self._keep(table, query, pa.array(~np.isnan(cost)), f"without {_NEEDED[self.costs]}")
        if not len(table):
            raise ImportDataError(f"{data.name}: no row has {_NEEDED[self.costs]}; name its column, or give prices")
        cost = cost[~np.isnan(cost)]
        left = set(table["arm"].unique().to_pylist())
        present = [arm for arm in arms or known if arm in left]
        self.lost: tuple[str, ...] = tuple(arm for arm in arms or known if arm not in left)
        if arms and self.lost:
            raise ImportDataError(
                f"{data.name}: no row of arm {self.lost[0]!r} has a known query, and {_NEEDED[self.costs]}; give them, "
                "or leave the arm out"
            )
        code = pc.index_in(table["arm"], value_set=pa.array(present)).to_numpy(zero_copy_only=False).astype(np.int64)
        if not arms:
            mean = np.bincount(code, cost) / np.bincount(code)
            cheapest = sorted(range(len(present)), key=lambda arm: (mean[arm], present[arm]))
            present = [present[arm] for arm in cheapest]
            code = np.argsort(cheapest)[code]
        self.arms: tuple[str, ...] = tuple(present)
        self.query: Ints = query.to_numpy(zero_copy_only=False).astype(np.int64)
        self.arm: Ints = code
        self.trial = _numbers(table, "trial", 0).astype(np.int64)
        self.score, self.cost = _numbers(table, "score"), cost
        self.tokens = np.stack([_numbers(table, name, 0) for name in TOKENS], axis=1).astype(np.int64)
        self.uncounted = _uncounted(table)
        self.latency = _numbers(table, "latency_s", 0)
        self.turns: _Turns | None = None
        self.usable: tuple[int, ...] = ()
        order = np.lexsort((self.trial, self.arm, self.query))
        self._take(order)
        key = (self.query * len(self.arms) + self.arm) * (int(self.trial.max()) + 1) + self.trial
        same = np.flatnonzero(key[1:] == key[:-1])
        if len(same):
            row = int(same[0])
            raise ImportDataError(
                f"{data.name}: {len(same)} row(s) repeat a (query, arm), the first for query "
                f"{self.ids[int(self.query[row])].as_py()!r} and arm {self.arms[self.arm[row]]!r}; drop the doubles, "
                "or number them in a column trial if they are repeated trials"
            )

    @property
    def pairs(self) -> int:
        """(query, arm) pairs that have a row."""
        return int(_firsts(self.query * len(self.arms) + self.arm).sum())

    def need_turns(self) -> None:
        """Drop attempts whose turns are not there."""
        self.turns = _Turns(self)
        kept = np.asarray(self.turns.count > 0)
        if not kept.any():
            raise ImportDataError(
                f"{self.data.name}: no attempt has its turns; check query, arm and trial of the turns"
            )
        without = np.flatnonzero(np.bincount(self.arm[kept], minlength=len(self.arms)) == 0)
        if len(without):
            raise ImportDataError(
                f"{self.data.name}: no attempt of arm {self.arms[without[0]]!r} has its turns; name the other arms"
            )
        self._note("of attempts whose turns are missing", int((~kept).sum()))
        self._take(np.flatnonzero(kept))

    def complete(self, missing: str) -> None:
        """Drop queries that some arm has no row for, unless they are asked for."""
        have = np.zeros((len(self.ids), len(self.arms)), dtype=bool)
        have[self.query, self.arm] = True
        self.usable = tuple(have.sum(axis=0).tolist())
        whole = np.asarray(have.all(axis=1) if missing == "drop" else have.any(axis=1))
        if not whole.any():
            counts = ", ".join(f"{arm} {n:,}" for arm, n in zip(self.arms, have.sum(axis=0).tolist(), strict=True))
            raise ImportDataError(
                f"{self.data.name}: no query was recorded with every arm ({counts} of {len(self.ids):,}); name fewer "
                "arms, or mask what is missing"
            )
        kept = whole[self.query]
        self._note("of queries that not every arm was recorded for", int((~kept).sum()))
        self._take(np.flatnonzero(kept))

    def charged(self, kind: Kind) -> bool:
        """Whether calls are charged in dollars, and their tokens not beside them.

        So they are where dollars are stated; where an attempt is charged turn by turn, since what the turns cost must
        sum to what the row does, whatever is known of their tokens; and where a row is a whole run, since the reserve
        of a call is taken from its prompt tokens, and those of a run tell how it went.
        """
        whole_runs = self.data.whole_runs or self.data.turns is not None
        return self.costs == "stated" or kind == "attempts" or whole_runs

    def attempts(self, kind: Kind) -> AttemptTable:
        """The rows as attempts, their queries numbered anew."""
        task = np.cumsum(_firsts(self.query)) - 1
        n, names = len(task), [self.arms[arm] for arm in self.arm.tolist()]
        if kind != "attempts" or self.turns is None:
            zero = np.zeros(n, dtype=np.int64)
            charge = self.cost if self.charged(kind) else np.zeros(n)
            return AttemptTable(
                task, self.arm, self.score, names, np.arange(n), zero + 1, charge, self.tokens, self.latency,
                zero, ("ended",), np.zeros(0), self.data.verdict,
            )  # fmt: skip
        turns, first = self.turns, np.concatenate([[0], np.cumsum(self.turns.count)[:-1]])
        share, owner = turns.shares(self), turns.owner
        feedback, said = turns.feedback(self.data.name)
        return AttemptTable(
            task, self.arm, self.score, names, first, turns.count, share * self.cost[owner], turns.tokens[turns.row],
            share * self.latency[owner], feedback, said,
            turns.reward[turns.row] if len(turns.reward) else turns.reward, self.data.verdict,
        )  # fmt: skip

    def zeros(self) -> dict[str, int]:
        """Rows, or turns where there are any, that a router is shown a 0 for: by what they lack."""
        turns = self.turns
        uncounted = self.uncounted if turns is None else turns.uncounted[turns.row]
        found = {f"no {name}": int(uncounted[:, column].sum()) for column, name in enumerate(TOKENS)}
        if turns is not None and len(turns.stated_reward):
            reward = turns.stated_reward[turns.row]
            found |= {"no reward": int(np.isnan(reward).sum()), "a reward below 0": int((reward < 0).sum())}
        return {lack: count for lack, count in found.items() if count}

    def _cost(self, table: pa.Table) -> Floats:
        """USD of each row, NaN where it is not known."""
        if self.costs == "stated":
            return _numbers(table, "cost_usd")
        price = np.array([self.data.prices.get(arm, (np.nan, np.nan)) for arm in table["arm"].unique().to_pylist()])
        code = pc.index_in(table["arm"], value_set=table["arm"].unique()).to_numpy(zero_copy_only=False)
        tokens = np.stack([_numbers(table, name) for name in TOKENS], axis=1)
        return np.asarray((tokens * price[code]).sum(axis=1) / 1e6)

    def _keep(self, table: pa.Table, query: pa.Array, which: pa.Array, reason: str) -> tuple[pa.Table, pa.Array]:
        lost = len(table) - int(pc.sum(which).as_py() or 0)
        if not lost:
            return table, query
        self._note(reason, lost)
        return table.filter(which), query.filter(which)

    def _note(self, reason: str, count: int) -> None:
        if count:
            self.dropped[reason] = self.dropped.get(reason, 0) + count

    def _take(self, rows: Ints) -> None:
        for name in ("query", "arm", "trial", "score", "cost", "tokens", "uncounted", "latency"):
            setattr(self, name, getattr(self, name)[rows])
        if self.turns is not None:
            self.turns.take(rows)


_NEEDED = {"stated": "a cost", "tokens": "tokens and a price of its arm"}


class _Turns:
    """The turns of the attempts of `_Rows`, in their order.

    Attributes:
        count: turns of each attempt, 0 where there are none.
        row: rows of the table of turns, those of the attempts in order.
        without_row: turns of attempts that the source has no row for.
    """

    def __init__(self, rows: _Rows) -> None:
        data = rows.data
        if data.turns is None:
            raise ImportDataError(
                f"{data.name}: has no turns, so that attempts cannot be watched; give the per-turn table, or take "
                "--kind cascade"
            )
        table = data.turns.combine_chunks()
        theirs, ours = (with_trial(one).select(ATTEMPT) for one in (table, data.responses))
        self.without_row = len(theirs.join(ours, ATTEMPT, join_type="left anti", use_threads=False))
        query = _codes(table["query"], rows.ids)
        arm = _codes(table["arm"], pa.array(rows.arms))
        trial, turn = _numbers(table, "trial", 0).astype(np.int64), _numbers(table, "turn").astype(np.int64)
        trials = int(max(trial.max(initial=0), rows.trial.max(initial=0))) + 1
        mine = (rows.query * len(rows.arms) + rows.arm) * trials + rows.trial
        theirs = np.where((query < 0) | (arm < 0), -1, (query * len(rows.arms) + arm) * trials + trial)
        attempt = np.minimum(np.searchsorted(mine, theirs), len(mine) - 1)
        known = np.flatnonzero(mine[attempt] == theirs)
        order = known[np.lexsort((turn[known], attempt[known]))]
        self.count = np.bincount(attempt[order], minlength=len(mine))
        first = np.concatenate([[0], np.cumsum(self.count)[:-1]])
        expected = np.arange(len(order)) - np.repeat(first, self.count)
        wrong = np.flatnonzero(turn[order] != expected)
        if len(wrong):
            at = order[wrong[0]]
            raise ImportDataError(
                f"{data.name}, turns: query {table['query'][int(at)].as_py()!r}, arm "
                f"{table['arm'][int(at)].as_py()!r}: turn {turn[at]} where {expected[wrong[0]]} was expected; the "
                "turns of an attempt count from 0 without gaps or doubles"
            )
        self.row = order
        self.tokens = np.stack([_numbers(table, name, 0) for name in TOKENS], axis=1).astype(np.int64)
        self.uncounted = _uncounted(table)
        self.said = table["feedback"]
        shown = "reward" in table.column_names
        self.stated_reward = _numbers(table, "reward") if shown else np.zeros(0)
        # what an environment shows may leave [0, 1] for a moment (a penalty); what a router sees may not
        self.reward = np.clip(np.nan_to_num(self.stated_reward), 0.0, 1.0)
        self.cost = _numbers(table, "cost_usd") if "cost_usd" in table.column_names else None

    @property
    def owner(self) -> Ints:
        """The attempt of each turn."""
        return np.repeat(np.arange(len(self.count)), self.count)

    def feedback(self, source: str) -> tuple[Ints, tuple[str, ...]]:
        """What the environment said to each turn, and the names of that; those of other turns are not among them."""
        said = self.said.take(pa.array(self.row))
        names = said.unique().sort()
        if len(names) > _MOST_FEEDBACKS:
            raise ImportDataError(
                f"{source}, turns, field 'feedback': {len(names):,} different texts; expected at most "
                f"{_MOST_FEEDBACKS}, each of which becomes a signal: put what the environment answers into a few words "
                "that recur, such as ok, error, rejected"
            )
        return _codes(said, names), tuple(names.to_pylist())

    def take(self, attempts: Ints) -> None:
        """Keep the turns of some attempts, in ascending order."""
        first = np.concatenate([[0], np.cumsum(self.count)[:-1]])
        count = self.count[attempts]
        start = np.repeat(first[attempts] - np.concatenate([[0], np.cumsum(count)[:-1]]), count)
        self.row = self.row[start + np.arange(int(count.sum()))]
        self.count = count

    def shares(self, rows: _Rows) -> Floats:
        """The part of its attempt's bill that each turn bears: as stated, or by what its tokens cost.

        Where the tokens of some turn of an attempt are not known, its turns bear equal shares.
        """
        owner = self.owner
        stated = self.cost is not None and rows.costs == "stated"
        if self.cost is not None and stated:
            weight = self.cost[self.row]
            if np.isnan(weight).any():
                raise ImportDataError(f"{rows.data.name}, turns: some cost_usd are missing; fill or drop the column")
        else:
            price = np.array([rows.data.prices.get(arm, (1.0, 1.0)) for arm in rows.arms])
            weight = (self.tokens[self.row] * price[rows.arm[owner]]).sum(axis=1)
            unknown = np.bincount(owner, self.uncounted[self.row].any(axis=1)) > 0
            weight = np.where(unknown[owner], 0.0, weight)
        total = np.bincount(owner, weight)
        if stated and not np.allclose(total, rows.cost, rtol=1e-3, atol=1e-9):
            worst = int(np.argmax(np.abs(total - rows.cost)))
            raise ImportDataError(
                f"{rows.data.name}: the turns of query {rows.ids[int(rows.query[worst])].as_py()!r}, arm "
                f"{rows.arms[rows.arm[worst]]!r} cost {total[worst]:.6g} USD and its row says {rows.cost[worst]:.6g}; "
                "correct one of them, or leave the costs of turns out"
            )
        weight = np.where(total[owner] <= 0, 1.0, weight)
        return np.asarray(weight / np.bincount(owner, weight)[owner])


def _tasks(rows: _Rows, seed: int) -> tuple[TaskSet, int, int]:
    """The queries that are left, as tasks; how many of them follow a prompt that is held out, and how many validate.

    A source that names splits and no validation gets one: of its training prompts, in the order of their hashes, every
    eighth, with all queries that have it.
    """
    table = rows.data.queries.combine_chunks().take(pa.array(rows.query[_firsts(rows.query)]))
    ids, prompts = table["query"].to_pylist(), table["prompt"].to_pylist()
    given = table["split"].to_pylist() if "split" in table.column_names else [None] * len(ids)
    splits = [split or split_of(name, seed) for name, split in zip(ids, given, strict=True)]
    unknown = next((name for name in splits if name not in SPLITS), None)
    if unknown is not None:
        row = splits.index(unknown)
        raise ImportDataError(
            f"{rows.data.name}, queries: split {unknown!r} of query {ids[row]!r}; expected one of {', '.join(SPLITS)}"
        )
    held: dict[str, int] = {}
    for prompt, split in zip(prompts, splits, strict=True):
        held[prompt] = max(SPLITS.index(split), held.get(prompt, 0))
    kept = [SPLITS[held[prompt]] for prompt in prompts]
    moved = sum(before != after for before, after in zip(splits, kept, strict=True))
    validated: set[str] = set()
    if any(given) and "val" not in kept:
        trained = {prompt for prompt, split in zip(prompts, kept, strict=True) if split == "train"}
        dealt = sorted(trained, key=lambda prompt: prompt_hash(prompt if seed == 0 else f"{seed}:{prompt}"))
        validated = set(dealt[_VALIDATION - 1 :: _VALIDATION])
        kept = ["val" if prompt in validated else split for prompt, split in zip(prompts, kept, strict=True)]
    optional = {
        what: tuple(value or "" for value in table[name].to_pylist()) if name in table.column_names else ()
        for what, name in (("references", "reference"), ("kinds", "kind"))
    }
    tasks = TaskSet(
        ids=tuple(ids),
        prompts=tuple(prompts),
        references=optional["references"] or ("",) * len(ids),
        splits=tuple(kept),
        kinds=optional["kinds"],
    )
    return tasks, moved, sum(prompt in validated for prompt in prompts)


def _pool(rows: _Rows, table: AttemptTable, charged: bool) -> tuple[PriceTable, tuple[Arm, ...]]:
    """The arms with what a call of theirs takes at most, and what their tokens cost."""
    owner = np.repeat(table.arm, table.turns)
    most_tokens, most_usd = np.zeros(len(rows.arms), dtype=np.int64), np.zeros(len(rows.arms))
    np.maximum.at(most_tokens, owner, table.tokens[:, 1])
    np.maximum.at(most_usd, owner, table.charge_usd)
    arms, prices = [], {}
    for name, longest, dearest in zip(rows.arms, most_tokens.tolist(), most_usd.tolist(), strict=True):
        arms.append(
            Arm(
                model=name,
                tier="",
                parameters=0,
                # without a limit the reserve of an arm that charges for tokens would be infinite
                max_completion_tokens=(longest or None) if charged else max(longest, 1),
                max_charge_usd=dearest,
            )
        )
        prompt, completion = (0.0, 0.0) if charged else rows.data.prices[name]
        prices[name] = Price(prompt=prompt, cached=prompt, completion=completion, reasoning=completion)
    note = (
        "dollars as the source of the data states them, call by call; tokens are not charged beside them"
        if rows.costs == "stated"
        else "tokens at the prices that came with the data, charged in dollars; tokens are not charged beside them"
        if charged
        else "prices that came with the data"
    )
    return PriceTable(date="as in the source", note=note, prices=prices), tuple(arms)


def _check_options(data: RoutingData, kind: str, most_attempts: int) -> None:
    if kind not in KINDS:
        raise ImportDataError(f"kind = {kind!r}; expected one of {', '.join(KINDS)}")
    if kind != "single_call" and most_attempts < 2:
        raise ImportDataError(f"most_attempts = {most_attempts}; expected at least 2: with one there is single_call")


def _check_arms(data: RoutingData, arms: Sequence[str], known: Sequence[str]) -> None:
    for arm in arms:
        if arm not in known:
            close = difflib.get_close_matches(arm, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(sorted(known))[:400]}"
            raise ImportDataError(f"{data.name}: no row of arm {arm!r}; {hint}")
    if len(set(arms)) < len(arms):
        raise ImportDataError(f"{data.name}: arms = {list(arms)}; name each only once")


def _uncounted(table: pa.Table) -> npt.NDArray[np.bool_]:
    """Which cells of `TOKENS` are empty, (n, 2); none where the table has no such column."""
    fill = [np.nan if name in table.column_names else 0.0 for name in TOKENS]
    return np.stack([np.isnan(_numbers(table, *column)) for column in zip(TOKENS, fill, strict=True)], axis=1)


def _numbers(table: pa.Table, name: str, absent: float = np.nan) -> Floats:
    """A column as float64, `absent` where there is no column or the cell is null."""
    if name not in table.column_names:
        return np.full(len(table), absent)
    return np.asarray(pc.fill_null(table[name].cast(pa.float64()), absent).to_numpy())


def _codes(values: pa.Array, of: pa.Array) -> Ints:
    """Place of each value among others, -1 where it is not one of them."""
    found = pc.fill_null(pc.index_in(values, value_set=of), -1)
    return np.asarray(found.to_numpy(zero_copy_only=False)).astype(np.int64)


def _firsts(ascending: Ints) -> npt.NDArray[np.bool_]:
    """Where each value stands first among numbers in ascending order."""
    return np.diff(ascending, prepend=-1) > 0


def _first_double(codes: npt.NDArray[np.int64]) -> int | None:
    _, first = np.unique(codes, return_index=True)
    if len(first) == len(codes):
        return None
    left = np.ones(len(codes), dtype=bool)
    left[first] = False
    return int(np.argmax(left))


def _reasons(dropped: Mapping[str, int]) -> str:
    return "; ".join(f"{count:,} rows {reason}" for reason, count in dropped.items()) or "the source has none"
