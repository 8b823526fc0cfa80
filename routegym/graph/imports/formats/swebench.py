"""SWE-bench, submissions of mini-SWE-agent (bash-only): per instance whether it was resolved and what it cost.

Schema seen in the script ``analysis/get_leaderboard.py`` of github.com/SWE-bench/experiments (a copy of it) and in
three programs of others that read the same files; the data files themselves could not be seen. A submission is a folder
``evaluation/SPLIT/SUBMISSION`` with ``per_instance_details.json``, an object by instance: ``resolved``, ``cost`` in USD
and ``api_calls``; and ``metadata.yaml`` with ``info.resolved``, the share of resolved instances in percent.

Taken: all of these but the calls; an arm is named after its submission's folder. Not in the files: tokens, and the
texts of the issues: without a table of them an instance's id is all that a router sees.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from routegym.errors import ImportDataError
from routegym.graph.imports.data import QUERIES, RESPONSES, RoutingData
from routegym.graph.imports.objects import Entry, Gathered, files_below, hashes, object_of
from routegym.graph.imports.reading import COLUMNS, Column, read_table, with_files

__all__ = ["read"]

_DETAILS = "per_instance_details.json"
_PERCENT = Column("number", optional=True, high=100.0)
_ISSUES = {"query": "instance_id", "prompt": "problem_statement"}


def read(source: Path | str, issues: Path | str | None = None) -> RoutingData:
    """All submissions below a folder such as ``evaluation/verified``, or one.

    Args:
        source: the folder.
        issues: the data set as CSV, JSON lines or Parquet, with ``instance_id`` and ``problem_statement``.

    Raises:
        ImportDataError: naming file, instance and field; or an instance has no issue.
    """
    source, issues = Path(source), None if issues is None else Path(issues)
    paths = files_below(source, _DETAILS, "submissions with per-instance details")
    texts = {} if issues is None else _texts(issues)
    responses, queries = Gathered(RESPONSES), Gathered(QUERIES)
    ungraded, stated = 0, {}
    for path in paths:
        arm, whole = path.absolute().parent.name, object_of(path)
        for query in whole.fields:
            details = whole.object(query)
            if issues is not None and query not in texts:
                raise whole.error(query, f"one of the {len(texts):,} instances of {issues}")
            if query not in queries:
                repository = query.rpartition("-")[0].replace("__", "/")
                queries.add(query=query, prompt=texts.get(query, query), kind=repository or None)
            resolved = details.flag("resolved")
            if resolved is None:
                ungraded += 1
                continue
            responses.add(
                query=query, arm=arm, score=float(resolved), cost_usd=details.cell("cost", COLUMNS["cost_usd"])
            )
        share = _share(path.parent)
        if share is not None:
            stated[arm] = share
    notes = (
        () if issues is not None else ("the source has no issue texts: the id of an instance stands for its prompt",)
    )
    return RoutingData(
        name="swebench",
        responses=responses.table(source),
        queries=queries.table(source),
        whole_runs=True,
        stated=stated,
        dropped={"that were not graded": ungraded},
        notes=notes,
        files=with_files(hashes(source, paths), [] if issues is None else [issues]),
    )


def _texts(issues: Path) -> dict[str, str]:
    table = read_table(issues, {name: COLUMNS[name] for name in _ISSUES}, _ISSUES)
    return dict(zip(table["query"].to_pylist(), table["prompt"].to_pylist(), strict=True))


def _share(folder: Path) -> float | None:
    """The share of resolved instances that a submission states."""
    path = next((path for path in (folder / "metadata.yaml", folder / "metadata.yml") if path.is_file()), None)
    if path is None:
        return None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ImportDataError(
            f"{path}: not valid YAML ({' '.join(str(error).split())[:200]}); get the file again"
        ) from None
    if not isinstance(content, dict) or not isinstance(content.get("info"), dict):
        return None
    resolved = Entry(path, "", content).object("info").cell("resolved", _PERCENT)
    return None if resolved is None else float(resolved) / 100
