"""A language model as a policy: reads the situation in words and takes the likeliest legal call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from routegym.errors import ConfigError, MissingExtraError
from routegym.integrations.text import INSTRUCTIONS, RoutingText

try:
    import torch as th
    from transformers import DynamicCache
except ImportError as error:
    raise MissingExtraError("transformers", "trl") from error

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from routegym.graph.recording import Recording

__all__ = ["LanguageModelRouter"]

_Ids = list[int]


class _Talk(NamedTuple):
    """A conversation, the text of its first situation, and how many tokens of it were read or written so far."""

    messages: tuple[dict[str, Any], ...]
    first: str
    tokens: int


class LanguageModelRouter:
    """Plays what `routegym.integrations.trl` trains, in `rollout`, `play` and every comparison.

    The conversation is that of the training environment, without thoughts. The call is decoded token by token among the
    legal ones, so that no word is wasted and no illegal action chosen: how often a model writes a legal call by itself
    is told by TRL's metrics of its training.

    Args:
        model: a causal language model; it is used where it is.
        tokenizer: with the chat template of the training.
        recording: gives the tools.
        batch_size: conversations read together.

    Attributes:
        tokens: read and written so far, by all conversations, each token of a conversation counted once.
        decisions: actions chosen so far; where episodes are played side by side, also for those that wait for others.

    Raises:
        ConfigError: by its chat template, tool calls do not follow on the conversation before them.
    """

    observation = "text"

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        recording: Recording,
        batch_size: int = 16,
    ) -> None:
        model.eval()  # type: ignore[no-untyped-call]
        self.model, self.tokenizer, self.text = model, tokenizer, RoutingText(recording)
        self.batch_size = batch_size
        self.tokens = self.decisions = 0
        self._tools: list[Any] = list(self.text.schemas())
        opening = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": "?"}]
        before = self._written(opening, asks=True)
        self._calls: list[_Ids] = []
        for action, name in enumerate(self.text.tool_names):
            after = self._written([*opening, self.text.call(action)])
            if not after.startswith(before) or name not in after[len(before) :]:
                raise ConfigError(
                    f"the tokenizer's chat template does not write the call of {name!r} after the conversation before "
                    "it; use one with tools that keeps what comes before, such as use_short_calls gives"
                )
            self._calls.append(self._encode(after[len(before) :]))
        self._generator = th.Generator(device=model.device).manual_seed(0)

    def predict(
        self,
        observation: dict[str, npt.NDArray[Any]],
        state: Any = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = True,
        action_masks: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[npt.NDArray[np.int64], Any]:
        """Choose an action for every row; see `routegym.policies.policy.Policy`.

        Args:
            observation: of ``observation="text"``: ``flat`` float32 (N, width) and ``text`` (N,).
            state: the conversations so far.
            episode_start: which of them begin anew.
            deterministic: take the likeliest token each time, or draw.
            action_masks: bool (N, n_actions); by default read from the observation.
        """
        flat, texts = observation["flat"], observation["text"]
        legal = flat[:, self.text.layout.columns["affordable"]] >= 0.5 if action_masks is None else action_masks
        talks = [None] * len(texts) if state is None else state
        starts = np.zeros(len(texts), dtype=bool) if episode_start is None else episode_start
        told = [self._tell(*row) for row in zip(talks, starts.tolist(), flat, texts, strict=True)]
        prompts = [self._encode(self._written(talk.messages, asks=True)) for talk in told]
        order = np.argsort([len(prompt) for prompt in prompts], kind="stable")
        actions = np.zeros(len(texts), dtype=np.int64)
        for rows in np.array_split(order, -(-len(order) // self.batch_size)):
            actions[rows] = self._choose([prompts[row] for row in rows], legal[rows], deterministic)
        after = []
        for talk, prompt, action in zip(told, prompts, actions.tolist(), strict=True):
            length = len(prompt) + len(self._calls[action])
            self.tokens += length - talk.tokens
            after.append(_Talk((*talk.messages, self.text.call(action)), talk.first, length))
        self.decisions += len(actions)
        return actions, after

    def _tell(self, talk: _Talk | None, starts: bool, flat: npt.NDArray[np.float32], text: str) -> _Talk:
        """The conversation with what is observed now."""
        if talk is None or starts:
            said = self.text.message(flat, text)
            return _Talk(({"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": said}), text, 0)
        name = talk.messages[-1]["tool_calls"][0]["function"]["name"]
        said = self.text.message(flat, text, talk.first)
        return _Talk((*talk.messages, {"role": "tool", "name": name, "content": said}), talk.first, talk.tokens)

    def _choose(self, prompts: Sequence[_Ids], legal: npt.NDArray[np.bool_], deterministic: bool) -> npt.NDArray[Any]:
        """The legal call that greedy decoding arrives at, or that is drawn token by token."""
        alive = [np.flatnonzero(row).tolist() for row in legal]
        written = [_common_start([self._calls[action] for action in actions]) for actions in alive]
        while open_rows := [row for row, actions in enumerate(alive) if len(actions) > 1]:
            logits = self._next_logits([[*prompts[row], *written[row]] for row in open_rows])
            for row, scores in zip(open_rows, logits, strict=True):
                place = len(written[row])
                options = sorted({self._calls[action][place] for action in alive[row]})
                chances = scores[options].float().softmax(dim=-1)
                pick = int(chances.argmax() if deterministic else th.multinomial(chances, 1, generator=self._generator))
                alive[row] = [action for action in alive[row] if self._calls[action][place] == options[pick]]
                written[row] = _common_start([self._calls[action] for action in alive[row]])
        return np.array([actions[0] for actions in alive])

    def _next_logits(self, sequences: Sequence[_Ids]) -> th.Tensor:
        """Logits after each sequence, (n, vocabulary); what all of them begin with is read once."""
        shared = min(len(_common_start(sequences)), min(map(len, sequences)) - 1)
        device = self.model.device
        with th.inference_mode():
            cache = DynamicCache()
            if shared:
                self.model(th.tensor([sequences[0][:shared]], device=device), past_key_values=cache, logits_to_keep=1)
                cache.batch_repeat_interleave(len(sequences))
            rest = [th.tensor(ids[shared:]) for ids in sequences]
            batch = th.nn.utils.rnn.pad_sequence(rest, batch_first=True).to(device)  # causal: padding behind is unseen
            logits = self.model(batch, past_key_values=cache).logits
            last = th.tensor([len(ids) - 1 for ids in rest], device=device)
            found: th.Tensor = logits[th.arange(len(rest), device=device), last]
        return found

    def _written(self, messages: Sequence[Any], asks: bool = False) -> str:
        """The conversation by the chat template."""
        text: Any = self.tokenizer.apply_chat_template(
            list(messages), tools=self._tools, add_generation_prompt=asks, tokenize=False
        )
        return str(text)

    def _encode(self, text: str) -> _Ids:
        ids: _Ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def _common_start(sequences: Sequence[_Ids]) -> _Ids:
    first = sequences[0]
    length = 0
    while length < len(first) and all(length < len(ids) and ids[length] == first[length] for ids in sequences):
        length += 1
    return first[:length]
