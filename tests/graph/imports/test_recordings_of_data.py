"""Recordings of imported data: every path through them replays what was recorded, and nothing else."""

import json
from collections import Counter
from dataclasses import replace
from unittest.mock import patch

import gymnasium as gym
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import routegym  # noqa: F401  (registers the environments)
from routegym.core import RoutingVectorEnv
from routegym.errors import ActionError, ImportDataError, PoolError, RecordingError
from routegym.evaluation.diff import compare_recordings
from routegym.evaluation.import_report import import_report, row_table
from routegym.graph import OPEN, Expander, Recording, always_arm_actions, evaluate_choices, keep_arms
from routegym.graph.imports import RoutingData, build, to_recording
from routegym.graph.imports.build import count_choices
from routegym.graph.merge import merge_recordings

ARMS = ("small", "middle", "large")


def table_of(rows, turns=None, prompts=None, verdict=False, **more):
    """Data from rows (query, arm, score, cost[, trial]) and turns (query, arm, turn, feedback, tokens[, trial])."""
    names = ("query", "arm", "score", "cost_usd", "trial")[: len(rows[0])]
    queries = list(dict.fromkeys(row[0] for row in rows))
    columns = {name: [row[place] for row in rows] for place, name in enumerate(names)}
    asked = {"query": queries, "prompt": [f"prompt {query}" for query in queries] if prompts is None else prompts}
    steps = None
    if turns is not None:
        fields = ("query", "arm", "turn", "feedback", "completion_tokens", "trial")[: len(turns[0])]
        steps = pa.table({name: [row[place] for row in turns] for place, name in enumerate(fields)})
    return RoutingData("hand", pa.table(columns), pa.table(asked), turns=steps, verdict=verdict, **more)


def one_query(verdict=True):
    """One task: small fails in 2 turns, middle fails in 1, large succeeds in 3; costs share out by tokens."""
    rows = [("q", "small", 0.0, 0.03), ("q", "middle", 0.0, 0.1), ("q", "large", 1.0, 0.6)]
    turns = [
        *(("q", "small", turn, feedback, tokens) for turn, feedback, tokens in [(0, "ok", 10), (1, "error", 20)]),
        ("q", "middle", 0, "invalid", 7),
        *(("q", "large", turn, "ok", tokens) for turn, tokens in [(0, 100), (1, 200), (2, 300)]),
    ]
    return table_of(rows, turns, verdict=verdict)


def play(recording, *actions, budget=None):
    """Scores and costs of a path in the environment of its kind; actions by name."""
    env = RoutingVectorEnv(1, recording, split="all", budget_usd=budget, autoreset_mode="Disabled")
    env.reset(seed=0, options={"task_id": 0})
    costs, over = [], False
    for action in actions:
        assert not over, "the episode was over before"
        _, _, terminated, truncated, info = env.step(np.array([recording.action_names.index(action)]))
        assert not truncated.any()
        costs.append(float(info["cost_usd"][0]))
        over = bool(terminated[0])
    return over, float(info["score"][0]), costs


def legal(recording, *actions):
    """Names of the legal actions after a path."""
    env = RoutingVectorEnv(1, recording, split="all", autoreset_mode="Disabled")
    env.reset(seed=0, options={"task_id": 0})
    for action in actions:
        env.step(np.array([recording.action_names.index(action)]))
    return [name for name, may in zip(recording.action_names, env.action_masks()[0], strict=True) if may]


# -- whole calls -------------------------------------------------------------------------------
def test_a_table_is_a_recording_of_single_calls():
    found = to_recording(table_of([("q", "b", 0.25, 0.5), ("q", "a", 1.0, 0.125)]), text="none")
    recording = found.recording
    assert recording.kind == "single_call"
    assert recording.closed
    assert recording.action_names == ("a", "b")  # the cheaper one first
    assert play(recording, "a") == (True, 1.0, [0.125])
    assert play(recording, "b") == (True, 0.25, [0.5])
    assert (recording.graph.node_reserve[recording.graph.task_start[0]] == [0.125, 0.5]).all()
    assert found.dropped == {}
    assert found.masked == found.moved == 0


def test_arms_are_taken_in_the_order_they_are_named_in():
    data = table_of([("q", arm, 0.0, cost) for arm, cost in zip(ARMS, (1, 2, 3), strict=True)])
    found = to_recording(data, arms=["large", "small"], text="none")
    assert found.recording.action_names == ("large", "small")
    assert found.dropped == {"of arms not asked for": 1}
    with pytest.raises(ImportDataError, match=r"hand: no row of arm 'smal'; did you mean 'small'\?"):
        to_recording(data, arms=["smal"], text="none")
    with pytest.raises(ImportDataError, match="name each only once"):
        to_recording(data, arms=["small", "small"], text="none")


