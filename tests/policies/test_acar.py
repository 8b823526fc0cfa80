from __future__ import annotations

from functools import cache

import helpers
import numpy as np
import pytest

from routegym.core.rollout import rollout
from routegym.core.vector_env import RoutingVectorEnv
from routegym.errors import ConfigError
from routegym.policies import storage
from routegym.policies.acar import ACAR, ProbePolicy, most_calls
from routegym.policies.algorithm import Problem

ACCEPT = 3


@cache
def recording_of(kind="cascade"):
    return helpers.build(kind, tasks=60)


class Longer:
    """Decisions of a policy on answers made up by hand, where an episode may have more calls than in the recording."""

    def __init__(self, monkeypatch, probes, more, thresholds, calls=6):
        monkeypatch.setattr("routegym.policies.acar.most_calls", lambda _: calls)
        self.policy = ProbePolicy(recording_of(), probes, more, thresholds)

    def actions(self, answers):
        """What is done after each answer of one episode; answers are letters."""
        layout = self.policy.layout
        observation = np.zeros((1, layout.width), dtype=np.float32)
        masks, state, taken = np.ones((1, 4), dtype=bool), None, []
        for made in range(len(answers) + 1):
            if made:
                agreement = answers[:made].count(answers[made - 1]) / made
                observation[0, layout.names.index("node_signals/agreement")] = agreement
                observation[0, layout.columns["step"]] = made / (made + 4)
            action, state = self.policy.predict(observation, state, np.array([made == 0]), action_masks=masks)
            taken.append(int(action[0]))
        return taken


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ("xxx", [0, 1, 0, ACCEPT]),  # sigma 0
        ("xxyy", [0, 1, 0, 1, ACCEPT]),  # two distinct: sigma 0.5
        ("xyxy", [0, 1, 0, 1, ACCEPT]),
        ("xyyy", [0, 1, 0, 1, ACCEPT]),
        ("xyzyy", [0, 1, 0, 1, 2, ACCEPT]),  # three distinct: sigma 1
    ],
)
def test_disagreement_of_three_probes_chooses_the_mode(answers, expected, monkeypatch):
    assert Longer(monkeypatch, [0, 1, 0], [1, 2], (0.5, 1.0)).actions(answers) == expected


@pytest.mark.parametrize(
    ("thresholds", "answers", "expected"),
    [
        ((0.5, 0.5), "xxyxx", [0, 1, 0, 1, 2, ACCEPT]),
        ((1.0, 2.0), "xxy", [0, 1, 0, ACCEPT]),
        ((1.0, 2.0), "xyzx", [0, 1, 0, 1, ACCEPT]),
    ],
)
def test_thresholds(thresholds, answers, expected, monkeypatch):
    assert Longer(monkeypatch, [0, 1, 0], [1, 2], thresholds).actions(answers) == expected


def test_with_one_call_left_the_last_model_is_asked(monkeypatch):
    assert Longer(monkeypatch, [0, 1], [1, 2], (1.0, 1.0), calls=3).actions("xy") == [0, 1, 2]
    assert Longer(monkeypatch, [0, 1], [1, 2], (1.0, 2.0), calls=3).actions("xy") == [0, 1, 1]


def test_probes_are_charged():
    """Every episode pays for both probes, and for the third arm exactly where they disagree."""
    recording = recording_of()
    assert most_calls(recording) == 3
    tasks = np.arange(recording.graph.n_tasks)
    env = RoutingVectorEnv(len(tasks), recording, info="lean", autoreset_mode="SameStep")
    table = rollout(ProbePolicy(recording, [0, 1], [2, 2]), env, tasks)
    graph = recording.graph
    first = graph.edges[graph.edge_first[graph.task_start, 0]]
    second = graph.edges[graph.edge_first[first["next"], 1]]
    third = graph.edges[graph.edge_first[second["next"], 2]]
    column = recording.node_signal_names.index("agreement")
    disagree = graph.node_signals[second["next"], column] < 0.75
    assert 0 < disagree.sum() < len(tasks)
    np.testing.assert_allclose(
        table.cost_usd, first["cost_usd"] + second["cost_usd"] + np.where(disagree, third["cost_usd"], 0.0)
    )
    assert table.arm_counts[:, ACCEPT].tolist() == (~disagree).astype(int).tolist()


def test_fit_and_storage(tmp_path):
    recording = recording_of()
    policy = ACAR().fit(Problem(recording))
    storage.save_policies(tmp_path, recording, {0: policy})
    loaded = storage.load_policies(tmp_path, recording)[0]
    tasks = np.resize(recording.split("train"), 100)
    budgets = np.geomspace(*recording.budget_range_usd, 100)
    env = RoutingVectorEnv(100, recording, info="lean", autoreset_mode="SameStep")
    ours, theirs = (rollout(one, env, tasks, budgets, 0.1) for one in (policy, loaded))
    assert (ours.arm_counts == theirs.arm_counts).all()
    assert not ours.violations.any()


@pytest.mark.parametrize("kind", ["agent_steps", "single_call"])
def test_needs_agreement(kind):
    recording = recording_of(kind)
    with pytest.raises(ConfigError, match=rf"{recording.node_signal_names[0]}.*'agreement'"):
        ACAR().fit(Problem(recording))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (([0], [1, 2]), "probes = "),
        (([0, 1, 2], [1, 2]), "3 calls at most"),
        (([0, 1], [2]), "more = "),
        (([0, 1], [1, 2], (0.0, 1.0)), "thresholds = "),
        (([0, 1], [1, 2], (1.0, 0.5)), "first <= second"),
        (([0, "huge"], [1, 2]), "'huge' is unknown"),
    ],
)
def test_bad_arguments(arguments, text):
    with pytest.raises(ConfigError, match=text):
        ProbePolicy(recording_of(), *arguments)


def test_one_probe_is_no_comparison():
    with pytest.raises(ConfigError, match="probes = 1"):
        ACAR(probes=1)
