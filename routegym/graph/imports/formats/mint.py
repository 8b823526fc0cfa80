"""MINT: agents that use tools for at most k turns; one JSON line per task, with the whole dialogue.

Schema seen in github.com/xingyaoww/mint-bench: ``data/outputs/**/results.jsonl`` (of CodeActAgent-Llama-2-7b and
gpt-3.5-turbo-0613), ``mint/envs/general_env.py``, ``mint/main.py`` and ``scripts/convert_outputs.py``. The path tells
the run: ``AGENT/F=FEEDBACK[/PHF=SETTING]/maxK_pP+tool+cd/TYPE/TASK/results.jsonl``. Fields: ``state`` with ``history``
(roles and contents), ``success``, ``token_counter`` (``prompt_tokens``, ``completion_tokens`` of the whole run),
``terminate_reason``; ``task`` with ``task_id``, ``prompt``, ``reference``.

Taken: success, tokens and, as turns, what the environment said after each action: ``success``, ``wrong`` answer,
``invalid`` action, ``error`` of the code, ``output`` of the code, or ``end`` where the run was over. Not in the files:
tokens of single turns, tokens of the model that gives feedback, costs. Runs of different k are separate runs: none is
the beginning of another. A task that occurs twice counts once, as in the source's own analysis.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from routegym.errors import ConfigError, ImportDataError
from routegym.graph.imports.data import QUERIES, RESPONSES, TURNS, RoutingData
from routegym.graph.imports.objects import Entry, Gathered, entries_of_lines, files_below, hashes
from routegym.graph.imports.reading import COLUMNS

__all__ = ["read"]

_CAP = re.compile(r"max(\d+)_p\d+")
_EXPERT = "\n\nExpert feedback:"
_INVALID = "I don't understand your input"
_WRONG = "Your answer is wrong"
_TRACEBACK = re.compile(r"^(?:Traceback \(most recent call last\)|(?:\w+\.)*\w*(?:Error|Exception)\b)", re.MULTILINE)


class _Run(NamedTuple):
    """What the path of a file tells about its runs."""

    agent: str
    feedback: str
    setting: str
    cap: int
    task: str


def read(source: Path | str, max_steps: int | None = 5, feedback: bool = False) -> RoutingData:
    """All ``results.jsonl`` below a folder such as ``data/outputs``, or one of them in its folder.

    Args:
        source: file or folder.
        max_steps: only runs of this many turns at most; None takes all, and ``@k`` becomes part of an arm's name.
        feedback: take runs with a model that gives feedback, too; ``+`` and its name become part of an arm's name.

    Raises:
        ImportDataError: naming file, line and field; or nothing is left.
    """
    source = Path(source)
    if max_steps is not None and max_steps < 1:
        raise ConfigError(f"max_steps = {max_steps}; expected at least 1, or None for all")
    paths = files_below(source, "results.jsonl", "outputs of MINT")
    chosen = []
    for path in paths:
        run = _run_of(path)
        if (max_steps is None or run.cap == max_steps) and (feedback or run.feedback == "None"):
            chosen.append((path, run))
    if not chosen:
        raise ImportDataError(
            f"{source}: none of {len(paths)} files is of max_steps = {max_steps}; take another or None"
        )
    responses, queries, turns = Gathered(RESPONSES), Gathered(QUERIES), Gathered(TURNS)
    doubles = broken = 0
    for path, run in chosen:
        arm, seen = _arm(run, max_steps is None), set()
        for line in entries_of_lines(path):
            task, state = line.object("task"), line.object("state")
            query = f"{run.task}/{task.cell('task_id', COLUMNS['query'])}"
            if query in seen:
                doubles += 1
                continue
            seen.add(query)
            if query not in queries:
                answer = task.fields.get("reference")
                queries.add(
                    query=query,
                    prompt=task.cell("prompt", COLUMNS["prompt"]),
                    kind=run.task,
                    reference=answer if isinstance(answer, str) else None,
                )
            success = bool(state.flag("success"))
            broken += state.fields.get("error") is not None
            responses.add(query=query, arm=arm, score=float(success), **_tokens(state))
            for turn, said in enumerate(_said(state, success)):
                turns.add(query=query, arm=arm, turn=turn, feedback=said)
    notes = ["tokens are those of whole runs; those of a model that gives feedback are not counted by the source"]
    if broken:
        notes.append(f"{broken} runs ended with an error of the model and count as failed, as in the source")
    return RoutingData(
        name="mint",
        responses=responses.table(source),
        queries=queries.table(source),
        turns=turns.table(source) if len(turns) else None,
        whole_runs=True,
        verdict=True,
        dropped={"of a task that occurs again": doubles},
        notes=tuple(notes),
        files=hashes(source, [path for path, _ in chosen]),
    )


def _run_of(path: Path) -> _Run:
    parts = path.absolute().parts
    try:
        task, cap = parts[-2], _CAP.match(parts[-4])
        setting = parts[-5] if parts[-5].startswith("PHF=") else ""
        where = -6 if setting else -5
        if cap is None or not parts[where].startswith("F="):
            raise IndexError
        return _Run(parts[where - 1], parts[where].removeprefix("F="), setting.removeprefix("PHF="), int(cap[1]), task)
    except IndexError:
        raise ImportDataError(
            f"{path}: the path does not tell the run; expected AGENT/F=FEEDBACK/maxK_pP+tool+cd/TYPE/TASK/{path.name}"
        ) from None


def _arm(run: _Run, with_cap: bool) -> str:
    cap = f"@k{run.cap}" if with_cap else ""
    advised = "" if run.feedback == "None" else f"+{run.feedback}" + (f" ({run.setting})" if run.setting else "")
    return run.agent + cap + advised


def _tokens(state: Entry) -> dict[str, Any]:
    """Tokens of a run, unknown where the source has counted none at all."""
    if not state.fields.get("token_counter"):
        return {}
    counter = state.object("token_counter")
    found = {name: counter.cell(name, COLUMNS[name]) for name in ("prompt_tokens", "completion_tokens")}
    return found if any(found.values()) else {}


def _said(state: Entry, success: bool) -> list[str]:
    """What the environment said after each of the agent's actions."""
    messages = [(message.fields.get("role"), message.fields.get("content")) for message in state.objects("history")]
    said = []
    for number, (role, _) in enumerate(messages):
        if role != "assistant":
            continue
        if number + 1 < len(messages):
            said.append(_kind(str(messages[number + 1][1])))
        else:
            said.append("success" if success else "end")
    return said


def _kind(message: str) -> str:
    told = message.partition(_EXPERT)[0]
    if _INVALID in told:
        return "invalid"
    if _WRONG in told:
        return "wrong"
    return "error" if _TRACEBACK.search(told) else "output"
