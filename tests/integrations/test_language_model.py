"""A language model plays like any other policy: legal calls only, the likeliest of them, on the same tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_model import model_of, tokenizer_of

from routegym.core.vector_env import RoutingVectorEnv
from routegym.errors import ConfigError
from routegym.evaluation.outcomes import Grid, play
from routegym.graph.library import load_recording
from routegym.integrations.text import INSTRUCTIONS
from routegym.integrations.trl import router_environment

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture
def cascade(recordings: dict[str, Path]) -> Any:
    return load_recording(recordings["cascade"])


def greedy(model: Any, tokenizer: Any, prompt: str, calls: list[str]) -> str:
    """The call that is likeliest token by token, with nothing batched and nothing kept."""
    options = {one: tokenizer(one, add_special_tokens=False)["input_ids"] for one in calls}
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    place = 0
    while len(options) > 1:
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0, -1]
        best = max({option[place] for option in options.values()}, key=lambda token: float(logits[token]))
        options = {one: option for one, option in options.items() if option[place] == best}
        ids, place = [*ids, best], place + 1
    return next(iter(options))


def router_of(*arguments: Any, **options: Any) -> Any:
    from routegym.integrations.language_model import LanguageModelRouter

    return LanguageModelRouter(*arguments, **options)


def test_it_takes_the_likeliest_legal_call(cascade: Any) -> None:
    tokenizer = tokenizer_of()
    model = model_of(tokenizer, seed=1)
    router = router_of(model, tokenizer, cascade, batch_size=3)
    env = RoutingVectorEnv(7, cascade, observation="text", split="all", autoreset_mode="Disabled")
    budgets = np.geomspace(*cascade.budget_range_usd, 7)
    observation, _ = env.reset(seed=0, options={"task_id": np.arange(7), "budget_usd": budgets, "lambda": 0.1})
    twins = [router_environment(cascade)() for _ in range(7)]
    talks = [
        [
            {"role": "system", "content": INSTRUCTIONS},
            {
                "role": "user",
                "content": twin.reset(task_id=str(cascade.task_ids[task]), budget_usd=budgets[task], lambda_=0.1),
            },
        ]
        for task, twin in enumerate(twins)
    ]
    state, start, playing = None, np.ones(7, dtype=bool), np.ones(7, dtype=bool)
    while playing.any():
        masks = env.action_masks()
        masks[:, -1] &= state is not None  # nobody accepts before the first call
        actions, state = router.predict(observation, state, start, True, masks)
        for slot in np.flatnonzero(playing).tolist():
            prompt = tokenizer.apply_chat_template(
                talks[slot], tools=router.text.schemas(), add_generation_prompt=True, tokenize=False
            )
            names = [router.text.tool_names[action] for action in np.flatnonzero(masks[slot])]
            chosen = greedy(model, tokenizer, prompt, [f"<route>{name}</route><|im_end|>\n" for name in names])
            assert chosen == f"<route>{router.text.tool_names[actions[slot]]}</route><|im_end|>\n"
            name = router.text.tool_names[actions[slot]]
            reply = getattr(twins[slot], name)()
            talks[slot] += [router.text.call(actions[slot]), {"role": "tool", "name": name, "content": reply}]
        observation, _, terminated, truncated, _ = env.step(actions)
        start = np.zeros(7, dtype=bool)
        playing &= ~(terminated | truncated)
    assert all(twin.ended for twin in twins)
    assert router.decisions >= 14
    assert router.tokens > 0


def test_it_is_played_like_any_policy(cascade: Any) -> None:
    tokenizer = tokenizer_of()
    router = router_of(model_of(tokenizer), tokenizer, cascade)
    grid = Grid.of(cascade, [cascade.budget_range_usd[1]], [0.1])
    outcomes = play(router, cascade, "test", grid)
    assert outcomes.scores.shape == (2, len(cascade.split("test")))
    assert not outcomes.violations.any()
    again = play(router_of(router.model, tokenizer, cascade, batch_size=1), cascade, "test", grid)
    assert (again.calls == outcomes.calls).all()


def test_a_template_without_tools_is_refused(cascade: Any) -> None:
    tokenizer = tokenizer_of()
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    with pytest.raises(ConfigError, match="chat template"):
        router_of(model_of(tokenizer), tokenizer, cascade)
