"""A difference names what came, went and changed, and nothing that did not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import helpers
import numpy as np
import pytest

from routegym.evaluation.diff import Change, compare_recordings
from routegym.evaluation.summary import always_arm
from routegym.graph import Recording, always_arm_actions, evaluate_choices, keep_arms, vary_arms
from routegym.pool.arms import Price, PriceTable

NOTHING = Change(0, 0, 0)


@pytest.fixture
def pair(recordings: dict[str, Path]) -> tuple[Recording, Recording]:
    """The same recording twice; the second is to be changed."""
    return Recording.load(recordings["single_call"]), Recording.load(recordings["single_call"])


@pytest.mark.parametrize("source", [*helpers.KINDS, "agent_steps_sampled"])
def test_a_recording_does_not_differ_from_itself_however_it_grew(recordings: dict[str, Path], source: str) -> None:
    loaded = Recording.load(recordings[source])
    kind = source.removesuffix("_sampled")
    grown = helpers.build(kind) if source == kind else helpers.build(kind, 20, samples={"m0/direct": 3, "m1/direct": 2})
    grown.graph.edges["latency_s"] += 1
    grown.provenance["made_by"] = "another command"
    found = compare_recordings(loaded, grown)
    assert found.same
    assert {found.settings, found.arms, found.prices, found.tasks, found.situations, found.choices} == {NOTHING}
    assert found.answers_differ == found.tokens_differ == 0
    assert all(arm.score[0] == arm.score[1] and arm.cost_usd[0] == arm.cost_usd[1] for arm in found.by_arm)


def test_answers_and_tokens_that_differ(pair: tuple[Recording, Recording]) -> None:
    first, second = pair
    edges = second.graph.edges
    swapped = int(np.flatnonzero(edges["next"][:-1] != edges["next"][1:])[0])
    edges["next"][[swapped, swapped + 1]] = edges["next"][[swapped + 1, swapped]]
    edges["tokens"][10, 2] += 1
    found = compare_recordings(first, second)
    assert not found.same
    assert (found.choices.added, found.choices.removed, found.choices.changed) == (0, 0, 3)
    assert (found.answers_differ, found.tokens_differ) == (2, 1)
    assert {found.settings, found.arms, found.prices, found.tasks, found.situations} == {NOTHING}
    lines = "\n".join(found.choices.names)
    before, after = (first.texts[int(edges["next"][swapped + offset])] for offset in (1, 0))
    assert f"{before!r} -> {after!r}" in lines
    assert "tokens [" in lines


def test_arms_and_what_belongs_to_them(recordings: dict[str, Path]) -> None:
    whole = Recording.load(recordings["cascade"])
    fewer = keep_arms(whole, ["m2/direct", "m0/direct"])
    found = compare_recordings(whole, fewer)
    assert (found.arms.removed, found.arms.added, found.arms.changed) == (1, 0, 1)
    assert found.arms.names[0] == "- m1/direct"
    assert "order" in found.arms.names[1]
    assert found.settings.names == ("~ node signals: - tried_m1/direct",)
    gone = whole.graph.n_edges - fewer.graph.n_edges
    assert (found.choices.added, found.choices.removed, found.choices.changed) == (0, gone, 0)
    assert found.situations.removed == whole.graph.n_nodes - fewer.graph.n_nodes
    by_name = {arm.name: arm for arm in found.by_arm}
    assert by_name["m1/direct"].score[1] is None
    assert by_name["m1/direct"].tasks == (60, 0)
    starts = whole.graph.task_start
    for arm, name in enumerate(("m0/direct", "m1/direct", "m2/direct")):
        score, cost = (
            values[starts].mean() for values in evaluate_choices(whole.graph, always_arm_actions(whole.graph, arm))
        )
        assert by_name[name].score[0] == pytest.approx(score)
        assert by_name[name].cost_usd[0] == pytest.approx(cost)
    back = compare_recordings(fewer, whole)
    assert (back.choices.added, back.arms.added, back.situations.added) == (gone, 1, found.situations.removed)


def test_outcomes_of_an_arm_where_it_is_recorded(recordings: dict[str, Path]) -> None:
    whole = Recording.load(recordings["agent_steps"])
    thin = vary_arms(whole, 0.5, seed=3)
    for arm in range(3):
        score, cost = always_arm(thin.graph, arm)
        wanted = evaluate_choices(whole.graph, always_arm_actions(whole.graph, arm))
        known = ~np.isnan(score)
        assert 0 < known.sum() <= 60
        assert known.all() == (arm == 0)  # the cheapest is always there
        np.testing.assert_array_equal(known, ~np.isnan(cost))
        for mine, theirs in zip((score, cost), wanted, strict=True):
            np.testing.assert_allclose(mine[known], theirs[whole.graph.task_start][known], rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "where", "line"),
    [
        (lambda r: replace(r, cost_scale_usd=1.0), "settings", "~ cost scale: "),
        (lambda r: replace(r, kind="other"), "settings", "~ kind: single_call -> other"),
        (
            lambda r: replace(r, prices=PriceTable("2026-01-02", "made up", dict(r.prices.prices))),
            "prices",
            "~ date: 2026-01-01 -> 2026-01-02",
        ),
        (
            lambda r: replace(r, prices=replace(r.prices, prices={**r.prices.prices, "m1": Price(1, 0, 1, 0)})),
            "prices",
            "~ m1: prompt 10.0 -> 1, completion 40.0 -> 1",
        ),
        (
            lambda r: replace(r, arms=(replace(r.arms[0], max_completion_tokens=99), *r.arms[1:])),
            "arms",
            "~ m0/direct: max_completion_tokens 4 -> 99",
        ),
        (
            lambda r: replace(r, tasks=replace(r.tasks, references=("?", *r.tasks.references[1:]))),
            "tasks",
            "~ arith-00000: reference ",
        ),
        (
            lambda r: replace(r, tasks=replace(r.tasks, ids=("new", *r.tasks.ids[1:]))),
            "tasks",
            "+ new",
        ),
        (
            lambda r: replace(r, tasks=replace(r.tasks, embedding=np.ones((len(r.tasks), 1), np.float32))),
            "tasks",
            "~ arith-00000: embedding ",
        ),
    ],
)  # fmt: skip
def test_what_is_said_of_a_change(
    pair: tuple[Recording, Recording], change: Callable[[Recording], Recording], where: str, line: str
) -> None:
    found = compare_recordings(pair[0], change(pair[1]))
    assert not found.same
    assert any(text.startswith(line) for text in getattr(found, where).names), getattr(found, where).names


def test_situations_that_are_graded_anew(pair: tuple[Recording, Recording]) -> None:
    first, second = pair
    ended = np.flatnonzero(second.graph.node_status == 1)[:4]
    second.graph.nodes["score"][ended] = 1 - second.graph.nodes["score"][ended]
    found = compare_recordings(first, second, named=2)
    assert (found.situations.added, found.situations.removed, found.situations.changed) == (0, 0, 4)
    assert len(found.situations.names) == 2
    assert found.choices == NOTHING


def test_a_difference_is_json(pair: tuple[Recording, Recording]) -> None:
    first, second = pair
    found = json.loads(
        json.dumps(compare_recordings(first, keep_arms(second, ["m0/direct"])).as_dict(), allow_nan=False)
    )
    assert found["same"] is False
    assert found["arms"]["removed"] == 2
    assert found["by_arm"][1]["score"][1] is None