def test_a_query_without_some_arm_is_dropped_and_never_filled():
    rows = [("q", "a", 1.0, 1.0), ("q", "b", 0.0, 2.0), ("r", "a", 1.0, 1.0)]
    found = to_recording(table_of(rows), text="none")
    assert found.recording.tasks.ids == ("q",)
    assert found.dropped == {"of queries that not every arm was recorded for": 1}


def test_or_the_arm_is_masked_there():
    rows = [("q", "a", 1.0, 1.0), ("r", "a", 0.0, 1.0), ("r", "b", 1.0, 2.0)]
    found = to_recording(table_of(rows), missing="mask", text="none")
    assert found.masked == 1
    assert legal(found.recording) == ["a"]
    with pytest.raises(ActionError, match="action 'b' is masked: it is not legal in this situation"):
        play(found.recording, "b")
    graph = found.recording.graph
    assert graph.complete
    score, _ = evaluate_choices(graph, always_arm_actions(graph, 1))  # the cheapest legal arm stands in
    assert score[graph.task_start].tolist() == [1.0, 1.0]


def test_arms_that_leave_a_task_without_a_choice_are_not_kept():
    rows = [("q", "a", 1.0, 1.0), ("r", "a", 0.0, 1.0), ("r", "b", 1.0, 2.0)]
    recording = to_recording(table_of(rows), missing="mask", text="none").recording
    with pytest.raises(PoolError, match=r"1 of 2 tasks were recorded with none of the arms b; keep others, too"):
        keep_arms(recording, ["b"])
    assert keep_arms(recording, ["a"]).action_names == ("a",)


def test_no_query_is_complete():
    rows = [("q", "a", 1.0, 1.0), ("r", "b", 0.0, 1.0)]
    with pytest.raises(
        ImportDataError, match=r"no query was recorded with every arm \(a 1, b 1 of 2\); name fewer arms"
    ):
        to_recording(table_of(rows), text="none")


def test_repeated_pairs_are_refused():
    rows = [("q", "a", 1.0, 1.0), ("q", "a", 0.0, 1.0)]
    with pytest.raises(
        ImportDataError, match=r"1 row\(s\) repeat a \(query, arm\).*query 'q' and arm 'a'.*column trial"
    ):
        to_recording(table_of(rows), text="none")


def test_costs_from_tokens_and_prices():
    data = table_of([("q", "a", 1.0, 0.7)])
    columns = data.responses.append_column("prompt_tokens", [[1000]]).append_column("completion_tokens", [[10]])
    data = RoutingData("hand", columns, data.queries, prices={"a": (2.0, 30.0)})
    by_tokens = to_recording(data, costs="tokens", text="none").recording
    assert play(by_tokens, "a")[2] == pytest.approx([1000 * 2e-6 + 10 * 30e-6])
    assert by_tokens.graph.edges["tokens"].tolist() == [[1000, 0, 10, 0]]
    stated = to_recording(data, text="none").recording
    assert play(stated, "a")[2] == [0.7]
    assert stated.graph.edges["tokens"].tolist() == [[1000, 0, 10, 0]]
    with pytest.raises(ImportDataError, match="no row has tokens and a price of its arm"):
        to_recording(RoutingData("hand", columns, data.queries), costs="tokens", text="none")


@pytest.mark.parametrize("kind", ["single_call", "cascade"])
@pytest.mark.parametrize("told", ["turns", "whole_runs"])
def test_the_reserve_of_a_whole_run_does_not_tell_how_long_it_was(kind, told):
    queries = ["q", "r"]
    rows = pa.table(
        {
            "query": queries * 2,
            "arm": ["a", "a", "b", "b"],
            "score": [1.0, 0.0] * 2,
            "prompt_tokens": [100, 9000, 200, 8000],
            "completion_tokens": [10] * 4,
        }
    )
    turns = pa.table({"query": ["q"], "arm": ["a"], "turn": [0], "feedback": ["ok"]}) if told == "turns" else None
    data = RoutingData(
        "hand",
        rows,
        pa.table({"query": queries, "prompt": queries}),
        turns=turns,
        whole_runs=told == "whole_runs",
        prices={"a": (2.0, 30.0), "b": (20.0, 30.0)},
    )
    recording = to_recording(data, kind, text="none").recording
    start = recording.graph.task_start
    assert recording.graph.node_reserve[start, 0] == pytest.approx(9000 * 2e-6 + 10 * 30e-6)
    assert recording.graph.node_reserve[start, 1] == pytest.approx(8000 * 20e-6 + 10 * 30e-6)
    assert play(recording, "a", *["b"] * (kind == "cascade"))[2][0] == pytest.approx(100 * 2e-6 + 10 * 30e-6)
    calls = RoutingData("hand", rows, data.queries, prices=data.prices)
    graph = to_recording(calls, kind, text="none").recording.graph
    assert len(set(graph.node_reserve[graph.task_start, 0].tolist())) == 2  # a prompt is known before its call


