"""The clock is made up: a decision takes as long as the test says."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from helpers import build

from routegym.errors import ConfigError
from routegym.evaluation import latency
from routegym.evaluation.latency import decision_latency


class Slow:
    """The cheapest legal action; single decision k takes `single[k]` ms, one of a batch `batch` ms per row."""

    def __init__(self, clock, warm_up: int) -> None:
        self.clock, self.calls, self.sizes = clock, 0, []
        self.single = iter([1000.0] * warm_up + [float(k) for k in range(1, 101)])
        self.starts = []

    def predict(self, observation, state=None, episode_start=None, deterministic=False, action_masks=None):
        assert deterministic
        self.sizes.append(len(observation))
        self.starts.append(bool(episode_start[0]))
        self.clock.now += next(self.single) / 1000 if len(observation) == 1 else 0.002 * len(observation)
        return action_masks.argmax(axis=1), (0 if episode_start.any() else state + 1)


@pytest.fixture(scope="module")
def recording():
    return build("agent_steps", 12)


def test_percentiles_and_throughput(recording, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    policy = Slow(clock, latency._WARM_UP)
    found = decision_latency(policy, recording, "train", decisions=100, batch=8, batches=5)
    assert found.p50_s == pytest.approx(0.0505)
    assert found.p99_s == pytest.approx(0.09901)
    assert found.throughput_per_s == pytest.approx(500)
    assert (found.batch, found.decisions) == (8, 100)
    assert policy.sizes == [1] * 120 + [8] * 25
    assert policy.starts[0]
    assert sum(policy.starts[:120]) > 5  # episodes end and others begin, the memory along with them


@pytest.mark.parametrize("name", ["decisions", "batch", "batches"])
def test_bad_input(name, recording):
    with pytest.raises(ConfigError, match=f"{name} = 0"):
        decision_latency(Slow(None, 0), recording, **{name: 0})


def test_it_takes_some_time(recording):
    class First:
        def predict(self, observation, state=None, episode_start=None, deterministic=False, action_masks=None):
            return np.argmax(action_masks, axis=1), state

    found = decision_latency(First(), recording, "train", decisions=30, batches=2)
    assert 0 < found.p50_s <= found.p99_s
    assert found.throughput_per_s > 0
