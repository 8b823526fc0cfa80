"""Episodes on graphs so small that every number follows by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from helpers import Edge, hand_made
from scipy import stats  # type: ignore[import-untyped]

from routegym.core import REWARDS, RoutingEnv, RoutingVectorEnv
from routegym.core.render import format_usd
from routegym.core.reward import reward_function
from routegym.errors import ConfigError, MissingEdgeError
from routegym.graph import TRUNCATED, Recording


def chain(**settings: Any) -> Recording:
    """Start -> half-way -> solved (arm 1) or failed (arm 0). Calls cost 2 or 6, then 3 or 8 millionths."""
    return hand_made(
        [(0, None), (1, None), (2, 0.0), (2, 0.75)],
        [Edge(0, 0, 1, 2, 0.1), Edge(0, 1, 1, 3, 0.2), Edge(1, 0, 2, 3, 0.3), Edge(1, 1, 3, 4, 0.4)],
        **settings,
    )  # fmt: skip


def route(env: RoutingEnv, *actions: int, **options: Any) -> list[Any]:
    env.reset(seed=0, options=options)
    return [env.step(action) for action in actions]


def test_costs_rewards_and_ends() -> None:
    recording = chain()
    assert recording.cost_scale_usd == pytest.approx(14e-6)
    env = RoutingEnv(recording, lambda_=0.5)
    first, last = route(env, 0, 1)
    assert first[1:4] == (pytest.approx(-0.5 * 2 / 14), False, False)
    assert last[1:4] == (pytest.approx(0.75 - 0.5 * 8 / 14), True, False)
    assert [step[4]["cost_usd"] for step in (first, last)] == pytest.approx([2e-6, 8e-6])
    assert last[4]["cost_usd_total"] == pytest.approx(10e-6)
    assert (first[4]["score"], last[4]["score"]) == (0.0, 0.75)
    assert (first[4]["text"], last[4]["text"], first[4]["task_id"]) == ("s1", "s3", "t0")
    assert [first[4][f"{kind}_tokens"] for kind in ("prompt", "cached", "completion", "reasoning")] == [0, 0, 2, 0]


def test_observation_by_name() -> None:
    recording = chain()
    env = RoutingEnv(recording, lambda_=1.0, budget_usd=24e-6)
    observation, _ = env.reset(seed=0)
    assert env.layout.names == (
        "node_signals/n", "arm_reserve/a0/t", "arm_reserve/a1/t", "edge_signals/e",
        "affordable/a0/t", "affordable/a1/t", "remaining/remaining", "lambda/lambda", "step/step",
    )  # fmt: skip
    scale = 14e-6
    assert observation == pytest.approx([0.25, 10e-6 / scale, 1.0, 0.0, 1, 1, 24 / (24 + 14), 0.5, 0.0], rel=1e-6)
    observation = env.step(1)[0]
    assert observation == pytest.approx([0.25, 10e-6 / scale, 1.0, 0.2, 1, 0, 18 / (18 + 14), 0.5, 1 / 5], rel=1e-6)


def test_bankrupt_episodes_end_with_nothing() -> None:
    """11 millionths pay for the worst case of a first call, and what is left of them for no second one."""
    env = RoutingEnv(chain(), budget_usd=15e-6, lambda_=0.0)
    (step,) = route(env, 0)
    assert step[2:4] == (False, False)
    assert env.action_masks().tolist() == [True, False]
    env = RoutingEnv(chain(), budget_usd=11e-6, lambda_=0.0)
    (step,) = route(env, 0)
    assert step[1:4] == (0.0, True, False)
    assert step[4]["score"] == 0.0
    assert step[4]["cost_usd_total"] <= 11e-6


def test_truncation_carries_its_score() -> None:
    recording = chain()
    recording.graph.nodes["status"][2] = TRUNCATED
    *_, last = route(RoutingEnv(recording), 0, 0)
    assert last[1:4] == (0.0, False, True)


def test_controls_are_free() -> None:
    recording = hand_made(
        [(0, None), (1, None), (2, 1.0), (1, 0.0)],
        [Edge(0, 0, 1, 5), Edge(0, 1, 1, 5), Edge(0, 2, 3), Edge(1, 0, 2), Edge(1, 1, 2), Edge(1, 2, 2)],
        controls=("accept",),
    )
    assert recording.action_names == ("a0/t", "a1/t", "accept")
    env = RoutingEnv(recording, budget_usd=10e-6, lambda_=1.0)
    first, last = route(env, 0, 2)
    assert env.vector.ledger.spent_usd[0] == pytest.approx(5e-6)
    assert (last[1], last[2], last[4]["cost_usd"]) == (1.0, True, 0.0)
    assert not first[2], "accept can always be paid for"
    assert route(env, 2)[0][1:3] == (0.0, True)


def test_samples_are_met_equally_often() -> None:
    """One choice with three recorded answers: a chi-squared test over 30,000 episodes."""
    recording = hand_made(
        [(0, None), (1, 0.0), (1, 0.5), (1, 1.0)],
        [Edge(0, 0, 1, 1), Edge(0, 0, 2, 2), Edge(0, 0, 3, 3), Edge(0, 1, 1, 1)],
    )
    env = RoutingVectorEnv(3000, recording, autoreset_mode=AutoresetMode.SAME_STEP, info="lean")
    env.reset(seed=0)
    scores = np.concatenate([env.step(np.zeros(3000, dtype=int))[4]["score"] for _ in range(10)])
    counts = [int((scores == value).sum()) for value in (0.0, 0.5, 1.0)]
    assert sum(counts) == 30_000
    assert stats.chisquare(counts).pvalue > 1e-4


def test_budgets_and_lambdas_are_drawn_as_announced() -> None:
    recording = chain()
    env = RoutingVectorEnv(20_000, recording, budget_usd=(20e-6, 2000e-6), lambda_=(1.0, 3.0))
    _, info = env.reset(seed=0)
    place = np.log(info["budget_usd"] / 20e-6) / np.log(100)
    assert stats.kstest(place, "uniform").pvalue > 1e-4
    assert stats.kstest(np.log(info["lambda"]) / np.log(3), "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(place, info["lambda"])[0, 1]) < 0.03
    _, info = RoutingVectorEnv(20_000, recording, lambda_=(0.0, 3.0)).reset(seed=0)
    assert stats.kstest(info["lambda"], "uniform", args=(0.0, 3.0)).pvalue > 1e-4
    low, high = recording.budget_range_usd
    _, info = RoutingVectorEnv(1000, recording, budget_usd="sampled").reset(seed=0)
    assert low <= info["budget_usd"].min() < info["budget_usd"].max() <= high


def test_tasks_of_the_split_only() -> None:
    nodes = [(0, None), (1, 1.0)] * 4
    edges = [Edge(2 * task, action, 2 * task + 1) for task in range(4) for action in range(2)]
    recording = hand_made(nodes, edges, splits=("train", "test", "train", "val"), task_of=[0, 0, 1, 1, 2, 2, 3, 3])
    for split, ids in {"train": {"t0", "t2"}, "test": {"t1"}, "all": {"t0", "t1", "t2", "t3"}}.items():
        _, info = RoutingVectorEnv(100, recording, split=split).reset(seed=0)
        assert set(info["task_id"]) == ids


def test_a_missing_edge_is_named() -> None:
    recording = hand_made([(0, None), (1, 1.0)], [Edge(0, 0, 1)], complete=False)
    env = RoutingEnv(recording)
    env.reset(seed=0)
    with pytest.raises(MissingEdgeError, match=r"hand: nothing recorded for task 't0', node 0, arm 'a1/t'"):
        env.step(1)
    assert env.step(0)[2]


# -- rewards -----------------------------------------------------------------------------------
def test_xrouter_pays_success_less_its_cost() -> None:
    recording = chain()
    first, last = route(RoutingEnv(recording, lambda_=0.5, reward="xrouter"), 0, 1)
    assert (first[1], last[1]) == (0.0, pytest.approx(0.75 * (1 - 0.5 * 10 / 14)))
    _, last = route(RoutingEnv(recording, lambda_=100.0, reward="xrouter"), 0, 1)
    assert last[1] == pytest.approx(0.75 * 0.2)  # at most 0.8 is taken off
    _, last = route(RoutingEnv(recording, lambda_=0.5, reward="xrouter"), 0, 0)
    assert last[1] == 0.0


def test_weighted_sum_is_score_minus_cost_with_weights_that_sum_to_one() -> None:
    first, last = route(RoutingEnv(chain(), lambda_=3.0, reward="weighted_sum"), 0, 1)
    assert (first[1], last[1]) == (pytest.approx(-0.75 * 2 / 14), pytest.approx(0.25 * 0.75 - 0.75 * 8 / 14))


def test_vector_reward_follows_mo_gymnasium() -> None:
    """A reward space, and one array of its shape and type per step."""
    env = RoutingEnv(chain(), reward="vector", lambda_=9.0)
    first, last = route(env, 0, 1)
    for step in (first, last):
        assert isinstance(step[1], np.ndarray)
        assert step[1] in env.reward_space
    assert np.array(first[1]) == pytest.approx([0.0, -2 / 14])
    assert np.array(last[1]) == pytest.approx([0.75, -8 / 14])
    batch = RoutingVectorEnv(3, env.recording, reward="vector")
    batch.reset(seed=0)
    assert batch.step(np.zeros(3, dtype=int))[1].shape == (3, 2)


def test_a_function_as_reward() -> None:
    def cost_only(score: Any, cost: Any, total: Any, done: Any, lambda_: Any, scale: float) -> Any:
        return -cost * 1e6

    first, last = route(RoutingEnv(chain(), reward=cost_only), 1, 0)
    assert (first[1], last[1]) == (pytest.approx(-6), pytest.approx(-3))
    assert reward_function(cost_only) is cost_only


def test_rewards_by_name() -> None:
    assert set(REWARDS) == {"score_minus_cost", "weighted_sum", "xrouter", "vector"}
    with pytest.raises(ConfigError, match=r"reward = 'money'; expected one of \['score_minus_cost'"):
        reward_function("money")


# -- text --------------------------------------------------------------------------------------
ROUTE = """\
task t0: q0
  1. a0/t                $0.000002  -> s1
  2. a1/t                $0.000008  -> s3
