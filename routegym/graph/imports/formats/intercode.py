"""InterCode: agents that write SQL or bash until the task is solved; one JSON object per run, one entry per task.

Schema seen in github.com/princeton-nlp/intercode: ``data/results/sql/gpt-3.5/ic_sql_multiturn_gpt-3.5_10_turns.json``,
``data/results/bash/gpt-4/ic_bash_multiturn_gpt-4_10_turns_fs_1.json`` and ``experiments/eval_n_turn.py``, which writes
them. Fields of an entry: ``environment``, ``dataset``, ``task_id``, ``query``, ``turn_history`` with ``actions``,
``observations``, ``rewards`` and ``valid_action``, ``summary`` with ``max_reward``, ``turns_taken`` and ``turns_max``,
perhaps ``hardness``.

Taken: score 1 where the best reward is 1, as the source counts success, else 0; every turn with its reward and what the
environment said: ``solved``, ``output``, ``invalid`` action or ``blocked`` request. Only runs named
``ic_ENV_multiturn_MODEL_N_turns`` are read. Not in the files: tokens and costs.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from routegym.errors import ConfigError, ImportDataError
from routegym.graph.imports.data import QUERIES, RESPONSES, TURNS, RoutingData
from routegym.graph.imports.objects import Entry, Gathered, files_below, hashes, object_of
from routegym.graph.imports.reading import COLUMNS, Column

__all__ = ["read"]

_NAME = re.compile(
    r"ic_(?P<env>[a-z]+)_multiturn_(?P<model>.+?)[-_](?P<turns>\d+)_turns(?P<handicap>_handicap)?(?:_fs_\d+)?"
)
_REWARD = Column("number", low=-1e6, high=1e6)
_SHORT = Column("name", most=200)


def read(source: Path | str, max_turns: int | None = 10) -> RoutingData:
    """A result file, or all ``ic_*_multiturn_*.json`` below a folder such as ``data/results/sql``.

    Args:
        source: file or folder.
        max_turns: only runs of this many turns at most; None takes all, and ``@N`` becomes part of an arm's name.

    Raises:
        ImportDataError: naming file, entry and field; or nothing is left.
    """
    source = Path(source)
    if max_turns is not None and max_turns < 1:
        raise ConfigError(f"max_turns = {max_turns}; expected at least 1, or None for all")
    chosen = []
    for path in files_below(source, "ic_*_multiturn_*.json", "multi-turn results of InterCode"):
        name = _NAME.fullmatch(path.stem)
        if name is None:
            raise ImportDataError(
                f"{path}: expected a name such as ic_sql_multiturn_MODEL_10_turns.json, which tells the run"
            )
        if max_turns is None or int(name["turns"]) == max_turns:
            cap = f"@{name['turns']}" if max_turns is None else ""
            chosen.append((path, name["model"] + cap + ("+handicap" if name["handicap"] else "")))
    if not chosen:
        raise ImportDataError(f"{source}: no run is of max_turns = {max_turns}; take another or None")
    responses, queries, turns = Gathered(RESPONSES), Gathered(QUERIES), Gathered(TURNS)
    for path, arm in chosen:
        whole = object_of(path)
        for key in whole.fields:
            entry = whole.object(key)
            env = entry.cell("environment", _SHORT).removeprefix("ic_")
            dataset = PurePosixPath(entry.cell("dataset", _SHORT)).stem
            query = f"{env}/{dataset}/{entry.cell('task_id', COLUMNS['query'])}"
            if query not in queries:
                kind = entry.cell("hardness", COLUMNS["kind"]) or env
                queries.add(query=query, prompt=entry.cell("query", COLUMNS["prompt"]), kind=kind)
            best = entry.object("summary").cell("max_reward", _REWARD)
            responses.add(query=query, arm=arm, score=float(best == 1))
            for turn, (reward, said) in enumerate(_turns(entry.object("turn_history"))):
                turns.add(query=query, arm=arm, turn=turn, reward=reward, feedback=said)
    return RoutingData(
        name="intercode",
        responses=responses.table(source),
        queries=queries.table(source),
        turns=turns.table(source) if len(turns) else None,
        whole_runs=True,
        verdict=True,
        notes=("the source states neither tokens nor costs",),
        files=hashes(source, [path for path, _ in chosen]),
    )


def _turns(history: Entry) -> list[tuple[float, str]]:
    """Reward of each turn and what the environment said; a request that was blocked has a reward and nothing else."""
    rewards, valid = history.list("rewards"), history.list("valid_action")
    if len(history.list("actions")) != len(rewards) or not len(rewards) - 1 <= len(valid) <= len(rewards):
        raise history.error("rewards", "one for every action")
    found = []
    for turn, reward in enumerate(rewards):
        if not isinstance(reward, (int, float)):
            raise history.error("rewards", f"numbers; number {turn + 1} is {reward!r:.60}")
        if turn == len(valid):
            said = "blocked"
        elif reward == 1:
            said = "solved"
        else:
            said = "output" if valid[turn] else "invalid"
        found.append((float(reward), said))
    return found
