"""Engine of the embedded pool: small GPT-2 models that work out one operation on integers, in batches."""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from routegym.errors import CallRefusedError, MissingExtraError, PoolError
from routegym.pool.backend import Call, Completion, OnCompletion
from routegym.pool.codec import (
    ANSWER_TOKENS,
    END,
    PROMPT_TOKENS,
    WRITTEN_TOKENS,
    WRITTEN_WORK_TOKENS,
    decode,
    encode_prompts,
)
from routegym.pool.local import failed

try:
    import torch
    from safetensors.torch import load_file
    from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel
except ImportError as error:
    raise MissingExtraError("transformers", "pool") from error

__all__ = ["ArithmeticEngine"]

_LIMITS = {"direct": ANSWER_TOKENS, "written": WRITTEN_TOKENS}


class ArithmeticEngine:
    """Answers arithmetic prompts with the pool's own transformers, in batches.

    A call's message is one plain operation (``58+7``) and its option ``template`` says how the model is asked:
    ``direct`` or ``written`` (see `routegym.pool.codec`).

    An answer depends on the model, the prompt and (where the call samples) `Call.seed`, and on nothing
    else: neither the other calls of the batch nor their order. For that, weights stored as float16 are
    computed in float64, where the last-bit differences between matrix shapes and machines are far too small
    to turn a choice between two tokens, and random numbers come from a hash of seed and prompt.

    Args:
        folders: folder of each model, with ``config.json`` and ``model.safetensors``.
        batch_size: most sequences computed at once.
        device: torch device that computes.

    Raises:
        PoolError: a setting is impossible.
    """

    def __init__(self, folders: Mapping[str, str | Path], batch_size: int = 1024, device: str = "cpu") -> None:
        if batch_size < 1:
            raise PoolError(f"batch_size = {batch_size}; expected at least 1 sequence")
        self._folders = {name: Path(folder) for name, folder in folders.items()}
        self._batch_size = batch_size
        self._device = torch.device(device)
        self._models: dict[str, GPT2LMHeadModel] = {}

    def complete(self, calls: Sequence[Call], on_result: OnCompletion) -> None:
        """Make all calls; latency is a batch's wall-clock time over its size.

        A prompt that is no operation on 0..999 is a refused call.

        Raises:
            PoolError: a model is not of this pool or cannot be loaded, or a template is unknown.
        """
        groups: dict[tuple[str, str, int, int, float], list[int]] = defaultdict(list)
        for index, call in enumerate(calls):
            template = _template_of(call)
            groups[call.model, template, call.n, min(call.max_tokens, _LIMITS[template]), call.temperature].append(
                index
            )
        for (name, template, n, _, _), indices in groups.items():
            model = self.model(name)
            size = max(1, self._batch_size // n)
            for start in range(0, len(indices), size):
                began = time.perf_counter()
                chunk = indices[start : start + size]
                try:
                    prompts = encode_prompts([_prompt_of(calls[index]) for index in chunk], template)
                except PoolError:
                    chunk, prompts = _encodable(calls, chunk, template, on_result)
                completions = self._answer(model, [calls[index] for index in chunk], prompts, began)
                for index, completion in zip(chunk, completions, strict=True):
                    on_result(index, completion)

    def count_prompt_tokens(self, calls: Sequence[Call]) -> list[int]:
        """Prompt tokens that each call is charged: every sample reads the whole prompt."""
        return [PROMPT_TOKENS * call.n for call in calls]

    def close(self) -> None:
        """Free the models."""
        self._models.clear()

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
                    f"{folder}: the model cannot be loaded ({reason}); expected config.json and "
                    "model.safetensors of a GPT-2 model, reinstall routegym or train it again"
                ) from error
            torch.nn.Module.to(model, device=self._device, dtype=torch.float64)
            self._models[name] = torch.nn.Module.eval(model)
        return self._models[name]

    def _answer(
        self, model: GPT2LMHeadModel, calls: Sequence[Call], prompts: npt.NDArray[np.int64], began: float
    ) -> list[Completion]:
        """Completions of calls with the same settings, computed as one batch."""
        if not calls:
            return []
        template, n, temperature = _template_of(calls[0]), calls[0].n, calls[0].temperature
        limit = min(calls[0].max_tokens, _LIMITS[template])
        uniform = None
        if temperature > 0:
            # As many numbers as the template may need, so that a lower limit does not change the answer before it.
            uniform = np.concatenate([_uniform(call.seed, _prompt_of(call), n, _LIMITS[template]) for call in calls])
        tokens, logprobs = self._decode(model, np.repeat(prompts, n, axis=0), limit, temperature, uniform)
        lengths = _lengths(tokens)
        texts = [decode(row[:length].tolist()) for row, length in zip(tokens, lengths, strict=True)]
        ended = (tokens == END).any(axis=1)
        latency = (time.perf_counter() - began) / len(calls)
        completions = []
        for index in range(len(calls)):
            rows = range(index * n, (index + 1) * n)
            generated = sum(int(lengths[row]) for row in rows)
            work = 0
            if template == "written":
                work = sum(min(int(lengths[row]), WRITTEN_WORK_TOKENS) for row in rows)
            completions.append(
                Completion(
                    texts=tuple(texts[row] for row in rows),
                    logprobs=tuple(float(logprobs[row, : lengths[row]].mean()) for row in rows),
                    finish_reasons=tuple("stop" if ended[row] else "length" for row in rows),
                    tokens=(PROMPT_TOKENS * n, 0, generated - work, work),
                    latency_s=latency,
                )
            )
        return completions

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
            uniform: random numbers in [0, 1), shape (R, at least limit), where the temperature is positive.

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


def _template_of(call: Call) -> str:
    template = str(call.options.get("template", "direct"))
    if template not in _LIMITS:
        raise PoolError(f"arm {call.arm.name}: options.template is {template!r}; expected one of {', '.join(_LIMITS)}")
    return template


def _encodable(
    calls: Sequence[Call], chunk: Sequence[int], template: str, on_result: OnCompletion
) -> tuple[list[int], npt.NDArray[np.int64]]:
    """Those of a chunk whose prompt is an operation, with their tokens; the others are reported as refused."""
    kept, rows = [], [encode_prompts([], template)]
    for index in chunk:
        try:
            rows.append(encode_prompts([_prompt_of(calls[index])], template))
            kept.append(index)
        except PoolError as error:
            on_result(index, failed(calls[index], CallRefusedError(str(error))))
    return kept, np.concatenate(rows)


def _prompt_of(call: Call) -> str:
    return "\n".join(content for _, content in call.messages)


def _lengths(tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Tokens up to and including the first end token, or all where there is none; shape (R,)."""
    ended = tokens == END
    lengths: npt.NDArray[np.int64] = np.where(ended.any(axis=1), ended.argmax(axis=1) + 1, tokens.shape[1])
    return lengths


def _uniform(seed: int, prompt: str, samples: int, limit: int) -> npt.NDArray[np.float64]:
    """Random numbers in [0, 1) fixed by seed and prompt, shape (samples, limit)."""
    entropy = int.from_bytes(hashlib.sha256(f"{seed}:{prompt}".encode()).digest()[:16], "little")
    return np.random.default_rng(entropy).random((samples, limit))
