"""A card says what is in the recording, in numbers that can be checked, and the same every time."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import helpers
import numpy as np
import pytest

from routegym.evaluation.card import call_table, kind_table, outcome_table, price_table, recording_card, task_table
from routegym.evaluation.oracle import oracle_at_lambda
from routegym.evaluation.summary import always_arm, summarize
from routegym.graph import OPEN, Recording, vary_arms
from routegym.graph.library import load_recording
from routegym.pool.arms import Price, PriceTable


@pytest.mark.parametrize("source", [*helpers.KINDS, "cascade_sampled"])
def test_the_same_recording_has_the_same_card(recordings: dict[str, Path], source: str) -> None:
    first, second = (recording_card(Recording.load(recordings[source])) for _ in range(2))
    assert first == second
    assert Recording.load(recordings[source]).content_hash in first
    assert "licence: not stated" in first
    assert not re.search(r"\bnan\b", first)


def test_numbers_of_a_summary(recordings: dict[str, Path]) -> None:
    recording = Recording.load(recordings["cascade"])
    graph = recording.graph
    found = summarize(recording)
    assert found.complete
    assert found.situations == graph.n_nodes
    assert found.ended == (graph.node_status != OPEN).sum()
    assert found.calls + found.control_actions == graph.n_edges
    assert sum(arm.calls for arm in found.arms) == found.calls
    assert sum(found.tasks[""].values()) == 60
    _, action = graph.edge_sources()
    for number, arm in enumerate(found.arms):
        score, cost = always_arm(graph, number)
        assert arm.score is not None
        assert arm.cost_usd is not None
        assert arm.score.estimate == pytest.approx(score.mean())
        assert arm.score.low <= arm.score.estimate <= arm.score.high
        assert arm.cost_usd.estimate == pytest.approx(cost.mean())
        assert arm.tokens["prompt"] == pytest.approx(graph.edges["tokens"][action == number, 0].mean())
    best, cost = oracle_at_lambda(graph, np.arange(60), 0.0)
    assert found.oracle is not None
    assert (found.oracle.score, found.oracle.cost_usd) == pytest.approx((best.mean(), cost.mean()))
    assert found.oracle.best_arm == "m2/direct"
    assert found.oracle.best_arm_score <= found.oracle.score_at_that_cost + 1e-9 <= found.oracle.score + 2e-9
    assert found.oracle.cost_of_that_score_usd <= found.oracle.best_arm_cost_usd


def test_what_is_not_recorded_is_not_made_up(recordings: dict[str, Path]) -> None:
    thin = vary_arms(Recording.load(recordings["single_call"]), 0.5, split="all", seed=0)
    thin.save(recordings["single_call"].parent / "thin")  # a file knows no masks: what is not there is missing
    found = summarize(Recording.load(recordings["single_call"].parent / "thin"))
    assert not found.complete
    assert found.oracle is not None
    assert found.oracle.tasks < 60
    assert [arm.tasks for arm in found.arms] == [arm.calls for arm in found.arms]
    card = recording_card(Recording.load(recordings["single_call"].parent / "thin"))
    assert "not complete" in card

    start, _ = helpers.start("single_call", 10)
    start.fix_scales()
    empty = summarize(start)
    assert empty.oracle is None
    assert [arm.score for arm in empty.arms] == [None] * 3
    card = recording_card(start)
    assert "not recorded" in card
    assert not re.search(r"\bnan\b", card)


def test_durations_that_nobody_measured_are_blank(recordings: dict[str, Path]) -> None:
    recording = Recording.load(recordings["single_call"])
    _, action = recording.graph.edge_sources()
    recording.graph.edges["latency_s"] = np.where(action == 1, 0.002, 0.0)
    table = call_table(summarize(recording))
    assert [cells[-2:] for cells in table.rows] == [("", ""), ("2.00", "2.00"), ("", "")]
    assert table.notes[0].endswith("as measured while recording, blank where nobody measured them.")
    recording.graph.edges["latency_s"] = 0.002
    table = call_table(summarize(recording))
    assert {cells[-2:] for cells in table.rows} == {("2.00", "2.00")}
    assert table.notes[0].endswith("as measured while recording.")


def test_kinds_faults_and_gpu_time_are_shown_where_there_are_any(recordings: dict[str, Path]) -> None:
    plain = Recording.load(recordings["single_call"])
    assert len(summarize(plain).tasks) == 1
    assert call_table(summarize(plain)).header == (
        "arm", "calls", "prompt tokens", "completion tokens", "median ms", "95 % ms",
    )  # fmt: skip
    kinds = tuple("sums" if index % 2 else "times|tables" for index in range(60))
    prices = {model: replace(price, gpu_hour=2.5) for model, price in plain.prices.prices.items()}
    recording = replace(
        plain,
        tasks=replace(plain.tasks, kinds=kinds),
        prices=PriceTable("2026-01-01", "made up", prices),
        provenance={"licence": "CC0 [1.0]", "made_by": "routegym record --x"},
    )
    edges = recording.graph.edges
    edges["gpu_s"][0], edges["retries"][0], edges["lost"][0], edges["fallback"][0] = 1.5, 2, (3, 4), 2
    found = summarize(recording)
    assert found.arms[0].gpu_s == 1.5
    assert (found.arms[0].retries, found.arms[0].lost_tokens, found.arms[0].fallbacks) == (2, 7, 1)
    assert call_table(found).header[-4:] == ("GPU s", "retries", "lost tokens", "answered by fallback")
    assert task_table(found).rows[-1][0] == "all"
    assert task_table(found).rows[-1][-1] == "60"
    table = kind_table(found)
    assert table.header[-1] == "oracle"
    for row, kind in zip(table.rows, ("sums", "times|tables"), strict=True):
        score = always_arm(recording.graph, 1)[0][np.array(kinds) == kind].mean()
        assert row[3] == f"{score:.3f}"
    assert price_table(recording).header[-1] == "GPU-hour"
    card = recording_card(recording)
    assert "| times\\|tables |" in card
    assert "licence: CC0 \\[1.0\\]" in card
    assert "```bash\nroutegym record --x\n```" in card


def test_text_of_tasks_cannot_break_the_card(recordings: dict[str, Path]) -> None:
    plain = Recording.load(recordings["single_call"])
    prompts = ("# a | b\n<script>" + "x" * 500, *plain.tasks.prompts[1:])
    card = recording_card(replace(plain, tasks=replace(plain.tasks, prompts=prompts)))
    line = next(line for line in card.splitlines() if "script" in line)
    assert line.startswith("| arith-00000 | \\# a \\| b &lt;script>xxx")
    assert len(line) < 200


def test_card_of_a_shipped_recording() -> None:
    card = recording_card(load_recording("single_call"))
    assert "python scripts/build_recordings.py --kinds single_call" in card
    assert "| small/vote5 | 0.820 [" in card
    assert 'gymnasium.make("routegym/SingleCall-v0", recording="single_call")' in card
    table = outcome_table(summarize(load_recording("single_call")))
    assert len(table.rows) == 6 + 3


def test_a_free_price_is_shown(recordings: dict[str, Path]) -> None:
    plain = Recording.load(recordings["single_call"])
    free = replace(
        plain, prices=PriceTable("2026-01-01", "free", dict.fromkeys(plain.prices.prices, Price(0, 0, 0, 0)))
    )
    assert ("m0", "0", "0", "0", "0") in price_table(free).rows
