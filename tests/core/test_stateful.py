"""R-04: whatever is done to an environment, in any order, its invariants hold."""

from __future__ import annotations

from functools import cache
from typing import Any

import helpers
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from routegym.core import RoutingEnv
from routegym.core.kernels import NumpyKernel
from routegym.errors import ActionError, RoutegymError


@cache
def recording(source: str) -> Any:
    """In memory, so that hypothesis can start thousands of environments."""
    kind = source.removesuffix("_sampled")
    return helpers.build(kind, 12, samples={"m0/direct": 3} if source != kind else None)


SOURCES = [kind + suffix for kind in helpers.KINDS for suffix in ("", "_sampled")]
#: Budgets in multiples of the cheapest first call, infinity included.
BUDGETS = st.one_of(st.floats(1.0, 500.0), st.just(float("inf")))


class EnvironmentMachine(RuleBasedStateMachine):
    """Random legal and illegal actions, and resets at any time."""

    @initialize(
        source=st.sampled_from(SOURCES),
        form=st.sampled_from(["flat", "dict", "index"]),
        budget=st.one_of(st.none(), st.just("sampled"), BUDGETS),
        lambda_=st.floats(0.0, 5.0),
        split=st.sampled_from(["train", "all"]),
    )
    def make(self, source: str, form: Any, budget: Any, lambda_: float, split: str) -> None:
        self.recording = recording(source)
        graph = self.recording.graph
        self.floor = float(graph.arm_floor(graph.task_start).max())
        if isinstance(budget, float):
            budget *= self.floor
        self.lambda_ = lambda_
        self.env = RoutingEnv(self.recording, observation=form, budget_usd=budget, lambda_=lambda_, split=split)
        self.over = True
        self.start(*self.env.reset(seed=0))

    def start(self, observation: Any, info: dict[str, Any]) -> None:
        assert observation in self.env.observation_space
        self.over = False
        self.budget, self.lambda_ = info["budget_usd"], info["lambda"]
        self.costs: list[float] = []
        self.rewards: list[float] = []
        assert info["cost_usd_total"] == 0.0
        assert self.budget >= self.floor * (1 - 1e-12)
        assert self.env.action_masks().any()

    def state(self) -> tuple[Any, ...]:
        """All that a refused request must leave as it is."""
        vector = self.env.vector
        return (*(part.copy() for part in vector._slots), vector._observe())

    @rule(seed=st.one_of(st.none(), st.integers(0, 50)))
    def reset(self, seed: int | None) -> None:
        self.start(*self.env.reset(seed=seed))

    @rule(task=st.integers(0, 11), multiple=BUDGETS, lambda_=st.floats(0.0, 5.0))
    def reset_with_options(self, task: int, multiple: float, lambda_: float) -> None:
        budget = multiple * self.floor
        task_id = self.recording.tasks.ids[task]
        observation, info = self.env.reset(options={"task_id": task_id, "budget_usd": budget, "lambda": lambda_})
        assert (info["task_id"], info["budget_usd"], info["lambda"]) == (task_id, budget, lambda_)
        self.start(observation, info)

    @rule(
        options=st.sampled_from(
            [
                {"budget_usd": -1.0},
                {"budget_usd": 0.0},
                {"budget_usd": float("nan")},
                {"budget_usd": 1e-12, "task_id": 0},
                {"lambda": -1.0},
                {"task_id": "nobody"},
                {"task_id": 99},
                {"task": 1},
            ]
        )
    )
    def refused_reset(self, options: dict[str, Any]) -> None:
        before = self.state()
        with pytest.raises(RoutegymError):
            self.env.reset(seed=1, options=options)
        assert helpers.same(before, self.state())

    @precondition(lambda self: not self.over)
    @rule(number=st.integers(0, 1000))
    def legal_step(self, number: int) -> None:
        mask = self.env.action_masks()
        assert mask.any()
        action = int(helpers.first_legal(mask[None], np.array([number]))[0])
        observation, reward, terminated, truncated, info = self.env.step(action)
        assert observation in self.env.observation_space
        self.costs.append(info["cost_usd"])
        self.rewards.append(float(reward))
        assert info["cost_usd"] >= 0.0
        assert info["arm"] == action
        assert abs(info["cost_usd_total"] - sum(self.costs)) <= 1e-9
        assert 0.0 <= info["cost_usd_total"] <= self.budget
        self.over = terminated or truncated
        assert info["score"] == 0.0 or self.over
        if self.over:
            expected = info["score"] - self.lambda_ * info["cost_usd_total"] / self.recording.cost_scale_usd
            assert abs(sum(self.rewards) - expected) <= 1e-9
        else:
            assert self.env.action_masks().any()

    @rule(action=st.one_of(st.integers(-3, 7), st.floats(0, 3), st.sampled_from([None, "m0/direct"])))
    def illegal_step(self, action: Any) -> None:
        known = isinstance(action, int) and 0 <= action < self.recording.graph.n_actions
        if not self.over and known and self.env.action_masks()[action]:
            return
        before = self.state()
        with pytest.raises(ActionError):
            self.env.step(action)
        assert helpers.same(before, self.state())


def run(examples: int, *phases: Phase) -> None:
    run_state_machine_as_test(
        EnvironmentMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=20,
            deadline=None,
            database=None,
            phases=phases or tuple(Phase),
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_invariants_hold() -> None:
    run(250)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_invariants_hold_for_long() -> None:
    run(10_000)


def test_the_machine_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """An account that forgets half of what a call cost is found out."""
    step = NumpyKernel.step

    def forgetful(self: NumpyKernel, tables: Any, slots: Any, actions: Any) -> Any:
        outcome = step(self, tables, slots, actions)
        if outcome is not None:
            slots.spent_usd[:] -= outcome.cost_usd / 2
        return outcome

    monkeypatch.setenv("ROUTEGYM_KERNEL", "numpy")
    monkeypatch.setattr(NumpyKernel, "step", forgetful)
    with pytest.raises(AssertionError):
        run(50, Phase.explicit, Phase.generate)
