"""The general importers: a table of outcomes and, beside it, tables of queries, turns and prices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from routegym.errors import ImportDataError
from routegym.graph.imports.data import ATTEMPT, QUERIES, RESPONSES, TOKENS, TURNS, RoutingData, with_trial
from routegym.graph.imports.reading import COLUMNS, Column, cell_error, line_of, listing, read_table, with_files

__all__ = ["read_outcomes", "read_prices", "read_steps", "read_turns", "with_prices"]

_JOINED = ("query", "arm")  # what several columns may make
_PRICES = {
    "arm": COLUMNS["arm"],
    "usd_in_per_m": Column("number", high=1e5),
    "usd_out_per_m": Column("number", high=1e5),
}
_NO_PROMPTS = "no prompts: a router sees nothing of a query; "
_CALLS = {"arm": COLUMNS["arm"], "usd_per_call": Column("number", high=1e4)}


def read_outcomes(
    source: Path | str,
    queries: Path | str | None = None,
    turns: Path | str | None = None,
    prices: Path | str | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    delimiter: str | None = None,
    verdict: bool = False,
    name: str | None = None,
) -> RoutingData:
    """A table with one row per (query, arm), or per (query, arm, trial).

    Args:
        source: with the columns ``query``, ``arm``, ``score`` in [0, 1] and ``cost_usd``, or ``prompt_tokens`` and
            ``completion_tokens``; also ``latency_s`` and ``trial``. Prompts may stand in it, too (``prompt``, ``kind``,
            ``reference``, ``split``), the same in all rows of a query. CSV, JSON lines or Parquet.
        queries: a table of ``query`` and ``prompt``, and perhaps ``kind``, ``reference`` and ``split``; where no table
            has prompts, the id of a query is all that is known of it.
        turns: a table of ``query``, ``arm``, ``turn`` and ``feedback``, and perhaps ``prompt_tokens``,
            ``completion_tokens``, ``cost_usd``, ``reward`` and ``trial``.
        prices: see `with_prices`.
        columns: where a column has another name in the files, for example ``{"arm": "model"}``, or in one of them:
            ``{"turns.arm": "model"}``. Where several columns make a query or an arm: ``{"arm": "model+effort"}``; what
            they hold is joined by slashes, without empty cells.
        delimiter: of CSV files.
        verdict: whether the environment told at run time if an attempt had succeeded.
        name: of the data set; the name of the source by default.

    Raises:
        ImportDataError: naming file, line and field.
    """
    renamed = dict(columns or {})
    _check_names(renamed)
    own = {"prompt": Column("text", optional=True)} | {c: COLUMNS[c] for c in QUERIES if c not in ("query", "prompt")}
    wanted = {column: COLUMNS[column] for column in RESPONSES} | (own if queries is None else {})
    table = _read(source, wanted, _named(renamed), delimiter)
    responses = table.select([column for column in table.column_names if column in RESPONSES])
    _refuse_doubles(table, ATTEMPT, source, _named(renamed), delimiter, _TRIALS)
    asked = (
        _queries_of(table, source, renamed, delimiter)
        if queries is None
        else _read_queries(queries, renamed, delimiter)
    )
    steps = None if turns is None else read_turns(turns, renamed, delimiter)
    _need_named(renamed, source, {"": table, "queries": None if queries is None else asked, "turns": steps})
    files = [Path(path) for path in (source, queries, turns) if path is not None]
    prompts = queries is not None or "prompt" in table.column_names
    data = RoutingData(
        name=name or Path(source).name.partition(".")[0],
        responses=responses,
        queries=asked,
        turns=steps,
        verdict=verdict,
        notes=() if prompts else (f"{_NO_PROMPTS}name the column (--columns prompt=...)",),
        files=with_files({}, files),
    )
    return data if prices is None else with_prices(data, prices, renamed, delimiter)


def read_turns(path: Path | str, columns: Mapping[str, str] | None = None, delimiter: str | None = None) -> pa.Table:
    """A table with one row per turn of an attempt; see `read_outcomes`."""
    renamed = dict(columns or {})
    _check_names(renamed)
    names = _named(renamed, "turns")
    table = _read(path, {column: COLUMNS[column] for column in TURNS}, names, delimiter)
    _refuse_doubles(table, (*ATTEMPT, "turn"), path, names, delimiter, _TRIALS)
    _check_turns(table, path, names, delimiter)
    return table


def read_prices(
    path: Path | str, columns: Mapping[str, str] | None = None, delimiter: str | None = None
) -> dict[str, tuple[float, float]]:
    """USD per million prompt and completion tokens by arm.

    Raises:
        ImportDataError: naming file, line and field; or an arm has two prices.
    """
    renamed = dict(columns or {})
    _check_names(renamed)
    table = _read(path, _PRICES, _named(renamed, "prices"), delimiter)
    _refuse_doubles(table, ("arm",), path, _named(renamed, "prices"), delimiter, "one price of each arm")
    arms = table["arm"].to_pylist()
    usd = (table["usd_in_per_m"].to_pylist(), table["usd_out_per_m"].to_pylist())
    return {arm: (prompt, completion) for arm, prompt, completion in zip(arms, *usd, strict=True)}


def read_steps(
    source: Path | str,
    queries: Path | str | None = None,
    prices: Path | str | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    delimiter: str | None = None,
    verdict: bool = True,
    name: str | None = None,
) -> RoutingData:
    """A table with one row per turn of an attempt and nothing else: the outcomes are taken from it.

    Args:
        source: ``query``, ``arm``, ``turn`` (from 0), ``feedback`` and ``score``, of which the one of the last turn
            counts; ``cost_usd``, or ``prompt_tokens`` and ``completion_tokens``; perhaps ``reward`` and ``trial``.
            Where there is no ``score``, rewards that are all in [0, 1] stand for it. It is a table of turns, and a
            name that ``columns`` has for ``turns.turn`` is one of its.
        queries: see `read_outcomes`, and so are `prices`, `columns`, `delimiter` and `name`.
        verdict: whether the environment told at run time if an attempt had succeeded.

    Raises:
        ImportDataError: naming file, line and field.
    """
    renamed = dict(columns or {})
    _check_names(renamed)
    names = _named(renamed, "turns")
    table, rewarded = _read_scored_turns(source, names, delimiter)
    _refuse_doubles(table, (*ATTEMPT, "turn"), source, names, delimiter, _TRIALS)
    _check_turns(table, source, names, delimiter)
    keys = [column for column in ATTEMPT if column in table.column_names]
    numbered = with_trial(table).select(table.column_names)  # no number is the first
    ordered = numbered.sort_by([(column, "ascending") for column in (*keys, "turn")])
    whole_sum = pc.ScalarAggregateOptions(skip_nulls=False)  # of turns that are not all known, nothing is known
    sums = [(column, "sum", whole_sum) for column in ("cost_usd", *TOKENS) if column in table.column_names]
    whole = ordered.group_by(keys, use_threads=False).aggregate([("score", "last"), *sums])
    plain = [column.removesuffix("_sum").removesuffix("_last") for column in whole.column_names]
    responses = whole.rename_columns(plain)
    if queries is None:
        ids = responses["query"].unique()
        asked = pa.table({"query": ids, "prompt": ids})
    else:
        asked = _read_queries(queries, renamed, delimiter)
    _need_named(renamed, source, {"": table, "queries": None if queries is None else asked, "turns": table})
    notes = [f"{_NO_PROMPTS}give their table (--queries)"] if queries is None else []
    if rewarded:
        notes.append("no score: the reward of the last turn of an attempt is its score")
    files = [Path(path) for path in (source, queries) if path is not None]
    data = RoutingData(
        name=name or Path(source).name.partition(".")[0],
        responses=responses,
        queries=asked,
        turns=table.drop_columns("score"),
        whole_runs=True,
        verdict=verdict,
        notes=tuple(notes),
        files=with_files({}, files),
    )
    return data if prices is None else with_prices(data, prices, renamed, delimiter)


def _read_scored_turns(source: Path | str, names: Mapping[str, str], delimiter: str | None) -> tuple[pa.Table, bool]:
    """Turns with a score each, and whether that is their reward, because there is no other."""
    wanted = {column: COLUMNS[column] for column in (*TURNS, "score")}
    if "score" in names:
        return _read(source, wanted, names, delimiter), False
    table = _read(source, wanted | {"score": replace(COLUMNS["score"], optional=True)}, names, delimiter)
    if "score" in table.column_names or "reward" not in table.column_names:
        return _read(source, wanted, names, delimiter), False  # again, where each turn must have a score
    reward = table["reward"].combine_chunks()
    good = pc.fill_null(pc.and_(pc.greater_equal(reward, 0.0), pc.less_equal(reward, 1.0)), False)
    if not pc.all(good).as_py():
        row = pc.index(good, False).as_py()
        expected = "a number from 0 to 1, since there is no column 'score'; name it (--columns score=...)"
        raise cell_error(source, row, names.get("reward", "reward"), reward[row].as_py(), expected, delimiter)
    return table.append_column("score", reward), True


def with_prices(
    data: RoutingData, path: Path | str, columns: Mapping[str, str] | None = None, delimiter: str | None = None
) -> RoutingData:
    """Data with a price list: what tokens cost, or what a call costs.

    Args:
        data: of a format whose files state no costs.
        path: a table of ``arm``, ``usd_in_per_m`` and ``usd_out_per_m`` (USD per million prompt and completion tokens);
            or of ``arm`` and ``usd_per_call``, where tokens are not known either: each turn is one call.
        columns: where a column has another name in the file.
        delimiter: of a CSV file.

    Raises:
        ImportDataError: naming file, line and field; or no arm of the data has a price there; or calls are given a
            price where costs are stated.
    """
    path, renamed = Path(path), dict(columns or {})
    _check_names(renamed)
    names = _named(renamed, "prices")
    either = {name: replace(column, optional=True) for name, column in (_CALLS | _PRICES).items() if name != "arm"}
    listed = _read(path, {"arm": COLUMNS["arm"]} | either, names, delimiter).column_names
    per_call = "usd_per_call" in listed
    if per_call and not set(_PRICES).isdisjoint({*listed} - {"arm"}):
        raise ImportDataError(
            f"{path}: has prices of tokens and of calls; leave one of them out, usd_per_call where tokens are known"
        )
    files = with_files(data.files, [path])
    if not per_call:
        prices = read_prices(path, renamed, delimiter)
        return replace(data, prices=prices, files=files, unpriced=_unpriced(data, prices, path))
    if "cost_usd" in data.responses.column_names:
        raise ImportDataError(f"{path}: prices of calls, but {data.name} states costs; leave the prices out")
    table = _read(path, _CALLS, names, delimiter)
    _refuse_doubles(table, ("arm",), path, names, delimiter, "one price of each arm")
    responses = data.responses.combine_chunks()
    price = table["usd_per_call"].take(pc.index_in(responses["arm"], value_set=table["arm"].combine_chunks()))
    cost = pc.multiply(price, _turns_of(responses, data.turns))
    return replace(
        data,
        responses=responses.append_column("cost_usd", cost),
        notes=(*data.notes, "costs are a flat price for every call, not what anybody paid"),
        files=files,
        unpriced=_unpriced(data, table["arm"].to_pylist(), path),
    )


def _unpriced(data: RoutingData, listed: Iterable[str], path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Arms that a price list lacks, and names in it that no arm has; refused where it has none of the arms."""
    arms = data.responses["arm"].unique().to_pylist()
    lacking, unknown = sorted(set(arms) - set(listed)), sorted(set(listed) - set(arms))
    if len(lacking) == len(arms):
        raise ImportDataError(
            f"{path}: prices of {listing(unknown)}, and the arms of {data.name} are {listing(lacking)}; give them the "
            "same names"
        )
    return tuple(lacking), tuple(unknown)


