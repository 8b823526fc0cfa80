"""Golden values by hand; each trap of the reference implementations is written out and told apart."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from routegym.errors import ConfigError
from routegym.evaluation.frontier import aiq, hull
from routegym.evaluation.strength import apgr, cpt, hypervolume, pgr, qnc

WEAK, STRONG = 0.2, 0.6


def test_pgr_by_hand():
    assert pgr([0.2, 0.3, 0.6, 0.7], WEAK, STRONG).tolist() == pytest.approx([0, 0.25, 1, 1.25])
    assert np.isnan(pgr([0.5], 0.5, 0.5)).all()


def test_apgr_of_no_routing_is_one_half():
    """Drawing the arm at random lies on the line from (0, 0) to (1, 1)."""
    assert apgr([], [], WEAK, STRONG) == pytest.approx(0.5)
    assert apgr([0.5], [0.4], WEAK, STRONG) == pytest.approx(0.5)


def test_apgr_by_hand_and_anchored():
    """PGR 0, 0.75, 1, 1 at shares 0, 0.25, 0.75, 1: 0.25 * 0.375 + 0.5 * 0.875 + 0.25 * 1."""
    shares, scores = [0.75, 0.25], [0.6, 0.5]
    assert apgr(shares, scores, WEAK, STRONG) == pytest.approx(0.25 * 0.375 + 0.5 * 0.875 + 0.25)
    unanchored = 0.5 * (0.75 + 1) / 2  # RouteLLM's form: only where the router has points
    assert apgr(shares, scores, WEAK, STRONG) - unanchored == pytest.approx(0.25 * 0.375 + 0.25)


def test_of_points_with_one_share_the_best_counts():
    """With (0.5, PGR 1) twice over: 0.5 * 0.5 + 0.5 * 1. At share 0 a router may beat the weak arm."""
    assert apgr([0.5, 0.5], [0.3, 0.6], WEAK, STRONG) == pytest.approx(0.75)
    assert apgr([0.0], [0.6], WEAK, STRONG) == pytest.approx(1.0)
    assert apgr([0.0], [0.1], WEAK, STRONG) == pytest.approx(0.5)


def test_apgr_of_an_oracle_exceeds_one():
    """Two tasks, each solved by one arm only; calling the right one costs half the strong calls."""
    assert apgr([0.5], [1.0], 0.5, 0.6) == pytest.approx(0.5 * 2.5 + 0.5 * 3.0)


def test_cpt_by_hand():
    shares, scores = [0.25, 0.75], [0.5, 0.6]
    assert cpt(0.0, shares, scores, WEAK, STRONG) == 0
    assert cpt(0.375, shares, scores, WEAK, STRONG) == pytest.approx(0.125)
    assert cpt(0.75, shares, scores, WEAK, STRONG) == pytest.approx(0.25)
    assert cpt(0.8, shares, scores, WEAK, STRONG) == pytest.approx(0.25 + 0.5 * 0.2)
    assert cpt(1.0, shares, scores, WEAK, STRONG) == pytest.approx(0.75)
    assert cpt(1.01, shares, scores, WEAK, STRONG) == np.inf
    assert np.isnan(cpt(0.5, shares, scores, 0.6, 0.6))
    assert np.isnan(apgr(shares, scores, 0.6, 0.6))


def test_cpt_takes_the_first_crossing_of_a_curve_that_falls():
    """PGR 0, 1, 0.25, 1 at shares 0, 0.2, 0.6, 1: half the gap is closed at 0.1.

    Sorted by score, as an interpolation over the score needs it, it would be looked for between the points with 0.25
    and 1: at 0.6 + (0.2 - 0.6) / 3 or beyond.
    """
    shares, scores = [0.2, 0.6], [0.6, 0.3]
    assert cpt(0.5, shares, scores, WEAK, STRONG) == pytest.approx(0.1)
    monotone = np.interp(0.4, [0.2, 0.3, 0.6], [0.0, 0.6, 0.2])
    assert monotone == pytest.approx(0.6 - 0.4 / 3)


def test_cpt_against_a_fine_scan():
    rng = np.random.default_rng(0)
    for _ in range(50):
        shares, scores = np.sort(rng.random(6)), rng.random(6)
        fine = np.linspace(0, 1, 200_001)
        curve = np.interp(fine, [0, *shares, 1], (np.array([WEAK, *scores, STRONG]) - WEAK) / (STRONG - WEAK))
        for level in (0.2, 0.5, 0.8, 1.0):
            expected = fine[np.argmax(curve >= level - 1e-9)]
            assert cpt(level, shares, scores, WEAK, STRONG) == pytest.approx(expected, abs=1e-5)


ARM_COSTS, ARM_SCORES = [1, 4, 5], [0.2, 0.6, 0.5]


def test_qnc_by_hand():
    """The best arm scores 0.6 for 4. The router gets there between (1, 0.3) and (3, 0.7): at 2.5."""
    assert qnc([1, 3], [0.3, 0.7], ARM_COSTS, ARM_SCORES) == pytest.approx(2.5 / 4)
    assert qnc([2], [0.8], ARM_COSTS, ARM_SCORES) == pytest.approx(1.5 / 4)
    assert qnc([1, 3], [0.3, 0.59], ARM_COSTS, ARM_SCORES) == np.inf
    assert qnc(ARM_COSTS, ARM_SCORES, ARM_COSTS, ARM_SCORES) == 1
    assert qnc([9], [np.float32(0.6)], ARM_COSTS, ARM_SCORES) == pytest.approx(9 / 4)
    assert np.isnan(qnc([1], [1], [0, 1], [1, 0.5]))


def test_of_equally_good_arms_the_cheapest_is_the_measure():
    assert qnc([2], [0.6], [1, 4, 8], [0.2, 0.6, 0.6]) == pytest.approx(0.5)


def test_hypervolume_by_hand():
    """Range 1..5: from 1 to 2 nothing, 0.5 to 4, 0.8 to 5; a point of 0.4 at 3 and one at 6 add nothing."""
    assert hypervolume([2, 3, 4, 6], [0.5, 0.4, 0.8, 1], 1, 5) == pytest.approx((2 * 0.5 + 0.8) / 4)
    assert hypervolume([], [], 1, 5) == 0
    assert hypervolume([1, 1], [0.3, 0.6], 1, 5) == pytest.approx(0.6)


def test_hypervolume_and_aiq_are_on_the_common_range():
    """A router below c_lo gains nothing for being cheaper; [0, c_lo] is not part of either number.

    RouterBench's code divides the area by c_max and leaves [0, c_min] out of it: always 0.6 would have 0.48 there.
    MMR-Bench's takes each router's own range: a single point at 4.9 that scores 0.6 would have 0.6.
    """
    assert hypervolume([0.5], [0.6], 1, 5) == hypervolume([1], [0.6], 1, 5) == pytest.approx(0.6)
    assert aiq(hull([0.5], [0.6]), 1, 5) == pytest.approx(0.6)
    assert aiq(hull([1], [0.6]), 1, 5) == pytest.approx(0.6)
    assert hypervolume([4.9], [0.6], 1, 5) == pytest.approx(0.6 * 0.1 / 4)
    left = 0.6 / 4.9 * (4.9**2 - 1) / 2
    assert aiq(hull([4.9], [0.6]), 1, 5) == pytest.approx((left + 0.06) / 4)


def test_hypervolume_against_a_fine_scan_and_below_aiq():
    rng = np.random.default_rng(1)
    fine = 1 + 4 * (np.arange(100_000) + 0.5) / 100_000
    for _ in range(30):
        costs, scores = rng.uniform(0, 6, 5), rng.random(5)
        reached = np.where(costs[:, None] <= fine, scores[:, None], 0).max(axis=0).mean()
        found = hypervolume(costs, scores, 1, 5)
        assert found == pytest.approx(reached, abs=1e-4)
        assert found <= aiq(hull(costs, scores), 1, 5) + 1e-12


@pytest.mark.parametrize("seed", range(10))
def test_qnc_against_every_mixture_of_every_policy(seed, random_graph, enumerate_policies):
    """On graphs small enough to try all policies, and all mixtures of two of them or of one with nothing."""
    graph = random_graph(seed, n_tasks=1, samples=1)
    outcomes = np.array(sorted(enumerate_policies(graph, int(graph.task_start[0]), np.inf)))
    scores, costs = outcomes.T
    rng = np.random.default_rng(seed)
    arms = rng.choice(len(outcomes), size=min(3, len(outcomes)), replace=False)
    goal, price = max((scores[a], -costs[a]) for a in arms)
    least = np.inf
    points = [(0.0, 0.0), *zip(costs, scores, strict=True)]
    for (c0, s0), (c1, s1) in itertools.product(points, repeat=2):
        if s1 >= goal:
            least = min(least, c1 if s0 >= s1 or s0 >= goal else c0 + (c1 - c0) * (goal - s0) / (s1 - s0))
    assert qnc(costs, scores, costs[arms], scores[arms]) == pytest.approx(least / -price)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: apgr([0.5], [0.4, 0.5], WEAK, STRONG), r"shape \(1,\) and scores \(2,\)"),
        (lambda: apgr([1.5], [0.4], WEAK, STRONG), "0 to 1"),
        (lambda: cpt(0.5, [-0.1], [0.4], WEAK, STRONG), "-0.1"),
        (lambda: apgr([0.5], [np.nan], WEAK, STRONG), "finite"),
        (lambda: hypervolume([1], [1], 2, 2), r"\[2, 2\]"),
        (lambda: hypervolume([1], [1, 2], 1, 2), "costs have shape"),
        (lambda: qnc([], [], [1], [1]), "0 costs"),
    ],
)
def test_bad_input(call, text):
    with pytest.raises(ConfigError, match=text):
        call()
