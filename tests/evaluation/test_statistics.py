from __future__ import annotations

import numpy as np
import pytest

from routegym.errors import ConfigError
from routegym.evaluation import statistics
from routegym.evaluation.statistics import (
    Interval,
    Sweep,
    aiq_difference,
    bootstrap,
    difference_at_cost,
    gap_closed_interval,
    score_bands,
)


def sweep(scores, costs) -> Sweep:
    """From (points, tasks) or (seeds, points, tasks), with costs that may be one per point."""
    scores = np.array(scores, dtype=float)
    scores = scores[None] if scores.ndim == 2 else scores
    costs = np.broadcast_to(np.array(costs, dtype=float)[:, None], scores.shape).copy()
    return Sweep(scores, costs)


def test_equal_tasks_leave_no_doubt():
    """AIQ of the policy (0.3 + 0.7)/2 = 0.5, of the arms (0.1 + 0.7)/2 = 0.4."""
    policy, arms = sweep([[0.3] * 4, [0.7] * 4], [1, 3]), sweep([[0.1] * 4, [0.7] * 4], [1, 3])
    found = aiq_difference(policy, arms, arms)
    assert (found.estimate, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert found.excludes_zero


def test_two_tasks_by_hand():
    """The mean of two tasks with 0 and 1 is 0, 1/2 or 1 with chances 1/4, 1/2, 1/4."""
    one = sweep([[0, 1]], [1])
    assert bootstrap(lambda points: points[1][0], [one]) == Interval(0.5, 0.0, 1.0)
    narrow = bootstrap(lambda points: points[1][0], [one], level=0.4)
    assert (narrow.low, narrow.high) == (0.5, 0.5)


def test_seeds_are_resampled_too():
    one = sweep([[[0.0, 0.0]], [[1.0, 1.0]]], [1])
    assert bootstrap(lambda points: points[1][0], [one]) == Interval(0.5, 0.0, 1.0)


def test_pairing_cancels_what_tasks_have_in_common():
    hard = np.random.default_rng(0).random(200)
    policy, arms = sweep([hard * 0.5 + 0.1, hard + 0.1], [1, 2]), sweep([hard * 0.5, hard], [1, 2])
    found = aiq_difference(policy, arms, arms)
    assert found.high - found.low < 1e-9
    alone = bootstrap(lambda points: points[1][1], [policy])
    assert alone.high - alone.low > 0.05


def test_gap_closed_by_hand():
    arms, oracle = sweep([[0.1] * 3, [0.7] * 3], [1, 3]), sweep([[0.5] * 3, [0.9] * 3], [1, 3])
    policy = sweep([[0.3] * 3, [0.7] * 3], [1, 3])
    assert gap_closed_interval(policy, oracle, arms).estimate == pytest.approx(0.1 / 0.3)


def test_score_bands_surround_the_points():
    policy = sweep(np.random.default_rng(1).random((3, 4, 50)), [1, 2, 3, 4])
    low, high = score_bands(policy)
    assert (low < policy.points()[1]).all()
    assert (policy.points()[1] < high).all()


def test_coverage():
    """Of many drawn experiments about 95 % hold the true difference (3 SE: 0.90 to 1.00 for 160)."""
    truth, held, trials = 0.08, 0, 160
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        common = rng.random(150)
        base = np.stack([common < 0.2, common < 0.7]).astype(float)
        seeds = rng.normal(0, 0.02, size=(6, 1, 1))
        better = base + truth + seeds + rng.normal(0, 0.3, size=(6, 2, 150))
        found = aiq_difference(
            sweep(better, [1, 2]), sweep(base, [1, 2]), sweep(base, [1, 2]), resamples=150, seed=trial
        )
        held += found.low <= truth <= found.high
    assert 0.88 <= held / trials <= 0.995


def test_same_seed_same_interval():
    policy = sweep(np.random.default_rng(2).random((2, 3, 40)), [1, 2, 3])
    assert aiq_difference(policy, policy, policy, seed=4) == aiq_difference(policy, policy, policy, seed=4)


def test_resamples_are_drawn_once_for_all_and_stay_what_they_were():
    """The same numbers whether the weights of the tasks are new or were drawn for another interval before."""
    rng = np.random.default_rng(3)
    policy, other = sweep(rng.random((3, 4, 40)), [1, 2, 3, 4]), sweep(rng.random((2, 3, 40)), [1, 2, 3])
    statistics._task_weights.cache_clear()
    fresh = aiq_difference(policy, other, other, resamples=50)
    score_bands(policy, resamples=50)
    assert aiq_difference(policy, other, other, resamples=50) == fresh
    assert statistics._task_weights.cache_info().misses == 1
    expected = np.random.default_rng(0)
    weights = expected.multinomial(40, np.full(40, 1 / 40), size=50) / 40
    of_seeds = expected.multinomial(3, np.full(3, 1 / 3), size=50) / 3
    drawn = np.einsum("rs,spt,rt->rp", of_seeds, policy.scores, weights)
    low, high = score_bands(policy, resamples=50)
    assert low == pytest.approx(np.percentile(drawn, 2.5, axis=0))
    assert high == pytest.approx(np.percentile(drawn, 97.5, axis=0))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: Sweep(np.zeros((1, 2)), np.zeros((1, 2))), r"\(seeds, points, tasks\)"),
        (lambda: Sweep(np.zeros((1, 2, 3)), np.zeros((1, 2, 4))), "costs has shape"),
        (lambda: Sweep(np.full((1, 1, 1), np.nan), np.zeros((1, 1, 1))), "NaN"),
        (lambda: bootstrap(float, [sweep([[1]], [1]), sweep([[1, 2]], [1])]), r"\[1, 2\] tasks"),
        (lambda: bootstrap(float, [sweep([[1]], [1])], resamples=0), "resamples = 0"),
    ],
)
def test_bad_input(call, text):
    with pytest.raises(ConfigError, match=text):
        call()


def test_difference_at_the_cost_of_a_fixed_strategy_by_hand():
    """Halfway between .2 at 1 and .8 at 3 is .5 at 2; halfway to doing nothing is .1 at .5."""
    policy = sweep([[0.2] * 4, [0.8] * 4], [1, 3])
    assert difference_at_cost(policy, sweep([[0.4] * 4], [2])).estimate == pytest.approx(0.1)
    assert difference_at_cost(policy, sweep([[0.4] * 4], [0.5])).estimate == pytest.approx(-0.3)
    dearer = difference_at_cost(policy, sweep([[0.7] * 4], [9]))
    assert (dearer.low, dearer.high) == pytest.approx((0.1, 0.1))


def test_the_difference_at_a_cost_is_paired():
    rng = np.random.default_rng(0)
    hard = rng.random(300)
    found = difference_at_cost(sweep([hard * 0.5 + 0.02], [1]), sweep([hard * 0.5], [1]))
    assert found.excludes_zero
    assert found.high - found.low < 1e-9
