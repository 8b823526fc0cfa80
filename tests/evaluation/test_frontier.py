"""Golden values, all worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routegym.errors import ConfigError
from routegym.evaluation.frontier import aiq, gap_closed, hull, score_at, zero_router

ARMS = ([1, 2, 4, 5], [0.2, 0.6, 0.5, 0.8])


def test_hull_drops_what_is_dominated():
    zero = zero_router(*ARMS)
    assert zero.costs.tolist() == [1, 2, 5]
    assert zero.scores.tolist() == [0.2, 0.6, 0.8]


def test_hull_of_unsorted_equal_and_collinear_points():
    found = hull([3, 1, 2, 1, 3, 4], [0.75, 0.25, 0.5, 0.05, 0.75, 0.1])
    assert found.costs.tolist() == [1, 3]
    assert found.scores.tolist() == [0.25, 0.75]


def test_score_at_levels_off_right_and_runs_to_the_origin_left():
    zero = zero_router(*ARMS)
    assert score_at(zero, [0, 0.5, 1, 1.5, 3.5, 5, 99]).tolist() == pytest.approx([0, 0.1, 0.2, 0.4, 0.7, 0.8, 0.8])


def test_a_free_point_has_nothing_left_of_it():
    assert score_at(hull([0, 1], [0.3, 0.5]), [0, 0.5]).tolist() == pytest.approx([0.3, 0.4])


def test_aiq_over_the_common_range_that_does_not_start_at_zero():
    """Areas: 1..2 (0.2 + 0.6)/2 = 0.4; 2..5 (0.6 + 0.8)/2 * 3 = 2.1; over 4 (RouterBench: over 5)."""
    assert aiq(zero_router(*ARMS), 1, 5) == pytest.approx(2.5 / 4)


def test_aiq_cuts_segments_at_the_ends_of_the_range():
    """3..7: at 3 the hull is at 0.6 + 0.2/3; to 5 a trapezoid, then level at 0.8."""
    start = 0.6 + 0.2 / 3
    assert aiq(zero_router(*ARMS), 3, 7) == pytest.approx(((start + 0.8) / 2 * 2 + 0.8 * 2) / 4)


def test_a_narrow_router_is_not_flattered():
    """On its own range 3..3.5 it averages 0.725; on the common one it is poor left of 3."""
    narrow = hull([3, 3.5], [0.7, 0.75])
    assert aiq(narrow, 3, 3.5) == pytest.approx(0.725)
    left = 0.7 / 3 * (9 - 1) / 2  # integral of 0.7/3 * c from 1 to 3
    assert aiq(narrow, 1, 5) == pytest.approx((left + 0.725 * 0.5 + 0.75 * 1.5) / 4)


def test_gap_closed_by_hand():
    """AIQ: zero 0.625; oracle (1.4 + 1.8)/4 = 0.8; policy (0.35*3/2 + 1.5 + 0.8)/4 = 0.70625."""
    zero, oracle, policy = zero_router(*ARMS), hull([1, 3], [0.5, 0.9]), hull([2, 4], [0.7, 0.8])
    assert aiq(oracle, 1, 5) == pytest.approx(0.8)
    assert aiq(policy, 1, 5) == pytest.approx(0.70625)
    assert gap_closed(policy, zero, oracle, 1, 5) == pytest.approx(0.08125 / 0.175)
    assert gap_closed(zero, zero, oracle, 1, 5) == 0
    assert gap_closed(oracle, zero, oracle, 1, 5) == 1
    assert np.isnan(gap_closed(policy, zero, zero, 1, 5))


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=12))
def test_hull_is_the_least_concave_non_decreasing_curve_above_the_points(points):
    x, y = np.array(points, dtype=float).T
    found = hull(x, y)
    slopes = np.diff(found.scores) / np.diff(found.costs)
    assert (slopes > 0).all()
    assert (np.diff(slopes) < 0).all()
    assert (score_at(found, x) >= y - 1e-9).all()
    assert {*zip(found.costs, found.scores, strict=True)} <= {*zip(x, y, strict=True)}
    assert found.costs[0] == x.min()
    assert found.scores[-1] == y.max()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: hull([], []), "0 costs and 0 scores"),
        (lambda: hull([1, 2], [1]), "2 costs and 1 scores"),
        (lambda: hull([1, np.nan], [1, 1]), "finite"),
        (lambda: hull([-1], [1]), "costs >= 0"),
        (lambda: aiq(hull([1], [1]), 2, 2), r"\[2, 2\]"),
        (lambda: aiq(hull([1], [1]), 0, np.inf), "c_lo < c_hi"),
    ],
)
def test_bad_input(call, text):
    with pytest.raises(ConfigError, match=text):
        call()
