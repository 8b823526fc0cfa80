from __future__ import annotations

import numpy as np
import pytest
from helpers import Edge, hand_made

from routegym.errors import ConfigError
from routegym.evaluation.collapse import (
    DIFFICULTIES,
    difficulty,
    largest_share,
    routing_collapse_index,
    selection_entropy,
    shares_by_group,
)


def test_largest_share_by_hand():
    assert largest_share([2, 5, 3]) == pytest.approx(0.5)
    assert largest_share([0.0, 1.0]) == 1
    assert np.isnan(largest_share([0, 0]))


def test_selection_entropy_by_hand():
    """Shares 1/2, 1/4, 1/4 have 1.5 bits of log2(3), or of 2 if there is a fourth arm that is never called."""
    assert selection_entropy([2, 1, 1]) == pytest.approx(1.5 / np.log2(3))
    assert selection_entropy([2, 1, 1, 0]) == pytest.approx(0.75)
    assert selection_entropy([7, 7, 7]) == pytest.approx(1)
    assert selection_entropy([0, 9]) == 0
    assert selection_entropy([4]) == 0
    assert np.isnan(selection_entropy([0, 0]))


ARM_SCORES = np.array([[1, 0, 0], [1, 1, 0]])
ARM_COSTS = np.array([[1.0, 1, 1], [5, 5, 5]])


def test_the_collapse_index_of_the_arms_themselves():
    """Always cheap is never beaten on cost; always dear is on tasks 0 and 2, where the cheap one does as well."""
    assert routing_collapse_index(ARM_SCORES[0], ARM_COSTS[0], ARM_SCORES, ARM_COSTS) == 0
    assert routing_collapse_index(ARM_SCORES[1], ARM_COSTS[1], ARM_SCORES, ARM_COSTS) == pytest.approx(2 / 3)


def test_the_collapse_index_of_the_best_choice_is_zero():
    assert routing_collapse_index([1, 1, 0], [1, 5, 1], ARM_SCORES, ARM_COSTS) == 0
    assert routing_collapse_index([1, 1, 0], [0.5, 4.9, 0.5], ARM_SCORES, ARM_COSTS) == 0


def test_what_counts_as_dominated():
    """Same score for less, more for the same, both; not: more for more, nor rounding of the last digits."""
    scores, costs = np.array([[0.5]]), np.array([[2.0]])
    cases = [(0.5, 2.1, 1), (0.4, 2.0, 1), (0.1, 9.0, 1), (0.4, 1.9, 0), (0.6, 2.1, 0), (0.5, 2.0 * (1 + 1e-15), 0)]
    for score, cost, expected in cases:
        assert routing_collapse_index([score], [cost], scores, costs) == expected


def test_the_collapse_index_averages_over_seeds():
    assert routing_collapse_index(ARM_SCORES, ARM_COSTS, ARM_SCORES, ARM_COSTS) == pytest.approx(1 / 3)


def recording_of(outcomes: list[tuple[float, ...]]):
    """Single calls: task i scores ``outcomes[i][a]`` with arm a; arms cost 3, 1 and 2 times the call's tokens."""
    nodes, edges, task_of = [], [], []
    tokens = (9, 3, 3)  # costs 9, 6, 9 + ...: arm 2 is the dearest
    for task, scores in enumerate(outcomes):
        start = len(nodes)
        nodes += [(0, None), *((1, score) for score in scores)]
        edges += [Edge(start, arm, start + 1 + arm, tokens[arm] + (arm == 2)) for arm in range(len(scores))]
        task_of += [task] * (1 + len(scores))
    return hand_made(nodes, edges, limits=(20, 20, 20), splits=("train",) * len(outcomes), task_of=task_of)


def test_difficulty_by_hand():
    """Mean costs are 9, 6 and 12: the second arm is the cheapest, the third the dearest."""
    tasks = {
        (0, 1, 1): "easy",
        (0, 1, 0): "easy",
        (1, 0, 1): "medium",
        (1, 0, 0): "medium",
        (0, 0, 1): "hard",
        (0.4, 0.4, 0.4): "intractable",
        (0.4, 0.5, 0.4): "easy",
    }
    recording = recording_of(list(tasks))
    found = difficulty(recording, np.arange(len(tasks)))
    assert [DIFFICULTIES[level] for level in found] == list(tasks.values())
    assert DIFFICULTIES[difficulty(recording, [6], threshold=0.6)[0]] == "intractable"
    assert [DIFFICULTIES[level] for level in difficulty(recording, [4, 0])] == ["hard", "easy"]


def test_difficulty_is_of_expectations():
    """The cheap arm's three recorded samples score 1, 1, 0."""
    nodes = [(0, None), (1, 1.0), (1, 0.0)]
    edges = [Edge(0, 0, 1), Edge(0, 0, 1), Edge(0, 0, 2), Edge(0, 1, 1)]
    recording = hand_made(nodes, edges)
    assert DIFFICULTIES[difficulty(recording, [0], threshold=0.66)[0]] == "easy"
    assert DIFFICULTIES[difficulty(recording, [0], threshold=0.67)[0]] == "hard"


def test_shares_by_group_by_hand():
    found = shares_by_group([[1, 0], [1, 2], [0, 5]], [0, 0, 2], 3)
    assert found[0].tolist() == [0.5, 0.5]
    assert np.isnan(found[1]).all()
    assert found[2].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: largest_share([]), r"calls = \[\]"),
        (lambda: selection_entropy([1, -1]), r"\[1.0, -1.0\]"),
        (lambda: routing_collapse_index([1], [1], [[1, 1]], [[1, 1]]), "as many tasks"),
        (lambda: routing_collapse_index([1], [1, 2], [[1]], [[1]]), r"costs \(2,\)"),
        (lambda: difficulty(None, [0], threshold=0.0), "threshold = 0.0"),
    ],
)
def test_bad_input(call, text):
    with pytest.raises(ConfigError, match=text):
        call()
