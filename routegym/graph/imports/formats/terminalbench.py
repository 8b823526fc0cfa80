"""terminal-bench: runs of an agent in a terminal, one JSON object per run with a list of its trials.

Schema seen in github.com/laude-institute/terminal-bench-leaderboard:
``results/terminal-bench-core:0.1.1/SUBMISSION/RUN/ results.json`` and ``README.md``; the fields also in a copy of the
harness (``terminal_bench/harness/models.py``). A run: ``results``, ``accuracy``; a trial: ``task_id``, ``instruction``,
``is_resolved`` (null where it could not be told), ``failure_mode``, ``total_input_tokens``, ``total_output_tokens``,
``agent_started_at``, ``agent_ended_at``.

Taken: all of these; an arm is named after the submission's folder (the one above the runs), its trials are numbered
over the runs. Trials whose result is null are left out (the source counts them as not resolved). Tokens of 0, which
agents report that do not know them, are taken as not known. Not in the files: costs.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

from routegym.errors import ImportDataError
from routegym.graph.imports.data import QUERIES, RESPONSES, RoutingData
from routegym.graph.imports.objects import Entry, Gathered, hashes, object_of
from routegym.graph.imports.reading import COLUMNS, Column

__all__ = ["read"]

_RESULTS = "results.json"
_SHARE = Column("number", optional=True, high=1.0)
_TIME = Column("text", optional=True, most=100)


def read(source: Path | str) -> RoutingData:
    """All runs below a folder: of one submission or of several.

    Raises:
        ImportDataError: naming file, trial and field.
    """
    source = Path(source)
    paths = _runs(source) if source.is_dir() else [source] if source.is_file() else []
    if not paths:
        raise ImportDataError(f"{source}: no {_RESULTS} in this folder or below it; expected runs of terminal-bench")
    responses, queries = Gathered(RESPONSES), Gathered(QUERIES)
    trials: defaultdict[tuple[str, str], int] = defaultdict(int)
    stated: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    ungraded: defaultdict[str, int] = defaultdict(int)
    for path in paths:
        run, arm = object_of(path), path.absolute().parent.parent.name
        entries = list(run.objects("results"))
        for trial in entries:
            query = trial.cell("task_id", COLUMNS["query"])
            if query not in queries:
                queries.add(query=query, prompt=trial.cell("instruction", COLUMNS["prompt"]))
            resolved = trial.flag("is_resolved")
            if resolved is None:
                ungraded[arm] += 1
                continue
            responses.add(
                query=query,
                arm=arm,
                score=float(resolved),
                trial=trials[query, arm],
                latency_s=_seconds(trial),
                **_tokens(trial),
            )
            trials[query, arm] += 1
        accuracy = run.cell("accuracy", _SHARE)
        if accuracy is not None:
            stated[arm].append((accuracy, len(entries)))
    return RoutingData(
        name="terminalbench",
        responses=responses.table(source),
        queries=queries.table(source),
        whole_runs=True,
        stated={  # the source's figure counts what could not be graded as failed
            arm: sum(share * count for share, count in parts) / sum(count for _, count in parts)
            for arm, parts in stated.items()
            if not ungraded[arm] and any(count for _, count in parts)
        },
        dropped={"that were not graded": sum(ungraded.values())},
        notes=("the source states no costs; agents that report no tokens have none here",),
        files=hashes(source, paths),
    )


def _runs(folder: Path) -> list[Path]:
    """The ``results.json`` highest up on each way down: below a run's there is one for each of its trials."""
    if (folder / _RESULTS).is_file():
        return [folder / _RESULTS]
    return [path for inside in sorted(folder.iterdir()) if inside.is_dir() for path in _runs(inside)]


def _tokens(trial: Entry) -> dict[str, Any]:
    found = {
        "prompt_tokens": trial.cell("total_input_tokens", COLUMNS["prompt_tokens"]),
        "completion_tokens": trial.cell("total_output_tokens", COLUMNS["completion_tokens"]),
    }
    return found if any(found.values()) else {}


def _seconds(trial: Entry) -> float | None:
    """How long the agent worked."""
    times = []
    for field in ("agent_started_at", "agent_ended_at"):
        text = trial.cell(field, _TIME)
        if text is None:
            return None
        try:
            times.append(datetime.fromisoformat(text))
        except ValueError:
            raise trial.error(field, "a time in ISO form") from None
    if (times[0].tzinfo is None) != (times[1].tzinfo is None):
        raise trial.error("agent_ended_at", "a time with a zone if that of the start has one, else without")
    return max((times[1] - times[0]).total_seconds(), 0.0)
