from __future__ import annotations

import helpers
import numpy as np
import pytest

from routegym.errors import ConfigError
from routegym.evaluation.calibration import (
    brier,
    expected_calibration_error,
    predicted_success,
    reliability,
    success_calibration,
)
from routegym.evaluation.references import arms_alone, recorded_alone
from routegym.graph.subset import vary_arms

PREDICTED, OUTCOME = [0.1, 0.2, 0.6, 0.9, 1.0], [0, 1, 1, 1, 0]


def test_brier_by_hand():
    assert brier(PREDICTED, OUTCOME) == pytest.approx((0.01 + 0.64 + 0.16 + 0.01 + 1) / 5)
    assert brier([0.5] * 4, [True, False, True, True]) == 0.25


def test_reliability_in_bins_of_equal_width():
    """[0, 1/4): 0.1, 0.2; [1/4, 1/2): none; [1/2, 3/4): 0.6; [3/4, 1]: 0.9 and 1."""
    found = reliability(PREDICTED, OUTCOME, bins=4)
    assert found.predicted.tolist() == pytest.approx([0.15, 0.6, 0.95])
    assert found.observed.tolist() == pytest.approx([0.5, 1, 0.5])
    assert found.count.tolist() == [2, 1, 2]
    assert expected_calibration_error(PREDICTED, OUTCOME, bins=4) == pytest.approx((2 * 0.35 + 0.4 + 2 * 0.45) / 5)


def test_reliability_in_bins_of_equal_mass():
    """Ranks 0..4 of 5 in two bins: 0, 1, 2 and 3, 4; the order of the predictions does not matter."""
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 1, 3]):
        found = reliability(np.array(PREDICTED)[order], np.array(OUTCOME)[order], bins=2, binning="mass")
        assert found.predicted.tolist() == pytest.approx([0.3, 0.95])
        assert found.observed.tolist() == pytest.approx([2 / 3, 0.5])
        assert found.count.tolist() == [3, 2]


def test_equal_predictions_share_a_bin():
    found = reliability([0.3] * 6 + [0.8] * 2, [0, 0, 0, 1, 1, 1, 1, 1], bins=4, binning="mass")
    assert found.count.tolist() == [6, 2]
    assert found.observed.tolist() == pytest.approx([0.5, 1])


@pytest.mark.parametrize("binning", ["width", "mass"])
def test_a_calibrated_predictor_has_next_to_no_error_and_a_sure_one_much(binning):
    rng = np.random.default_rng(0)
    chance = rng.random(40_000)
    outcome = rng.random(40_000) < chance
    assert expected_calibration_error(chance, outcome, binning=binning) < 0.015
    sure = np.where(chance > 0.5, 1.0, 0.0)
    assert expected_calibration_error(sure, outcome, binning=binning) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: brier([], []), r"shape \(0,\)"),
        (lambda: brier([0.1], [1, 0]), r"outcome \(2,\)"),
        (lambda: brier([1.1], [1]), "predicted holds"),
        (lambda: brier([np.nan], [1]), "predicted holds numbers"),
        (lambda: brier([0.5], [-1]), "outcome holds"),
        (lambda: reliability([0.5], [1], bins=0), "bins = 0"),
        (lambda: reliability([0.5], [1], binning="log"), "'log'"),
    ],
)
def test_bad_input(call, text):
    with pytest.raises(ConfigError, match=text):
        call()


def test_a_policy_that_knows_is_calibrated_and_one_that_boasts_is_not():
    recording = helpers.build("agent_steps", 40)
    tasks = recording.split("test")
    truth = arms_alone(recording, tasks).scores[0].T  # (tasks, arms)

    class Says:
        def __init__(self, values):
            self.values = values

        def predicted(self, observation):
            assert observation.shape[0] == len(tasks)
            return self.values

    assert success_calibration(Says(truth), recording) == {"brier": 0.0, "ece": 0.0}
    boasting = success_calibration(Says(np.ones_like(truth)), recording)
    assert boasting["ece"] == pytest.approx(1 - truth.mean())
    assert boasting["brier"] == pytest.approx(((1 - truth) ** 2).mean())


def test_what_was_not_recorded_is_not_held_against_a_policy():
    whole = helpers.build("single_call", 40)
    masked = vary_arms(whole, drop=0.6, split="test")
    tasks = whole.split("test")
    known = recorded_alone(masked, tasks).T  # (tasks, arms)
    assert 0 < known.sum() < known.size
    truth = arms_alone(whole, tasks).scores[0].T

    class Knows:
        def predicted(self, observation):
            return np.pad(truth, ((0, 0), (0, whole.graph.n_actions - whole.graph.n_arms)))

    assert (truth != arms_alone(masked, tasks).scores[0].T)[~known].any()  # of the arm that stands in
    assert success_calibration(Knows(), masked) == {"brier": 0.0, "ece": 0.0}
    for pairs in predicted_success(Knows(), masked):
        assert pairs.tolist() == truth[known].tolist()