def _turns_of(responses: pa.Table, turns: pa.Table | None) -> pa.ChunkedArray | pa.Scalar:
    """Turns of each row, float64; 1 where no turns are known."""
    if turns is None:
        return pa.scalar(1.0)
    keys = list(ATTEMPT)
    rows, parts = (with_trial(table).select([*keys, *more]) for table, more in ((responses, []), (turns, ["turn"])))
    counted = parts.group_by(keys, use_threads=False).aggregate([("turn", "count")])
    joined = (
        rows.append_column("row", pa.array(np.arange(len(rows)))).join(counted, keys, use_threads=False).sort_by("row")
    )
    return pc.fill_null(joined["turn_count"].cast(pa.float64()), 1.0)


def _read(
    path: Path | str, wanted: Mapping[str, Column], renamed: Mapping[str, str], delimiter: str | None
) -> pa.Table:
    names = {column: name for column, name in renamed.items() if column in wanted}
    joined = {column: name.split("+") for column, name in names.items() if column in _JOINED and "+" in name}
    if not joined:
        return read_table(path, wanted, names, delimiter=delimiter)
    parts = {part: Column("name", optional=True, most=400) for found in joined.values() for part in found}
    plain = {column: kind for column, kind in wanted.items() if column not in joined}
    both = sorted(set(parts) & set(plain))
    if both:
        raise ImportDataError(f"columns makes {both[0]!r} part of a name, and it is a column of its own; rename it")
    table = read_table(path, plain | parts, {c: n for c, n in names.items() if c in plain}, delimiter=delimiter)
    for column, found in joined.items():
        missing = [part for part in found if part not in table.column_names]
        if len(missing) == len(found):
            raise ImportDataError(f"{path}: no value in any of the columns {', '.join(found)}; name others (--columns)")
        cells = [table[part].combine_chunks() for part in found if part not in missing]
        cells = [pc.if_else(pc.equal(part, ""), pa.scalar(None, pa.string()), part) for part in cells]
        empty = np.all([part.is_null().to_numpy(zero_copy_only=False) for part in cells], axis=0)
        if empty.any():
            row = int(np.argmax(empty))
            expected = f"a value in one of the columns {', '.join(found)}; fill one or drop the row"
            raise cell_error(path, row, names[column], "", expected, delimiter)
        name = pc.binary_join_element_wise(*cells, "/", null_handling="skip")
        table = table.append_column(column, name).drop_columns([part for part in found if part in table.column_names])
    return table