spent $0.000010 of $0.000040 [#####...............]
ended with score 0.75"""


def test_rendered_route() -> None:
    env = RoutingEnv(chain(), budget_usd=40e-6, render_mode="ansi")
    route(env, 0, 1)
    assert env.render() == ROUTE
    env.reset()
    assert env.render() == "task t0: q0\nspent $0.000000 of $0.000040 [....................]"
    env.reset(options={"budget_usd": np.inf})
    assert env.render().endswith("spent $0.000000 of no cap [....................]")


def test_vector_environment_renders_a_route_per_slot() -> None:
    env = RoutingVectorEnv(2, chain(), render_mode="ansi", autoreset_mode=AutoresetMode.SAME_STEP)
    env.reset(seed=0)
    env.step(np.array([0, 1]))
    routes = env.render()
    assert routes is not None
    assert [text.splitlines()[1].split()[1] for text in routes] == ["a0/t", "a1/t"]
    env.step(np.array([0, 1]))  # both end and start anew
    assert [len(text.splitlines()) for text in env.render() or ()] == [2, 2]


def test_human_rendering_prints(capsys: pytest.CaptureFixture[str]) -> None:
    env = RoutingEnv(chain(), render_mode="human")
    env.reset(seed=0)
    env.step(0)
    printed = capsys.readouterr().out
    assert "task t0: q0" in printed
    assert "a0/t" in printed
    assert env.render() is None


def test_rendering_has_to_be_asked_for() -> None:
    with pytest.raises(ConfigError, match="render_mode"):
        RoutingVectorEnv(1, chain()).render()


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0.0, "$0.000000"), (1.5, "$1.500000"), (2e-6, "$0.000002"), (5e-7, "$5.00e-07"), (np.inf, "no cap")],
)
def test_amounts(amount: float, text: str) -> None:
    assert format_usd(amount) == text


# -- labels do not leak ------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["single_call", "cascade", "agent_steps"])
@pytest.mark.parametrize("form", ["flat", "dict"])
def test_scores_are_not_seen_before_the_end(recordings: dict[str, Path], kind: str, form: Any) -> None:
    """R-26: with every score turned round, nothing that is seen before an episode's end changes."""
    honest, turned = (Recording.load(recordings[kind]) for _ in range(2))
    turned.graph.nodes["score"][:] = 1.0 - turned.graph.nodes["score"]
    envs = [
        RoutingVectorEnv(50, r, budget_usd="sampled", observation=form, autoreset_mode=AutoresetMode.SAME_STEP)
        for r in (honest, turned)
    ]

    assert helpers.same(*(env.reset(seed=0) for env in envs))
    rng = np.random.default_rng(0)
    different = False
    for _ in range(30):
        actions = helpers.legal_actions(rng, envs[0].action_masks())
        (a, r, *ends_a, info_a), (b, q, *ends_b, info_b) = (env.step(actions) for env in envs)
        assert helpers.same(a, b)
        assert helpers.same(ends_a, ends_b)
        assert helpers.same(info_a["text"], info_b["text"])
        done = ends_a[0] | ends_a[1]
        assert helpers.same(r[~done], q[~done])
        if done.any():  # the last observation shows no score either
            assert helpers.same(info_a["final_obs"], info_b["final_obs"])
            different |= not helpers.same(info_a["score"], info_b["score"])
    assert different
