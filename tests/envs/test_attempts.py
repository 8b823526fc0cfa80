"""Attempts by hand: going on, abandoning, failing, trying again and stopping, what is seen of it and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest

from routegym.core import RoutingEnv
from routegym.envs.attempts import FEEDBACK, AttemptsWorkflow, Progress
from routegym.errors import ActionError
from routegym.graph import OPEN, TERMINATED, Expander, Recording, explore, keep_arms, start_recording
from routegym.graph.merge import merge_recordings
from routegym.pool.arms import Arm, Price, PriceTable
from routegym.pool.backend import Failure, OnResponse, Request, Response
from routegym.tasks import TaskSet

#: 7+58 = 65 and 65*3 = 195. A malformed answer of "mumbles" is repeated whenever it is asked again.
TASK = TaskSet(("t",), ("((7+58)*3)",), ("195",), ("train",))
ANSWERS: Mapping[str, Mapping[str, str]] = {
    "cheap": {"7+58": "65", "65*3": "190"},
    "wrong": {"7+58": "66", "66*3": "198"},
    "dear": {"7+58": "65", "65*3": "195"},
    "mumbles": {"7+58": "?"},
}
ARMS = tuple(Arm(name, "t", 1, 4) for name in ANSWERS)
CHEAP, WRONG, DEAR, MUMBLES, STOP = range(5)
#: USD per million tokens of prompt and of answer alike; a prompt and an answer take a token for each character.
PRICES = (1.0, 2.0, 100.0, 10.0)
TABLE = PriceTable(
    "2026-01-01", "made up", {name: Price(usd, 0, usd, 0) for name, usd in zip(ANSWERS, PRICES, strict=True)}
)
#: What the first and the second call of each attempt cost.
FIRST = (6e-6, 12e-6, 600e-6, 50e-6)
SECOND = (7e-6, 14e-6, 700e-6)


@dataclass(frozen=True)
class Script:
    """Answers from `ANSWERS`, after whose turn it is counted."""

    asked: list[tuple[str, str]]

    def generate(self, requests: Sequence[Request], on_result: OnResponse | None = None) -> list[Response | Failure]:
        self.asked.extend((request.arm.model, request.prompt) for request in requests)
        answers = [ANSWERS[request.arm.model][request.prompt] for request in requests]
        return [
            Response(text, (len(request.prompt), 0, len(text), 0), 0.0, 0.0, 0.0)
            for request, text in zip(requests, answers, strict=True)
        ]

    def count_prompt_tokens(self, requests: Sequence[Request]) -> list[int]:
        return [len(request.prompt) for request in requests]


@dataclass(frozen=True)
class Pool:
    backend: Script
    arms: tuple[Arm, ...] = ARMS
    prices: PriceTable = TABLE


def workflow(**settings: Any) -> AttemptsWorkflow:
    return AttemptsWorkflow([arm.name for arm in ARMS], **{"most_turns": 4, **settings})


def record(**settings: Any) -> Recording:
    pool, made = Pool(Script([])), workflow(**settings)
    recording = start_recording("attempts", made, pool, TASK)
    explore(Expander(made, pool, recording))
    recording.provenance["complete"] = True
    recording.fix_scales()
    return recording


def play(env: RoutingEnv, actions: Sequence[int], budget: float | None = None) -> list[Any]:
    """Every step of an episode: reward, terminated, info."""
    env.reset(seed=0, options={"task_id": "t", "budget_usd": np.inf if budget is None else budget})
    return [env.step(action)[1:] for action in actions]


def situation(made: AttemptsWorkflow, *moves: tuple[int, str]) -> Progress:
    """After these answers of arms; an empty answer of `STOP` is the control."""
    (state,) = made.start(TASK, [0])
    for arm, text in moves:
        response = None if arm == STOP else Response(text, (1, 0, 1, 0), 0.0, 0.0, 0.0)
        (state,) = made.advance([state], ["stop" if arm == STOP else ARMS[arm]], [response])
    return state


def seen(made: AttemptsWorkflow, state: Progress) -> dict[str, float]:
    """Signals that are not 0, without those of the expression."""
    (row,) = made.signals([state])
    names = zip(made.node_signal_names, row.tolist(), strict=True)
    return {n: v for n, v in names if v and n.partition("_")[0] not in ("next", "left", "task")}


# -- episodes and what they cost -----------------------------------------------------------------
EPISODES = {
    "solved at once": ([DEAR, DEAR], 1.0, [FIRST[DEAR], SECOND[DEAR]]),
    "failed, then another": ([CHEAP, CHEAP, DEAR, DEAR], 1.0, [FIRST[0], SECOND[0], FIRST[DEAR], SECOND[DEAR]]),
    "abandoned": ([CHEAP, DEAR, DEAR], 1.0, [FIRST[0], FIRST[DEAR], SECOND[DEAR]]),
    "the same again": ([CHEAP] * 4, 0.0, [FIRST[0], SECOND[0]] * 2),
    "two fail": ([CHEAP, CHEAP, WRONG, WRONG], 0.0, [FIRST[0], SECOND[0], FIRST[WRONG], SECOND[WRONG]]),
    "out of turns": ([MUMBLES] * 4 + [DEAR] * 2, 1.0, [FIRST[MUMBLES]] * 4 + [FIRST[DEAR], SECOND[DEAR]]),
    "out of turns twice": ([MUMBLES] * 8, 0.0, [FIRST[MUMBLES]] * 8),
    "nothing done": ([STOP], 0.0, [0.0]),
    "given up in the middle": ([CHEAP, STOP], 0.0, [FIRST[0], 0.0]),
    "given up after a failure": ([CHEAP, CHEAP, STOP], 0.0, [FIRST[0], SECOND[0], 0.0]),
    "given up in the last attempt": ([CHEAP, CHEAP, DEAR, STOP], 0.0, [FIRST[0], SECOND[0], FIRST[DEAR], 0.0]),
}


@pytest.mark.parametrize("name", EPISODES)
@pytest.mark.parametrize("live", [False, True])
def test_golden_episodes(name: str, live: bool) -> None:
    """Each call is paid as it was recorded, whoever made the one before; replayed and live alike."""
    actions, score, costs = EPISODES[name]
    recording, expander = record(), None
    if live:
        made, pool = workflow(), Pool(Script([]))
        grown = start_recording("attempts", made, pool, TASK)
        expander = Expander(made, pool, grown)
        grown.cost_scale_usd = recording.cost_scale_usd
        recording = grown
    steps = play(RoutingEnv(recording, lambda_=0.5, split="all", expander=expander), actions)
    assert [info["cost_usd"] for *_, info in steps] == pytest.approx(costs)
    assert [terminated for _, terminated, _, _ in steps] == [False] * (len(steps) - 1) + [True]
    assert not any(truncated for _, _, truncated, _ in steps)
    assert steps[-1][-1]["score"] == score
    assert steps[-1][-1]["cost_usd_total"] == pytest.approx(sum(costs))
    wanted = score - 0.5 * sum(costs) / recording.cost_scale_usd
    assert sum(reward for reward, *_ in steps) == pytest.approx(wanted)


def test_an_arm_that_takes_over_is_asked_from_the_beginning() -> None:
    made = workflow()
    state = situation(made, (CHEAP, "65"))
    prompts = [request.prompt for request in made.requests([state] * 4, ARMS)]
    assert prompts == ["65*3", "7+58", "7+58", "7+58"]
    failed = situation(made, (CHEAP, "65"), (CHEAP, "190"))
    assert [request.prompt for request in made.requests([failed] * 4, ARMS)] == ["7+58"] * 4


def test_nobody_takes_over_from_the_last_attempt() -> None:
    env = RoutingEnv(record(), split="all")
    play(env, [CHEAP])
    assert env.action_masks().tolist() == [True] * 5
    play(env, [CHEAP, DEAR])
    assert env.action_masks().tolist() == [False, False, True, False, True]
    with pytest.raises(ActionError, match="action 'cheap/t' is masked: it is not legal in this situation"):
        env.step(CHEAP)


def test_the_number_of_attempts() -> None:
    env = RoutingEnv(record(most_attempts=1), split="all")
    *_, info = play(env, [CHEAP, CHEAP])[-1]
    assert info["score"] == 0.0
    play(env, [CHEAP])
    assert env.action_masks().tolist() == [True, False, False, False, True]
    env = RoutingEnv(record(most_attempts=3), split="all")
    *_, info = play(env, [CHEAP, WRONG, DEAR, DEAR])[-1]  # two are abandoned
    assert info["score"] == 1.0


def test_a_hard_budget_pays_turn_by_turn() -> None:
    """The second call of "dear" may take 4 + 4 tokens: 800e-6. With less left the attempt cannot go on."""
    env = RoutingEnv(record(), split="all")
    play(env, [DEAR], budget=600e-6 + 799e-6)
    assert env.action_masks().tolist() == [True, True, False, True, True]
    play(env, [DEAR], budget=600e-6 + 801e-6)
    assert env.action_masks().tolist() == [True] * 5


def test_steps_leave_room_for_every_turn() -> None:
    """So that every edge leads to a larger step, whenever an attempt is abandoned."""
    made = workflow()
    assert situation(made, (MUMBLES, "?"), (MUMBLES, "?"), (MUMBLES, "?")).step == 3
    assert situation(made, (MUMBLES, "?"), (DEAR, "65")).step == 5
    assert situation(made, (MUMBLES, "?"), (MUMBLES, "?"), (DEAR, "65"), (DEAR, "195")).step == 6
    assert situation(made, (CHEAP, "65"), (CHEAP, "190"), (DEAR, "65")).step == 5


# -- what is seen --------------------------------------------------------------------------------
def test_feedback_turn_by_turn() -> None:
    made = workflow()
    assert seen(made, situation(made)) == {}
    assert seen(made, situation(made, (CHEAP, "65"))) == {
        "turn": 0.25, "feedback_ok": 1.0, "share_ok": 0.25, "attempts": 0.5, "running_cheap/t": 1.0,
    }  # fmt: skip
    assert seen(made, situation(made, (WRONG, "66"))) == {
        "turn": 0.25, "feedback_error": 1.0, "share_error": 0.25, "attempts": 0.5, "running_wrong/t": 1.0,
    }  # fmt: skip
    state = situation(made, (CHEAP, "65"), (CHEAP, "?"), (CHEAP, "007"))
    assert seen(made, state) == {
        "turn": 0.75, "feedback_invalid": 1.0, "share_ok": 0.25, "share_invalid": 0.5, "attempts": 0.5,
        "running_cheap/t": 1.0,
    }  # fmt: skip
    assert state.attempt.text == "(65*3)"


def test_a_check_of_last_digits_does_not_see_the_others() -> None:
    made = workflow()
    assert situation(made, (CHEAP, "165")).feedback == ("ok",)


def test_a_failed_attempt_shows_how_it_ended() -> None:
    made = workflow()
    assert seen(made, situation(made, (CHEAP, "65"), (CHEAP, "190"))) == {
        "turn": 0.5, "feedback_rejected": 1.0, "share_ok": 0.25, "share_rejected": 0.25, "attempts": 0.5,
        "tried_cheap/t": 1.0,
    }  # fmt: skip
    out_of_turns = situation(made, *[(MUMBLES, "?")] * 4)
    assert seen(made, out_of_turns) == {
        "turn": 1.0, "feedback_invalid": 1.0, "share_invalid": 1.0, "attempts": 0.5, "tried_mumbles/t": 1.0,
    }  # fmt: skip
    assert out_of_turns.running == -1


def test_an_abandoned_attempt_is_forgotten_but_for_its_arm() -> None:
    made = workflow()
    after = situation(made, (MUMBLES, "?"), (MUMBLES, "?"), (DEAR, "65"))
    assert seen(made, after) == {
        "turn": 0.25, "feedback_ok": 1.0, "share_ok": 0.25, "attempts": 1.0, "running_dear/t": 1.0,
        "tried_mumbles/t": 1.0,
    }  # fmt: skip
    assert after == situation(made, (MUMBLES, "?"), (DEAR, "65"))


def test_the_expression_shown_is_the_one_that_is_asked_next() -> None:
    made = workflow()
    names = made.node_signal_names

    def level(state: Progress) -> list[str]:
        (row,) = made.signals([state])
        return [n for n, v in zip(names, row.tolist(), strict=True) if v and n.startswith("next_")]

    assert level(situation(made)) == ["next_add2"]
    assert level(situation(made, (CHEAP, "65"))) == ["next_mul2"]
    assert level(situation(made, (CHEAP, "65"), (CHEAP, "190"))) == ["next_add2"]
    (row,) = made.signals([situation(made, (CHEAP, "65"))])
    found = dict(zip(names, row.tolist(), strict=True))
    assert (found["left_add"], found["left_mul"]) == (0.0, 1 / 8)
    assert (found["task_add"], found["task_mul"], found["task_digits_1"]) == (1 / 8, 1 / 8, 2 / 8)


def test_the_end_is_known_by_its_result() -> None:
    made = workflow()
    solved = [
        situation(made, (CHEAP, "65"), (DEAR, "65"), (DEAR, "195")),
        situation(made, (CHEAP, "65"), (CHEAP, "190"), (DEAR, "65"), (DEAR, "195")),
    ]
    assert made.encode(solved) == ["= 195", "= 195"]
    assert solved[0] == solved[1]
    failed = situation(made, (CHEAP, "65"), (CHEAP, "190"), (WRONG, "66"), (WRONG, "198"))
    stopped = situation(made, (CHEAP, "65"), (STOP, ""))
    assert made.encode([failed, stopped]) == ["= ", "= "]
    status, score = made.outcome([*solved, failed, stopped], TASK)
    assert status.tolist() == [TERMINATED] * 4
    assert score.tolist() == [1.0, 1.0, 0.0, 0.0]
    assert [seen(made, state) for state in (*solved, failed, stopped)] == [{}] * 4


@pytest.mark.parametrize(
    "moves",
    [
        (),
        ((CHEAP, "65"),),
        ((CHEAP, "?"), (CHEAP, "65")),
        ((CHEAP, "65"), (CHEAP, "190")),
        ((CHEAP, "65"), (WRONG, "66")),
        ((MUMBLES, "?"), (CHEAP, "65"), (CHEAP, "?")),
        ((CHEAP, "65"), (DEAR, "65"), (DEAR, "195")),
        ((STOP, ""),),
    ],
    ids=str,
)
def test_situations_survive_being_written_down(moves: tuple[tuple[int, str], ...]) -> None:
    made = workflow()
    state = situation(made, *moves)
    assert made.decode(TASK, [0], [state.step], made.encode([state])) == [state]


def test_names_of_the_feedback_are_columns() -> None:
    names = workflow().node_signal_names
    assert [n for n in names if n.startswith("feedback_")] == [f"feedback_{name}" for name in FEEDBACK]
    assert len(set(names)) == len(names)


# -- recordings ----------------------------------------------------------------------------------
def test_files_keep_who_may_take_over(tmp_path: Path) -> None:
    """A file knows that an arm is not legal from one that was not recorded, also of a part of it."""
    recording = record()
    loaded = Recording.load(recording.save(tmp_path / "whole"))
    assert loaded.graph.complete
    assert not loaded.closed
    graph = loaded.graph
    last = graph.node_last.astype(bool)
    assert last.any()
    assert np.array_equal((~np.isnan(graph.node_reserve[last])).sum(axis=1), np.full(last.sum(), 2))
    pool, made = Pool(Script([])), workflow()
    grown = start_recording("attempts", made, pool, TASK)
    expander = Expander(made, pool, grown)
    expander.expand([0], [CHEAP])
    expander.expand([grown.graph.edges["next"][0]], [WRONG])
    grown.fix_scales()
    again = Recording.load(grown.save(tmp_path / "part"))
    masks = ~np.isnan(again.graph.node_reserve[again.graph.node_status == OPEN])
    assert sorted(map(tuple, masks.tolist())) == [(False, True, False, False, True), *[(True,) * 5] * 2]
    explore(Expander(made, pool, again))
    assert again.graph.complete
    assert again.graph.n_edges == graph.n_edges


def test_merged_and_smaller_recordings_keep_who_may_take_over() -> None:
    recording = record()
    assert merge_recordings([recording, recording], "both").graph.complete
    smaller = keep_arms(recording, ["dear/t", "cheap/t"])
    assert smaller.graph.complete
    env = RoutingEnv(smaller, split="all")
    play(env, [1, 0])  # cheap, then dear
    assert env.action_masks().tolist() == [True, False, True]
    *_, info = env.step(0)
    assert info["score"] == 1.0


def test_trials_are_drawn() -> None:
    """Several samples of an arm are several trials: one that fails may be tried again and succeed."""
    recording = helpers.build("attempts", 20, samples={"m0/direct": 3, "m1/direct": 2})
    env = RoutingEnv(recording, split="all", lambda_=0.0)
    found = set()
    for seed in range(400):
        env.reset(seed=seed)
        done, begun, steps = False, 0, 0
        while not done:
            *_, done, _, info = env.step(0)
            steps += 1
            graph = recording.graph
            begun += not done and graph.node_running[env.vector.node[0]] < 0
        found.add((begun, info["score"]))
    assert {(0, 1.0), (1, 0.0), (1, 1.0)} == found


def test_the_shipped_recording_repeats_a_failure() -> None:
    """What its docstring says: asked again, an arm fails again and is paid again."""
    env = RoutingEnv("attempts", split="test")
    failed = 0
    for task in env.recording.task_ids[env.recording.split("test")[:40]]:
        env.reset(options={"task_id": task})
        costs: list[float] = []
        terminated = False
        while not terminated:
            _, _, terminated, _, info = env.step(2)
            costs.append(info["cost_usd"])
        if info["score"] == 0.0:
            failed += 1
            half = len(costs) // 2
            assert costs[:half] == costs[half:]
    assert failed > 5
