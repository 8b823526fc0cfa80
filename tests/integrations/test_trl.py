"""One environment object is one episode: tools, messages, rewards, and GRPOTrainer's way with them."""

from __future__ import annotations

import inspect
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routegym.core.env import RoutingEnv
from routegym.errors import ConfigError, ServerFailedError
from routegym.evaluation.oracle import oracle_at_cap
from routegym.graph.library import load_recording
from routegym.graph.recording import Recording
from routegym.integrations.teacher import best_action
from routegym.integrations.text import RoutingText
from routegym.integrations.trl import (
    RouterEnvironment,
    demonstrations,
    router_cost,
    router_environment,
    tasks,
    use_short_calls,
)


@pytest.fixture
def cascade(recordings: dict[str, Path]) -> Recording:
    return load_recording(recordings["cascade"])


def call(episode: RouterEnvironment, action: int) -> str:
    told: str = getattr(episode, episode.text.tool_names[action])()
    return told


def test_every_action_is_a_named_typed_documented_tool(cascade: Recording) -> None:
    pytest.importorskip("transformers")
    from transformers.utils import get_json_schema

    environment = router_environment(cascade)
    public = [name for name, _ in inspect.getmembers(environment, inspect.isfunction) if name[0] != "_"]
    tools = [name for name in public if name not in ("reset", "get_reward")]
    assert tools == ["accept", "m0_direct", "m1_direct", "m2_direct"]  # as GRPOTrainer finds them
    episode = environment()
    schemas = [get_json_schema(getattr(episode, name)) for name in tools]
    assert schemas == environment.text.schemas()  # what others read is the same list in the same order
    assert schemas[1]["function"]["description"].startswith("Ask model m0, tier direct: ")
    assert "hand in" in schemas[0]["function"]["description"].lower()


def test_tools_have_names_of_their_own() -> None:
    from routegym.integrations.text import _identifiers

    assert _identifiers(("a/b", "a.b", "4o-mini", "class", "reset", "a_b_2")) == (
        "a_b", "a_b_2", "ask_4o_mini", "ask_class", "ask_reset", "a_b_2_2",
    )  # fmt: skip
    assert _identifiers(("qwen-2", "qwen", "qwen!")) == ("qwen_2", "qwen", "qwen_3")
    assert _identifiers(("gpt-4", "gpt", "text", "budget_usd")) == ("gpt_4", "gpt", "ask_text", "ask_budget_usd")
    names = _identifiers(tuple("a" + "-" * n for n in range(5)))
    assert len(set(names)) == 5


@pytest.mark.parametrize("kind", ["single_call", "cascade", "agent_steps", "attempts"])
@pytest.mark.parametrize("reward", ["score_minus_cost", "xrouter"])
def test_reward_is_the_return_of_routing_env(kind: str, reward: str, recordings: dict[str, Path]) -> None:
    recording = load_recording(recordings[kind])
    episode, rng = router_environment(recording, reward=reward)(), np.random.default_rng(0)
    same = RoutingEnv(recording, reward=reward, split="all")
    for task in recording.task_ids[:12]:
        budget = float(rng.uniform(*recording.budget_range_usd)) + recording.budget_range_usd[0]
        told = episode.reset(task_id=str(task), budget_usd=budget, lambda_=0.3, seed=7, prompt="not used")
        assert told.startswith(recording.tasks.prompts[recording.task_index[str(task)]])
        same.reset(seed=7, options={"task_id": str(task), "budget_usd": budget, "lambda": 0.3})
        total, done = 0.0, False
        while not done:
            action = int(rng.choice(np.flatnonzero(same.action_masks())))
            call(episode, action)
            _, step, terminated, truncated, info = same.step(action)
            total, done = total + float(step), terminated or truncated
        assert episode.ended
        assert episode.get_reward() == total
        assert episode.vector.ledger.spent_usd[0] == info["cost_usd_total"] <= budget


def test_the_score_is_told_to_nobody(cascade: Recording) -> None:
    episode, scores = router_environment(cascade)(), set()
    for task in cascade.task_ids:
        episode.reset(task_id=str(task), lambda_=0.0)
        call(episode, 0)
        assert call(episode, 3) == "The episode is over."
        scores.add(episode.get_reward())
    assert scores == {0.0, 1.0}


def test_a_call_that_cannot_be_paid_is_told_and_costs_nothing(cascade: Recording) -> None:
    episode = router_environment(cascade)()
    low = cascade.budget_range_usd[0]
    episode.reset(task_id=str(cascade.task_ids[0]), budget_usd=low, lambda_=0.2)
    told = call(episode, 2)
    assert told.startswith("m2_direct is out of reach; call one of: m0_direct")
    assert episode.actions == ()
    assert episode.vector.ledger.spent_usd[0] == 0
    assert episode.get_reward() == 0
    call(episode, 0)
    call(episode, 3)
    reward = episode.get_reward()
    assert call(episode, 0) == "The episode is over."
    assert (episode.get_reward(), episode.actions) == (reward, (0, 3))