def _queries_of(table: pa.Table, source: Path | str, renamed: Mapping[str, str], delimiter: str | None) -> pa.Table:
    """The queries of a table that has them in its rows; the id of one without a prompt stands for it."""
    found = [column for column in QUERIES if column in table.column_names]
    every = table.select(found).combine_chunks()
    if "prompt" not in found:
        every = every.append_column("prompt", every["query"])
    asked = every.group_by(every.column_names, use_threads=False).aggregate([])
    seen = pc.value_counts(asked["query"].combine_chunks())
    several = pc.greater(seen.field("counts"), 1)
    if pc.any(several).as_py():
        name = seen.field("values").filter(several)[0]
        rows = np.flatnonzero(pc.equal(every["query"], name).to_numpy())
        first = every.slice(rows[0], 1).to_pylist()[0]
        for row in rows[1:].tolist():
            for column, value in every.slice(row, 1).to_pylist()[0].items():
                if value != first[column]:
                    expected = f"the same as in the first row of query {name.as_py()!r}, or another id for the query"
                    raise cell_error(source, row, renamed.get(column, column), value, expected, delimiter)
    prompt = pc.coalesce(asked["prompt"], asked["query"])
    return asked.set_column(asked.column_names.index("prompt"), "prompt", prompt)


def _read_queries(path: Path | str, renamed: Mapping[str, str], delimiter: str | None) -> pa.Table:
    names = _named(renamed, "queries")
    table = _read(path, {column: COLUMNS[column] for column in QUERIES}, names, delimiter)
    _refuse_doubles(table, ("query",), path, names, delimiter, "one row per query")
    return table


