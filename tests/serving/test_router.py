"""A router sees what the environment shows, and charges what it charges."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from helpers import KINDS, SimulatedPool, build, legal_actions, same, tasks_of, workflow_of

import routegym
from routegym.core import RoutingEnv
from routegym.envs.cascade import CascadeWorkflow
from routegym.errors import (
    ActionError,
    BudgetError,
    ConfigError,
    PoolError,
    RecordingError,
    RunError,
    ServerFailedError,
)
from routegym.graph import Expander, Recording, start_recording
from routegym.graph.imports import RoutingData, to_recording
from routegym.graph.imports.workflow import Turn
from routegym.graph.merge import merge_recordings
from routegym.pool.backend import Attempt, Failure, Request, Response
from routegym.serving import Router
from routegym.serving.router import rules_of


class Watched:
    """A policy that acts at random and keeps what it saw."""

    def __init__(self, form: str = "flat", seed: int = 0) -> None:
        self.observation, self.seen, self._rng = form, [], np.random.default_rng(seed)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        action_masks: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[npt.NDArray[np.int64], Any]:
        assert action_masks is not None
        assert episode_start is not None
        assert episode_start[0] == (state is None)
        self.seen.append((observation, action_masks))
        return legal_actions(self._rng, action_masks), "remembered"


class Answers:
    """A pool's backend that keeps its answers, so that a route gets those that the environment got."""

    def __init__(self, pool: Any) -> None:
        self._backend, self.known = pool.backend, {}

    def count_prompt_tokens(self, requests: Sequence[Request]) -> list[int]:
        return list(self._backend.count_prompt_tokens(requests))

    def generate(self, requests: Sequence[Request], on_result: Any = None) -> list[Any]:
        answers = self._backend.generate(requests)
        self.known |= {(r.arm.name, r.prompt): a for r, a in zip(requests, answers, strict=True)}
        return list(answers)


def live(kind: str, embedding: str | None = None) -> tuple[Recording, Expander, Answers]:
    pool = SimulatedPool()
    answers = Answers(pool)
    pool.backend = answers  # type: ignore[assignment]
    tasks = tasks_of(kind, 40)
    if embedding is not None:
        tasks = tasks.with_embedding(embedding, dims=4)
    workflow = workflow_of(kind, pool)
    recording = start_recording(kind, workflow, pool, tasks)
    expander = Expander(workflow, pool, recording)
    recording.fix_scales()
    return recording, expander, answers