def test_an_episode_that_is_left_has_paid_and_scores_nothing(cascade: Recording) -> None:
    episode = router_environment(cascade)()
    assert episode.get_reward() is None  # there is none yet
    episode.reset(task_id=str(cascade.task_ids[0]), lambda_=0.2)
    call(episode, 1)
    paid = episode.vector.ledger.spent_usd[0]
    assert paid > 0
    assert episode.get_reward() == -0.2 * paid / cascade.cost_scale_usd


def test_a_broken_roll_out_has_no_reward(cascade: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    episode = router_environment(cascade)()
    episode.reset(task_id=str(cascade.task_ids[0]))

    def fail(self: RoutingEnv, action: int) -> Any:
        raise ServerFailedError("status 503")

    with monkeypatch.context() as patched:
        patched.setattr(RoutingEnv, "step", fail)
        with pytest.raises(ServerFailedError):
            call(episode, 0)
    assert episode.get_reward() is None
    assert isinstance(episode.failure, ServerFailedError)
    assert call(episode, 0) == "The episode is over."
    assert router_cost(1e-6)([[1, 2]], [episode]) == [None]
    episode.reset(task_id=str(cascade.task_ids[0]))
    assert episode.get_reward() == 0


def test_the_routers_own_tokens_are_charged(cascade: Recording) -> None:
    episode = router_environment(cascade)()
    episode.reset(task_id=str(cascade.task_ids[0]), lambda_=0.5)
    (charge,) = router_cost(2e-6)(completion_ids=[[1] * 30], environments=[episode], prompts=None)
    assert charge == pytest.approx(-0.5 * 30 * 2e-6 / cascade.cost_scale_usd)
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="usd_per_token"):
            router_cost(wrong)


def test_messages_tell_budget_and_signals_once_each(cascade: Recording) -> None:
    episode = router_environment(cascade)()
    prompt = cascade.tasks.prompts[0]
    scale = cascade.cost_scale_usd
    told = episode.reset(task_id=str(cascade.task_ids[0]), budget_usd=2 * scale, lambda_=0.25)
    assert told == f"{prompt}\n[]\nleft {RoutingText(cascade)._scale_usd * 2e6:.0f}, cost counts 0.25"
    after = call(episode, 0).split("\n")
    assert after[0].startswith('[["m0/direct",')
    assert after[1].startswith("confidence ")
    left = (2 * scale - episode.vector.ledger.spent_usd[0]) * 1e6
    assert float(after[2].split()[1].rstrip(",")) == pytest.approx(left, rel=5e-3)
    assert "no cap" in episode.reset(task_id=str(cascade.task_ids[0]))


@pytest.mark.parametrize("kind", ["cascade", "agent_steps"])
def test_the_teacher_is_the_clairvoyant_optimum(kind: str, recordings: dict[str, Path]) -> None:
    recording = load_recording(recordings[kind])
    episode = router_environment(recording)()
    low, high = recording.budget_range_usd
    for budget in (low, (low * high) ** 0.5, high):
        score, cost = oracle_at_cap(recording.graph, np.arange(8), budget)
        for task in range(8):
            episode.reset(task_id=str(recording.task_ids[task]), budget_usd=budget, lambda_=0.0)
            while not episode.ended:
                call(episode, best_action(episode))
            assert episode.get_reward() == pytest.approx(score[task])
            if score[task]:
                assert episode.vector.ledger.spent_usd[0] == pytest.approx(cost[task])


def test_tasks_are_drawn_once_each_and_can_be_paid(cascade: Recording) -> None:
    pytest.importorskip("datasets")
    train = set(cascade.task_ids[cascade.split("train")].tolist())
    rows = tasks(cascade, len(train), lambda_=(0.1, 0.3), seed=3)
    assert set(rows["task_id"]) == train
    floor = {str(cascade.task_ids[task]): cascade.graph.node_floor[cascade.graph.task_start[task]] for task in range(4)}
    assert all(row["budget_usd"] >= floor.get(row["task_id"], 0) for row in rows)
    assert len(set(rows["budget_usd"])) > 1
    assert all(0.1 <= price <= 0.3 for price in rows["lambda_"])
    assert rows.to_list() == tasks(cascade, len(train), lambda_=(0.1, 0.3), seed=3).to_list()
    with pytest.raises(ConfigError, match="vector"):
        router_environment(cascade, reward="vector")


