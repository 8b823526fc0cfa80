"""Logs hold what was played, and show it under other budgets as the environment would."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import diagnostics
import helpers
import numpy as np
import pytest

from routegym.errors import BudgetError, ConfigError, RunError
from routegym.graph.recording import Recording
from routegym.policies.algorithm import Problem
from routegym.policies.logs import (
    BANKRUPT,
    CUT,
    ENDED,
    EpisodeLog,
    collect,
    draw_budgets,
    draw_lambdas,
    relabel,
)

ARRAYS = ("observation", "action", "propensity", "legal", "reserve_usd", "cost_usd", "episode", "task", "budget_usd",
          "lambda_", "score", "outcome")  # fmt: skip


class Only:
    """Wants one arm, legal or not."""

    def __init__(self, arm: int) -> None:
        self.arm = arm

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[Any, Any]:  # fmt: skip
        return np.full(len(observation), self.arm), state


def same(one: EpisodeLog, other: EpisodeLog) -> bool:
    return all(getattr(one, name).tobytes() == getattr(other, name).tobytes() for name in ARRAYS)


@pytest.fixture(params=["agent_steps", "cascade"], scope="module")
def recording(request: Any) -> Recording:
    return helpers.build(request.param, 20, samples={"m0/direct": 3, "m1/direct": 2})


def replay(problem: Problem, log: EpisodeLog, seed: int) -> tuple[list[Any], list[Any], Any, Any]:
    """Rows (observation, masks) and ends (score, outcome) that the environment gives for a log's actions.

    The keys of the episodes are those of `collect`, so that they meet the same responses.
    """
    n = len(log)
    env = problem.env(n, autoreset_mode="Disabled")
    observation, _ = env.reset(
        seed=np.random.SeedSequence(seed).generate_state(n).tolist(),
        options={"task_id": log.task, "budget_usd": log.budget_usd, "lambda": log.lambda_},
    )
    seen: list[Any] = [[] for _ in range(n)]
    masks: list[Any] = [[] for _ in range(n)]
    score, over, ended = np.zeros(n), np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    start = np.searchsorted(log.episode, np.arange(n))
    for k in range(int(log.position.max()) + 1):
        legal = env.action_masks()
        has_row = np.bincount(log.episode)[np.arange(n)] > k
        action = legal.argmax(axis=1)
        for i in np.flatnonzero(has_row):
            chosen = log.action[start[i] + k]
            if ended[i]:  # the environment has ended it: nothing can be paid
                assert chosen == -1
                legal[i] = False
                observation[i, env.layout.columns["affordable"]] = 0.0
            seen[i].append(observation[i].tobytes())
            masks[i].append(legal[i].tolist())
            over[i] |= chosen < 0
            action[i] = max(chosen, action[i]) if over[i] else chosen
        if (over | ended).all():
            break
        action = np.where(over, env.action_masks().argmax(axis=1), action)
        observation, _, terminated, truncated, info = env.step(action)
        done = (terminated | truncated) & ~over
        score[done] = info["score"][done]
        ended |= terminated | truncated
    return seen, masks, score, ended & ~over


def rows_of(log: EpisodeLog) -> tuple[list[Any], list[Any]]:
    seen: list[Any] = [[] for _ in range(len(log))]
    masks: list[Any] = [[] for _ in range(len(log))]
    for row, episode in enumerate(log.episode):
        seen[episode].append(log.observation[row].tobytes())
        masks[episode].append(log.legal[row].tolist())
    return seen, masks


@pytest.mark.parametrize("capped", [True, False])
def test_relabelled_episodes_are_what_the_environment_shows(recording: Recording, capped: bool) -> None:
    problem = Problem(recording, budget_usd="sampled" if capped else None)
    log = collect(problem, episodes=300, seed=3)
    rng = np.random.default_rng(0)
    served = Problem(recording)
    budgets, lambdas = draw_budgets(served, 300, rng), draw_lambdas(served, 300, rng)
    budgets[::7] = np.inf
    shown = relabel(log, budgets, lambdas)
    seen, masks, score, _ = replay(served, shown, 3)
    assert (seen, masks) == rows_of(shown)
    np.testing.assert_array_equal(score, shown.score)
    assert {ENDED, CUT} <= set(shown.outcome.tolist())
    # The worst cases that were logged are the environment's, so the masks of the logged budgets come out too.
    assert same(relabel(log, log.budget_usd, log.lambda_), log)
    assert replay(problem, log, 3)[:2] == rows_of(log)


@pytest.mark.parametrize("bounds", [(0.002, 8.0), (0.0, 0.2), 0.5])
def test_prices_are_drawn_as_the_environment_draws_them(recording: Recording, bounds: Any) -> None:
    problem = Problem(recording, lambda_=bounds)
    drawn = draw_lambdas(problem, 2000, np.random.default_rng(0))
    _, info = problem.env(2000).reset(seed=0)
    at = [0.1, 0.3, 0.5, 0.7, 0.9]
    np.testing.assert_allclose(np.quantile(drawn, at), np.quantile(info["lambda"], at), rtol=0.2)


def test_single_calls_are_trained_for_a_wide_range_of_prices(recording: Recording) -> None:
    single = helpers.build("single_call", 20)
    assert Problem(single).lambda_range == (0.002, 8.0)
    assert Problem(recording).lambda_range == (0.0, 0.2)
    assert Problem(single, lambda_=0.5).lambda_range == (0.5, 0.5)


def test_an_episode_ends_where_its_action_cannot_be_paid(toy: Any) -> None:
    recording = toy()  # calls cost 8, 1, 3 USD and reserve 10, 2, 4; three calls; score = share of the first arm
    log = collect(Problem(recording, budget_usd=None, lambda_=0.0), Only(0), 2, epsilon=0.0)
    assert log.action.tolist() == [0] * 6
    assert log.score.tolist() == [1.0, 1.0]
    assert log.need_usd.tolist() == [26.0, 26.0]
    assert log.total_cost_usd.tolist() == [24.0, 24.0]
    assert log.next.tolist() == [1, 2, -1, 4, 5, -1]
    assert log.done.tolist() == [False, False, True] * 2
    assert log.propensity.tolist() == [1.0] * 6

    shown = relabel(log, [26.0, 25.0], lambda_=[0.0, 0.6])
    assert shown.outcome.tolist() == [ENDED, CUT]
    assert shown.score.tolist() == [1.0, 0.0]
    assert shown.action.tolist() == [0, 0, 0, 0, 0, -1]
    assert shown.legal[-1].tolist() == [False, True, True]  # 9 USD are left
    assert shown.next.tolist() == [1, 2, -1, 4, 5, -1]
    assert shown.done.tolist() == [False, False, True, False, False, False]  # what comes after a cut is not known
    np.testing.assert_allclose(shown.reward(penalty=5.0), [0, 0, 1, -0.6 * 8 / 24, -0.6 * 8 / 24, 0])
    # As SeqRoute has it, the last call that could be paid leads to bankruptcy.
    hard = shown.with_cuts_as_bankrupt()
    assert hard.done.tolist() == [False, False, True, False, True, False]
    np.testing.assert_allclose(hard.reward(penalty=5.0), [0, 0, 1, -0.2, -5.2, 0])

    broke = relabel(log, 10.0 - 1e-9)  # not even the first call of this arm; the others could be paid
    assert broke.action.tolist() == [-1, -1]
    assert broke.outcome.tolist() == [CUT, CUT]
    broke = relabel(log, 17.0)  # 9 USD left after the first
    assert broke.action.tolist() == [0, -1] * 2
    broke = relabel(log, 1.0)  # below the cheapest arm
    assert broke.outcome.tolist() == [BANKRUPT, BANKRUPT]


def test_bankruptcy_as_the_environment_has_it(toy: Any) -> None:
    recording = toy()
    log = collect(Problem(recording, budget_usd=10.0), Only(0), 3, epsilon=0.0)
    first, last = np.flatnonzero(log.episode == 0)[[0, -1]]  # 8 of 10 spent, and a small call reserves 2; then 1 left
    assert log.action[log.episode == 0].tolist() == [0, 1, -1]
    assert log.outcome.tolist() == [BANKRUPT] * 3
    assert not log.score.any()
    assert not log.legal[last].any()
    assert np.isnan(log.propensity[last])
    assert log.done[log.episode == 0].tolist() == [False, True, False]
    assert log.spent_usd[first : last + 1].tolist() == [0.0, 8.0, 9.0]
    richer = relabel(log, 100.0)  # what would have come next is not in the log
    assert richer.outcome.tolist() == [CUT] * 3


def test_propensities_are_how_often_actions_were_taken(toy: Any) -> None:
    recording = toy()
    problem = Problem(recording, budget_usd=None)
    log = collect(problem, Only(2), 4000, epsilon=0.3)
    for action, chance in ((0, 0.1), (1, 0.1), (2, 0.8)):
        chosen = log.action == action
        np.testing.assert_allclose(log.propensity[chosen], chance)
        assert abs(chosen.mean() - chance) < 4 * (chance * (1 - chance) / len(chosen)) ** 0.5
    assert (collect(problem, "random", 200).propensity == 1 / 3).all()
    mixture = collect(problem, "mixture", 3000, epsilon=0.0)
    random = np.array([set(mixture.propensity[mixture.episode == e]) == {1 / 3} for e in range(300)])
    assert 0.2 < random.mean() < 0.47
    whole = [len(set(mixture.action[mixture.episode == e].tolist())) for e in np.flatnonzero(~random)]
    assert {1, 2} == set(whole)  # one arm throughout, or two
    # 1 / propensity is without bias: the mean weight of any policy is 1.
    weight = np.where(log.action == 1, 1.0, 0.0) / log.propensity
    assert abs(weight.mean() - 1) < 4 * weight.std() / len(weight) ** 0.5


def test_the_same_seed_gives_the_same_log(recording: Recording) -> None:
    problem = Problem(recording)
    assert same(collect(problem, episodes=50, seed=1), collect(problem, episodes=50, seed=1))
    assert not same(collect(problem, episodes=50, seed=1), collect(problem, episodes=50, seed=2))
    # More episodes than are played side by side.
    assert len(collect(problem, episodes=1500)) == 1500
    assert set(collect(problem, episodes=300).task.tolist()) <= set(problem.tasks.tolist())


def test_some_episodes_of_a_log(recording: Recording) -> None:
    log = collect(Problem(recording), episodes=40)
    some = log.take([3, 3, 0])
    assert some.task.tolist() == log.task[[3, 3, 0]].tolist()
    np.testing.assert_array_equal(some.action[some.episode == 1], log.action[log.episode == 3])
    assert same(log.take(np.arange(40)), log)


def test_files(recording: Recording, tmp_path: Path) -> None:
    log = collect(Problem(recording), episodes=40)
    path = log.save(tmp_path / "log.safetensors")
    found = EpisodeLog.load(path)
    assert same(found, log)
    assert (found.columns, found.actions) == (log.columns, log.actions)
    assert found.cost_scale_usd == log.cost_scale_usd
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(RunError, match="cannot be read as a log"):
        EpisodeLog.load(path)
    with pytest.raises(RunError, match="cannot be read as a log"):
        EpisodeLog.load(tmp_path / "none")


def test_bad_logs(recording: Recording) -> None:
    log = collect(Problem(recording, budget_usd=None), episodes=5)
    for change, message in (
        ({"propensity": np.where(np.arange(len(log.action)) == 2, 0.0, log.propensity)}, "row 2 .*propensity"),
        ({"action": np.where(np.arange(len(log.action)) == 1, 99, log.action)}, "row 1 .*or masked; got 99"),
        ({"cost_usd": np.full(len(log.action), np.nan)}, "row 0 .*cost_usd"),
        ({"task": log.task[:-1]}, "has shape"),
        ({"episode": log.episode[::-1].copy()}, "sort the rows"),
        ({"outcome": np.full(5, BANKRUPT, dtype=np.uint8)}, "unless it ENDED"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            replace(log, **change)
    with pytest.raises(ConfigError, match="other columns"):
        log.check_fits(Problem(diagnostics.build(diagnostics.Credit())))
    with pytest.raises(ConfigError, match="budget_usd has shape"):
        relabel(log, [1.0, 2.0])
    with pytest.raises(BudgetError):
        relabel(log, -1.0)
    for arguments, message in (
        ({"behaviour": "best"}, "behaviour = 'best'"),
        ({"episodes": 0}, "episodes = 0"),
        ({"epsilon": 2.0}, "epsilon = 2.0"),
    ):
        with pytest.raises(ConfigError, match=message):
            collect(Problem(recording), **arguments)  # type: ignore[arg-type]
