"""Off-policy estimators against closed forms, known values, and what each is known to be exact for."""

from __future__ import annotations

from typing import Any

import helpers
import numpy as np
import pytest

from routegym.core.vector_env import RoutingVectorEnv
from routegym.errors import ConfigError
from routegym.evaluation.off_policy import LoggedRows, dm, dr, ips, snips
from routegym.graph.values import always_arm_actions, evaluate_choices

# -- by hand -----------------------------------------------------------------------------------


def test_bandit_by_hand() -> None:
    rows = LoggedRows(reward=[1.0, 0.0, 2.0], propensity=[0.5, 0.5, 0.25], target=[0.25, 1.0, 0.5])  # rho 1/2, 2, 2
    assert ips(rows).estimate == pytest.approx((0.5 + 0 + 4) / 3)
    assert snips(rows).estimate == pytest.approx((0.5 + 0 + 4) / 4.5)
    value, action_value = [1.0, 0.5, 1.5], [0.0, 1.0, 1.0]
    assert dm(rows, value).estimate == pytest.approx(1.0)
    assert dr(rows, value, action_value).estimate == pytest.approx((1.5 + (0.5 - 2) + (1.5 + 2)) / 3)
    # Terms 1/2, 0, 4: their standard deviation over the root of 3, times the normal quantile.
    found = ips(rows)
    assert found.high - found.estimate == pytest.approx(1.959964 * np.std([0.5, 0, 4], ddof=1) / 3**0.5, rel=1e-6)
    # The ratio's influence w (r - estimate) / mean w, of mean 0.
    influence = np.array([0.5, 2, 2]) * (np.array([1, 0, 2]) - 1) / 1.5
    found = snips(rows)
    assert found.estimate - found.low == pytest.approx(1.959964 * np.std(influence, ddof=1) / 3**0.5, rel=1e-6)


def test_episodes_by_hand() -> None:
    rows = LoggedRows(  # rho: 2, then 2 * 1/2 = 1; and 1/2
        reward=[-0.1, 1.0, 0.4], propensity=[0.5, 1.0, 1.0], target=[1.0, 0.5, 0.5], episode=[7, 7, 3]
    )
    assert ips(rows).estimate == pytest.approx((2 * -0.1 + 1 * 1.0 + 0.5 * 0.4) / 2)
    # Step 0: (2 * -0.1 + 0.5 * 0.4) / 2.5 = 0; step 1: the short episode keeps its weight 0.5: 1 * 1 / 1.5.
    assert snips(rows).estimate == pytest.approx(2 / 3)
    value, action_value = [0.8, 0.9, 0.3], [0.7, 0.6, 0.2]
    assert dm(rows, value).estimate == pytest.approx((0.8 + 0.3) / 2)
    first = 0.8 + 2 * (-0.1 - 0.7) + 2 * 0.9 + 1 * (1.0 - 0.6)
    second = 0.3 + 0.5 * (0.4 - 0.2)
    assert dr(rows, value, action_value).estimate == pytest.approx((first + second) / 2)


