"""Families by hand: what each answer leads to, what may be seen of it, and how it is written down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest

from routegym.core import RoutingEnv
from routegym.envs.agent_steps import AgentStepsWorkflow
from routegym.envs.cascade import CascadeWorkflow
from routegym.envs.single_call import SingleCallWorkflow
from routegym.errors import TaskError
from routegym.graph import OPEN, TERMINATED, TRUNCATED, Expander, Recording, explore, start_recording
from routegym.pool.arms import Arm
from routegym.pool.backend import Response
from routegym.tasks import TaskSet

ARMS = (Arm("a", "t", 1, 4), Arm("b", "t", 1, 4))


def tasks(*pairs: tuple[str, str]) -> TaskSet:
    return TaskSet(
        tuple(f"t{i}" for i in range(len(pairs))),
        tuple(prompt for prompt, _ in pairs),
        tuple(answer for _, answer in pairs),
        ("train",) * len(pairs),
    )


def answer(text: str, logprob: float = 0.0, agreement: float = 1.0) -> Response:
    return Response(text, (1, 0, 1, 0), 0.0, 0.0, logprob, agreement)


def follow(workflow: Any, task_set: TaskSet, *moves: tuple[Arm | str, str | Response | None]) -> Any:
    """The situation after these answers to the first task."""
    (state,) = workflow.start(task_set, [0])
    for action, text in moves:
        response = answer(text) if isinstance(text, str) else text
        (state,) = workflow.advance([state], [action], [response])
    return state


def outcome(workflow: Any, task_set: TaskSet, state: Any) -> tuple[int, Any]:
    status, score = workflow.outcome([state], task_set)
    return int(status[0]), float(score[0])


def seen(workflow: Any, state: Any) -> dict[str, Any]:
    (row,) = workflow.signals([state])
    assert row.min() >= 0.0
    assert row.max() <= 1.0
    return dict(zip(workflow.node_signal_names, row.tolist(), strict=True))


# -- agent steps -------------------------------------------------------------------------------
STEPS = AgentStepsWorkflow()
EXPRESSION = tasks(("((7+58)*(9-4))", "325"))


def test_agent_steps_asks_for_the_next_operation() -> None:
    state = follow(STEPS, EXPRESSION)
    assert [r.prompt for r in STEPS.requests([state, state], ARMS)] == ["7+58"] * 2
    assert [r.arm for r in STEPS.requests([state, state], ARMS)] == list(ARMS)
    state = follow(STEPS, EXPRESSION, (ARMS[0], "65"))
    assert (state.text, STEPS.requests([state], ARMS[:1])[0].prompt) == ("(65*(9-4))", "9-4")


@pytest.mark.parametrize(
    ("answers", "status", "score", "text"),
    [
        (["65", "5", "325"], TERMINATED, 1.0, "325"),
        (["65", "5", "324"], TERMINATED, 0.0, "324"),
        (["60", "5", "300"], TERMINATED, 0.0, "300"),  # ruined at the first step
        (["65", "5"], OPEN, np.nan, "(65*5)"),
        (["x", "65", "", "5", "325"], TERMINATED, 1.0, "325"),  # two wasted calls are survived
        (["x", "65", "007", "5", "1000"], TRUNCATED, 0.0, "(65*5)"),  # the third truncates
        (["-1", " 65", "65 "], TRUNCATED, 0.0, "((7+58)*(9-4))"),
    ],
    ids=str,
)
def test_agent_steps_episodes(answers: list[str], status: int, score: float, text: str) -> None:
    moves = [(ARMS[0], one) for one in answers]
    for count in range(len(moves)):
        assert outcome(STEPS, EXPRESSION, follow(STEPS, EXPRESSION, *moves[:count]))[0] == OPEN
    state = follow(STEPS, EXPRESSION, *moves)
    assert state.text == text
    assert state.step == len(answers)
    assert outcome(STEPS, EXPRESSION, state) == (status, pytest.approx(score, nan_ok=True))


def test_agent_steps_survives_as_many_wasted_calls_as_it_is_told() -> None:
    workflow = AgentStepsWorkflow(most_wasted=0)
    assert outcome(workflow, EXPRESSION, follow(workflow, EXPRESSION, (ARMS[0], "?")))[0] == TRUNCATED


def test_agent_steps_signals() -> None:
    signals = seen(STEPS, follow(STEPS, EXPRESSION, (ARMS[0], "?")))
    assert signals["next_add2"] == 1.0
    assert sum(value for name, value in signals.items() if name.startswith("next_")) == 1.0
    assert [signals[f"left_{name}"] for name in ("add", "sub", "mul")] == [1 / 8, 1 / 8, 1 / 8]
    assert [signals[f"left_digits_{n}"] for n in (1, 2, 3)] == [3 / 8, 1 / 8, 0]
    assert signals["wasted"] == pytest.approx(1 / 3)
    assert seen(STEPS, follow(STEPS, EXPRESSION))["wasted"] == 0.0


def test_response_signals() -> None:
    responses = [answer("65", np.log(0.5)), answer("x", np.log(0.5), 0.5), answer("1000", 0.0)]
    assert STEPS.response_signals(responses) == pytest.approx(np.array([[0.5, 1], [0.25, 0], [1, 0]]))
    assert CascadeWorkflow(["a/t"]).response_signals([answer("")]).tolist() == [[1.0, 0.0]]
    assert STEPS.response_signals([]).shape == (0, 2)
    assert STEPS.response_signals([answer("1", 3.0)])[0, 0] == 1.0  # a positive log-probability counts as 0


# -- cascade -----------------------------------------------------------------------------------
CASCADE = CascadeWorkflow([arm.name for arm in ARMS])
PRODUCT = tasks(("58*7", "406"))


@pytest.mark.parametrize(
    ("moves", "status", "score"),
    [
        ([(ARMS[0], "406"), ("accept", None)], TERMINATED, 1.0),
        ([(ARMS[0], "416"), ("accept", None)], TERMINATED, 0.0),
        ([(ARMS[0], "416"), (ARMS[1], "406"), ("accept", None)], TERMINATED, 1.0),  # the last answer counts
        ([(ARMS[0], "406"), (ARMS[1], "416"), ("accept", None)], TERMINATED, 0.0),
        ([("accept", None)], TERMINATED, 0.0),  # nothing is handed in
        ([(ARMS[0], "1"), (ARMS[0], "2")], OPEN, np.nan),
        ([(ARMS[0], "1"), (ARMS[0], "2"), (ARMS[1], "406")], TERMINATED, 1.0),  # the third call is taken as it is
    ],
    ids=str,
)
def test_cascade_episodes(moves: list[Any], status: int, score: float) -> None:
    for count in range(len(moves)):
        assert outcome(CASCADE, PRODUCT, follow(CASCADE, PRODUCT, *moves[:count]))[0] == OPEN
    state = follow(CASCADE, PRODUCT, *moves)
    assert state.step == len(moves)
    assert outcome(CASCADE, PRODUCT, state) == (status, pytest.approx(score, nan_ok=True))


def test_cascade_signals() -> None:
    before = seen(CASCADE, follow(CASCADE, PRODUCT))
    assert {name for name, value in before.items() if value} == {"level_mul2"}
    moves = [(ARMS[0], answer("416", np.log(0.9))), (ARMS[0], answer("9", np.log(0.4)))]
    wrong = seen(CASCADE, follow(CASCADE, PRODUCT, *moves[:1]))
    assert wrong["verdict_passed"] == 1.0, "the last digit of 416 is right: the verifier is fooled"
    assert (wrong["confidence"], wrong["best_confidence"]) == (pytest.approx(0.9), pytest.approx(0.9))
    signals = seen(CASCADE, follow(CASCADE, PRODUCT, *moves))
    assert (signals["verdict_passed"], signals["verdict_failed"]) == (0.0, 1.0)
    assert (signals["confidence"], signals["best_confidence"]) == (pytest.approx(0.4), pytest.approx(0.9))
    assert (signals["agreement"], signals["length"]) == (0.5, 1 / 8)
    assert signals["calls"] == pytest.approx(2 / 3)
    assert (signals["tried_a/t"], signals["tried_b/t"]) == (1.0, 0.0)
    agreed = seen(CASCADE, follow(CASCADE, PRODUCT, (ARMS[0], "406"), (ARMS[1], "406")))
    assert (agreed["agreement"], agreed["tried_b/t"]) == (1.0, 1.0)


def test_a_closed_cascade_is_known_by_its_answer() -> None:
    """Situations that are one node of the graph show the same, by whatever way they were reached."""
    short = follow(CASCADE, PRODUCT, (ARMS[0], "1"), (ARMS[0], "7"), ("accept", None))
    long = follow(CASCADE, PRODUCT, (ARMS[0], "2"), (ARMS[1], answer("7", -2.0)), ("accept", None))
    assert CASCADE.encode([short]) == CASCADE.encode([long]) == ["= 7"]
    assert seen(CASCADE, short) == seen(CASCADE, long)


def test_cascade_arms_do_not_see_other_answers() -> None:
    state = follow(CASCADE, PRODUCT, (ARMS[0], "416"))
    assert [request.prompt for request in CASCADE.requests([state], ARMS[1:])] == ["58*7"]


# -- single call -------------------------------------------------------------------------------
SINGLE = SingleCallWorkflow()


@pytest.mark.parametrize(("text", "score"), [("406", 1.0), ("405", 0.0), ("", 0.0), (" 406", 0.0), ("0406", 0.0)])
def test_single_call_episodes(text: str, score: float) -> None:
    state = follow(SINGLE, PRODUCT, (ARMS[0], text))
    assert outcome(SINGLE, PRODUCT, state) == (TERMINATED, score)
    assert outcome(SINGLE, PRODUCT, follow(SINGLE, PRODUCT))[0] == OPEN
    assert seen(SINGLE, follow(SINGLE, PRODUCT))["level_mul2"] == 1.0


# -- what is written can be read ---------------------------------------------------------------
STATES = [
    (STEPS, EXPRESSION, ()),
    (STEPS, EXPRESSION, ((ARMS[0], "65"),)),
    (STEPS, EXPRESSION, ((ARMS[0], "x"), (ARMS[1], "1"))),
    (CASCADE, PRODUCT, ()),
    (CASCADE, PRODUCT, ((ARMS[0], answer("4\"'\\\u202e,[]", -0.3)),)),
    (CASCADE, PRODUCT, ((ARMS[0], ""), (ARMS[1], "= 5"))),
    (SINGLE, PRODUCT, ()),
    (SINGLE, PRODUCT, ((ARMS[0], "= 5"),)),
    (SINGLE, PRODUCT, ((ARMS[0], ""),)),
]


@pytest.mark.parametrize(("workflow", "task_set", "moves"), STATES, ids=map(str, range(len(STATES))))
def test_open_situations_survive_being_written_down(workflow: Any, task_set: TaskSet, moves: Any) -> None:
    state = follow(workflow, task_set, *moves)
    (text,) = workflow.encode([state])
    assert workflow.decode(task_set, [0], [state.step], [text]) == [state]


@pytest.mark.parametrize("source", [kind + end for kind in helpers.KINDS for end in ("", "_sampled")])
def test_recorded_situations_mean_what_they_meant(recordings: dict[str, Path], source: str) -> None:
    """Decoded from its text, every recorded situation has the same text, outcome and signals again."""
    recording = Recording.load(recordings[source])
    workflow = helpers.workflow_of(recording.kind, helpers.SimulatedPool())
    graph = recording.graph
    texts = list(recording.texts)
    states = workflow.decode(recording.tasks, graph.node_task.tolist(), graph.node_step.tolist(), texts)
    assert workflow.encode(states) == texts
    status, score = workflow.outcome(states, recording.tasks)
    assert np.array_equal(status, graph.node_status)
    assert np.array_equal(score, graph.node_score, equal_nan=True)
    assert np.array_equal(workflow.signals(states), graph.node_signals)


# -- leaks -------------------------------------------------------------------------------------
@pytest.mark.parametrize("planted", range(20))
def test_prompts_in_two_splits_are_found(planted: int) -> None:
    """R-26: each of twenty planted leaks is refused."""
    clean = helpers.tasks_of("agent_steps", 60, seed=planted)
    rng = np.random.default_rng(planted)
    splits = np.array(clean.splits)
    source = int(rng.choice(np.flatnonzero(splits == "train")))
    target = int(rng.choice(np.flatnonzero(splits != "train")))
    prompts = list(clean.prompts)
    prompts[target] = prompts[source]
    with pytest.raises(TaskError, match=r"is in split '(train|val|test)' and also in '(train|val|test)'"):
        TaskSet(clean.ids, tuple(prompts), clean.references, clean.splits)


def test_references_are_not_in_what_is_seen() -> None:
    """Other references, same prompts: nothing that is asked or seen in open situations changes."""
    for kind in helpers.KINDS:
        task_set = helpers.tasks_of(kind, 10)
        other = TaskSet(task_set.ids, task_set.prompts, ("?",) * 10, task_set.splits)
        workflow = helpers.workflow_of(kind, helpers.SimulatedPool())
        a, b = (workflow.start(each, range(10)) for each in (task_set, other))
        assert workflow.signals(a).tobytes() == workflow.signals(b).tobytes()
        arms = [helpers.SimulatedPool().arms[0]] * 10
        assert workflow.requests(a, arms) == workflow.requests(b, arms)
        assert workflow.encode(a) == workflow.encode(b)


def test_the_place_of_a_task_is_not_seen() -> None:
    """The same task first or last in the set looks the same."""
    recording = helpers.build("agent_steps", 12)
    tasks_of = recording.tasks
    order = list(range(12))[::-1]
    turned = TaskSet(*(tuple(part[i] for i in order) for part in (tasks_of.ids, tasks_of.prompts, tasks_of.references,
                                                                  tasks_of.splits)))  # fmt: skip
    pool = helpers.SimulatedPool()
    workflow = helpers.workflow_of("agent_steps", pool)
    other = start_recording("agent_steps", workflow, pool, turned)
    explore(Expander(workflow, pool, other))
    other.fix_scales()
    envs = [RoutingEnv(r, split="all") for r in (recording, other)]
    for task_id in tasks_of.ids:
        a, b = (env.reset(options={"task_id": task_id})[0] for env in envs)
        assert helpers.same(a, b)
        while not envs[0].vector._slots.ended[0]:
            x, y = (env.step(1)[:4] for env in envs)
            assert helpers.same(x, y)
