"""A call that brings no answer truncates its episode: charged, marked, never scored 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import helpers
import numpy as np
import pytest

from routegym.core.rollout import rollout
from routegym.core.vector_env import RoutingVectorEnv
from routegym.errors import CallTimeoutError
from routegym.graph import Expander, explore, start_recording
from routegym.graph.pricing import edge_costs, failure_cost_usd, worst_case_usd
from routegym.pool.arms import Arm, Price, PriceTable
from routegym.pool.backend import Attempt, Failure, Request, Response
from routegym.pool.simulated import SimulatedBackend

TIMED_OUT = CallTimeoutError("no answer within 1 s; raise timeout_s or ask for fewer tokens")


@dataclass
class FlakyPool(helpers.SimulatedPool):
    """The simulated pool, of which some arms do not answer; each failure is charged its worst case."""

    down: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        answers = self.backend
        pool = self

        class Flaky(SimulatedBackend):
            def generate(
                self, requests: Sequence[Request], on_result: Callable[..., None] | None = None
            ) -> list[Response | Failure]:
                pool.asked += [request.arm.name for request in requests]
                return [
                    Failure(TIMED_OUT, (Attempt(r.arm.name, "CallTimeoutError", "late", (8, 0, 4, 0), 1.0),))
                    if r.arm.name in pool.down
                    else response
                    for r, response in zip(requests, answers.generate(requests), strict=True)
                ]

        self.backend = Flaky()


def make(down: set[str], tasks: int = 12, n: int = 6, **options: Any) -> tuple[FlakyPool, RoutingVectorEnv]:
    pool = FlakyPool(down=down)
    workflow = helpers.workflow_of("cascade", pool)
    recording = start_recording("flaky", workflow, pool, helpers.tasks_of("cascade", tasks))
    expander = Expander(workflow, pool, recording)
    recording.fix_scales()
    env = RoutingVectorEnv(n, recording, split="all", expander=expander, autoreset_mode="Disabled", **options)
    return pool, env


def test_a_failed_call_truncates_charges_and_marks() -> None:
    _, env = make({"m1/direct"}, lambda_=0.5)
    env.reset(seed=0)
    _, reward, terminated, truncated, info = env.step([0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(truncated, [False, True, False, False, True, False])
    assert not terminated.any()
    np.testing.assert_array_equal(info["failure"] == "CallTimeoutError", truncated)
    assert set(info["failure"][~truncated]) == {""}
    assert np.isnan(info["score"][truncated]).all()
    assert not np.isnan(info["score"][~truncated]).any()
    charged = (8 * 10.0 + 4 * 40.0) * 1e-6  # the failed attempt, at the prices of m1
    np.testing.assert_allclose(info["cost_usd"][truncated], charged)
    np.testing.assert_allclose(info["cost_usd_total"], info["cost_usd"])
    np.testing.assert_allclose(reward[truncated], -0.5 * charged / env.recording.cost_scale_usd)
    assert (info["arm"] == [0, 1, 2, 0, 1, 2]).all()
    assert (env.recording.graph.edge_first[:, 1] < 0).all()  # no edge: it says nothing about the model


def test_a_failure_is_tried_again_and_then_recorded() -> None:
    pool, env = make({"m0/direct"})
    options = {"task_id": list(range(6))}
    env.reset(seed=0, options=options)
    assert env.step([0] * 6)[3].all()
    pool.down.clear()
    env.reset(seed=0, options=options)
    _, _, _, truncated, info = env.step([0] * 6)
    assert not truncated.any()
    assert set(info["failure"]) == {""}
    assert env.expander is not None
    assert not env.expander.failures


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_every_autoreset_mode_goes_on_after_a_failure(mode: str) -> None:
    pool = FlakyPool(down={"m2/direct"})
    workflow = helpers.workflow_of("cascade", pool)
    recording = start_recording("flaky", workflow, pool, helpers.tasks_of("cascade", 12))
    expander = Expander(workflow, pool, recording)
    recording.fix_scales()
    env = RoutingVectorEnv(8, recording, split="all", expander=expander, autoreset_mode=mode)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    failures = 0
    for _ in range(30):
        _, _, terminated, truncated, info = env.step(rng.integers(4, size=8))
        failures += (info["failure"] != "").sum()
        if mode == "Disabled" and (terminated | truncated).any():
            env.reset(options={"reset_mask": terminated | truncated})
    assert failures > 5


def test_a_hard_budget_covers_failed_attempts() -> None:
    pool, env = make({"m0/direct", "m1/direct", "m2/direct"}, budget_usd=0.001)
    env.reset(seed=0)
    for arm in range(3):
        env.reset(seed=0)
        if env.action_masks()[:, arm].all():
            _, _, _, truncated, info = env.step([arm] * 6)
            assert truncated.all()
            assert (info["cost_usd_total"] <= 0.001).all()
    assert pool.asked


def test_rollouts_keep_failures_apart() -> None:
    class Middle:
        def predict(self, observation: Any, state: Any, *_: Any) -> Any:
            return np.ones(len(observation), dtype=np.int64), state

    _, env = make({"m1/direct"})
    table = rollout(Middle(), env, np.arange(12))  # type: ignore[arg-type]
    assert np.isnan(table.score).all()
    assert (table.cost_usd > 0).all()


def test_exploring_leaves_failures_missing_and_ends() -> None:
    pool, env = make({"m1/direct"})
    expander = env.expander
    assert expander is not None
    explore(expander)
    graph = env.recording.graph
    assert not graph.complete
    assert {action for _, action in expander.failures} == {1}
    assert pool.asked.count("m1/direct") == pool.asked.count("m0/direct") == 12  # though it is wanted at every step
    before = graph.n_edges
    pool.down.clear()
    explore(expander)
    assert graph.complete
    assert graph.n_edges > before


def test_retries_fallback_and_gpu_time_are_priced_and_kept_apart() -> None:
    arms = (Arm("a", "t", 1, 10, charged_attempts=2, fallback="b/t"), Arm("b", "t", 1, 10), Arm("g", "t", 1, 10))
    prices = PriceTable(
        "2026-01-01", "made up", {"a": Price(1, 0, 2, 0), "b": Price(3, 0, 5, 0), "g": Price(0, 0, 0, 0, gpu_hour=3.6)}
    )
    prompt = np.array([100.0])
    alone_a, alone_b = 100 * 1e-6 + 10 * 2e-6, 100 * 3e-6 + 10 * 5e-6
    np.testing.assert_allclose(worst_case_usd(prices, arms[0], prompt, arms), 2 * alone_a + alone_b)
    assert np.isinf(worst_case_usd(prices, arms[2], prompt, arms)).all()
    timed = replace(arms[2], max_gpu_s=5.0)
    np.testing.assert_allclose(worst_case_usd(prices, timed, prompt, arms), 5 * 1e-3)

    from routegym.graph import edge_dtype

    records = np.zeros(3, dtype=edge_dtype(0))
    records["tokens"] = [[100, 0, 4, 0], [100, 0, 4, 0], [100, 0, 4, 0]]
    records["lost"][0] = (100, 10)
    records["fallback"][0] = 2  # answered by b
    records["gpu_s"][2] = 2.0
    cost, reserve = edge_costs(prices, (arms[0], arms[1], timed), np.array([0, 1, 2]), records)
    np.testing.assert_allclose(cost, [alone_a + 100 * 3e-6 + 4 * 5e-6, 100 * 3e-6 + 4 * 5e-6, 2e-3])
    assert (cost <= reserve).all()
    lost = Failure(TIMED_OUT, (Attempt("a/t", "CallTimeoutError", "", (100, 0, 10, 0)),) * 2)
    np.testing.assert_allclose(failure_cost_usd(prices, arms, lost), 2 * alone_a)
