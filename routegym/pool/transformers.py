"""Backend that answers with local Hugging Face models of the arithmetic pool."""

from __future__ import annotations

import hashlib
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from routegym.errors import MissingExtraError, PoolError
from routegym.pool.arms import Arm
from routegym.pool.backend import Request, Response
from routegym.pool.codec import (
    ANSWER_TOKENS,
    END,
    PROMPT_TOKENS,
    WRITTEN_TOKENS,
    WRITTEN_WORK_TOKENS,
    decode,
    encode_prompts,
)

try:
    import torch
    from safetensors.torch import load_file
    from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel
except ImportError as error:
    raise MissingExtraError("transformers", "pool") from error

__all__ = ["Sampling", "TransformersBackend"]


@dataclass(frozen=True)
class Sampling:
    """How an arm asks its model."""

    template: str
    """``direct`` or ``written`` (see `routegym.pool.codec`)."""
    samples: int
    """Answers drawn for each call; the most frequent one is returned."""
    temperature: float
    """0 = the likeliest token each time (then one sample), otherwise the softmax temperature."""


class TransformersBackend:
    """Answers arithmetic prompts with the pool's own transformers, in batches.

    An answer depends on the model, the prompt and (where the arm samples) `Request.seed`, and on nothing
    else: neither the other requests of the batch nor their order. For that, weights stored as float16 are
    computed in float64, where the last-bit differences between matrix shapes and machines are far too small
    to turn a choice between two tokens, and random numbers come from a hash of seed and prompt.

    Args:
        folders: folder of each model, with ``config.json`` and ``model.safetensors``.
        sampling: how each arm asks, by arm name.
        batch_size: most sequences computed at once.
        device: torch device that computes.

    Raises:
        PoolError: a setting is impossible.
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        sampling: Mapping[str, Sampling],
        batch_size: int = 1024,
        device: str = "cpu",
    ) -> None:
        if batch_size < 1:
            raise PoolError(f"batch_size = {batch_size}; expected at least 1 sequence")
        self._folders = dict(folders)
        self._sampling = dict(sampling)
        self._batch_size = batch_size
        self._device = torch.device(device)
        self._models: dict[str, GPT2LMHeadModel] = {}

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        """One response for each request, in order; latency is a batch's wall-clock time over its size.

        Raises:
            PoolError: an arm is not of this pool, or a prompt is no operation on 0..999.
        """
        groups: dict[Arm, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            groups[request.arm].append(index)
        responses: dict[int, Response] = {}
        for arm, indices in groups.items():
            size = max(1, self._batch_size // self._sampling_of(arm).samples)
            for start in range(0, len(indices), size):
                chunk = indices[start : start + size]
                answered = self._answer(arm, [requests[index] for index in chunk])
                responses.update(zip(chunk, answered, strict=True))
        return [responses[index] for index in range(len(requests))]

    def count_prompt_tokens(self, requests: Sequence[Request]) -> list[int]:
        """Prompt tokens that each request is charged: every sample reads the whole prompt."""
        return [PROMPT_TOKENS * self._sampling_of(request.arm).samples for request in requests]

    def model(self, name: str) -> GPT2LMHeadModel:
        """A model of the pool in float64, loaded on first use.

        Raises:
            PoolError: the model is not of this pool, or its files are missing or damaged.
        """
        if name not in self._models:
            if name not in self._folders:
                raise PoolError(
                    f"unknown model {name!r}; this pool has {', '.join(sorted(self._folders)) or 'no models'}"
                )
            folder = self._folders[name]
            try:
                # Not from_pretrained: it fills what a damaged file lacks with random weights.
                model = GPT2LMHeadModel(GPT2Config.from_json_file(folder / "config.json"))
                model.set_attn_implementation("eager")
                weights = load_file(folder / "model.safetensors")
                model.load_state_dict({**weights, "lm_head.weight": weights["transformer.wte.weight"]})
            except Exception as error:
                reason = " ".join(str(error).split())
                raise PoolError(
                    f"{folder}: model {name!r} cannot be loaded ({reason}); expected config.json and "
                    "model.safetensors of a GPT-2 model, reinstall routegym or train it again"
                ) from error
            torch.nn.Module.to(model, device=self._device, dtype=torch.float64)
            self._models[name] = torch.nn.Module.eval(model)
        return self._models[name]

    def _sampling_of(self, arm: Arm) -> Sampling:
        if arm.name not in self._sampling:
            raise PoolError(f"unknown arm {arm.name!r}; this pool has {', '.join(sorted(self._sampling)) or 'no arms'}")
        return self._sampling[arm.name]

    def _answer(self, arm: Arm, requests: Sequence[Request]) -> list[Response]:
        """Responses to requests of one arm, computed as one batch."""
        model = self.model(arm.model)
        started = time.perf_counter()
        sampling = self._sampling_of(arm)
        limit = WRITTEN_TOKENS if sampling.template == "written" else ANSWER_TOKENS
        prompts = encode_prompts([request.prompt for request in requests], sampling.template)
        uniform = None
        if sampling.temperature > 0:
            uniform = np.concatenate(
                [_uniform(request.seed, request.prompt, sampling.samples, limit) for request in requests]
            )
        tokens, logprobs = self._decode(
            model,
            np.repeat(prompts, sampling.samples, axis=0),
            limit,
            sampling.temperature,
            uniform,
        )
        lengths = _lengths(tokens)
        texts = [decode(row[:length].tolist()) for row, length in zip(tokens, lengths, strict=True)]
        wall = time.perf_counter() - started
        responses = []
        for index in range(len(requests)):
            rows = range(index * sampling.samples, (index + 1) * sampling.samples)
            # Counter keeps first-seen order, so the earliest sample wins a tie.
            text, votes = Counter(texts[row] for row in rows).most_common(1)[0]
            winner = next(row for row in rows if texts[row] == text)
            generated = sum(int(lengths[row]) for row in rows)
            work = 0
            if sampling.template == "written":
                work = sum(min(int(lengths[row]), WRITTEN_WORK_TOKENS) for row in rows)
            read = PROMPT_TOKENS * sampling.samples
            responses.append(
                Response(
                    text=text,
                    tokens=(read, 0, generated - work, work),
                    latency_s=wall / len(requests),
                    flops=2.0 * arm.parameters * (read + generated),
                    logprob=float(logprobs[winner, : lengths[winner]].mean()),
                    agreement=votes / sampling.samples,
                )
            )
        return responses

    @torch.inference_mode()
    def _decode(
        self,
        model: GPT2LMHeadModel,
        prompts: npt.NDArray[np.int64],
        limit: int,
        temperature: float,
        uniform: npt.NDArray[np.float64] | None,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Generate `limit` tokens for each prompt.

        Args:
            model: the model.
            prompts: token ids, shape (R, PROMPT_TOKENS).
            limit: tokens to generate.
            temperature: softmax temperature; 0 takes the likeliest token.
            uniform: random numbers in [0, 1), shape (R, limit), where the temperature is positive.

        Returns:
            Token ids, int64, and their log-probabilities at temperature 1, float64; shape (R, limit) each.
            What follows an end token is meaningless.
        """
        cache = DynamicCache(config=model.config)
        step_input = torch.from_numpy(prompts).to(self._device)
        tokens, logprobs = [], []
        for step in range(limit):
            output = model(step_input, past_key_values=cache, use_cache=True, logits_to_keep=1)
            logits = output.logits[:, -1]  # (R, V)
            log_p = torch.log_softmax(logits, dim=-1)
            if uniform is None:
                chosen = logits.argmax(dim=-1)
            else:
                cumulative = torch.softmax(logits / temperature, dim=-1).cumsum(dim=-1)
                threshold = torch.from_numpy(uniform[:, step, None]).to(self._device) * cumulative[:, -1:]
                chosen = (cumulative <= threshold).sum(dim=-1)
            tokens.append(chosen)
            logprobs.append(log_p.gather(1, chosen[:, None])[:, 0])
            step_input = chosen[:, None]
        return torch.stack(tokens, 1).cpu().numpy(), torch.stack(logprobs, 1).cpu().numpy()


def _lengths(tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Tokens up to and including the first end token, or all where there is none; shape (R,)."""
    ended = tokens == END
    lengths: npt.NDArray[np.int64] = np.where(ended.any(axis=1), ended.argmax(axis=1) + 1, tokens.shape[1])
    return lengths


def _uniform(seed: int, prompt: str, samples: int, limit: int) -> npt.NDArray[np.float64]:
    """Random numbers in [0, 1) fixed by seed and prompt, shape (samples, limit)."""
    entropy = int.from_bytes(hashlib.sha256(f"{seed}:{prompt}".encode()).digest()[:16], "little")
    return np.random.default_rng(entropy).random((samples, limit))
