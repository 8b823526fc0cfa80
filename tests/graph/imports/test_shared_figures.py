"""Figures of real data that were worked out without us are reproduced to the last digit given.

The data are not shipped; where their folder is not there, these tests are skipped.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routegym.evaluation.import_report import ImportReport, import_report
from routegym.graph import OPEN, Recording
from routegym.graph.imports import Imported, RoutingData, read_outcomes, to_recording


@dataclass(frozen=True, eq=False)
class Set:
    """A data set and its figures: score @ mean USD per query, as they were printed."""

    name: str
    queries: int
    arms: int
    cheapest: str
    best: str
    oracle: str
    prompt: str = "prompt"
    queries_of: str = ""
    columns: dict[str, str] = field(default_factory=dict)


TOKENS = {"prompt_tokens": "in_tokens", "completion_tokens": "out_tokens"}
ESTIMATED = {"prompt_tokens": "in_tokens_est", "completion_tokens": "out_tokens_est"}
SETS = (
    Set("mint_k5", 586, 13, ".3413 @ .000852", ".6945 @ .154683", ".8601 @ .006393", columns=TOKENS),
    Set("mint_turns", 586, 25, ".1928 @ .000260", ".6621 @ .004289", ".8413 @ .000965", "prompt", "mint_k5", TOKENS),
    Set(
        "mint_feedback_gpt35",
        586,
        15,
        ".3618 @ .009812",
        ".5137 @ .157731",
        ".7679 @ .019961",
        "prompt",
        "mint_k5",
        TOKENS,
    ),
    Set("intercode_sql", 1032, 7, ".0988 @ .000339", ".7384 @ .075963", ".7965 @ .015520", "query", columns=ESTIMATED),
    Set("intercode_bash", 142, 7, ".1761 @ .000136", ".5000 @ .113498", ".6761 @ .001634", "query", columns=ESTIMATED),
    Set("zeroeval", 2840, 10, ".5574 @ .000056", ".8380 @ .003437", ".9349 @ .000263", "question", columns=TOKENS),
    Set("llmrouter_dc", 5989, 9, ".5339 @ .000007", ".6197 @ .000067", ".7984 @ .000014", "question"),
    Set("bbh_direct_cot", 6506, 2, ".5254 @ .000768", ".7436 @ .002149", ".8305 @ .001180", "question", columns=TOKENS),
    Set(
        "routellm_gsm8k_mmlu",
        4830,
        2,
        ".6714 @ .000072",
        ".8199 @ .001952",
        ".8787 @ .000600",
        "question",
        columns=TOKENS,
    ),
)


def read(folder: Path, one: Set, **options: Any) -> RoutingData:
    names = {"query": "query_id", "queries.prompt": one.prompt, **one.columns}
    asked = folder / (one.queries_of or one.name) / "queries.jsonl.gz"
    return read_outcomes(folder / one.name / "responses.csv.gz", asked, columns=names, **options)


@cache
def report_of(folder: Path, one: Set) -> ImportReport:
    return import_report(to_recording(read(folder, one), text="none"))


def shown(score: float, cost_usd: float, digits: int = 6) -> str:
    return f"{score:.4f} @ {cost_usd:.{digits}f}".replace("0.", ".")


@pytest.mark.parametrize("one", SETS, ids=lambda one: one.name)
def test_cheapest_best_and_oracle(one: Set, shared_data: Path) -> None:
    report = report_of(shared_data, one)
    arms = {arm.name: arm for arm in report.arms}
    cheapest, best = arms[report.cheapest_arm], arms[report.best_arm]
    assert (report.queries_kept, len(arms)) == (one.queries, one.arms)
    assert shown(cheapest.score, cheapest.cost_usd) == one.cheapest
    assert shown(best.score, best.cost_usd) == one.best
    assert shown(report.oracle_score, report.oracle_cost_usd) == one.oracle


@pytest.mark.parametrize("one", SETS, ids=lambda one: one.name)
def test_every_arm(one: Set, shared_data: Path) -> None:
    with (shared_data / one.name / "arms_reference.csv").open(encoding="utf-8", newline="") as file:
        expected = {row["model"]: (float(row["acc"]), float(row["cost"])) for row in csv.DictReader(file)}
    found = {arm.name: (arm.score, arm.cost_usd) for arm in report_of(shared_data, one).arms}
    assert found.keys() == expected.keys()
    for name, (score, cost) in expected.items():
        assert found[name] == (pytest.approx(score, abs=5.1e-9), pytest.approx(cost, abs=5.1e-9)), name


@pytest.mark.parametrize("one", SETS, ids=lambda one: one.name)
def test_the_recording_brings_what_the_report_says(one: Set, shared_data: Path) -> None:
    """The rewards and costs that episodes meet are those of the table."""
    imported = to_recording(read(shared_data, one), text="none")
    graph, report = imported.recording.graph, import_report(imported)
    edges = graph.edges[graph.edge_first[graph.task_start]]
    assert (graph.node_status[edges["next"]] != OPEN).all()
    np.testing.assert_allclose(
        graph.node_score[edges["next"]].mean(axis=0), [arm.score for arm in report.arms], atol=1e-6
    )
    np.testing.assert_allclose(edges["cost_usd"].mean(axis=0), [arm.cost_usd for arm in report.arms], rtol=1e-9)


@pytest.mark.parametrize(
    ("one", "price"),
    [
        (
            "mint_k5",
            {"gpt-4-0613": (30.0, 60.0), "gpt-3.5-turbo-0613": (1.5, 2.0), "Mixtral-8x7B-Instruct-v0.1": (0.6, 0.6)},
        )
    ],
)
def test_prices_are_found_again(one: str, price: dict[str, tuple[float, float]], shared_data: Path) -> None:
    report = report_of(shared_data, next(found for found in SETS if found.name == one))
    fitted = {arm.name: arm.fitted for arm in report.arms}
    for name, expected in price.items():
        assert fitted[name] == pytest.approx(expected, rel=1e-6)
    assert report.warnings == ()


# -- fixed cascades ----------------------------------------------------------------------------
SMALL, MIDDLE, LARGE = "CodeActAgent-Mistral-7b-v0.1", "Meta-Llama-3-8B-Instruct", "Meta-Llama-3-70B-Instruct"


def play(recording: Recording, arms: list[str]) -> tuple[float, float]:
    """Mean score and cost when each arm makes one whole attempt, until the environment says success."""
    graph, names = recording.graph, list(recording.action_names)
    score, cost = [], []
    for start in graph.task_start.tolist():
        node, paid = start, 0.0
        for arm in arms:
            while graph.node_status[node] == OPEN:
                edge = graph.edges[graph.edge_first[node, names.index(arm)]]
                node, paid = int(edge["next"]), paid + float(edge["cost_usd"])
                if graph.node_running[node] < 0:
                    break
        assert graph.node_status[node] != OPEN
        score.append(float(graph.node_score[node]))
        cost.append(paid)
    return float(np.mean(score)), float(np.mean(cost))


@pytest.mark.parametrize(
    ("name", "arms", "expected", "digits"),
    [
        ("mint_k5", [SMALL, MIDDLE, LARGE], ".7321 @ .00418", 5),
        ("mint_k5", [SMALL, LARGE, "gpt-4-0613"], ".7969 @ .0639", 4),
        # .7909 @ .0602 was stated for this one; no three of its arms bring that, and a plain loop over the rows says:
        ("intercode_sql", ["text-bison-001", "gpt-3.5", "gpt-4"], ".7917 @ .0593", 4),
    ],
)
def test_fixed_cascades(name: str, arms: list[str], expected: str, digits: int, shared_data: Path) -> None:
    one = next(found for found in SETS if found.name == name)
    data = read(shared_data, one, verdict=True)
    # all arms: the figures are of the queries that every arm was recorded for
    imported = to_recording(data, "cascade", most_attempts=3, text="none")
    assert shown(*play(imported.recording, arms), digits) == expected


@pytest.mark.parametrize(
    ("arms", "expected", "digits"),
    [([SMALL, MIDDLE, LARGE], ".7321 @ .00418", 5), ([SMALL, LARGE, "gpt-4-0613"], ".7969 @ .0639", 4)],
)
def test_the_same_cascades_turn_by_turn(arms: list[str], expected: str, digits: int, shared_data: Path) -> None:
    one = next(found for found in SETS if found.name == "mint_k5")
    columns = {"query": "query_id", "turns.arm": "model", "turns.turn": "step", "turns.feedback": "obs"}
    columns |= {"turns.prompt_tokens": "prompt_tok", "turns.completion_tokens": "completion_tok", **TOKENS}
    folder = shared_data / one.name
    data = read_outcomes(
        folder / "responses.csv.gz",
        folder / "queries.jsonl.gz",
        folder / "steps.csv.gz",
        columns=columns,
        verdict=True,
    )
    imported = to_recording(data, "attempts", arms=arms, most_attempts=3, text="none")
    assert not imported.dropped.keys() - {"of arms not asked for"}
    assert shown(*play(imported.recording, arms), digits) == expected


# -- whole collections -------------------------------------------------------------------------
def test_all_runs_of_mint(shared_data: Path) -> None:
    folder = shared_data / "mint_full"
    columns = {"query": "query_id", "arm": "model+feedback_model+feedback_type+max_turns", **TOKENS}
    data = read_outcomes(folder / "responses_all.csv.gz", folder / "queries.jsonl.gz", columns=columns)
    assert len(data.responses) == 181_935
    assert "gpt-4-0613/None/5" in data.responses["arm"].unique().to_pylist()
    imported = to_recording(data, arms=["Meta-Llama-3-8B-Instruct/None/5", "gpt-4-0613/None/5"], text="none")
    assert [shown(arm.score, arm.cost_usd) for arm in import_report(imported).arms] == [
        ".3413 @ .000852",
        ".6945 @ .154683",
    ]


def test_all_models_of_zeroeval(shared_data: Path) -> None:
    """No query has every model: dropping is refused, and masking keeps what there is."""
    one = Set("zeroeval_full", 0, 0, "", "", "", "question", "zeroeval", {"arm": "model", **TOKENS})
    data = read(shared_data, one)
    assert len(data.responses) == 122_717
    imported: Imported = to_recording(data, missing="mask", text="none")
    assert (len(imported.recording.tasks), len(imported.recording.arms)) == (2840, 57)
    assert imported.masked == 2840 * 57 - 122_717
    chosen = [arm.name for arm in report_of(shared_data, SETS[5]).arms]
    again = import_report(to_recording(data, arms=chosen, text="none"))
    assert shown(again.oracle_score, again.oracle_cost_usd) == SETS[5].oracle