def test_an_arm_whose_answers_have_no_tokens_has_a_reserve():
    rows = pa.table({"query": ["q"], "arm": ["a"], "score": [1.0], "prompt_tokens": [1000], "completion_tokens": [0]})
    asked = pa.table({"query": ["q"], "prompt": ["p"]})
    recording = to_recording(RoutingData("hand", rows, asked, prices={"a": (2.0, 30.0)}), text="none").recording
    assert recording.graph.node_reserve[0, 0] == pytest.approx(1000 * 2e-6 + 30e-6)  # of one token at least
    assert play(recording, "a", budget=1.0)[2] == pytest.approx([1000 * 2e-6])


def test_an_arm_without_any_cost_is_missed():
    rows = pa.table(
        {"query": ["q", "q"], "arm": ["a", "b"], "score": [1.0] * 2, "prompt_tokens": [5] * 2,
         "completion_tokens": [5] * 2}
    )  # fmt: skip
    data = RoutingData("hand", rows, pa.table({"query": ["q"], "prompt": ["p"]}), prices={"a": (1.0, 1.0)})
    with pytest.raises(ImportDataError, match="no row of arm 'b' has a known query, and tokens and a price of"):
        to_recording(data, arms=["a", "b"], text="none")
    found = to_recording(data, text="none")
    assert found.recording.action_names == ("a",)
    assert found.lost_arms == ("b",)
    lost = "b is not in the recording: none of its rows has a known query, and tokens and a price of its arm"
    assert lost in import_report(found).warnings


def test_a_source_without_validation_gets_one():
    rows = [(f"q{number}", "a", 1.0, 1.0) for number in range(60)]
    prompts = [f"prompt {number // 2}" for number in range(60)]  # each asked twice
    data = table_of(rows, prompts=prompts)
    splits = ["train" if number < 40 else "test" for number in range(60)]

    def dealt(splits, seed=0):
        queries = data.queries.append_column("split", pa.array(splits, pa.string()))
        return to_recording(replace(data, queries=queries), text="none", seed=seed)

    found = dealt(splits)
    given = dict(zip(prompts, splits, strict=True))
    after = {prompt: set() for prompt in prompts}
    for prompt, split in zip(prompts, found.recording.tasks.splits, strict=True):
        after[prompt].add(split)
    assert sorted(map(len, after.values())) == [1] * 30  # equal prompts stay together
    moved = [prompt for prompt in after if after[prompt] == {"val"}]
    assert [given[prompt] for prompt in moved] == ["train"] * 2  # of 20 prompts, the eighth and the sixteenth
    assert (found.validated, found.moved) == (4, 0)
    assert ("queries moved to validation, which the source lacks", "4") in row_table(import_report(found)).rows
    assert dealt(splits).recording.tasks == found.recording.tasks
    assert dealt(splits, seed=1).recording.tasks != found.recording.tasks
    # not where there is one, nor where nobody names a split
    assert dealt(["val", "val", *splits[2:]]).validated == 0
    assert dealt([None] * 60).validated == 0


def test_equal_prompts_are_put_into_one_split():
    queries = pa.table(
        {"query": ["q", "r", "s"], "prompt": ["same", "same", "other"], "split": ["train", "test", "train"]}
    )
    responses = pa.table({"query": ["q", "r", "s"], "arm": ["a"] * 3, "score": [1.0] * 3, "cost_usd": [1.0] * 3})
    found = to_recording(RoutingData("hand", responses, queries), text="none")
    assert found.recording.tasks.splits == ("test", "test", "train")  # held out, wherever it is met
    assert found.moved == 1


