from __future__ import annotations

import numpy as np
import pytest

from routegym.core.rollout import rollout
from routegym.core.vector_env import RoutingVectorEnv
from routegym.errors import ConfigError
from routegym.policies import storage
from routegym.policies.algorithm import Problem
from routegym.policies.baselines import AlwaysArm, FirstLargeK, Random, RandomMixture
from routegym.policies.selection import Selected, affordable_budgets, budgets_of, lambdas_of, select

LARGE, SMALL, MEDIUM = 0, 1, 2


def first_large(recording):
    return [FirstLargeK(recording, k, LARGE, SMALL) for k in range(4)]


def played(policy, recording, budgets, lambdas):
    env = RoutingVectorEnv(len(budgets), recording, info="lean", autoreset_mode="SameStep")
    return rollout(policy, env, np.zeros(len(budgets), dtype=int), budgets, lambdas)


def test_takes_the_best_variant_of_each_cell(toy):
    """With k large calls of three the score is k / 3 and the cost 8 k + 3 - k = 3 + 7 k of a scale of 24.

    A large call gains 1/3 and costs 7/24 at a price of 1: each is worth it up to a price of 8/7. A budget of 3 pays for
    no large call (it reserves 10) and for two small ones (2 each, 1 is spent), one of 26 for all: 8 + 8 + 10.
    """
    recording = toy()
    chosen = select(Problem(recording), first_large(recording), lambdas=(0.0, 1.0, 1.2))
    assert chosen.budgets_usd[[0, -2, -1]].tolist() == pytest.approx([3.0, 26.0, np.inf])
    counts = played(chosen, recording, np.array([3.0, 26.0, np.inf] * 3), np.repeat([0.0, 1.0, 1.2], 3)).arm_counts
    assert counts[:, LARGE].tolist() == [0, 3, 3, 0, 3, 3, 0, 0, 0]
    assert counts[:, SMALL].tolist() == [2, 0, 0, 2, 0, 0, 2, 3, 3]


def test_of_equals_the_cheapest(toy):
    """The score counts large calls only: medium and small are equal at lambda 0, and small is cheaper."""
    recording = toy()
    chosen = select(Problem(recording), [AlwaysArm(recording, MEDIUM), AlwaysArm(recording, SMALL)], lambdas=(0.0,))
    assert chosen.variants[chosen.table[-1, 0]].arm == SMALL


def test_cells_are_the_nearest(toy):
    """Between 4 and 16 USD the middle of the logarithm is 8; beyond 16 there is only 16, unless there is no cap."""
    recording = toy()
    variants = [AlwaysArm(recording, SMALL)]
    several = Selected(recording, variants, [4.0, 16.0, np.inf], [0.0, 0.2], np.zeros((3, 2), dtype=int))
    rows, columns = several.cells([0.0, 1.0, 7.9, 8.1, 900.0, np.inf], [0.0, 0.09, 0.11, 0.2, 5.0, 0.3])
    assert rows.tolist() == [0, 0, 0, 1, 1, 2]
    assert columns.tolist() == [0, 0, 1, 1, 1, 1]
    capped = Selected(recording, variants, [4.0, 16.0], [0.0], np.zeros((2, 1), dtype=int))
    assert capped.cells([5.0, np.inf], [0.0, 0.0])[0].tolist() == [0, 1]
    alone = Selected(recording, variants, [np.inf], [0.0], np.zeros((1, 1), dtype=int))
    assert alone.cells([5.0, np.inf], [0.0, 0.0])[0].tolist() == [0, 0]


def test_reads_budget_and_price_from_the_observation(toy):
    recording = toy()
    budgets, lambdas = np.array([3.0, 11.0, np.inf]), np.array([0.0, 0.35, 1.0])
    env = RoutingVectorEnv(3, recording)
    observation, _ = env.reset(options={"budget_usd": budgets, "lambda": lambdas})
    np.testing.assert_allclose(budgets_of(observation, env.layout, 24.0), budgets, rtol=1e-5)
    np.testing.assert_allclose(lambdas_of(observation, env.layout), lambdas, rtol=1e-5)


def test_a_variant_is_kept_for_the_episode_and_each_has_its_own_memory(toy):
    """Row 0 has k = 2 and row 1 has k = 1, whatever the budget shown later; row 0 starts anew with the other."""
    recording = toy()
    variants = [FirstLargeK(recording, 1, LARGE, SMALL), FirstLargeK(recording, 2, LARGE, SMALL)]
    policy = Selected(recording, variants, [4.0, np.inf], [0.0], [[0], [1]])
    env = RoutingVectorEnv(2, recording)
    rich, _ = env.reset(options={"budget_usd": np.array([np.inf, 4.0])})
    poor = rich[::-1].copy()
    masks = np.ones((2, 3), dtype=bool)
    actions, state = policy.predict(rich, None, None, action_masks=masks)
    assert actions.tolist() == [LARGE, LARGE]
    actions, state = policy.predict(poor, state, np.array([False, False]), action_masks=masks)
    assert actions.tolist() == [LARGE, SMALL]
    actions, state = policy.predict(poor, state, np.array([True, False]), action_masks=masks)
    assert actions.tolist() == [LARGE, SMALL]
    actions, _ = policy.predict(poor, state, np.array([False, False]), action_masks=masks)
    assert actions.tolist() == [SMALL, SMALL]


def test_without_validation_tasks_those_of_the_problem(toy):
    recording = toy()
    tasks = recording.tasks
    recording.tasks = type(tasks)(tasks.ids, tasks.prompts, tasks.references, ("train",) * 4)
    chosen = select(Problem(recording), first_large(recording), lambdas=(0.0,))
    assert played(chosen, recording, np.array([np.inf]), np.array([0.0])).score.tolist() == [1.0]


def test_budgets_pay_for_every_task(toy):
    recording = toy()
    recording.budget_range_usd = (1.0, 8.0)  # the cheapest call may cost 2
    np.testing.assert_allclose(affordable_budgets(recording, np.arange(4), 3), [2.0, 4.0, 8.0])


def test_survives_storage_with_its_variants(toy, tmp_path):
    recording = toy()
    variants = [
        FirstLargeK(recording, 2, LARGE, SMALL),
        RandomMixture(recording, SMALL, LARGE, 0.5, seed=3),
        Random(recording, seed=4),
    ]
    policy = Selected(recording, variants, [4.0, 20.0, np.inf], [0.0, 0.5], [[0, 1], [1, 2], [2, 0]])
    storage.save_policies(tmp_path, recording, {0: policy})
    loaded = storage.load_policies(tmp_path, recording)[0]
    budgets = np.tile([4.0, 20.0, np.inf], 20)
    lambdas = np.tile([0.0, 0.5], 30)
    ours, theirs = played(policy, recording, budgets, lambdas), played(loaded, recording, budgets, lambdas)
    assert (ours.arm_counts == theirs.arm_counts).all()
    assert len(np.unique(ours.arm_counts, axis=0)) > 2


@pytest.mark.parametrize(
    ("table", "text"), [([[0, 0]], r"table has shape \(1, 2\)"), ([[0], [1]], "variant 1"), ([[-1], [0]], "variant")]
)
def test_bad_tables(table, text, toy):
    recording = toy()
    with pytest.raises(ConfigError, match=text):
        Selected(recording, [AlwaysArm(recording, SMALL)], [4.0, np.inf], [0.0], table)


def test_nothing_to_select_from(toy):
    with pytest.raises(ConfigError, match="no variants"):
        select(Problem(toy()), [])