_TRIALS = "one row of each; drop the double, or number repeated trials in a column trial"


def _check_turns(table: pa.Table, path: Path | str, names: Mapping[str, str], delimiter: str | None) -> None:
    """Name the first row whose reward is above 1, or whose turn is not 0 or the one after another of its attempt."""
    if "reward" in table.column_names:
        reward = table["reward"].combine_chunks()
        row = pc.index(pc.fill_null(pc.greater(reward, 1.0), False), True).as_py()
        if row >= 0:
            expected = "a number of at most 1, as scores are; divide rewards by the highest that there can be"
            raise cell_error(path, row, names.get("reward", "reward"), reward[row].as_py(), expected, delimiter)
    table = with_trial(table)
    attempts = table.group_by(ATTEMPT, use_threads=False).aggregate([("turn", "max"), ("turn", "count")])
    if not pc.any(pc.greater_equal(attempts["turn_max"], attempts["turn_count"])).as_py():
        return
    here = list(zip(*(table[key].to_pylist() for key in ATTEMPT), strict=True))
    turn = table["turn"].to_pylist()
    known = set(zip(here, turn, strict=True))
    row = next(row for row in range(len(turn)) if turn[row] and (here[row], turn[row] - 1) not in known)
    expected = f"turns of an attempt that count from 0 without gaps, and there is no turn {turn[row] - 1:g} of it"
    raise cell_error(path, row, names.get("turn", "turn"), turn[row], expected, delimiter)


