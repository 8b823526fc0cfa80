"""R-05 and the ledger: no episode ever costs more than its budget, and every cent is accounted for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from helpers import Edge, hand_made
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from routegym.core import Ledger, RoutingEnv, RoutingVectorEnv
from routegym.core.ledger import check_budget, check_lambda
from routegym.errors import ActionError, BudgetError
from routegym.graph import Recording

SOURCES = [kind + suffix for kind in helpers.KINDS for suffix in ("", "_sampled")]


@pytest.mark.parametrize("source", SOURCES)
def test_hard_budget_holds_in_random_episodes(recordings: dict[str, Path], source: str) -> None:
    """Over all parameters more than 10,000 episodes; budgets from the cheapest call to no cap at all."""
    recording = Recording.load(recordings[source])
    floor = float(recording.graph.arm_floor(recording.graph.task_start).max())
    count = 500
    rng = np.random.default_rng(3)
    budgets = floor * 10 ** rng.uniform(0, 3, count)
    budgets[:50], budgets[50:60] = floor, np.inf
    env = RoutingVectorEnv(
        count, recording, split="all", autoreset_mode=AutoresetMode.SAME_STEP, info="lean", budget_usd=None
    )
    episodes = bound = 0
    for round_ in range(2):
        env.reset(seed=round_, options={"budget_usd": budgets})
        cap = budgets.copy()
        total = np.zeros(count)
        for _ in range(24):
            masks = env.action_masks()
            assert masks.any(axis=1).all()
            bound += int((~masks).sum())
            _, _, terminated, truncated, info = env.step(helpers.legal_actions(rng, masks))
            total += info["cost_usd"]
            assert (info["cost_usd_total"] <= cap).all()  # exactly: no slack in replay
            assert np.allclose(info["cost_usd_total"], total, rtol=0, atol=1e-12)
            done = terminated | truncated
            episodes += int(done.sum())
            total[done] = 0.0
            cap[done] = np.inf  # the next episode has the env's own budget, which is none
    assert episodes > 1700
    assert bound > 0


@pytest.mark.parametrize("bad", [0, -1.0, math.nan, 1e-12, -math.inf, "much", "sampeld", [1.0, "x"], (2.0, 1.0),
                                 (0.0, 1.0), (1.0, math.inf), (1.0, 2.0, 3.0), object()])  # fmt: skip
def test_bad_budgets_are_refused(recordings: dict[str, Path], bad: Any) -> None:
    with pytest.raises(ValueError, match="budget_usd") as caught:
        RoutingEnv(recordings["agent_steps"], budget_usd=bad)
    assert isinstance(caught.value, BudgetError) or isinstance(bad, (str, tuple))


@pytest.mark.parametrize("bad", [0, -1.0, math.nan, 1e-12, "much", [0.1, 0.2]])
@pytest.mark.parametrize("task", [{}, {"task_id": 0}])
def test_bad_budgets_of_an_episode_are_refused(recordings: dict[str, Path], bad: Any, task: dict[str, Any]) -> None:
    env = RoutingEnv(recordings["agent_steps"])
    env.reset(seed=0)
    before = [part.copy() for part in env.vector._slots]
    with pytest.raises(ValueError, match="budget_usd"):
        env.reset(seed=1, options={"budget_usd": bad, **task})
    assert helpers.same(before, env.vector._slots)


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf, "x", (2.0, 1.0), (0.0, 1.0, 2.0)])
def test_bad_lambdas_are_refused(recordings: dict[str, Path], bad: Any) -> None:
    with pytest.raises(ValueError, match="lambda_"):
        RoutingEnv(recordings["single_call"], lambda_=bad)


def test_the_message_names_task_and_least_budget(recordings: dict[str, Path]) -> None:
    recording = Recording.load(recordings["agent_steps"])
    with pytest.raises(BudgetError, match=r"below the cheapest arm of task 'arith-\d+': give it at least") as caught:
        RoutingEnv(recording, budget_usd=1e-9)
    least = float(str(caught.value).rsplit(" ", 1)[-1])
    assert least == pytest.approx(float(recording.graph.arm_floor(np.arange(1))[0]), rel=1e-5)


# -- a worst case that nobody knows --------------------------------------------------------------
def unknown_worst_case() -> Recording:
    """Arm 0 may generate at most 10 tokens, arm 1 any number."""
    return hand_made([(0, None), (1, 0.0), (1, 1.0)], [Edge(0, 0, 1, 2), Edge(0, 1, 2, 3)], limits=(10, None))


def test_arms_of_unknown_worst_case_are_masked_under_a_cap() -> None:
    recording = unknown_worst_case()
    env = RoutingEnv(recording, budget_usd=1e9)
    env.reset(seed=0)
    assert env.action_masks().tolist() == [True, False]
    with pytest.raises(ActionError, match=r"'a1/t' is masked: it may cost an unknown amount"):
        env.step(1)
    free = RoutingEnv(recording)
    free.reset(seed=0)
    assert free.action_masks().tolist() == [True, True]
    assert free.step(1)[4]["cost_usd"] == pytest.approx(6e-6)


def test_a_pool_of_unknown_worst_cases_cannot_be_capped() -> None:
    recording = hand_made([(0, None), (1, 1.0)], [Edge(0, 0, 1, 5), Edge(0, 1, 1, 5)], limits=(None, None))
    RoutingEnv(recording).reset(seed=0)
    with pytest.raises(BudgetError, match="no arm with a known worst case"):
        RoutingEnv(recording, budget_usd=1.0)


@pytest.mark.parametrize(("budget", "legal"), [(10e-6, True), (np.nextafter(10e-6, 0), False)])
def test_the_last_cent_counts(budget: float, legal: bool) -> None:
    """A worst case of exactly what is left is legal; one bit less is not."""
    recording = hand_made([(0, None), (1, 1.0)], [Edge(0, 0, 1, 10), Edge(0, 1, 1, 10)])
    exact = float(recording.graph.node_reserve[0, 0])
    budget = exact if legal else float(np.nextafter(exact, 0))
    if not legal:
        with pytest.raises(BudgetError):
            RoutingEnv(recording, budget_usd=budget)
        return
    env = RoutingEnv(recording, budget_usd=budget)
    env.reset(seed=0)
    assert env.action_masks().tolist() == [True, False]
    assert env.step(0)[4]["cost_usd_total"] == budget


@pytest.mark.parametrize("kernel", ["auto", "numpy"])
@pytest.mark.parametrize("legal", [True, False])
def test_the_last_cent_counts_after_a_call(legal: bool, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = hand_made(
        [(0, None), (1, None), (2, 1.0)],
        [Edge(0, 0, 1, 3), Edge(0, 1, 1, 3), Edge(1, 0, 2, 10), Edge(1, 1, 2, 10)],
    )
    first, last = float(recording.graph.edges["cost_usd"][0]), float(recording.graph.node_reserve[1, 1])
    budget = first + last if legal else float(np.nextafter(first + last, 0))
    monkeypatch.setenv("ROUTEGYM_KERNEL", kernel)
    env = RoutingEnv(recording, budget_usd=budget)
    env.reset(seed=0)
    env.step(0)
    assert env.action_masks().tolist() == [True, legal]
    if legal:
        assert env.step(1)[4]["cost_usd_total"] == budget
    else:
        with pytest.raises(ActionError, match="'a1/t' is masked"):
            env.step(1)
        assert env.step(0)[2]


def test_soft_price_and_hard_cap_together(recordings: dict[str, Path]) -> None:
    """Lambda prices what the cap admits; the sum of rewards is score - lambda * cost / scale to the cent."""
    count = 200
    env = RoutingVectorEnv(
        count, recordings["agent_steps"], budget_usd="sampled", lambda_=(0.0, 3.0),
        autoreset_mode=AutoresetMode.DISABLED,
    )  # fmt: skip
    env.reset(seed=0)
    lambdas = env.lambda_.copy()
    assert len(set(lambdas)) == count
    rng = np.random.default_rng(0)
    total = np.zeros(count)
    score = np.zeros(count)
    while not env._slots.ended.all():
        _, reward, *_, info = env.step(helpers.legal_actions(rng, env.action_masks()))
        total += reward
        score += info["score"]
    spent = env.ledger.spent_usd
    assert np.abs(total - (score - lambdas * spent / env.recording.cost_scale_usd)).max() <= 1e-9
    assert score.sum() > 0


# -- the ledger alone ----------------------------------------------------------------------------
amounts = st.floats(0.0, 1e3, allow_subnormal=True)


@given(budget=st.floats(1e-9, 1e3), calls=st.lists(st.tuples(amounts, st.floats(0.0, 1.0)), max_size=30))
def test_ledger_never_exceeds_and_always_sums(budget: float, calls: list[tuple[float, float]]) -> None:
    ledger = Ledger(1)
    slot, active = np.array([0]), np.array([True])
    ledger.open(slot, np.array([budget]))
    spent = 0.0
    for worst, share in calls:
        reserve = np.array([worst])
        admitted = bool(ledger.admits(reserve)[0])
        assert admitted == (spent + worst <= budget)
        refused = ledger.reserve(reserve, active)
        assert refused.tolist() == [not admitted]
        if admitted:
            cost = worst * share
            ledger.settle(np.array([cost]))
            spent += cost
        assert ledger.spent_usd[0] == spent <= budget
        assert ledger.remaining_usd[0] == budget - spent >= 0.0


@given(
    worst=hnp.arrays(np.float64, 5, elements=st.floats(0.0, 2.0)),
    active=hnp.arrays(np.bool_, 5),
)
def test_ledger_reserves_for_all_or_for_none(worst: Any, active: Any) -> None:
    ledger = Ledger(5)
    ledger.open(np.arange(5), np.ones(5))
    refused = ledger.reserve(worst, active)
    assert refused.tolist() == ((worst > 1.0) & active).tolist()
    if refused.any():
        with pytest.raises(BudgetError):  # nothing is reserved, so nothing can be settled
            ledger.settle(np.full(5, 1e-9))
        assert not ledger.spent_usd.any()
    else:
        ledger.settle(np.where(active, worst, 0.0))
        assert np.array_equal(ledger.spent_usd, np.where(active, worst, 0.0))


def test_ledger_refuses_a_call_dearer_than_its_reserve_and_charges_nothing() -> None:
    ledger = Ledger(2)
    ledger.open(np.arange(2), np.full(2, np.inf))
    ledger.reserve(np.array([1.0, 1.0]), np.ones(2, dtype=bool))
    with pytest.raises(BudgetError, match=r"account 1: a call cost 1\.5 USD and 1\.0 USD were reserved"):
        ledger.settle(np.array([0.5, 1.5]))
    assert ledger.spent_usd.tolist() == [0.0, 0.0]


def test_ledger_masks_by_action_and_never_admits_nan() -> None:
    ledger = Ledger(2)
    ledger.open(np.arange(2), np.array([1.0, np.inf]))
    worst = np.array([[0.5, np.nan, np.inf], [1e9, np.nan, np.inf]])
    assert ledger.admits(worst).tolist() == [[True, False, False], [True, False, True]]


def test_checks_accept_what_makes_sense() -> None:
    assert check_budget(math.inf) == math.inf
    assert check_budget([1, 2]).tolist() == [1.0, 2.0]
    assert check_lambda(0) == 0.0