def test_groups_widen_the_interval_as_repeated_rows_should() -> None:
    rng = np.random.default_rng(0)
    reward, chance, target = rng.random(50), rng.uniform(0.2, 1, 50), rng.random(50)
    once = LoggedRows(reward, chance, target)
    thrice = LoggedRows(np.repeat(reward, 3), np.repeat(chance, 3), np.repeat(target, 3), group=np.arange(150) // 3)
    for estimator in (ips, snips):
        a, b = estimator(once), estimator(thrice)
        assert (a.estimate, a.low, a.high) == pytest.approx((b.estimate, b.low, b.high))


# -- a bandit with a known value ----------------------------------------------------------------
ARMS, CONTEXTS, ROWS, REPLICATIONS = 3, 4, 400, 1000
_SETUP = np.random.default_rng(5)
MEAN = _SETUP.uniform(0.1, 0.9, (CONTEXTS, ARMS))
BEHAVIOUR = _SETUP.dirichlet(np.full(ARMS, 5.0), CONTEXTS)
TARGET = _SETUP.dirichlet(np.full(ARMS, 5.0), CONTEXTS)
TRUE = float((TARGET * MEAN).sum(axis=1).mean())  # contexts are equally likely


def bandit(rng: np.random.Generator, n: int) -> tuple[Any, Any, Any]:
    """Context, arm and reward of n rows."""
    context = rng.integers(CONTEXTS, size=n)
    arm = (rng.random(n)[:, None] > BEHAVIOUR[context].cumsum(axis=1)).sum(axis=1)
    return context, arm, (rng.random(n) < MEAN[context, arm]).astype(float)


def estimates(
    rng: np.random.Generator, model: Any, chance: Any, n: int = ROWS, replications: int = REPLICATIONS
) -> dict[str, Any]:
    found: dict[str, list[Any]] = {"ips": [], "snips": [], "dr": []}
    for _ in range(replications):
        context, arm, reward = bandit(rng, n)
        rows = LoggedRows(reward, chance[context, arm], TARGET[context, arm])
        value, action_value = (TARGET * model).sum(axis=1)[context], model[context, arm]
        for name, one in (("ips", ips(rows)), ("snips", snips(rows)), ("dr", dr(rows, value, action_value))):
            found[name].append((one.estimate, one.low <= TRUE <= one.high))
    return {name: np.array(values) for name, values in found.items()}


def test_no_bias_and_the_coverage_promised() -> None:
    found = estimates(np.random.default_rng(1), np.full_like(MEAN, 0.4), BEHAVIOUR)  # the model knows nothing
    for name, values in found.items():
        estimate, covered = values.T
        error = estimate.std(ddof=1) / REPLICATIONS**0.5
        assert abs(estimate.mean() - TRUE) <= 3 * error, name
        assert 0.93 <= covered.mean() <= 0.97, (name, covered.mean())


def test_doubly_robust_needs_only_one_of_the_two() -> None:
    uniform = np.full_like(BEHAVIOUR, 1 / ARMS)  # wrong propensities
    found = estimates(np.random.default_rng(2), MEAN, uniform, replications=300)
    for name, right in (("dr", True), ("ips", False)):
        estimate = found[name][:, 0]
        near = abs(estimate.mean() - TRUE) <= 3 * estimate.std(ddof=1) / len(estimate) ** 0.5
        assert near == right, name


def test_doubly_robust_is_exact_with_a_perfect_model_of_sure_rewards() -> None:
    context, arm, _ = bandit(np.random.default_rng(3), 50)
    rows = LoggedRows(MEAN[context, arm], BEHAVIOUR[context, arm], TARGET[context, arm])
    value = (TARGET * MEAN).sum(axis=1)[context]
    found = dr(rows, value, MEAN[context, arm])
    assert found.estimate == pytest.approx(value.mean(), abs=1e-12)
    assert found.estimate == pytest.approx(dm(rows, value).estimate, abs=1e-12)


@pytest.mark.parametrize("estimator", [ips, snips])
def test_the_behaviour_itself_gets_its_mean(estimator: Any) -> None:
    rng = np.random.default_rng(4)
    episode = np.sort(rng.integers(20, size=60))
    reward, chance = rng.random(60), rng.uniform(0.1, 1, 60)
    found = estimator(LoggedRows(reward, chance, chance, episode=episode))
    returns = np.bincount(episode, weights=reward)
    assert found.estimate == pytest.approx(returns[np.unique(episode)].mean())


# -- episodes of a recording --------------------------------------------------------------------
def test_episodes_of_a_recording_against_its_exact_values() -> None:
    recording = helpers.build("agent_steps", 12, samples={"m0/direct": 3, "m1/direct": 2})
    graph = recording.graph
    target = always_arm_actions(graph, 1)
    score, cost = evaluate_choices(graph, target)
    price = 0.3 / recording.cost_scale_usd
    value_of = score - price * cost
    n, rng = 6000, np.random.default_rng(0)
    env = RoutingVectorEnv(n, recording, observation="index", lambda_=0.3, split="all", autoreset_mode="Disabled")
    node, _ = env.reset(seed=0, options={"task_id": np.arange(n) % graph.n_tasks})
    table, playing = [], np.ones(n, dtype=bool)
    while playing.any():
        masks = env.action_masks()
        action = np.where(masks, rng.random(masks.shape), -1).argmax(axis=1)
        after, reward, terminated, truncated, _ = env.step(action)
        legal = masks.sum(axis=1)
        for slot in np.flatnonzero(playing):
            table.append((slot, node[slot], action[slot], reward[slot], 1 / legal[slot]))
        playing &= ~(terminated | truncated)
        node = after.copy()
    episode, nodes, action, reward, chance = (np.array(column) for column in zip(*sorted(table), strict=True))
    order = np.lexsort((graph.node_step[nodes], episode))
    episode, nodes, action, reward, chance = (c[order] for c in (episode, nodes, action, reward, chance))
    rows = LoggedRows(reward, chance, action == target[nodes], episode=episode)
    true = value_of[graph.task_start].mean()
    action_value = np.zeros(len(nodes))  # the mean over the recorded samples, each as likely
    first, count = graph.edge_first[nodes, action], graph.edge_count[nodes, action].astype(int)
    for sample in range(graph.max_samples):
        edges = graph.edges[first + np.minimum(sample, count - 1)]
        ended = graph.node_status[edges["next"]] != helpers.OPEN
        gained = np.where(ended, graph.node_score[edges["next"]], value_of[edges["next"]])
        action_value += np.where(sample < count, (gained - price * edges["cost_usd"]) / count, 0.0)
    found = {
        "ips": ips(rows), "snips": snips(rows), "dr": dr(rows, value_of[nodes], action_value),
        "dr, no model": dr(rows, np.full(len(nodes), 0.5), np.full(len(nodes), 0.5)),
    }  # fmt: skip
    for name, one in found.items():
        assert abs(one.estimate - true) <= 1.5 * (one.high - one.estimate), name  # 3 standard errors
        assert one.high - one.low < 0.3, name
    assert dm(rows, value_of[nodes]).estimate == pytest.approx(true)
    assert found["dr"].high - found["dr"].low < 0.5 * (found["ips"].high - found["ips"].low)


# -- bad input ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"propensity": [0.5, 0.0, 0.5]}, r"row 1: propensity = 0\.0; expected a probability in \(0, 1\]"),
        ({"propensity": [0.5, 0.5, None]}, "row 2: propensity = nan"),
        ({"propensity": [1.5, 0.5, 0.5]}, r"row 0: propensity = 1\.5"),
        ({"target": [0.5, -0.1, 0.5]}, r"row 1: target = -0\.1"),
        ({"reward": [0.0, 1.0, np.inf]}, "row 2: reward = inf"),
        ({"reward": []}, "reward has shape"),
        ({"target": [0.5, 0.5]}, "target has shape"),
        ({"episode": [0, 1, 0]}, "stand apart"),
    ],
)
def test_bad_rows(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"reward": [0.0, 1.0, 1.0], "propensity": [0.5] * 3, "target": [0.5] * 3}
    with pytest.raises(ConfigError, match=message):
        LoggedRows(**good | change)


def test_bad_models_and_levels() -> None:
    rows = LoggedRows([0.0, 1.0], [0.5, 0.5], [0.0, 0.0])
    with pytest.raises(ConfigError, match="takes none of the actions logged up to step 0"):
        snips(rows)
    with pytest.raises(ConfigError, match=r"row 1: value = nan"):
        dm(rows, [0.0, np.nan])
    with pytest.raises(ConfigError, match="action_value has shape"):
        dr(rows, [0.0, 0.0], [0.0])
    with pytest.raises(ConfigError, match="level = 95"):
        ips(rows, level=95)