def test_it_is_the_same_after_saving(tmp_path):
    recording = to_recording(one_query(), "attempts", text="none").recording
    recording.save(tmp_path / "r")
    again = Recording.load(tmp_path / "r")
    assert again.closed
    assert again.graph.complete
    np.testing.assert_array_equal(np.sort(again.graph.node_running), np.sort(recording.graph.node_running))
    assert legal(again) == ["middle", "small", "large", "stop"] or legal(again) == legal(recording)
    assert play(again, "small", "small", "large", "large", "large") == play(
        recording, "small", "small", "large", "large", "large"
    )
    again.save(tmp_path / "s")
    assert Recording.load(tmp_path / "s").content_hash == Recording.load(tmp_path / "r").content_hash


def test_a_closed_recording_is_not_grown():
    from routegym.envs.single_call import SingleCallWorkflow

    recording = to_recording(table_of([("q", "a", 1.0, 1.0)]), text="none").recording
    with pytest.raises(RecordingError, match="a closed recording cannot be grown"):
        Expander(SingleCallWorkflow(False), None, recording)  # type: ignore[arg-type]


# -- cascades ----------------------------------------------------------------------------------
def cascade(verdict, most=2):
    rows = [("q", "small", 0.0, 0.125), ("q", "middle", 0.5, 0.25), ("q", "large", 1.0, 1.0)]
    return to_recording(table_of(rows, verdict=verdict), "cascade", most_attempts=most, text="none").recording


def test_a_cascade_hands_in_the_last_answer():
    recording = cascade(verdict=False)
    assert play(recording, "accept") == (True, 0.0, [0.0])
    assert play(recording, "middle", "accept") == (True, 0.5, [0.25, 0.0])
    assert play(recording, "large", "small") == (True, 0.0, [1.0, 0.125])  # the last one counts
    assert legal(recording, "small") == ["middle", "large", "accept"]  # nothing was recorded of asking again


