"""Language models as routers, trained by TRL: ``GRPOTrainer(environment_factory=router_environment(recording))``.

One environment object is one episode of `routegym.core.RoutingEnv`; each action is a tool, a method with a name, types
and a docstring. A roll-out goes in rounds as in Router-R1 (arXiv 2506.09033): the model thinks if it likes, calls an
arm, reads what comes back, and ends the episode with a control such as ``accept`` or by the environment's own rule.
What is replayed is what was recorded, and the reward is the episode's own return, from the same ledger.

Paper: Zhang et al., "Router-R1: Teaching LLMs Multi-Round Routing and Aggregation via Reinforcement Learning", arXiv
2506.09033. Deviations: arms are called by name and see the workflow's prompt instead of a query that the router writes;
the answer that counts is an arm's, not the router's; the reward is the environment's, without one for the format (a
call that cannot be read ends the episode with score 0); GRPO is TRL's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from routegym.core.env import RoutingEnv
from routegym.core.reward import reward_function, vector
from routegym.core.vector_env import Budget, RoutingVectorEnv
from routegym.errors import ActionError, ConfigError, MissingExtraError
from routegym.integrations.text import INSTRUCTIONS, RoutingText
from routegym.policies.algorithm import Problem
from routegym.policies.logs import draw_budgets, draw_lambdas

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from routegym.core.reward import Reward
    from routegym.graph.growth import Expander
    from routegym.graph.recording import Recording

__all__ = [
    "CHAT_TEMPLATE",
    "RESPONSE_TEMPLATE",
    "RouterEnvironment",
    "demonstrations",
    "router_cost",
    "router_environment",
    "tasks",
    "use_short_calls",
]

_OVER = "The episode is over."

#: A chat template of few tokens: a tool is told by its name and its cost, and called by ``<route>name</route>``.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' ~ ('user' if message.role == 'tool' else message.role) ~ '\\n' -}}
{%- if message.role == 'assistant' -%}
{%- generation -%}
{{- message.content -}}
{%- for call in message.tool_calls or [] -%}
{{- '<route>' ~ call.function.name -}}
{{- ' ' ~ (call.function.arguments | tojson) if call.function.arguments else '' -}}
{{- '</route>' -}}
{%- endfor -%}
{{- '<|im_end|>' -}}
{%- endgeneration -%}
{{- '\\n' -}}
{%- else -%}
{{- message.content -}}
{%- for tool in (tools or []) if message is sameas messages[0] -%}
{{- '\\n' ~ tool.function.name ~ ': ' ~ (tool.function.description.split(': ') | last).split(' ')[0] -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""

#: What reads the answers of a model that writes by `CHAT_TEMPLATE`, in the form of transformers' ``parse_response``.
RESPONSE_TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "reasoning_content": {"open": "<think>", "close_pattern": r"</think>\s*", "content": "text"},
        "tool_calls": {
            "open": "<route>",
            "close_pattern": r"</route>\s*",
            "repeats": True,
            "content": "text",
            "transform": {"type": "function", "function": {"name": "{content}", "arguments": {}}},
        },
        "content": {"close_pattern": r"<\|im_end\|>\s*", "content": "text"},
    },
}


class RouterEnvironment:
    """One routing episode in words; made by the class that `router_environment` returns, which has the tools.

    Tools return messages of `RoutingText`. A call that is not legal now (masked, or the episode is over) says so,
    charges nothing and changes nothing.
    """

    recording: Recording
    text: RoutingText
    _options: Mapping[str, Any]

    def __init__(self) -> None:
        self._env = RoutingEnv(self.recording, observation="text", **self._options)
        self._begun = self._ended = False
        self._failure: BaseException | str | None = None
        self._first = ""
        self._actions: list[int] = []
        self._return = 0.0

    def reset(
        self,
        task_id: str | None = None,
        budget_usd: float | None = None,
        lambda_: float | None = None,
        seed: int | None = None,
        **row: Any,
    ) -> str:
        """Start an episode, as a row of `tasks` says; other columns of the row do not matter.

        Args:
            task_id: of the recording; drawn by default.
            budget_usd: hard cap; None or inf for none.
            lambda_: price of cost; that of the environment by default.
            seed: fixes what is drawn, recorded samples among it.
            row: other columns, not used.

        Returns:
            What the router is told first.
        """
        options = {"task_id": task_id, "budget_usd": budget_usd, "lambda": lambda_}
        observation, info = self._env.reset(seed=seed, options={k: v for k, v in options.items() if v is not None})
        self.budget_usd, self.lambda_ = float(info["budget_usd"]), float(info["lambda"])
        self._begun, self._ended, self._failure = True, False, None
        self._first, self._actions, self._return = observation["text"], [], 0.0
        return self.text.message(observation["flat"], observation["text"])

    def get_reward(self) -> float | None:
        """The return of the episode so far: that of `RoutingEnv` for the same actions.

        An episode that the router leaves before its end has no score and has paid for its calls.

        Returns:
            None if the roll-out broke (a call without an answer, a situation that was never recorded): GRPOTrainer
            leaves it out of the mean and deviation of its group and gives it advantage 0. Other reward functions have
            to return None then, too: TRL leaves out what all of them leave out.
        """
        return None if self._failure is not None or not self._begun else self._return

    @property
    def failure(self) -> BaseException | str | None:
        """What broke the roll-out; None where nothing did."""
        return self._failure

    @property
    def ended(self) -> bool:
        """Whether the episode came to its end."""
        return self._ended

    @property
    def actions(self) -> tuple[int, ...]:
        """The actions taken, without refused calls."""
        return tuple(self._actions)

    @property
    def vector(self) -> RoutingVectorEnv:
        """The environment behind, with its ledger."""
        return self._env.vector

    def _call(self, action: int) -> str:
        if not self._begun or self._ended:
            return _OVER
        try:
            observation, reward, terminated, truncated, info = self._env.step(action)
        except ActionError:
            legal = np.flatnonzero(self._env.action_masks())
            names = ", ".join(self.text.tool_names[other] for other in legal)
            return f"{self.text.tool_names[action]} is out of reach; call one of: {names}"
        except Exception as error:
            self._failure, self._ended = error, True
            raise
        self._actions.append(action)
        self._return += float(reward)
        self._ended = terminated or truncated
        self._failure = info["failure"] or None
        if self._ended:
            return _OVER
        return self.text.message(observation["flat"], observation["text"], self._first)


def router_environment(
    recording: Recording, *, reward: str | Reward = "score_minus_cost", expander: Expander | None = None
) -> type[RouterEnvironment]:
    """A class of environments with one tool for every action, to be given as `environment_factory`.

    Args:
        recording: complete, at least where the router goes, or grown by the expander.
        reward: a name of `routegym.core.REWARDS` with one number per step, or a function of that form.
        expander: grows the recording where an edge is missing, from a live pool.

    Raises:
        ConfigError: the reward is a vector.
    """
    if reward_function(reward) is vector:
        raise ConfigError("reward = 'vector'; a router is trained on one number: take 'score_minus_cost'")
    text = RoutingText(recording)
    options = {"reward": reward, "expander": expander, "split": "all"}
    members: dict[str, Any] = {"recording": recording, "text": text, "_options": options}
    for action, name in enumerate(text.tool_names):
        members[name] = _tool(action, name, text.docstring(action))
    return type("RouterEnvironment", (RouterEnvironment,), members | {"__doc__": RouterEnvironment.__doc__})


def _tool(action: int, name: str, docstring: str) -> Callable[[RouterEnvironment], str]:
    def tool(self: RouterEnvironment) -> str:
        return self._call(action)

    tool.__name__ = tool.__qualname__ = name
    tool.__doc__ = docstring
    tool.__annotations__ = {"return": str}  # types, not their names: they become a JSON schema
    return tool


def router_cost(usd_per_token: float) -> Callable[..., list[float | None]]:
    """A reward function that charges the router's own tokens: ``-lambda * usd_per_token * tokens / cost_scale``.

    Give it beside the environment's own reward, ``GRPOTrainer(reward_funcs=[router_cost(2e-7)], ...)``. Tokens are
    those of the conversation after its first message, written or read. They count in the reward and not against the
    hard budget, which is for the arms.

    Args:
        usd_per_token: price of the router, >= 0.

    Raises:
        ConfigError: the price is negative or not finite.
    """
    if not 0 <= usd_per_token < float("inf"):
        raise ConfigError(f"usd_per_token = {usd_per_token}; expected a finite price >= 0")

    def router_cost(
        completion_ids: Iterable[list[int]], environments: Iterable[RouterEnvironment], **_: Any
    ) -> list[float | None]:
        return [
            None
            if episode.get_reward() is None
            else -episode.lambda_ * usd_per_token * len(ids) / episode.recording.cost_scale_usd
            for ids, episode in zip(completion_ids, environments, strict=True)
        ]

    return router_cost


def tasks(
    recording: Recording,
    episodes: int,
    *,
    budget_usd: Budget = "sampled",
    lambda_: float | tuple[float, float] = 0.1,
    split: str = "train",
    seed: int = 0,
) -> Dataset:
    """A data set of episodes to play: ``prompt``, ``task_id``, ``budget_usd``, ``lambda_`` and ``seed``.

    GRPOTrainer repeats a row for all roll-outs of a group, so that they have the same task, budget, price and samples.

    Args:
        recording: its tasks are drawn without repetition as long as there are others.
        episodes: number of rows.
        budget_usd: hard cap, as `RoutingVectorEnv` takes it; drawn for each row.
        lambda_: price of cost, or a range to draw from.
        split: which tasks.
        seed: fixes the draws.

    Raises:
        MissingExtraError: TRL's `datasets` is not installed.
    """
    data = _datasets()
    problem = Problem(recording, budget_usd, lambda_, split)
    rng = np.random.default_rng(seed)
    rounds = -(-episodes // len(problem.tasks))
    chosen = np.concatenate([rng.permutation(problem.tasks) for _ in range(rounds)])[:episodes]
    budgets = draw_budgets(problem, episodes, rng)
    floor = recording.graph.arm_floor(recording.graph.task_start[chosen])
    prompt = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": ""}]
    found: Dataset = data.Dataset.from_dict(
        {
            "prompt": [prompt] * episodes,
            "task_id": recording.task_ids[chosen].tolist(),
            "budget_usd": np.maximum(budgets, floor).tolist(),
            "lambda_": draw_lambdas(problem, episodes, rng).tolist(),
            "seed": rng.integers(2**31, size=episodes).tolist(),
        }
    )
    return found


def demonstrations(
    environment: type[RouterEnvironment],
    rows: Iterable[Mapping[str, Any]],
    teacher: Callable[[RouterEnvironment], int],
) -> Dataset:
    """Conversations to imitate, for ``SFTTrainer``: ``messages`` and ``tools``.

    Args:
        environment: the class that the router is going to play in.
        rows: episodes, as of `tasks`.
        teacher: says which action to take in an open episode; `routegym.integrations.teacher.best_action` does.

    Raises:
        MissingExtraError: TRL's `datasets` is not installed.
    """
    data = _datasets()
    episode, talks = environment(), []
    for row in rows:
        system, user = row["prompt"]
        talk: list[dict[str, Any]] = [system, {"role": "user", "content": user["content"] + episode.reset(**row)}]
        while not episode.ended:
            action = teacher(episode)
            talk.append(environment.text.call(action))
            reply = getattr(episode, environment.text.tool_names[action])()
            talk.append({"role": "tool", "name": environment.text.tool_names[action], "content": reply})
        talk.append({"role": "assistant", "content": ""})  # nothing is left to be said
        talks.append({"messages": talk, "tools": json.dumps(environment.text.schemas())})
    found: Dataset = data.Dataset.from_list(talks)
    return found


def use_short_calls(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make a tokenizer write and read by `CHAT_TEMPLATE`, for small models and small machines.

    Its model must know ``<|im_start|>`` and ``<|im_end|>``, the latter as the end of an answer, as those that speak
    ChatML do. Without this, GRPOTrainer takes the tool calls of the model's own template.

    Raises:
        ConfigError: the tokenizer's end of an answer is another.
    """
    if tokenizer.eos_token != "<|im_end|>":
        raise ConfigError(
            f"eos_token = {tokenizer.eos_token!r}; short calls are for models that end an answer with '<|im_end|>': "
            "keep the model's own chat template"
        )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.response_template = RESPONSE_TEMPLATE
    tokenizer.padding_side = "left"


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("datasets", "trl") from error
    return datasets