def _refuse_doubles(
    table: pa.Table,
    keys: Sequence[str],
    path: Path | str,
    names: Mapping[str, str],
    delimiter: str | None,
    expected: str,
) -> None:
    """Name the first row that has the same keys as an earlier one; a trial that is not named is trial 0."""
    keys = [key for key in keys if key in table.column_names]
    table = with_trial(table)
    code = np.zeros(len(table), dtype=np.int64)
    for key in keys:
        column = table[key].combine_chunks()
        number = column.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64) + 1
        code = code * (int(number.max()) + 1) + number
    order = np.argsort(code, kind="stable")
    double = np.flatnonzero(code[order][1:] == code[order][:-1])
    if not len(double):
        return
    row = int(order[double + 1].min())
    shown = ", ".join(f"{key} {table[key][row].as_py()!r:.60}" for key in keys)
    first = line_of(path, int(np.flatnonzero(code == code[row])[0]), delimiter)
    last = names.get(keys[-1], keys[-1])
    raise cell_error(
        path, row, last, table[keys[-1]][row].as_py(), f"{expected} ({shown}: first in {first})", delimiter
    )


_TABLES = {"queries": QUERIES, "turns": TURNS, "prices": {**_PRICES, **_CALLS}}


def _named(renamed: Mapping[str, str], table: str = "") -> dict[str, str]:
    """The names that hold in a table: those of all tables, and its own."""
    own = {column.partition(".")[2]: name for column, name in renamed.items() if column.partition(".")[0] == table}
    return {column: name for column, name in renamed.items() if "." not in column} | own


def _need_named(renamed: Mapping[str, str], source: Path | str, tables: Mapping[str, pa.Table | None]) -> None:
    """Refuse a column that was named and has no value in any table it was named for; prices are read apart."""
    for column, name in renamed.items():
        table, dot, plain = column.rpartition(".")
        if plain in (*_PRICES, *_CALLS) and (not dot or table == "prices"):
            continue
        read = [found for key, found in tables.items() if found is not None and (not dot or key == table)]
        if not any(plain in found.column_names for found in read):
            where = f"no table of {table} has" if dot else "no table has"
            raise ImportDataError(
                f"{source}: columns names {name!r} as {column}, but {where} a value there; correct it"
            )


def _check_names(renamed: Mapping[str, str]) -> None:
    known = {*RESPONSES, *QUERIES, *TURNS, *_PRICES, *_CALLS}
    for column in renamed:
        table, dot, name = column.partition(".")
        if column not in known and not (dot and name in _TABLES.get(table, ())):
            raise ImportDataError(
                f"columns names {column!r}; expected some of {', '.join(sorted(known))}, or one of them after "
                f"{', '.join(f'{table}.' for table in _TABLES)}"
            )