@pytest.mark.parametrize("form", ["flat", "text"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_route_shows_the_policy_what_the_environment_shows_it(kind: str, form: str) -> None:
    recording, expander, answers = live(kind, "hashing")
    policy = Watched(form)
    router = Router(recording, policy, expander.workflow, pool=expander.pool)
    low, high = recording.budget_range_usd
    env = RoutingEnv(recording, expander=expander, observation=form, split="all")
    ended = set()
    for episode in range(60):
        task = episode % len(recording.tasks)
        budget = float(np.random.default_rng(episode).uniform(low, high))
        options = {"task_id": task, "budget_usd": budget, "lambda": episode / 40}
        seen, _ = env.reset(seed=episode, options=options)
        route = router.start(recording.tasks.prompts[task], budget, episode / 40)
        over = False
        while not over:
            masks = env.action_masks()
            name = route.next()
            shown, legal = policy.seen[-1]
            first = {key: part[0] for key, part in shown.items()} if form == "text" else shown[0]
            assert same(first, seen)
            assert same(legal[0], masks)
            decision = route.decisions[-1]
            seen, _, terminated, truncated, info = env.step(decision.action)
            over = terminated or truncated
            if name is not None:
                response = answers.known[name, route.request.prompt]
                solved = over and info["score"] == 1.0 if recording.tells_success else None
                route.observe(response, solved)
            assert route.spent_usd == pytest.approx(info["cost_usd_total"], rel=1e-12)
            assert route.spent_usd <= budget
            assert (route.next() is None and bool(route.outcome)) == over if over else route.outcome == ""
        ended.add(route.outcome)
        assert sum(route.costs_usd) == pytest.approx(route.spent_usd, rel=1e-12)
        assert len(route.costs_usd) == len(route.decisions)
    assert "done" in ended


def table(verdict: bool, trials: bool = False) -> RoutingData:
    rng = np.random.default_rng(0)
    rows = [(q, a, t) for q in range(40) for a in range(3) for t in range(2 if trials and a == 0 else 1)]
    responses = {
        "query": [f"q{q}" for q, _, _ in rows],
        "arm": [f"arm{a}" for _, a, _ in rows],
        "score": rng.integers(0, 2, len(rows)).astype(float).tolist(),
        "cost_usd": [0.001 * (a + 1) for _, a, _ in rows],
        "prompt_tokens": rng.integers(10, 3000, len(rows)).tolist(),
        "completion_tokens": rng.integers(1, 300, len(rows)).tolist(),
    }
    if trials:
        responses["trial"] = [t for _, _, t in rows]
    queries = {"query": [f"q{q}" for q in range(40)], "prompt": [f"what is {q} plus {q * q}?" for q in range(40)]}
    return RoutingData(
        name="table", responses=pa.table(responses), queries=pa.table(queries), prices={}, verdict=verdict
    )


def test_merged_imports_keep_their_rules() -> None:
    recording = to_recording(table(verdict=True), "cascade", most_attempts=2, text="none").recording
    merged = merge_recordings([recording, recording], "both")
    route = Router(merged, Watched(), rules_of(merged)).start("what is 1 plus 1?")
    for _ in range(2):
        assert route.next() is not None
        route.observe(Response("", (10, 0, 1, 0), 0.0, 0.0, 0.0), solved=False, cost_usd=0.001)
    assert route.next() is None
    other = to_recording(table(verdict=True), "cascade", most_attempts=3, text="none").recording
    with pytest.raises(RecordingError):
        merge_recordings([recording, other], "both")


@pytest.mark.parametrize("form", ["flat", "text"])
@pytest.mark.parametrize(
    ("kind", "verdict", "trials"),
    [("single_call", False, False), ("cascade", False, False), ("cascade", True, False), ("cascade", True, True)],
)
def test_a_route_on_imported_data_shows_what_the_environment_shows(
    kind: Any, verdict: bool, trials: bool, form: str
) -> None:
    recording = to_recording(table(verdict, trials), kind, dims=6).recording
    policy = Watched(form)
    router = Router(recording, policy, rules_of(recording))
    env = RoutingEnv(recording, observation=form, split="all")
    low, high = recording.budget_range_usd
    for episode in range(60):
        task = episode % len(recording.tasks)
        budget = float(np.random.default_rng(episode).uniform(low, 1.2 * high))
        seen, _ = env.reset(seed=episode, options={"task_id": task, "budget_usd": budget, "lambda": 0.3})
        route = router.start(recording.tasks.prompts[task], budget, 0.3)
        over = False
        while not over:
            name = route.next()
            shown, legal = policy.seen[-1]
            own = {key: part[0] for key, part in shown.items()} if form == "text" else shown[0]
            flat, theirs = (own["flat"], seen["flat"]) if form == "text" else (own, seen)
            np.testing.assert_allclose(
                flat, theirs, atol=1e-6
            )  # of one prompt at a time, an embedding rounds otherwise
            assert form == "flat" or own["text"] == seen["text"]
            assert same(legal[0], env.action_masks())
            seen, _, terminated, truncated, info = env.step(route.decisions[-1].action)
            over = terminated or truncated
            if name is not None:
                tokens = (info["prompt_tokens"], 0, info["completion_tokens"], 0)
                edge_usd = info["cost_usd"]
                response = Response("", tokens, 0.0, 0.0, 0.0)
                solved = (over and info["score"] == 1.0) if verdict else None
                route.observe(response, solved, cost_usd=edge_usd)
            assert (route.next() is None) == over if over else route.outcome == ""
            assert route.spent_usd == pytest.approx(info["cost_usd_total"])


def watched(verdict: bool, feedback: bool, rewards: bool) -> RoutingData:
    """Attempts of one to three turns, of three arms."""
    rng = np.random.default_rng(1)
    pairs = [(q, a) for q in range(30) for a in range(3)]
    turns = [(q, a, t) for q, a in pairs for t in range(int(rng.integers(1, 4)))]
    score = {pair: float(rng.random() < 0.4) for pair in pairs}
    responses = {
        "query": [f"q{q}" for q, _ in pairs],
        "arm": [f"arm{a}" for _, a in pairs],
        "score": [score[pair] for pair in pairs],
        "cost_usd": [0.001 * (a + 1) * sum(t[:2] == (q, a) for t in turns) for q, a in pairs],
    }
    steps: dict[str, Any] = {
        "query": [f"q{q}" for q, _, _ in turns],
        "arm": [f"arm{a}" for _, a, _ in turns],
        "turn": [t for _, _, t in turns],
        "cost_usd": [0.001 * (a + 1) for _, a, _ in turns],
        "prompt_tokens": rng.integers(10, 3000, len(turns)).tolist(),
        "completion_tokens": rng.integers(1, 300, len(turns)).tolist(),
    }
    steps["feedback"] = rng.choice(["ok", "error"], len(turns)).tolist() if feedback else ["none"] * len(turns)
    if rewards:
        steps["reward"] = rng.random(len(turns)).round(3).tolist()
    queries = {"query": [f"q{q}" for q in range(30)], "prompt": [f"what is {q} plus {q * q}?" for q in range(30)]}
    return RoutingData("turns", pa.table(responses), pa.table(queries), turns=pa.table(steps), verdict=verdict)


@pytest.mark.parametrize("form", ["flat", "text"])
@pytest.mark.parametrize(
    ("verdict", "feedback", "rewards"), [(True, True, True), (True, True, False), (False, False, True)]
)
def test_turns_of_imported_attempts_are_fed_back(verdict: bool, feedback: bool, rewards: bool, form: str) -> None:
    data = watched(verdict, feedback, rewards)
    recording = to_recording(data, "attempts", dims=6, most_attempts=2).recording
    assert data.turns is not None
    told = {(row["query"], row["arm"], row["turn"]): row for row in data.turns.to_pylist()}
    policy = Watched(form)
    router = Router(recording, policy, rules_of(recording))
    env = RoutingEnv(recording, observation=form, split="all")
    place = {name: column for column, name in enumerate(recording.node_signal_names)}
    low, high = recording.budget_range_usd
    for episode in range(90):
        task = episode % len(recording.tasks)
        budget = float(np.random.default_rng(episode).uniform(low, 1.2 * high))
        seen, _ = env.reset(seed=episode, options={"task_id": task, "budget_usd": budget, "lambda": 0.3})
        route = router.start(recording.tasks.prompts[task], budget, 0.3)
        over, turn, at_work = False, 0, None
        while not over:
            name = route.next()
            shown, legal = policy.seen[-1]
            own = {key: part[0] for key, part in shown.items()} if form == "text" else shown[0]
            flat, theirs = (own["flat"], seen["flat"]) if form == "text" else (own, seen)
            np.testing.assert_allclose(flat, theirs, atol=1e-6)
            assert form == "flat" or own["text"] == seen["text"]
            assert same(legal[0], env.action_masks())
            seen, _, terminated, truncated, info = env.step(route.decisions[-1].action)
            over = terminated or truncated
            if name is not None:
                turn, at_work = (turn + 1 if name == at_work else 0), name
                row = told[recording.tasks.ids[task], name, turn]
                flat = seen["flat"] if form == "text" else seen
                ended = over or not flat[place[f"running_{name}"]]
                at_work = None if ended else name
                response = Turn(
                    "",
                    (row["prompt_tokens"], 0, row["completion_tokens"], 0),
                    *(0.0, 0.0, 0.0),
                    feedback=row["feedback"],
                    reward=row.get("reward", 0.0),
                    over=bool(ended),
                )
                solved = bool(over and info["score"] == 1.0) if verdict else None
                route.observe(response, solved, cost_usd=info["cost_usd"])
            assert (route.next() is None) == over if over else route.outcome == ""
            assert route.spent_usd == pytest.approx(info["cost_usd_total"])
    route = router.start("how far?", 1.0)
    while route.next() is None:
        route = router.start("how far?", 1.0)
    with pytest.raises(ConfigError, match="is no Turn"):
        route.observe(Response("", (1, 0, 1, 0), 0.0, 0.0, 0.0), False if verdict else None)


def test_a_call_may_be_charged_what_its_bill_says(tmp_path: Path) -> None:
    """Where the data stated dollars, tokens have no price: the caller knows what was charged."""
    recording = to_recording(table(False), "single_call", dims=4).recording
    route = Router(recording, Watched(), rules_of(recording)).start("how far?", 1.0)
    assert route.next() is not None
    route.observe(Response("far", (10, 0, 5, 0), 0.0, 0.0, 0.0), cost_usd=0.0007)
    assert route.spent_usd == 0.0007
    assert route.outcome == "done"
    for bad in (-1.0, float("nan"), float("inf")):
        route = Router(recording, Watched(), rules_of(recording)).start("how far?", 1.0)
        route.next()
        with pytest.raises(BudgetError, match="cost_usd"):
            route.observe(Response("far", (10, 0, 5, 0), 0.0, 0.0, 0.0), cost_usd=bad)


def test_what_does_not_fit_is_refused() -> None:
    recording, expander, _ = live("cascade")
    router = Router(recording, Watched(), expander.workflow, pool=expander.pool)
    with pytest.raises(BudgetError, match="cheapest arm; give at least"):
        router.start("58+7", 1e-12)
    for budget in (0.0, -1.0, float("nan"), "much"):
        with pytest.raises(BudgetError, match="budget_usd"):
            router.start("58+7", budget)  # type: ignore[arg-type]
    with pytest.raises(BudgetError, match="lambda_"):
        router.start("58+7", 1.0, -0.1)
    route = router.start("58+7", 1.0)
    with pytest.raises(ActionError, match="ask next"):
        route.observe(Response("65", (1, 0, 1, 0), 0.0, 0.0, 0.0))
    with pytest.raises(ActionError, match="ask next"):
        _ = route.request
    route.next()
    if route.decisions[-1].action < 3:
        with pytest.raises(ConfigError, match="solved is given"):
            route.observe(Response("65", (1, 0, 1, 0), 0.0, 0.0, 0.0), solved=True)
    with pytest.raises(ConfigError, match="form 'index'"):
        Router(recording, Watched("index"), expander.workflow)
    with pytest.raises(ConfigError, match="explore = 2"):
        Router(recording, Watched(), expander.workflow, explore=2)
    other, its, _ = live("single_call")
    with pytest.raises(ConfigError, match="other node signals than the workflow"):
        Router(other, Watched(), expander.workflow)
    foreign = replace(other, tasks=replace(other.tasks.with_embedding("hashing", dims=3), embedder="by hand"))
    with pytest.raises(RunError, match="not known here"):
        Router(foreign, Watched(), its.workflow)
    halved = replace(other, tasks=other.tasks.with_embedding("hashing", dims=3))
    halved = replace(halved, tasks=replace(halved.tasks, embedding=halved.tasks.embedding / 2))
    with pytest.raises(RunError, match="gives other numbers"):
        Router(halved, Watched(), its.workflow)


def test_a_failed_call_ends_the_route_and_is_charged() -> None:
    recording, expander, _ = live("single_call")
    router = Router(recording, Watched(), expander.workflow)
    route = router.start("58+7")
    name = route.next()
    assert name is not None
    attempts = (Attempt(name, "ServerFailedError", "it broke", (8, 0, 4, 0)),) * 2
    route.fail(Failure(ServerFailedError("it broke"), attempts))
    price = {f"m{i}/direct": 10.0**i for i in range(3)}[name]
    assert route.spent_usd == pytest.approx(2 * (8 * price + 4 * 4 * price) / 1e6)
    assert route.outcome == "failed"
    assert route.next() is None


def test_the_environment_says_when_it_is_solved() -> None:
    recording = to_recording(table(True), "cascade", dims=4).recording
    router = Router(recording, Watched(), rules_of(recording))
    for seed in range(20):
        route = router.start(f"what is {seed}?", 1.0)
        if route.next() is None:
            continue
        with pytest.raises(ConfigError, match="solved is missing"):
            route.observe(Response("", (1, 0, 1, 0), 0.0, 0.0, 0.0))
        route.observe(Response("", (1, 0, 1, 0), 0.0, 0.0, 0.0), solved=True)
        assert route.outcome == "done"
        assert route.next() is None


def test_exploring_is_logged_with_its_probability() -> None:
    recording, expander, _ = live("single_call")

    class Greedy(Watched):
        def predict(self, *args: Any, **kwargs: Any) -> Any:
            return np.array([1]), None

    router = Router(recording, Greedy(), expander.workflow, explore=0.3, seed=1)
    found = []
    for _ in range(3000):
        route = router.start("58+7")
        route.next()
        found.append((route.decisions[0].action, route.decisions[0].propensity))
    assert {(action, round(chance, 9)) for action, chance in found} == {(0, 0.1), (1, 0.8), (2, 0.1)}
    share = np.mean([action == 1 for action, _ in found])
    assert abs(share - 0.8) < 4 * np.sqrt(0.16 / 3000)


def test_threads_share_a_router() -> None:
    """Each route is its own, whatever the others do at the same time; a policy is asked one thing at a time."""
    recording, expander, _ = live("cascade")

    def play(router: Router, number: int) -> tuple[list[int], float]:
        pool = SimulatedPool()
        route = router.start(recording.tasks.prompts[number % 40], 1.0)
        while route.next() is not None:
            route.observe(pool.backend.generate([route.request])[0])  # type: ignore[arg-type]
        return [decision.action for decision in route.decisions], route.spent_usd

    class Alone(Watched):
        busy = False

        def predict(self, observation: Any, *args: Any, **kwargs: Any) -> Any:
            assert not self.busy
            self.busy = True
            time.sleep(1e-4)  # lets another thread go on
            self.busy = False
            return np.array([int(1e4 * observation.sum()) % 4]), None

    router = Router(recording, Alone(), expander.workflow, pool=expander.pool)
    alone = [play(router, number) for number in range(100)]
    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(lambda number: play(router, number), range(100))) == alone


def test_a_policy_that_chooses_what_is_not_legal_is_told() -> None:
    recording, expander, _ = live("cascade")

    class Greedy(Watched):
        def predict(self, *args: Any, **kwargs: Any) -> Any:
            return np.array([2]), None

    router = Router(recording, Greedy(), expander.workflow, pool=expander.pool)
    with pytest.raises(ActionError, match="'m2/direct', which is not legal"):
        router.start("58+7", 30e-6).next()


def test_policies_that_draw_say_how_likely_their_choice_was_or_nothing() -> None:
    from routegym.policies.baselines import Random

    recording, expander, _ = live("single_call")

    class Mixed(Watched):
        draws = True

        def probabilities(self, observation: Any, action_masks: Any) -> Any:
            return np.array([[0.5, 0.2, 0.3]], dtype=np.float32)

    def chances(policy: Any, explore: float) -> set[tuple[int, float]]:
        router = Router(recording, policy, expander.workflow, explore=explore)
        routes = [router.start("58+7") for _ in range(200)]
        for route in routes:
            route.next()
        return {(route.decisions[0].action, round(route.decisions[0].propensity, 6)) for route in routes}

    assert chances(Mixed(), 0.0) == {(0, 0.5), (1, 0.2), (2, 0.3)}
    assert chances(Mixed(), 0.3) == {(0, 0.45), (1, 0.24), (2, 0.31)}
    assert all(np.isnan(chance) for _, chance in chances(Random(recording), 0.0))


def test_what_was_told_wrongly_can_be_told_again() -> None:
    data = watched(True, True, True)
    recording = to_recording(data, "attempts", dims=6, most_attempts=2).recording
    router = Router(recording, Watched(), rules_of(recording))
    route = router.start("how far?", 1.0)
    while route.next() is None:
        route = router.start("how far?", 1.0)
    before = route.decisions[-1]
    with pytest.raises(ConfigError, match="feedback = 'typo'"):
        route.observe(Turn("", (1, 0, 1, 0), 0.0, 0.0, 0.0, feedback="typo"), False, cost_usd=0.1)
    assert (route.spent_usd, route.decisions[-1]) == (0.0, before)
    route.observe(Turn("", (1, 0, 1, 0), 0.0, 0.0, 0.0, feedback="ok"), False, cost_usd=0.1)
    assert route.spent_usd == 0.1


def test_rules_with_other_limits_are_told() -> None:
    recording = build("cascade", 12)
    with pytest.raises(ConfigError, match="other limits"):
        Router(recording, Watched(), CascadeWorkflow([arm.name for arm in recording.arms], most_calls=5))


def test_a_fallback_that_the_policy_does_not_know_is_refused() -> None:
    recording, expander, _ = live("cascade")
    pool = SimulatedPool()
    pool.arms = (*(replace(arm, fallback="spare/direct") for arm in pool.arms), replace(pool.arms[0], model="spare"))
    with pytest.raises(PoolError, match="falls back to spare/direct, which the policy does not know"):
        Router(recording, Watched(), expander.workflow, pool=pool)


def test_it_is_loaded_from_a_run(tmp_path: Path) -> None:
    from routegym.cli.main import main

    run = tmp_path / "run"
    main(
        [
            *["train", "--env", "routegym/Cascade-v0", "--algo", "all_action", "--set", "updates=2", "--seeds", "2"],
            "--no-evaluate",
            "--out",
            str(run),
        ]
    )
    router = routegym.load_router(run)
    route = router.start("58*7", budget_usd=1.0)
    assert route.next() in {arm.name for arm in router.arms} | {None}
    assert routegym.load_router(run, seed=1).arms == router.arms
    with pytest.raises(RunError, match="no policy of seed 7; it has 0, 1"):
        routegym.load_router(run, seed=7)
    with pytest.raises(RunError, match="no such file"):
        routegym.load_router(tmp_path / "other")