def test_demonstrations_are_what_the_environment_says(cascade: Recording) -> None:
    pytest.importorskip("datasets")
    from tiny_model import tokenizer_of

    environment = router_environment(cascade)
    rows = tasks(cascade, 3, seed=0)
    shown = demonstrations(environment, rows, best_action)
    episode = environment()
    for row, talk in zip(rows, shown, strict=True):
        said = talk["messages"]
        assert [one["role"] for one in said[:3]] == ["system", "user", "assistant"]
        assert said[1]["content"] == episode.reset(**row)
        assert (said[-2]["content"], said[-1]["content"]) == ("The episode is over.", "")
        for asked, told in zip(said[2:-1:2], said[3::2], strict=True):
            assert told["content"] == getattr(episode, asked["tool_calls"][0]["function"]["name"])()
        assert episode.get_reward() is not None
        tokenizer = tokenizer_of()
        written = tokenizer.apply_chat_template(said, tools=environment.text.schemas(), tokenize=False)
        assert f"\n{said[1]['content']}<|im_end|>\n<|im_start|>assistant\n<route>" in written
        assert "\nm0_direct: " in written.split("<|im_end|>")[0]


def test_short_calls_want_a_model_that_speaks_chatml() -> None:
    pytest.importorskip("transformers")
    from tiny_model import tokenizer_of

    tokenizer = tokenizer_of()
    tokenizer.eos_token = "<|pad|>"
    with pytest.raises(ConfigError, match="im_end"):
        use_short_calls(tokenizer)


def test_grpo_trains_a_tiny_model(cascade: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tools are called, rewards are the ledger's, a group shares its task, and what broke is left out."""
    for package in ("torch", "trl"):
        pytest.importorskip(package)
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TRL's and transformers' own, of versions that this project does not fix
        from tiny_model import model_of, tokenizer_of
        from trl import GRPOConfig, GRPOTrainer

        played: list[tuple[Any, ...]] = []
        scored: dict[tuple[int, int], tuple[tuple[int, ...], float | None]] = {}

        class Watched(router_environment(cascade)):  # type: ignore[misc]
            """Notes what is played; the last roll-out of every group breaks."""

            def reset(self, **row: Any) -> str:
                told: str = super().reset(**row)
                played.append((row["task_id"], self.budget_usd, self.lambda_, row["seed"], self))
                return told

            def get_reward(self) -> float | None:
                reward = None if played[-1][-1] is self else super().get_reward()
                scored[len(played), id(self)] = (self.actions, reward)
                return reward

        tokenizer = tokenizer_of([f"<route>{name}</route>" for name in Watched.text.tool_names])
        spelled = list(range(tokenizer.convert_tokens_to_ids("<|im_start|>") + 1))
        config = GRPOConfig(
            output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", save_strategy="no", disable_tqdm=True,
            per_device_train_batch_size=4, num_generations=4, max_steps=2, learning_rate=1e-2, logging_steps=1,
            max_completion_length=400, max_tool_calling_iterations=5, gradient_checkpointing=False, seed=0,
            generation_kwargs={"suppress_tokens": spelled, "max_new_tokens": 4},
        )  # fmt: skip
        model = model_of(tokenizer)
        before = {name: weight.clone() for name, weight in model.named_parameters()}
        trainer = GRPOTrainer(
            model, args=config, train_dataset=tasks(cascade, 2, lambda_=0.5), processing_class=tokenizer,
            environment_factory=Watched, reward_funcs=[router_cost(1e-9)],
        )  # fmt: skip
        trainer.train()
    groups = [played[:4], played[4:]]
    assert len(played) == 8
    assert all(len({one[:-1] for one in group}) == 1 for group in groups)
    logs = [record for record in trainer.state.log_history if "loss" in record]
    assert len(logs) == 2
    assert all(math.isfinite(record["loss"]) and math.isfinite(record["reward"]) for record in logs)
    assert sum(record["tools/call_frequency"] for record in logs) > 0
    same = RoutingEnv(cascade, split="all")
    for (task, budget, price, seed, _), (actions, reward) in zip(played, scored.values(), strict=True):
        same.reset(seed=seed, options={"task_id": task, "budget_usd": budget, "lambda": price})
        total = sum(float(same.step(action)[1]) for action in actions)
        assert reward in (None, total)
    assert [reward is None for _, reward in scored.values()] == [False, False, False, True] * 2
    *kept, broken = trainer._logs["advantages"]
    assert broken == 0
    assert sum(kept) == pytest.approx(0, abs=1e-4)  # the mean of the group is that of the others
    assert any((weight != before[name]).any() for name, weight in model.named_parameters())