def test_a_cascade_with_a_verdict_ends_with_success():
    recording = cascade(verdict=True, most=3)
    assert play(recording, "large") == (True, 1.0, [1.0])
    assert play(recording, "small", "middle", "large") == (True, 1.0, [0.125, 0.25, 1.0])
    assert play(recording, "small", "middle", "stop") == (True, 0.5, [0.125, 0.25, 0.0])
    names = recording.node_signal_names
    graph = recording.graph
    node = int(graph.edges["next"][graph.edge_first[graph.task_start[0], 0]])
    seen = dict(zip(names, graph.node_signals[node].tolist(), strict=True))
    assert {name for name, value in seen.items() if value} == {"calls", "last_small", "tried_small"}
    assert seen["calls"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(("name", "verdict"), [("stop", True), ("accept", False)])
def test_an_arm_that_is_named_like_the_control_is_refused(name, verdict):
    rows = [("q", "a", 0.0, 1.0), ("q", name, 1.0, 2.0)]
    with pytest.raises(ImportDataError, match=f"arm '{name}' has the name of the action that ends an episode; rename"):
        to_recording(table_of(rows, verdict=verdict), "cascade", text="none")
    other = to_recording(table_of(rows, verdict=not verdict), "cascade", text="none").recording
    assert other.action_names[:2] == ("a", name)
    assert to_recording(table_of(rows, verdict=verdict), text="none").recording.action_names == ("a", name)


# -- attempts ----------------------------------------------------------------------------------
def test_an_attempt_goes_on_turn_by_turn():
    recording = to_recording(one_query(), "attempts", text="none").recording
    assert play(recording, "large", "large", "large") == (True, 1.0, pytest.approx([0.1, 0.2, 0.3]))


def test_an_attempt_that_is_abandoned_was_paid_for_and_the_next_one_starts_afresh():
    recording = to_recording(one_query(), "attempts", text="none").recording
    over, score, costs = play(recording, "small", "large", "large", "large")
    assert (over, score) == (True, 1.0)
    assert costs == pytest.approx([0.01, 0.1, 0.2, 0.3])
    assert legal(recording, "small", "large") == ["large", "stop"]  # two attempts are all that is allowed


def test_an_attempt_that_failed_leaves_the_choice():
    recording = to_recording(one_query(), "attempts", text="none").recording
    assert legal(recording, "small", "small") == ["middle", "large", "stop"]
    assert play(recording, "small", "small", "stop") == (True, 0.0, pytest.approx([0.01, 0.02, 0.0]))
    assert play(recording, "small", "small", "middle") == (True, 0.0, pytest.approx([0.01, 0.02, 0.1]))


def test_what_is_seen_of_an_attempt():
    recording = to_recording(one_query(), "attempts", text="none").recording
    graph, names = recording.graph, recording.node_signal_names

    def seen(*actions):
        node = int(graph.task_start[0])
        for action in actions:
            node = int(graph.edges["next"][graph.edge_first[node, recording.action_names.index(action)]])
        found = dict(zip(names, graph.node_signals[node].tolist(), strict=True))
        return {name: round(value, 4) for name, value in found.items() if value}, json.loads(recording.texts[node])

    signals, text = seen("small")
    assert signals == {
        "turn": 0.3333, "feedback_ok": 1.0, "share_ok": 0.3333, "completion_tokens": round(10 / 1010, 4),
        "attempts": 0.5, "running_small": 1.0,
    }  # fmt: skip
    assert text == {"arm": "small", "turn": 1, "feedback": "ok"}
    signals, text = seen("small", "small")
    assert signals == {
        "turn": 0.6667, "feedback_error": 1.0, "share_ok": 0.3333, "share_error": 0.3333,
        "completion_tokens": round(20 / 1020, 4), "attempts": 0.5, "tried_small": 1.0,
    }  # fmt: skip
    signals, text = seen("small", "large")
    assert signals["tried_small"] == signals["running_large"] == signals["attempts"] == 1.0
    assert text == {"arm": "large", "turn": 1, "feedback": "ok", "tried": ["small"]}


def test_the_environment_of_attempts_is_a_graph_without_cycles_under_a_hard_budget():
    recording = to_recording(one_query(), "attempts", most_attempts=3, text="none").recording
    most = recording.graph.node_reserve[recording.graph.task_start[0]]
    assert most[:3] == pytest.approx([0.02, 0.1, 0.3])  # the dearest turn of each arm
    env = RoutingVectorEnv(1, recording, split="all", budget_usd=0.13)
    env.reset(seed=0)
    assert env.action_masks()[0].tolist() == [True, True, False, True]


def test_turns_must_count_from_zero():
    data = one_query()
    broken = data.turns.set_column(2, "turn", [[0, 2, 0, 0, 1, 2]])
    with pytest.raises(ImportDataError, match=r"query 'q', arm 'small': turn 2 where 1 was expected; the turns of an"):
        to_recording(RoutingData("hand", data.responses, data.queries, turns=broken), "attempts", text="none")


@pytest.mark.parametrize("trial", [(), (0,)])
def test_turns_of_attempts_that_have_no_row_are_counted_and_say_nothing(trial):
    rows = [("q", "a", 1.0, 1.0, *trial), ("q", "b", 0.0, 2.0, *trial), ("r", "a", 1.0, 1.0, *trial)]
    turns = [
        *(("q", arm, turn, "ok", 1, *trial) for arm in "ab" for turn in range(2)),
        ("r", "a", 0, "ended", 1, *trial),  # goes with its row
        ("r", "b", 0, "crashed", 1, *trial),
        ("s", "a", 0, "lost", 1, *trial),
        ("q", "c", 0, "lost", 1, *trial),
        *[("q", "a", 0, "again", 1, 1)] * len(trial),
    ]
    found = to_recording(table_of(rows, turns), "attempts", text="none")
    assert found.lost_turns == 3 + len(trial)
    names = found.recording.node_signal_names
    assert [name for name in names if name.startswith("feedback_")] == ["feedback_ok"]
    assert play(found.recording, "b", "b", "a", "a")[:2] == (True, 1.0)
    report = import_report(found)
    assert ("turns dropped: of attempts that have no row", str(3 + len(trial))) in row_table(report).rows
    assert sum(report.dropped.values()) == report.rows_read - report.rows_kept
    assert not any("turns" in row[0] for row in row_table(import_report(to_recording(one_query(), text="none"))).rows)


def test_attempts_need_turns():
    with pytest.raises(ImportDataError, match="has no turns, so that attempts cannot be watched"):
        to_recording(cascade_data(), "attempts", text="none")


def cascade_data():
    return table_of([("q", "a", 1.0, 1.0), ("q", "b", 1.0, 2.0)])


def test_turns_that_cost_something_else_than_their_attempt_are_refused():
    data = one_query()
    turns = data.turns.append_column("cost_usd", [[0.01, 0.03, 0.1, 0.1, 0.2, 0.3]])
    with pytest.raises(
        ImportDataError, match=r"the turns of query 'q', arm 'small' cost 0.04 USD and its row says 0.03"
    ):
        to_recording(RoutingData("hand", data.responses, data.queries, turns=turns), "attempts", text="none")


@pytest.mark.parametrize(
    ("tokens", "shares"),
    [
        (None, [1 / 3, 1 / 3, 1 / 3]),  # the source counts whole runs
        ([10, 20, 70], [0.1, 0.2, 0.7]),  # they do not sum to the row
        ([10, None, 70], [1 / 3, 1 / 3, 1 / 3]),
        ([0, 0, 0], [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_turns_share_out_what_the_tokens_of_a_row_cost(tokens, shares):
    rows = pa.table({"query": ["q"], "arm": ["a"], "score": [1.0], "prompt_tokens": [1000], "completion_tokens": [100]})
    turns = pa.table({"query": ["q"] * 3, "arm": ["a"] * 3, "turn": [0, 1, 2], "feedback": ["ok"] * 3})
    if tokens is not None:
        turns = turns.append_column("prompt_tokens", pa.array(tokens, pa.int64()))
        turns = turns.append_column("completion_tokens", pa.array([0] * 3))
    asked = pa.table({"query": ["q"], "prompt": ["p"]})
    found = to_recording(
        RoutingData("hand", rows, asked, turns=turns, prices={"a": (2.0, 30.0)}), "attempts", text="none"
    )
    bill = 1000 * 2e-6 + 100 * 30e-6
    assert found.kept.cost_usd.tolist() == pytest.approx([bill])
    assert play(found.recording, "a", "a", "a")[2] == pytest.approx([bill * share for share in shares])
    reserve = found.recording.graph.node_reserve[found.recording.graph.task_start[0], 0]
    assert reserve == pytest.approx(bill * max(shares))


def test_a_free_attempt_is_free_turn_by_turn():
    data = one_query()
    rows = data.responses.set_column(3, "cost_usd", [[0.0, 0.1, 0.6]])
    turns = data.turns.append_column("cost_usd", [[0.0, 0.0, 0.1, 0.1, 0.2, 0.3]])
    recording = to_recording(RoutingData("hand", rows, data.queries, turns=turns), "attempts", text="none").recording
    assert play(recording, "small", "small", "accept")[2] == [0.0, 0.0, 0.0]


def test_the_seconds_of_an_attempt_are_shared_out_as_its_bill_is():
    data = one_query()
    rows = data.responses.append_column("latency_s", [[3.0, 1.0, 6.0]])
    graph = to_recording(
        RoutingData("hand", rows, data.queries, turns=data.turns, verdict=True), "attempts", text="none"
    ).recording.graph
    seconds = graph.edges["latency_s"]
    assert sorted(set(np.round(seconds[seconds > 0], 4).tolist())) == [1.0, 2.0, 3.0]
    dollars = graph.edges["cost_usd"][seconds > 0]  # 10 s for 0.1, 10 s for 1, by arm: small, middle, large
    assert sorted(set(np.round(seconds[seconds > 0] / dollars, 3).tolist())) == [10.0, 100.0]


def test_fewer_attempts_than_two_are_single_calls():
    with pytest.raises(ImportDataError, match="most_attempts = 1; expected at least 2"):
        to_recording(cascade_data(), "cascade", most_attempts=1, text="none")


# -- trials ------------------------------------------------------------------------------------
def trials():
    rows = [("q", "a", float(trial == 2), 0.5 + trial, trial) for trial in range(3)] + [("q", "b", 0.0, 9.0, 0)]
    return table_of(rows, verdict=True)


def test_trials_are_samples_of_an_arm():
    recording = to_recording(trials(), text="none").recording
    graph = recording.graph
    assert graph.edge_count[graph.task_start[0]].tolist() == [3, 1]
    score, cost = evaluate_choices(graph, always_arm_actions(graph, 0))
    assert score[graph.task_start[0]] == pytest.approx(1 / 3)
    assert cost[graph.task_start[0]] == pytest.approx(1.5)


def test_texts_do_not_tell_which_trial_was_drawn(tmp_path):
    recording = to_recording(trials(), "cascade", most_attempts=3, text="none").recording
    shown = {text for text in recording.texts if text.startswith("{")}
    assert '{"arm":"a","tried":["a"]}' in shown
    assert not [text for text in shown if "#" in text]
    recording.save(tmp_path / "r")
    assert set(Recording.load(tmp_path / "r").texts) >= shown


def test_a_retry_draws_another_trial():
    recording = to_recording(trials(), "cascade", most_attempts=3, text="none").recording
    graph = recording.graph
    first = graph.edge_first[graph.task_start[0], 0]
    landed = graph.edges["next"][first : first + 3]
    assert sorted(graph.node_status[landed] == OPEN) == [False, True, True]  # the third trial succeeds
    for node in landed[graph.node_status[landed] == OPEN]:
        assert graph.edge_count[node].tolist() == [2, 1, 1]  # the two others, b, stop
        again = graph.edge_first[node, 0]
        scores = graph.node_score[graph.edges["next"][again : again + 2]]
        assert sorted(np.nan_to_num(scores, nan=-1.0).tolist()) == [-1.0, 1.0]


# -- anything ----------------------------------------------------------------------------------
@st.composite
def recorded(draw):
    """Any small data set with turns: rows, turns, and what each attempt was, by (query, arm)."""
    queries, arms = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    rows, turns, known = [], [], {}
    for query in range(queries):
        for arm in range(arms):
            if draw(st.booleans()) or arm == 0:
                score = draw(st.sampled_from([0.0, 0.5, 1.0]))
                tokens = draw(st.lists(st.integers(1, 50), min_size=1, max_size=4))
                cost = draw(st.integers(1, 999)) / 1024
                rows.append((f"q{query}", f"arm{arm}", score, cost))
                turns += [(f"q{query}", f"arm{arm}", turn, "ok", count) for turn, count in enumerate(tokens)]
                known[f"q{query}", f"arm{arm}"] = (score, [cost * count / sum(tokens) for count in tokens])
    return table_of(rows, turns, verdict=draw(st.booleans())), known


@settings(max_examples=60, deadline=None)
@given(recorded(), st.sampled_from(["single_call", "cascade", "attempts"]), st.integers(2, 3), st.randoms())
def test_every_walk_replays_the_record(data, kind, most, random):
    """Against a simulation that keeps the books by itself."""
    table, known = data
    recording = to_recording(table, kind, missing="mask", most_attempts=most, text="none").recording
    most = 1 if kind == "single_call" else most
    names = recording.action_names
    env = gym.make("routegym/SingleCall-v0", recording=recording, split="all") if kind == "single_call" else None
    batch = RoutingVectorEnv(1, recording, split="all", autoreset_mode="Disabled") if env is None else None
    for query in recording.tasks.ids:
        options = {"task_id": query}
        (env or batch).reset(seed=0, options=options)
        begun, now, turn, over = [], None, 0, False
        while not over:
            masks = np.atleast_2d((env.unwrapped if env else batch).action_masks())[0]
            ended = now is not None and turn == (len(known[query, now][1]) if kind == "attempts" else 1)
            may = set()
            for name in names:
                if name in ("stop", "accept"):
                    may.add(name)
                goes_on = name == now and not ended
                if (query, name) in known and (goes_on or (name not in begun and len(begun) < most)):
                    may.add(name)
            assert {name for name, legal in zip(names, masks, strict=True) if legal} == may
            action = random.choice(sorted(may))
            step = (env or batch).step(names.index(action) if env else np.array([names.index(action)]))
            cost, score, over = (np.asarray(x).item() for x in (step[4]["cost_usd"], step[4]["score"], step[2]))
            if action in ("stop", "accept"):
                assert over
                assert cost == 0
                expected = known[query, now][0] if now is not None and ended else 0.0
                assert score == pytest.approx(expected)
                break
            if action != now or ended:
                begun.append(action)
                now, turn = action, 0
            final, costs = known[query, now]
            paid = costs[turn] if kind == "attempts" else sum(costs)
            assert cost == pytest.approx(paid, rel=1e-9)
            turn += 1
            ended = turn == (len(costs) if kind == "attempts" else 1)
            solved = ended and final == 1.0 and table.verdict
            left = [arm for arm in names if (query, arm) in known and arm not in begun]
            assert over == (ended and (solved or len(begun) == most or not left))
            if over:
                assert score == pytest.approx(final)


def built(data, kind, most):
    """A recording, and how many choices were counted before it was made."""
    counted = []

    def count(*arguments):
        counted.append(count_choices(*arguments))
        return counted[-1]

    with patch.object(build, "count_choices", count):
        recording = to_recording(data, kind, missing="mask", most_attempts=most, text="none").recording
    return recording, counted[0]


@settings(max_examples=100, deadline=None)
@given(recorded(), st.sampled_from(["single_call", "cascade", "attempts"]), st.integers(2, 60))
def test_choices_are_counted_before_they_are_made(data, kind, most):
    recording, counted = built(data[0], kind, most)
    assert len(recording.graph.edges) == counted


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(1, 3)), min_size=1, max_size=5),
    st.sampled_from(["single_call", "cascade", "attempts"]),
    st.integers(2, 6),
    st.booleans(),
)
def test_choices_among_trials_are_not_more_than_were_counted(attempts, kind, most, verdict):
    rows = [("q", f"arm{arm}", float(score), 1.0, trial) for trial, (arm, score, _) in enumerate(attempts)]
    lengths = [many for _, _, many in attempts]
    turns = [(*row[:2], turn, "ok", 1, row[4]) for row, many in zip(rows, lengths, strict=True) for turn in range(many)]
    recording, counted = built(table_of(rows, turns, verdict=verdict), kind, most)
    assert len(recording.graph.edges) <= counted
    if kind != "attempts":
        assert len(recording.graph.edges) == counted


@pytest.mark.parametrize("most", [8, 40])
def test_too_many_choices_are_refused_before_any_is_made(most):
    data = table_of([("q", f"arm{arm}", 0.0, 1.0) for arm in range(40)])
    message = rf"{most} attempts per episode make more choices than the 2,147,483,647 that a graph holds; allow fewer"
    with pytest.raises(ImportDataError, match=message):
        to_recording(data, "cascade", most_attempts=most, text="none")


def test_more_steps_than_a_graph_numbers_are_refused():
    rows = [("q", arm, 0.0, 1.0) for arm in ARMS]
    turns = [("q", "small", turn, "ok", 1) for turn in range(10_923)] + [("q", arm, 0, "ok", 1) for arm in ARMS[1:]]
    with pytest.raises(ImportDataError, match="3 attempts of up to 10,923 turns in an episode; a graph holds 32,768"):
        to_recording(table_of(rows, turns), "attempts", most_attempts=3, text="none")


def test_a_few_arms_may_be_asked_for_any_number_of_attempts():
    data = table_of([("q", arm, 0.0, 1.0 + place) for place, arm in enumerate(ARMS)])
    few, many = (to_recording(data, "cascade", most_attempts=most, text="none").recording for most in (3, 999))
    assert (few.graph.edges["next"] == many.graph.edges["next"]).all()
    assert len(few.graph.edges) == (3 + 1) + 3 * (2 + 1) + 6 * (1 + 1)


def test_sets_of_attempts_that_no_integer_tells_apart_by_itself():
    rows = [("q", f"arm{arm:02}", float(arm > 2), 1.0) for arm in range(40)]
    recording, counted = built(table_of(rows, verdict=True), "cascade", 40)
    assert len(recording.graph.edges) == counted
    open_nodes = int((recording.graph.node_status == OPEN).sum())
    assert open_nodes == 1 + 3 + 6 + 3  # the last of those that failed, after any set of the others
    assert play(recording, "arm00", "arm02", "arm01", "arm39")[:2] == (True, 1.0)


def test_nodes_are_shared_where_the_situation_is_the_same():
    rows = [(f"q{query}", arm, 0.0, 1.0) for query in range(5) for arm in ARMS]
    recording = to_recording(table_of(rows, verdict=True), "cascade", most_attempts=3, text="none").recording
    open_nodes = recording.graph.node_status == OPEN
    # the start; after one call; after two, by which was the last
    assert Counter(recording.graph.node_task[open_nodes].tolist()) == dict.fromkeys(range(5), 1 + 3 + 6)


def test_recordings_with_several_trials_are_neither_merged_nor_compared():
    rows = [("q", arm, score, 1.0, trial) for arm in "ab" for trial, score in enumerate((0.0, 1.0, 0.0))]
    recording = to_recording(table_of(rows, verdict=True), "cascade", text="none").recording
    with pytest.raises(RecordingError, match="situations have the task, step and text of another one"):
        merge_recordings([recording, recording], "both")
    with pytest.raises(RecordingError, match="several trials"):
        compare_recordings(recording, recording)
    told_apart = to_recording(one_query(), "attempts", text="none").recording
    assert merge_recordings([told_apart, told_apart], "both").graph.n_nodes == told_apart.graph.n_nodes


def test_feedback_in_free_text_is_refused():
    rows = [(f"q{query}", arm, 1.0, 0.1) for query in range(120) for arm in ("small", "large")]
    turns = [(query, arm, 0, f"error at 0x{place:x}", 1) for place, (query, arm, *_) in enumerate(rows)]
    with pytest.raises(ImportDataError, match=r"field 'feedback': 240 different texts; expected at most 200"):
        to_recording(table_of(rows, turns), kind="attempts", text="none")
    turns = [(*row[:3], "ok" if row[1] == "small" else row[3], 1) for row in turns]
    told = to_recording(table_of(rows, turns), kind="attempts", text="none", arms=["small"])  # nobody hears the other
    assert [name for name in told.recording.node_signal_names if "ok" in name]
