"""Item response theory with planning: on small worlds whose best plan can be worked out by hand."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from routegym.core import RoutingVectorEnv
from routegym.errors import ConfigError, RunError
from routegym.graph.imports import RoutingData, to_recording
from routegym.graph.library import load_recording
from routegym.graph.subset import keep_actions, vary_arms
from routegym.policies.algorithm import Problem
from routegym.policies.irt import IRT, IRTPolicy
from routegym.policies.storage import load_policies, save_policies

pytest.importorskip("torch")

N = 300
FAST = IRT(penalties=(1.0,))


def recording_of(solved, costs, kind="cascade", verdict=True, turns=None, most=2):
    """A recording of tasks without any text features; `solved` bool (n, arms), `costs` one for each arm."""
    names = [f"arm{arm}" for arm in range(solved.shape[1])]
    rows = [(f"q{q}", name, float(solved[q, a]), costs[a]) for q in range(len(solved)) for a, name in enumerate(names)]
    columns = dict(zip(("query", "arm", "score", "cost_usd"), map(list, zip(*rows, strict=True)), strict=True))
    ids = [f"q{q}" for q in range(len(solved))]
    splits = ["train" if q % 3 else "test" for q in range(len(solved))]
    asked = pa.table({"query": ids, "prompt": ids, "split": splits})
    data = RoutingData("made", pa.table(columns), asked, turns=turns, verdict=verdict)
    return to_recording(data, kind, arms=names, most_attempts=most, text="none").recording


def choices(policy, recording, price, *actions):
    """Actions of the policy at a price of cost after a path, over the test tasks where it goes on."""
    tasks = recording.split("test")
    env = RoutingVectorEnv(len(tasks), recording, split="test", autoreset_mode="Disabled")
    observation, _ = env.reset(seed=0, options={"task_id": tasks, "lambda": price})
    alive = np.ones(len(tasks), dtype=bool)
    for action in actions:
        observation, _, terminated, _, _ = env.step(np.full(len(tasks), action))
        alive &= ~terminated
    found, _ = policy.predict(observation, action_masks=env.action_masks())
    return found[alive]


def independent(seed=0):
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.random(N) < 0.5, rng.random(N) < 0.9])


def test_the_cheaper_chance_is_tried_first_and_then_the_dear_one() -> None:
    recording = recording_of(independent(), (0.1, 1.0))
    policy = FAST.fit(Problem(recording))
    assert (choices(policy, recording, 0.2) == 0).all()  # .1 / .5 < 1 / .9
    assert (choices(policy, recording, 0.2, 0) == 1).all()


def test_nothing_is_tried_that_is_not_worth_its_price() -> None:
    recording = recording_of(independent(), (0.1, 1.0))
    policy = FAST.fit(Problem(recording))
    scale = recording.cost_scale_usd
    assert (choices(policy, recording, 0.95 * scale, 0) == 2).all()  # .9 - .95 < 0: stop
    assert (choices(policy, recording, 7.0 * scale) == 2).all()  # .5 - 7 * .1 < 0: not even the cheap one


def test_without_a_verdict_the_best_one_is_called_and_handed_in() -> None:
    recording = recording_of(independent(), (0.1, 1.0), verdict=False)
    policy = FAST.fit(Problem(recording))
    assert (choices(policy, recording, 0.0) == 1).all()
    assert (choices(policy, recording, 0.8 * recording.cost_scale_usd) == 0).all()  # .5 - .08 > .9 - .8
    assert (choices(policy, recording, 0.0, 1) == 2).all()


def test_a_failure_tells_how_hard_the_task_is() -> None:
    rng = np.random.default_rng(1)
    hard = rng.random(N) < 0.5
    solved = np.column_stack([~hard, np.where(hard, rng.random(N) < 0.1, True), rng.random(N) < 0.6])
    recording = recording_of(solved, (0.1, 0.2, 0.5), most=3)
    policy = FAST.fit(Problem(recording))
    env = RoutingVectorEnv(1, recording, split="test", autoreset_mode="Disabled")
    before, _ = env.reset(seed=0, options={"task_id": recording.split("test")[hard[recording.split("test")]][:1]})
    after, *_ = env.step(np.array([0]))
    p, q = (policy.predicted(observation)[0] for observation in (before, after))
    assert p[1] > 0.45
    assert q[1] < 0.3  # arm1 fails where arm0 does
    assert abs(q[2] - 0.6) < 0.12  # arm2 has nothing to do with it
    assert p[3] == 0  # a control predicts nothing


def test_an_attempt_that_is_known_to_fail_is_abandoned() -> None:
    rng = np.random.default_rng(2)
    solved = np.column_stack([rng.random(N) < 0.5, np.ones(N, dtype=bool)])
    rows = []
    for q in range(N):
        first = "ok" if solved[q, 0] else "error"  # the first turn of arm0 tells
        rows += [(f"q{q}", "arm0", turn, first if turn == 0 else "ok", 10) for turn in range(4)]
        rows += [(f"q{q}", "arm1", 0, "ok", 10)]
    names = ("query", "arm", "turn", "feedback", "completion_tokens")
    turns = pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    recording = recording_of(solved, (0.4, 0.9), kind="attempts", turns=turns)
    policy = FAST.fit(Problem(recording))
    tasks = recording.split("test")
    assert (choices(policy, recording, 0.1) == 0).all()
    env = RoutingVectorEnv(len(tasks), recording, split="test", autoreset_mode="Disabled")
    env.reset(seed=0, options={"task_id": tasks, "lambda": 0.3})
    observation, *_ = env.step(np.zeros(len(tasks), dtype=np.int64))
    found, _ = policy.predict(observation, action_masks=env.action_masks())
    assert (found[solved[tasks, 0]] == 0).all()  # it goes on
    assert (found[~solved[tasks, 0]] == 1).all()  # it is handed on
    hard = ~solved[tasks, 0]
    begun, whole = np.ones(len(tasks), dtype=bool), np.zeros(len(tasks), dtype=bool)
    _, state = policy.predict(observation, ~hard[:, None].repeat(2, axis=1), begun, action_masks=env.action_masks())
    assert (state == np.column_stack([hard, whole])).all()  # what was abandoned before is forgotten at a start
    _, state = policy.predict(observation, state, whole, action_masks=env.action_masks())
    assert (state[:, 0] == hard).all()
    later = observation[hard].copy()
    later[:, policy._columns.running] = 0.0
    later[:, policy._columns.tried[0]] = 1.0
    prior, failed = policy._model.weights, policy._chances(later)[2]
    np.testing.assert_allclose(policy._chances(later, state[hard])[2], np.tile(prior, (len(later), 1)))
    assert (np.abs(failed - prior).max(axis=1) > 0.01).all()


def test_a_hard_budget_is_planned_with() -> None:
    recording = recording_of(independent(), (0.1, 1.0))
    policy = FAST.fit(Problem(recording))
    tasks = recording.split("test")
    env = RoutingVectorEnv(len(tasks), recording, split="test", budget_usd=1.05, autoreset_mode="Disabled")
    observation, _ = env.reset(seed=0, options={"task_id": tasks, "lambda": 0.0})
    found, _ = policy.predict(observation, action_masks=env.action_masks())
    assert (found == 1).all()  # after the cheap one the dear one could not be paid any more


def first_choices(policy, recording, budget):
    """Actions of the policy under a hard budget at the start of the test tasks."""
    tasks = recording.split("test")
    env = RoutingVectorEnv(len(tasks), recording, split="test", budget_usd=budget, autoreset_mode="Disabled")
    observation, _ = env.reset(seed=0, options={"task_id": tasks, "lambda": 0.0})
    return policy.predict(observation, action_masks=env.action_masks())[0]


def long_attempts(solved, costs, turns=4):
    """A recording in which the last arm needs several turns for an attempt, and the others one."""
    last = solved.shape[1] - 1
    rows = [
        (f"q{q}", f"arm{arm}", turn, "ok", 10)
        for q in range(len(solved))
        for arm in range(last + 1)
        for turn in range(turns if arm == last else 1)
    ]
    names = ("query", "arm", "turn", "feedback", "completion_tokens")
    table = pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    return recording_of(solved, costs, kind="attempts", turns=table)


def test_a_budget_pays_for_whole_attempts() -> None:
    recording = long_attempts(independent(), (0.1, 1.0))
    policy = FAST.fit(Problem(recording))
    assert (first_choices(policy, recording, 1.05) == 1).all()  # after arm0, only three of the four turns of arm1
    assert (first_choices(policy, recording, 0.6) == 0).all()


@pytest.mark.parametrize("cheap", [0.1, 0.07, 0.013, 0.3, 0.0007])
def test_a_budget_that_just_pays_for_the_cheapest_arm_is_spent(cheap: float) -> None:
    recording = recording_of(independent(), (cheap, 1.0))
    policy = FAST.fit(Problem(recording))
    floor = float(recording.graph.arm_floor(recording.graph.task_start).max())
    assert (first_choices(policy, recording, floor) == 0).all()


def test_a_turn_is_begun_where_no_whole_attempt_can_be_paid() -> None:
    recording = long_attempts(independent()[:, ::-1], (1.0, 0.4))
    policy = FAST.fit(Problem(recording))
    assert (first_choices(policy, recording, 0.15) == 1).all()  # one of its four turns


def test_a_later_arm_is_paid_in_full_where_its_reserve_is_shown_as_the_scale() -> None:
    recording = recording_of(independent(), (0.1, 1.0))
    recording.cost_scale_usd = 0.5
    policy = FAST.fit(Problem(recording))
    assert (first_choices(policy, recording, 1.05) == 1).all()


def test_a_masked_arm_is_not_known_by_the_one_that_stands_in() -> None:
    rng = np.random.default_rng(4)
    solved = np.column_stack([rng.random(N) < 0.2, rng.random(N) < 0.9])
    recording = recording_of(solved, (0.1, 1.0))
    policy = FAST.fit(Problem(vary_arms(recording, drop=0.8, seed=0)))
    env = RoutingVectorEnv(1, recording, split="test")
    observation, _ = env.reset(seed=0)
    score = policy.predicted(observation)[0]
    assert score[0] == pytest.approx(0.2, abs=0.1)
    assert score[1] == pytest.approx(0.9, abs=0.1)
    assert policy._chances(observation)[1][0] == pytest.approx([0.1, 1.0], rel=1e-3)


def test_an_arm_that_no_training_task_has_is_left_alone() -> None:
    recording = recording_of(independent(), (0.1, 1.0))
    legal = np.ones((recording.graph.n_nodes, 3), dtype=bool)
    legal[:, 1] = False
    policy = FAST.fit(Problem(keep_actions(recording, legal)))
    assert (choices(policy, recording, 0.05) == 0).all()


def test_half_a_score_is_a_failure_where_a_verdict_tells() -> None:
    solved = np.column_stack([np.full(N, 0.5), np.random.default_rng(5).random(N) < 0.9])
    recording = recording_of(solved, (0.1, 1.0))
    policy = FAST.fit(Problem(recording))
    assert (choices(policy, recording, 0.3) == 1).all()  # arm0 never solves a task
    unseen = recording_of(solved, (0.1, 1.0), verdict=False)
    observation, _ = RoutingVectorEnv(1, unseen, split="test").reset(seed=0)
    assert FAST.fit(Problem(unseen)).predicted(observation)[0, 0] == pytest.approx(0.5, abs=0.05)


def test_it_is_the_same_after_saving() -> None:
    recording = recording_of(independent(), (0.1, 1.0))
    policy = FAST.fit(Problem(recording))
    settings, arrays = policy.to_state()
    again = IRTPolicy.from_state(recording, settings, arrays)
    env = RoutingVectorEnv(32, recording, lambda_=(0.0, 2.0))
    observation, _ = env.reset(seed=0)
    np.testing.assert_array_equal(again.predict(observation)[0], policy.predict(observation)[0])


def test_the_penalty_is_chosen_on_tasks_left_out() -> None:
    rng = np.random.default_rng(3)
    recording = recording_of(np.column_stack([rng.random(N) < 0.5, rng.random(N) < 0.9]), (0.1, 1.0))
    records: list[dict[str, float]] = []

    class Notes:
        def report(self, record):
            records.append(record)

    IRT(penalties=(0.1, 30.0)).fit(Problem(recording), training=Notes())  # type: ignore[arg-type]
    assert records[0]["penalty"] in (0.1, 30.0)
    assert 0 < records[0]["value"] < 1


def test_tasks_of_several_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"irt plans whole attempts.*'agent_steps'.*take predict_then_plan"):
        FAST.fit(Problem(load_recording("agent_steps")))


def test_columns_are_those_of_the_fit_wherever_it_is_loaded(tmp_path) -> None:
    recording = long_attempts(independent(), (0.1, 1.0))
    policy = FAST.fit(Problem(recording))
    save_policies(tmp_path, recording, {0: policy})
    easy = long_attempts(np.ones((N, 2)), (0.1, 1.0))
    legal = np.ones((easy.graph.n_nodes, 3), dtype=bool)
    legal[:, 1] = False  # arm0 solves every task in one turn: nothing varies
    fewer = keep_actions(easy, legal)
    loaded = load_policies(tmp_path, fewer)[0]
    assert isinstance(loaded, IRTPolicy)
    for mine, theirs in zip(loaded._columns, policy._columns, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert (choices(loaded, fewer, 0.2) == 0).all()


def test_the_count_of_attempts_is_no_sign_of_how_one_goes() -> None:
    recording = long_attempts(independent(), (0.1, 1.0))
    policy = FAST.fit(Problem(recording))
    names = [recording.node_signal_names[column] for column in policy._columns.attempt]
    assert names
    assert not {"attempts", "calls"} & set(names)


@pytest.mark.parametrize("verdict", [True, False])
def test_attempts_are_counted_whatever_the_import_allowed(verdict: bool) -> None:
    recording = recording_of(independent(), (0.1, 1.0), verdict=verdict, most=5)  # of which two arms use two
    policy = FAST.fit(Problem(recording))
    env = RoutingVectorEnv(N, recording, split="all", autoreset_mode="Disabled")
    env.reset(seed=0, options={"task_id": np.arange(N), "lambda": 0.0})
    observation, _, over, *_ = env.step(np.zeros(N, dtype=np.int64))
    assert (policy._begun(observation[~over]) == 1).all()
    if not verdict:
        assert (choices(policy, recording, 0.0, 1) == 2).all()  # the first answer is handed in


def trials(solved, costs, most):
    """A recording where every arm may be called several times; `solved` bool (n, arms, trials)."""
    n, arms, often = solved.shape
    rows = [
        (f"q{q}", f"arm{arm}", trial, float(solved[q, arm, trial]), costs[arm])
        for q in range(n)
        for arm in range(arms)
        for trial in range(often)
    ]
    names = ("query", "arm", "trial", "score", "cost_usd")
    table = pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    ids = [f"q{q}" for q in range(n)]
    splits = ["train" if q % 3 else "test" for q in range(n)]
    data = RoutingData("made", table, pa.table({"query": ids, "prompt": ids, "split": splits}), verdict=True)
    return to_recording(data, "cascade", arms=["arm0", "arm1"], most_attempts=most, text="none").recording


def test_every_attempt_of_an_arm_counts(tmp_path) -> None:
    """Also the second one of the same arm, which leaves one attempt of three."""
    rng = np.random.default_rng(6)
    recording = trials(rng.random((N, 2, 3)) < np.array([0.2, 0.9])[:, None], (0.1, 1.0), most=3)
    policy = FAST.fit(Problem(recording))
    save_policies(tmp_path, recording, {0: policy})
    loaded = load_policies(tmp_path, recording)[0]
    assert isinstance(loaded, IRTPolicy)
    env = RoutingVectorEnv(N, recording, split="all", autoreset_mode="Disabled")
    env.reset(seed=0, options={"task_id": np.arange(N), "lambda": 0.0})
    alive = np.ones(N, dtype=bool)
    for count in (1, 2):
        observation, _, over, *_ = env.step(np.zeros(N, dtype=np.int64))
        alive &= ~over
        assert (policy._begun(observation[alive]) == count).all()
        assert (loaded._begun(observation[alive]) == count).all()
    assert (choices(policy, recording, 0.2, 0, 0) == 1).all()  # the last attempt is worth .9 - .2


def test_an_arm_that_fails_again_is_not_begun_again() -> None:
    rng = np.random.default_rng(7)
    fresh = rng.random((N, 2, 2)) < np.array([0.5, 0.9])[:, None]
    same = trials(fresh[:, :, :1].repeat(2, axis=2), (0.1, 1.0), most=2)
    stuck, lucky = (FAST.fit(Problem(recording)) for recording in (same, trials(fresh, (0.1, 1.0), most=2)))
    price = 0.95 * same.cost_scale_usd  # arm1 is not worth it
    assert (choices(lucky, same, price, 0) == 0).all()
    assert (choices(stuck, same, price, 0) == 2).all()
    settings, arrays = stuck.to_state()
    assert (choices(IRTPolicy.from_state(same, settings, arrays), same, price, 0) == 2).all()
    env = RoutingVectorEnv(1, same, split="test", autoreset_mode="Disabled")
    env.reset(seed=0, options={"task_id": same.split("test")[~fresh[same.split("test"), 0, 0]][:1]})
    observation, *_ = env.step(np.array([0]))
    masks = np.array([[True, False, False]])
    assert stuck.predict(observation, action_masks=masks)[0] == 0  # nothing else may be done
    abandoned, begun = np.array([[True, False]]), np.array([False])
    dear = {"action_masks": np.array([[True, False, True]])}
    assert stuck.predict(observation, abandoned, begun, **dear)[0] == 0  # that says nothing
    assert stuck.predict(observation, ~abandoned, begun, **dear)[0] == 2


def test_older_files_count_arms_and_begin_them_again() -> None:
    solved = independent()[:, :, None].repeat(2, axis=2)
    recording = trials(solved, (0.1, 1.0), most=2)
    settings, arrays = FAST.fit(Problem(recording)).to_state()
    assert settings.pop("retries") is False
    older = IRTPolicy.from_state(recording, settings, {k: v for k, v in arrays.items() if k not in {"begun", "unit"}})
    assert (choices(older, recording, 0.95 * recording.cost_scale_usd, 0) == 0).all()


@pytest.mark.parametrize("penalties", [(), (0.0,), (1.0, -1.0)])
def test_bad_penalties(penalties: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="penalties"):
        IRT(penalties=penalties)


def test_a_policy_is_not_loaded_where_texts_are_embedded_otherwise(tmp_path) -> None:
    recording = recording_of(independent(), (0.1, 1.0))
    save_policies(tmp_path, recording, {0: FAST.fit(Problem(recording))})
    other = replace(recording, tasks=replace(recording.tasks, embedder="another"))
    with pytest.raises(RunError, match="those of recording 'made' are by 'another'"):
        load_policies(tmp_path, other)
    meta = json.loads((tmp_path / "policy.json").read_text())
    del meta["embedder"]
    (tmp_path / "policy.json").write_text(json.dumps(meta))
    assert load_policies(tmp_path, other).keys() == {0}  # older files do not say
