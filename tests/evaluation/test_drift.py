"""The live check: nothing drifts where the same pool answers, and what drifts is found."""

from __future__ import annotations

from dataclasses import replace

import helpers
import numpy as np
import pytest

from routegym.errors import RecordingError
from routegym.evaluation.drift import drift_table, measure_drift
from routegym.evaluation.outcomes import Grid
from routegym.graph import Expander
from routegym.policies.baselines import AlwaysArm, Random
from routegym.pool.arms import Arm, Price
from routegym.pool.backend import Request, Response
from routegym.pool.simulated import SimulatedBackend
from routegym.tasks import LEVELS


@pytest.mark.parametrize("kind", helpers.KINDS)
def test_the_pool_that_was_recorded_does_not_drift(kind: str) -> None:
    recording = helpers.build(kind)
    pool = helpers.SimulatedPool()
    grid = Grid.of(recording, lambdas=[0.1])
    drift = measure_drift(
        Random(recording, seed=3), recording, helpers.workflow_of(kind, pool), pool, grid, split="test"
    )
    played = drift.live
    assert len(played) == len(recording.split("test")) * len(grid.budgets)
    # random choices differ between the two plays, so compare a policy's own figures through a second play
    again = measure_drift(
        Random(recording, seed=3), recording, helpers.workflow_of(kind, pool), pool, grid, split="test"
    )
    np.testing.assert_array_equal(again.live.score, played.score)
    np.testing.assert_array_equal(again.live.cost_usd, played.cost_usd)


def test_a_greedy_policy_replays_what_it_meets_live() -> None:
    from routegym.policies.baselines import Escalate

    recording = helpers.build("cascade")
    pool = helpers.SimulatedPool()
    policy = Escalate(recording, ["m0/direct", "m1/direct", "m2/direct"])
    workflow = helpers.workflow_of("cascade", pool)
    drift = measure_drift(policy, recording, workflow, pool, Grid.of(recording, lambdas=[0.1]))
    for name in ("score", "cost_usd", "arm_counts", "latency_s"):
        np.testing.assert_array_equal(getattr(drift.live, name), getattr(drift.recorded, name))
    found = drift.metrics()
    assert all(row["same_choices"] == 1 and not row["score"]["drifted"] for row in found["budgets"])


def test_a_pool_that_got_worse_is_found() -> None:
    recording = helpers.build("single_call", tasks=200)
    pool = helpers.SimulatedPool()
    pool.backend = SimulatedBackend({f"m{i}/direct": dict.fromkeys(LEVELS, 0.1) for i in range(3)})
    workflow = helpers.workflow_of("single_call", pool)
    drift = measure_drift(AlwaysArm(recording, "m2/direct"), recording, workflow, pool, Grid.of(recording))
    before, now, change = drift.compare(np.inf, "score")
    assert now < before - 0.4
    assert change.excludes_zero
    assert "*" in drift_table(drift, "always m2").markdown()


class WordyBackend(SimulatedBackend):
    """Charges two prompt tokens more than it did when it was recorded."""

    def _respond(self, request: Request) -> Response:
        response = super()._respond(request)
        return replace(response, tokens=(response.tokens[0] + 2, *response.tokens[1:]))


def test_a_call_that_is_charged_more_than_recorded_is_drift_and_breaks_no_cap() -> None:
    recording = helpers.build("single_call")
    pool = helpers.SimulatedPool()
    pool.backend = WordyBackend(pool.backend.accuracy)
    workflow = helpers.workflow_of("single_call", pool)
    was, now = 24e-6, 26e-6  # USD of a call of m0, which takes all the tokens that it may take
    grid = Grid(np.array([was, now, np.inf]), np.array([0.1]))
    drift = measure_drift(AlwaysArm(recording, "m0/direct"), recording, workflow, pool, grid)
    tight, enough, free = drift.metrics()["budgets"]
    assert tight["score"]["live"] is None
    for row in (enough, free):
        assert row["cost_usd"]["recorded"] == pytest.approx(was)
        assert row["cost_usd"]["live"] == pytest.approx(now)
    assert not drift.live.violations[drift.answered].any()
    assert "BudgetError" in drift.metrics()["failures"]


def test_a_budget_below_the_cheapest_arm_is_raised_on_both_sides() -> None:
    recording = helpers.build("single_call")
    pool = helpers.SimulatedPool()
    workflow = helpers.workflow_of("single_call", pool)
    drift = measure_drift(
        AlwaysArm(recording, "m0/direct"), recording, workflow, pool, Grid(np.array([1e-9]), np.array([0.1]))
    )
    assert drift.recorded is not None
    np.testing.assert_array_equal(drift.live.cost_usd, drift.recorded.cost_usd)
    assert drift.metrics()["budgets"][0]["budget_usd"] == 1e-9
    assert "worst case of their cheapest arm" in drift_table(drift, "tight").markdown()


def test_a_recording_is_not_grown_at_other_prices() -> None:
    recording = helpers.build("single_call")
    pool = helpers.SimulatedPool()
    pool.prices = replace(pool.prices, prices=dict(pool.prices.prices) | {"m1": Price(1.0, 1.0, 1.0, 1.0)})
    with pytest.raises(RecordingError, match="prices of m1 are not those"):
        Expander(helpers.workflow_of("single_call", pool), pool, recording)


def test_another_pool_is_refused() -> None:
    recording = helpers.build("single_call")
    pool = replace(helpers.SimulatedPool(), arms=(Arm("m0", "direct", 1, 4),))
    workflow = helpers.workflow_of("single_call", pool)
    with pytest.raises(RecordingError, match="use the pool file that it was recorded with"):
        measure_drift(Random(recording), recording, workflow, pool, Grid.of(recording))
