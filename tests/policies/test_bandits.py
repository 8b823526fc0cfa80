from __future__ import annotations

import numpy as np
import pytest

from routegym.core.rollout import rollout
from routegym.core.vector_env import RoutingVectorEnv
from routegym.errors import ConfigError
from routegym.policies import storage
from routegym.policies.algorithm import Problem
from routegym.policies.bandits import BanditPolicy, LinearArms, LinUCB, Pilot, Thompson, knapsack_threshold

LARGE, SMALL, MEDIUM = 0, 1, 2
KINDS = [LinUCB, Thompson, Pilot]


def some_feedback(n=200, d=4, arms=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.integers(arms, size=n), rng.normal(size=(n, 2))


def test_bound_is_the_closed_form():
    """The ridge solution as least squares on rows with sqrt(ridge) * I below them, one arm at a time."""
    context, arm, target = some_feedback()
    model = LinearArms.fresh(3, 4, ridge=2.0)
    for rows in np.array_split(np.arange(200), 7):
        model.update(context[rows], arm[rows], target[rows])
    probe, lambda_ = np.array([[1.0, -0.5, 0.3, 2.0]]), np.array([0.4])
    found = LinUCB(exploration=1.5).choose(model, probe, lambda_, 0.0, np.random.default_rng(0))
    for one in range(3):
        x, y = context[arm == one], target[arm == one]
        reward = y[:, 0] - 0.4 * y[:, 1]
        rows = np.vstack([x, np.sqrt(2.0) * np.eye(4)])
        weights, *_ = np.linalg.lstsq(rows, np.append(reward, np.zeros(4)), rcond=None)
        width = np.linalg.norm(np.linalg.solve(np.linalg.cholesky(x.T @ x + 2.0 * np.eye(4)), probe[0]))
        assert found[0, one] == pytest.approx(probe[0] @ weights + 1.5 * width)


def test_one_dimension_by_hand():
    """Ridge 1, twice x = 1 with scores 1 and 0.5: mean 1.5 / 3, width 1 / sqrt 3; the other arm knows nothing."""
    model = LinearArms.fresh(2, 1, ridge=1.0)
    model.update(np.ones((2, 1)), np.array([0, 0]), np.array([[1.0, 3.0], [0.5, 0.0]]))
    probe = np.ones((1, 1))
    np.testing.assert_allclose(model.mean(probe)[0], [[0.5, 1.0], [0.0, 0.0]])
    np.testing.assert_allclose(model.width(probe)[0], [3**-0.5, 1.0])


def test_thompson_draws_from_the_posterior():
    """As x' theta does with theta ~ N(gram^-1 moment, v^2 gram^-1)."""
    context, arm, target = some_feedback()
    model = LinearArms.fresh(3, 4, ridge=1.0)
    model.update(context, arm, target)
    probe, n, v, price = np.array([0.2, 1.0, -1.0, 0.5]), 40_000, 0.7, 0.3
    draws = Thompson(exploration=v).choose(
        model, np.tile(probe, (n, 1)), np.full(n, price), 0.0, np.random.default_rng(1)
    )
    for one in range(3):
        inverse = np.linalg.inv(model.gram[one])
        mean = probe @ inverse @ (model.moment[one] @ [1.0, -price])
        deviation = v * np.sqrt(probe @ inverse @ probe)
        assert draws[:, one].mean() == pytest.approx(mean, abs=5 * deviation / n**0.5)
        assert draws[:, one].std() == pytest.approx(deviation, rel=0.02)
    assert np.abs(np.corrcoef(draws.T) - np.eye(3)).max() < 0.03


@pytest.mark.parametrize("algorithm", [LinUCB(), Thompson()], ids=["linucb", "thompson"])
def test_regret_grows_less_than_linearly(algorithm):
    """A bandit with three arms whose payoff is linear: the second half of the stream costs less than a third of the
    first, and all of it far less than drawing arms at random.
    """
    rng = np.random.default_rng(4)
    truth, model = rng.normal(size=(3, 5)), LinearArms.fresh(3, 5, ridge=1.0)
    regret, at_random = [], []
    for _ in range(400):
        context = rng.normal(size=(10, 5)) / 5**0.5
        payoff = context @ truth.T
        arm = algorithm.choose(model, context, np.zeros(10), 0.0, rng).argmax(axis=1)
        noise = 0.3 * rng.normal(size=10)
        model.update(context, arm, np.column_stack([payoff[np.arange(10), arm] + noise, np.zeros(10)]))
        regret.append((payoff.max(axis=1) - payoff[np.arange(10), arm]).sum())
        at_random.append((payoff.max(axis=1) - payoff.mean(axis=1)).sum())
    assert sum(regret[200:]) < sum(regret[:200]) / 3
    assert sum(regret) < 0.1 * sum(at_random)


@pytest.mark.parametrize(("spent", "expected"), [(0.0, 2.0 / np.e), (0.5, 2.0 * 2**0.5 / np.e**0.5), (1.0, 4.0)])
def test_knapsack_threshold(spent, expected):
    """(4 e / 2)^z * 2 / e: at 0 the lower bound over e, at 1 the upper one, at one half their geometric mean."""
    assert knapsack_threshold(spent, (2.0, 4.0)) == pytest.approx(expected)


def test_pilot_drops_dear_arms_as_the_budget_is_spent():
    """Scores 0.9, 0.6, 0.3 for costs 1, 0.3, 0.1, known for sure: ratios 0.9, 2 and 3.

    With bounds 1 and 4 the threshold goes from 1 / e = 0.37 (all are worth it) over 4^0.5 e^-0.5 = 1.21 (the two
    cheaper ones) and 2.36 at 0.8 (the cheapest) to 4 (none, so the cheapest).
    """
    model = LinearArms(np.full((3, 1, 1), 1e9), 1e9 * np.array([[[0.9, 1.0]], [[0.6, 0.3]], [[0.3, 0.1]]]))
    pilot = Pilot(ratios=(1.0, 4.0), budget_share=0.5)
    for spent, expected in ((0.0, 0), (0.25, 1), (0.4, 2), (0.5, 2), (0.9, 2)):
        preferred = pilot.choose(model, np.ones((1, 1)), np.zeros(1), spent, np.random.default_rng(0))
        assert preferred.argmax() == expected


@pytest.mark.parametrize("algorithm", KINDS)
def test_learns_the_arms_and_serves_every_price(algorithm, toy):
    """Alone, large scores 1 for 24 (the scale), small 0 for 3, medium 0 for 9: large is best up to a price of 8/7."""
    recording = toy()
    policy = algorithm(episodes=2048, batch=32).fit(Problem(recording, budget_usd=None, lambda_=(0.0, 2.0)), 1)
    env = RoutingVectorEnv(4, recording, info="lean", autoreset_mode="SameStep")
    table = rollout(policy, env, np.zeros(4, dtype=int), np.inf, np.array([0.0, 1.0, 1.3, 2.0]))
    assert table.arm_counts.tolist() == [[3, 0, 0], [3, 0, 0], [0, 3, 0], [0, 3, 0]]


def test_only_what_fits_the_budget(toy):
    """Expected costs 24, 3 and 9: large, though best, fits no budget below 24; below 3 nothing does."""
    recording = toy()
    width = 1 + 6
    model = LinearArms.fresh(3, width, ridge=1e-9)
    context = np.hstack([np.full((6, 1), 0.5), np.eye(6)])
    for arm, cost in ((LARGE, 1.0), (SMALL, 0.125), (MEDIUM, 0.375)):
        model.update(context, np.full(6, arm), np.tile([cost, cost], (6, 1)))
    policy = BanditPolicy(recording, model, fits=True)
    env = RoutingVectorEnv(4, recording)
    observation, _ = env.reset(options={"budget_usd": np.array([np.inf, 23.0, 8.0, 2.0])})
    assert policy.predict(observation, action_masks=np.ones((4, 3), dtype=bool))[0].tolist() == [0, 2, 1, 1]
    free = BanditPolicy(recording, model)
    assert free.predict(observation, action_masks=np.ones((4, 3), dtype=bool))[0].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize("algorithm", KINDS)
def test_survives_storage_and_keeps_to_budgets(algorithm, control, toy, tmp_path):
    recording = toy(control=control)
    records = []
    policy = algorithm(episodes=256, batch=32).fit(Problem(recording), 2)
    again = algorithm(episodes=256, batch=32).fit(Problem(recording), 2)
    assert records == []
    storage.save_policies(tmp_path, recording, {2: policy})
    loaded = storage.load_policies(tmp_path, recording)[2]
    env = RoutingVectorEnv(30, recording, info="lean", autoreset_mode="SameStep")
    tasks, budgets, lambdas = np.zeros(30, dtype=int), np.geomspace(2.0, 40.0, 30), np.linspace(0, 1, 30)
    tables = [rollout(one, env, tasks, budgets, lambdas) for one in (policy, again, loaded)]
    assert all((table.arm_counts == tables[0].arm_counts).all() for table in tables)
    assert not tables[0].violations.any()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: LinUCB(episodes=0), "episodes = 0"),
        (lambda: LinUCB(ridge=float("nan")), "ridge = nan"),
        (lambda: Thompson(exploration=-1.0), "exploration = -1.0"),
        (lambda: Pilot(budget_share=0.0), "budget_share = 0.0"),
        (lambda: Pilot(ratios=(2.0, 1.0)), r"ratios = \(2.0, 1.0\)"),
    ],
)
def test_bad_arguments(make, text):
    with pytest.raises(ConfigError, match=text):
        make()
