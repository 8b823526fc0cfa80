"""Logs of a router in service, one request a row, as episodes from which other policies can be estimated.

Forms, and where their fields were looked up: ``openai``, a line of a Batch API output file (its API reference);
``litellm``, StandardLoggingPayload (docs.litellm.ai, logging_spec); ``weave``, the Call of W&B Weave (docs.wandb.ai,
call-schema-reference); ``flat``, a plain table. None of the published three has a place for propensities or scores:
where they are taken from by default is stated in `FORMS`, and any field may be named.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from routegym.errors import ConfigError, ImportDataError
from routegym.graph.imports.objects import Entry, entries_of_lines
from routegym.graph.imports.reading import COLUMNS, Column, read_table
from routegym.policies.logs import ENDED, EpisodeLog

if TYPE_CHECKING:
    from routegym.graph.recording import Recording
    from routegym.policies.algorithm import Problem

__all__ = ["FORMS", "import_requests"]

#: Name of each column in each form: keys on the way to the value, ``*`` for all of a level (numbers are added up).
FORMS: dict[str, dict[str, str]] = {
    "flat": {
        name: name
        for name in (
            *("query", "prompt", "arm", "score", "propensity", "cost_usd", "prompt_tokens", "completion_tokens"),
            "candidates",
        )
    },
    "openai": {
        "query": "custom_id",
        "arm": "response.body.model",
        "score": "score",
        "propensity": "propensity",
        "prompt_tokens": "response.body.usage.prompt_tokens",
        "completion_tokens": "response.body.usage.completion_tokens",
    },
    "litellm": {
        "prompt": "messages",
        "arm": "model",
        "score": "score",
        "propensity": "propensity",
        "cost_usd": "response_cost",
        "prompt_tokens": "prompt_tokens",
        "completion_tokens": "completion_tokens",
    },
    "weave": {
        "prompt": "inputs.messages",
        "arm": "inputs.model",
        "score": "summary.score",
        "propensity": "attributes.propensity",
        "prompt_tokens": "summary.usage.*.prompt_tokens",
        "completion_tokens": "summary.usage.*.completion_tokens",
    },
}

_EXPECTED = {
    "query": Column("name", optional=True, most=400),
    "prompt": Column("text", optional=True),
    **{name: COLUMNS[name] for name in ("arm", "score", "cost_usd", "prompt_tokens", "completion_tokens")},
    "propensity": Column("number", high=1.0),
    "candidates": Column("text", optional=True, most=10_000),
}
_BETWEEN = "|"  # the candidates of a row of a table


@dataclass(frozen=True)
class _Request:
    """One row of a log, its values by column, and where it stands."""

    where: str
    values: Mapping[str, Any]


def import_requests(
    source: Path | str,
    problem: Problem,
    *,
    form: str = "flat",
    columns: Mapping[str, str] | None = None,
    arms: Mapping[str, str] | None = None,
    lambda_: float = 0.0,
) -> EpisodeLog:
    """Requests that a router served, as episodes of one call without a budget.

    Args:
        source: JSON lines, for ``flat`` also CSV or Parquet. A row needs ``query`` (id of a task) or ``prompt`` (its
            text, or a conversation, of which the last message by the user counts), ``arm``, ``score`` in [0, 1],
            ``propensity`` in (0, 1], and ``cost_usd`` or ``prompt_tokens`` and ``completion_tokens``, which are charged
            at the recording's prices. ``candidates``: the arms that could be chosen, a list, or a text with ``|``
            between them; all by default.
        problem: its recording, of kind ``single_call``, has the queries of the log and gives what a policy sees of
            them; of any split.
        form: one of `FORMS`.
        columns: where a column has another name than in the form, for example
            ``{"propensity": "metadata.propensity"}``.
        arms: names of arms in the log and their names in the recording, where they differ.
        lambda_: price of cost under which rewards are reckoned.

    Returns:
        One episode with one row per request. An action's reserve is the recording's, or the largest logged cost of its
        arm where that is more or the recording has none (of any arm, where the log has none of it either).

    Raises:
        ConfigError: the recording is of another kind, or the form or a column is unknown.
        ImportDataError: naming file, line (row, for a table) and field.
    """
    recording = problem.recording
    if recording.kind != "single_call":
        raise ConfigError(
            f"recording {recording.name!r} is of kind {recording.kind!r}; expected 'single_call': a request is one call"
        )
    names = _names(form, columns or {})
    rows = list(_requests(Path(source), names))
    if not rows:
        raise ImportDataError(f"{source}: holds no requests; get the file again")
    known = recording.action_names
    renamed = dict(arms or {})
    task = _tasks(rows, recording, names)
    action = np.array([_arm(row, row.values["arm"], names["arm"], known, renamed) for row in rows], dtype=np.int64)
    legal = np.ones((len(rows), len(known)), dtype=bool)
    for number, row in enumerate(rows):
        if row.values.get("candidates") is not None:
            candidates = [_arm(row, arm, names["candidates"], known, renamed) for arm in row.values["candidates"]]
            legal[number] = np.isin(np.arange(len(known)), candidates)
            if not legal[number, action[number]]:
                raise ImportDataError(
                    f"{row.where}, field {names['candidates']!r}: has not the arm that was chosen, "
                    f"{row.values['arm']!r}; log all arms that could be chosen"
                )
    cost = _costs(rows, recording, action, names)
    score, propensity = (np.array([row.values[name] for row in rows], dtype=float) for name in ("score", "propensity"))
    if (propensity == 0).any():
        raise ImportDataError(
            f"{rows[int(np.argmin(propensity))].where}, field {names['propensity']!r}: 0.0; expected the probability "
            "with which the logged arm was chosen, more than 0"
        )
    tasks, place = np.unique(task, return_inverse=True)
    env = problem.env(
        len(tasks), autoreset_mode="Disabled", budget_usd=None, lambda_=lambda_, split="all", expander=None
    )
    seen, _ = env.reset(seed=0, options={"task_id": tasks})
    observation = np.asarray(seen)[place]
    observation[:, env.layout.columns["affordable"]] = legal
    n = len(rows)
    return EpisodeLog(
        columns=env.layout.names,
        actions=env.layout.action_names,
        cost_scale_usd=recording.cost_scale_usd,
        observation=observation,
        action=action,
        propensity=propensity,
        legal=legal,
        reserve_usd=_reserves(recording.graph.node_reserve[env.node][place], legal, action, cost),
        cost_usd=cost,
        episode=np.arange(n),
        task=task,
        budget_usd=np.full(n, np.inf),
        lambda_=np.full(n, float(lambda_)),
        score=score,
        outcome=np.full(n, ENDED, dtype=np.uint8),
    )


def _names(form: str, columns: Mapping[str, str]) -> dict[str, str]:
    if form not in FORMS:
        raise ConfigError(f"form = {form!r}; expected one of {', '.join(FORMS)}")
    for column in columns:
        if column not in _EXPECTED:
            raise ConfigError(f"columns names {column!r}; expected some of {', '.join(_EXPECTED)}")
    return {**FORMS[form], **columns}


def _requests(path: Path, names: Mapping[str, str]) -> Iterator[_Request]:
    if path.name.removesuffix(".gz").endswith(".jsonl"):
        for entry in entries_of_lines(path):
            yield _request(entry, names)
        return
    table = read_table(path, {name: _EXPECTED[name] for name in names}, names)
    for number, values in enumerate(table.to_pylist(), 1):
        if values.get("candidates") is not None:
            values["candidates"] = values["candidates"].split(_BETWEEN)
        yield _Request(f"{path}, row {number}", values)


def _request(entry: Entry, names: Mapping[str, str]) -> _Request:
    found = {name: _at(entry.fields, name) for name in names.values()}
    flat = Entry(entry.path, entry.place, found)
    values: dict[str, Any] = {}
    for column, name in names.items():
        value = found[name]
        if column == "prompt" and isinstance(value, list):
            values[column] = _last_of_user(flat, name, value)
        elif column == "candidates" and isinstance(value, list):
            if not all(isinstance(arm, str) for arm in value):
                raise flat.error(name, "names of arms")
            values[column] = value
        else:
            cell = flat.cell(name, _EXPECTED[column])
            values[column] = cell.split(_BETWEEN) if column == "candidates" and cell else cell
    return _Request(f"{entry.path}, {entry.place}", values)


def _at(fields: Mapping[str, Any], name: str) -> Any:
    """The value at the end of the keys in a name; several numbers under ``*`` are added up; None: there is none."""
    if name in fields:
        return fields[name]
    found: list[Any] = [fields]
    for key in name.split("."):
        levels = [level for level in found if isinstance(level, dict)]
        found = [value for level in levels for k, value in level.items() if key in ("*", k)]
    found = [value for value in found if value is not None]
    if len(found) > 1 and all(isinstance(value, (int, float)) for value in found):
        return sum(found)
    return found[0] if found else None


def _last_of_user(entry: Entry, name: str, messages: Sequence[Any]) -> str:
    """Text of the last message by the user, its parts joined where it has several."""
    said = [one for one in messages if isinstance(one, dict) and one.get("role") == "user"]
    content = said[-1].get("content") if said else None
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "\n".join(part for part in parts if isinstance(part, str)) or None
    if not isinstance(content, str):
        raise entry.error(name, "a conversation with a message of role 'user' that has text")
    return content


def _tasks(rows: Sequence[_Request], recording: Recording, names: Mapping[str, str]) -> npt.NDArray[np.int64]:
    """The task of each request, by id or by its prompt; of tasks with equal prompts the first."""
    by_prompt: dict[str, int] = {}
    for index, prompt in enumerate(recording.tasks.prompts):
        by_prompt.setdefault(prompt, index)
    task = np.empty(len(rows), dtype=np.int64)
    for number, row in enumerate(rows):
        column = "query" if row.values.get("query") is not None else "prompt"
        value = row.values.get(column)
        if value is None:
            wanted = " or ".join(repr(names[one]) for one in ("query", "prompt") if one in names)
            raise ImportDataError(f"{row.where}: has no {wanted}; name the field with the query's id or its text")
        found = (recording.task_index if column == "query" else by_prompt).get(value)
        if found is None:
            raise ImportDataError(
                f"{row.where}, field {names[column]!r}: {value[:60]!r} is not in recording {recording.name!r}; import "
                "the log's queries as a recording first, or drop the row"
            )
        task[number] = found
    return task


def _arm(row: _Request, arm: str, field: str, known: Sequence[str], renamed: Mapping[str, str]) -> int:
    name = renamed.get(arm, arm)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known)[:300]}"
        raise ImportDataError(
            f"{row.where}, field {field!r}: {name!r} is no arm of the recording; {hint} Where names differ, give arms"
        )
    return known.index(name)


def _costs(
    rows: Sequence[_Request], recording: Recording, action: npt.NDArray[np.int64], names: Mapping[str, str]
) -> npt.NDArray[np.float64]:
    """USD of each request: as logged, or its tokens at the recording's prices."""
    prices = recording.prices.per_token(recording.arms)
    by_tokens = (prices > 0).any(axis=1) & (recording.prices.per_gpu_second(recording.arms) == 0)
    cost = np.empty(len(rows))
    for number, row in enumerate(rows):
        stated, arm = row.values.get("cost_usd"), int(action[number])
        tokens = [row.values.get(name) for name in ("prompt_tokens", "completion_tokens")]
        if stated is not None:
            cost[number] = stated
        elif None in tokens or not by_tokens[arm]:
            why = (
                "has neither a cost nor tokens"
                if None in tokens
                else f"has no cost, and the recording does not charge arm {recording.arms[arm].name!r} by its tokens"
            )
            raise ImportDataError(f"{row.where}: {why}; name the field with its USD (columns cost_usd)")
        else:
            cost[number] = tokens[0] * prices[arm, 0] + tokens[1] * prices[arm, 2]
    return cost


def _reserves(
    reserve: npt.NDArray[np.float64],
    legal: npt.NDArray[np.bool_],
    action: npt.NDArray[np.int64],
    cost: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Worst case of every legal action, (n, n_actions); NaN elsewhere."""
    most = np.full(reserve.shape[1], np.nan)
    np.fmax.at(most, action, cost)
    known = np.fmax(reserve, most)
    return np.where(legal, np.where(np.isnan(known), cost.max(), known), np.nan)
