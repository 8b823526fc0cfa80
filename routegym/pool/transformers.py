"""Engine that runs any causal language model of a local folder with Hugging Face transformers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from routegym.errors import CallError, CallRefusedError, MissingExtraError, PoolError, ServerFailedError
from routegym.pool.backend import Call, Completion, Failure, OnCompletion, unsent
from routegym.pool.local import failed, prompt_counts, prompt_ids, sample_seed, worst_case

try:
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        GenerationConfig,
        LogitsProcessor,
        LogitsProcessorList,
        StoppingCriteria,
        StoppingCriteriaList,
    )
except ImportError as error:
    raise MissingExtraError("transformers", "pool") from error

__all__ = ["TransformersEngine"]

#: Options of a call that this engine knows.
OPTIONS = ("chat_template_kwargs", "top_k", "top_p")


class TransformersEngine:
    """Runs causal language models from local folders, in left-padded batches.

    Random numbers come from a hash of the call's seed, its prompt and the sample's position, so an answer does not
    depend on what else is in the batch, up to floating point: padding and batch shape change logits in their last
    digits, which may turn a choice between two tokens that are all but equally likely. ``batch_size=1`` excludes that.

    Every sample is a sequence of its own, so the prompt is really computed, and charged, `Call.n` times; nothing is
    cached between calls. Weights compute in float32 on the CPU and in their stored type elsewhere. The model's own
    defaults for sampling (temperature, penalties) do not apply: what is not in the call is off.

    `Call.model` names one of `folders`; `Call.options` may hold ``top_k``, ``top_p`` and ``chat_template_kwargs``.
    Latency is a batch's wall-clock time over its sequences; so are GPU-seconds where `device` is a GPU.
    Calls of several threads run one after the other.

    Args:
        folders: folder of each model, with config, tokenizer and safetensors; loaded at first use.
        device: torch device that computes.
        batch_size: most sequences computed at once.

    Raises:
        PoolError: a setting is impossible.
    """

    def __init__(self, folders: Mapping[str, str | Path], *, device: str = "cpu", batch_size: int = 16) -> None:
        if batch_size < 1:
            raise PoolError(f"batch_size = {batch_size}; expected at least 1 sequence")
        try:
            self._device = torch.device(device)
        except RuntimeError as error:
            raise PoolError(f"device {device!r} is no torch device; expected for example cpu or cuda") from error
        self._folders = {name: Path(folder) for name, folder in folders.items()}
        self._batch_size = batch_size
        self._models: dict[str, _Model] = {}
        self._lock = threading.Lock()

    def complete(self, calls: Sequence[Call], on_result: OnCompletion) -> None:
        """Make all calls; each is reported when the last of its samples is done.

        Raises:
            PoolError: a call names a model or an adapter that is not here, a model cannot be loaded, or a chat is
                asked of a model without a chat template; nothing has been computed then.
        """
        with self._lock:
            samples: dict[int, list[_Sample]] = {}
            refused: dict[int, CallError] = {}
            for index, call in enumerate(calls):
                try:
                    samples[index] = self._samples(index, call)
                except CallError as error:
                    refused[index] = error
            for index, reason in refused.items():
                on_result(index, Failure(reason))
            begun: set[int] = set()
            try:
                for model, batch in self._batches(samples):
                    begun.update(sample.index for sample in batch)
                    _generate(model, batch)
                    for index in dict.fromkeys(sample.index for sample in batch):
                        if all(sample.done for sample in samples[index]):
                            on_result(index, self._result(samples.pop(index)))
            except KeyboardInterrupt:
                for index in samples.keys() - begun:
                    on_result(index, unsent())
                raise

    def count_prompt_tokens(self, calls: Sequence[Call]) -> list[int]:
        """Prompt tokens of each call, exact: every sample reads the whole prompt. 0 where the call is refused."""
        with self._lock:
            return prompt_counts(calls, self._prompt_ids)

    def close(self) -> None:
        """Free the models."""
        with self._lock:
            self._models.clear()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()

    def _model(self, call: Call) -> _Model:
        """The call's model, loaded at first use."""
        if call.adapter:
            raise PoolError(
                f"arm {call.arm.name}: adapter {call.adapter!r}: the transformers engine takes no adapters; "
                "use backend: vllm, or merge the adapter into the weights"
            )
        if call.model not in self._models:
            if call.model not in self._folders:
                known = ", ".join(sorted(self._folders)) or "no models"
                raise PoolError(f"unknown model {call.model!r} (arm {call.arm.name}); this engine has {known}")
            self._models[call.model] = _load(self._folders[call.model], self._device)
        return self._models[call.model]

    def _prompt_ids(self, call: Call) -> list[int]:
        model = self._model(call)
        return prompt_ids(model.tokenizer, call, model.context_tokens)

    def _samples(self, index: int, call: Call) -> list[_Sample]:
        """The sequences of a call; a CallError where it cannot be made."""
        unknown = sorted(set(call.options) - set(OPTIONS))
        if unknown:
            raise CallRefusedError(
                f"arm {call.arm.name}: options {', '.join(unknown)} are not known to the transformers engine; "
                f"expected {', '.join(OPTIONS)}"
            )
        top_k, top_p = call.options.get("top_k", 0), call.options.get("top_p", 1.0)
        if not (isinstance(top_k, int) and top_k >= 0 and isinstance(top_p, (int, float)) and 0 < top_p <= 1):
            raise CallRefusedError(
                f"arm {call.arm.name}: top_k = {top_k!r}, top_p = {top_p!r}; expected a whole number >= 0 (0 = off) "
                "and a number in (0, 1]"
            )
        ids = self._prompt_ids(call)
        samples = []
        for position in range(call.n):
            uniform = None
            if call.temperature > 0:
                uniform = np.random.default_rng(sample_seed(call, position)).random(call.max_tokens)
            samples.append(_Sample(index, call, ids, uniform))
        return samples

    def _batches(self, samples: Mapping[int, Sequence[_Sample]]) -> Iterator[tuple[_Model, list[_Sample]]]:
        """Samples by model, those that take equally long together: a batch lasts as long as its longest answer."""
        order = sorted(
            (sample for some in samples.values() for sample in some),
            key=lambda sample: (sample.call.model, sample.call.max_tokens, len(sample.ids), sample.index),
        )
        for name, group in groupby(order, key=lambda sample: sample.call.model):
            some = list(group)
            for start in range(0, len(some), self._batch_size):
                yield self._models[name], some[start : start + self._batch_size]

    def _result(self, samples: Sequence[_Sample]) -> Completion | Failure:
        call, wall = samples[0].call, sum(sample.wall_s for sample in samples)
        broken = next((sample.error for sample in samples if sample.error), None)
        if broken is not None:
            return failed(call, broken, worst_case(call, len(samples[0].ids)), wall)
        return Completion(
            texts=tuple(sample.text for sample in samples),
            logprobs=tuple(float(np.mean(sample.logprobs)) for sample in samples),
            finish_reasons=tuple(sample.finish for sample in samples),
            tokens=(sum(len(sample.ids) for sample in samples), 0, sum(len(sample.tokens) for sample in samples), 0),
            latency_s=wall,
            gpu_s=wall if self._device.type == "cuda" else 0.0,
        )


@dataclass(eq=False)
class _Sample:
    """One sequence to generate, and what came of it."""

    index: int
    call: Call
    ids: list[int]
    uniform: npt.NDArray[np.float64] | None
    """Random number in [0, 1) of each step; None = the likeliest token."""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: str = ""
    finish: str = ""
    wall_s: float = 0.0
    error: CallError | None = None

    @property
    def done(self) -> bool:
        return bool(self.finish) or self.error is not None

    def add(self, token: int, logprob: float, model: _Model) -> None:
        """Take one generated token and see whether the sample ends with it."""
        self.tokens.append(token)
        self.logprobs.append(min(logprob, 0.0))
        ended = token in model.end_tokens
        if not (ended or self.call.stop or len(self.tokens) == self.call.max_tokens):
            return
        text = model.tokenizer.decode(self.tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        cut = min((text.find(stop) for stop in self.call.stop if stop in text), default=None)
        self.text = text[:cut]
        if ended or cut is not None:
            self.finish = "stop"
        elif len(self.tokens) == self.call.max_tokens:
            self.finish = "length"


@dataclass(frozen=True)
class _Model:
    network: Any
    tokenizer: Any
    end_tokens: frozenset[int]
    context_tokens: int | None


def _load(folder: Path, device: torch.device) -> _Model:
    """A model and its tokenizer from a folder, without the network and without running the folder's code."""
    try:
        if not folder.is_dir():
            raise FileNotFoundError("no such folder")
        local = {"local_files_only": True, "trust_remote_code": False}
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, **local)
        models: Any = AutoModelForCausalLM
        network, info = models.from_pretrained(
            folder,
            **local,
            use_safetensors=True,
            dtype=torch.float32 if device.type == "cpu" else "auto",
            output_loading_info=True,
        )
        # from_pretrained fills what a damaged file lacks with random weights.
        if info["missing_keys"]:
            raise ValueError(f"weights are missing: {', '.join(sorted(info['missing_keys'])[:3])}")
        network = network.to(device).eval()
    except Exception as error:
        reason = " ".join(str(error).split())
        raise PoolError(
            f"{folder}: the model cannot be loaded ({reason}); expected config.json, a tokenizer and safetensors "
            "of a causal language model, as written by save_pretrained"
        ) from error
    ends = {tokenizer.eos_token_id}
    stated = network.generation_config.eos_token_id
    ends.update(stated if isinstance(stated, list) else [stated])
    # Sampling is ours alone: the folder's defaults (penalties, its own top_p) would be mixed in.
    network.generation_config = _settings()
    context = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    return _Model(network, tokenizer, frozenset(end for end in ends if end is not None), context)


def _settings(**values: Any) -> GenerationConfig:
    make: Any = GenerationConfig  # has no types
    config: GenerationConfig = make(**values)
    return config


@torch.inference_mode()
def _generate(model: _Model, samples: Sequence[_Sample]) -> None:
    """Generate all samples as one batch; what goes wrong is noted in each of them."""
    started = time.perf_counter()
    width = max(len(sample.ids) for sample in samples)
    pad = min(model.end_tokens, default=0)
    ids = torch.tensor([[pad] * (width - len(sample.ids)) + sample.ids for sample in samples])
    mask = torch.tensor([[0] * (width - len(sample.ids)) + [1] * len(sample.ids) for sample in samples])
    device = model.network.device
    try:
        model.network.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            generation_config=_settings(
                max_new_tokens=max(sample.call.max_tokens for sample in samples), do_sample=False, pad_token_id=pad
            ),
            logits_processor=LogitsProcessorList([_Sampler(model, samples)]),
            stopping_criteria=StoppingCriteriaList([_AllDone(samples)]),
        )
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:300]
        for sample in samples:
            if not sample.done:
                sample.error = ServerFailedError(
                    f"arm {sample.call.arm.name}: model {sample.call.model!r} failed while it computed a batch of "
                    f"{len(samples)} ({reason}); out of memory needs a smaller batch_size"
                )
    wall = (time.perf_counter() - started) / len(samples)
    for sample in samples:
        sample.wall_s = wall


class _Sampler(LogitsProcessor):
    """Chooses the next token of each sample by its own random numbers and leaves `generate` no other choice."""

    def __init__(self, model: _Model, samples: Sequence[_Sample]) -> None:
        self._model, self._samples = model, samples

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        chosen = scores.argmax(dim=-1)  # (B,)
        for row, sample in enumerate(self._samples):
            if sample.uniform is not None and not sample.done:
                chosen[row] = _draw(scores[row], sample.call, sample.uniform[len(sample.tokens)])
        logprobs = torch.log_softmax(scores, dim=-1).gather(1, chosen[:, None])[:, 0]
        for sample, token, logprob in zip(self._samples, chosen.tolist(), logprobs.tolist(), strict=True):
            if not sample.done:
                sample.add(token, logprob, self._model)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)


class _AllDone(StoppingCriteria):
    """Which samples have ended."""

    def __init__(self, samples: Sequence[_Sample]) -> None:
        self._samples = samples

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return torch.tensor([sample.done for sample in self._samples], device=input_ids.device)


def _draw(logits: torch.Tensor, call: Call, uniform: float) -> torch.Tensor:
    """The token, shape (), at which the cumulative probability passes `uniform`; logits of shape (V,)."""
    probabilities = torch.softmax(logits.double() / call.temperature, dim=-1)
    top_k, top_p = call.options.get("top_k", 0), call.options.get("top_p", 1.0)
    if top_k or top_p < 1:
        ordered, order = probabilities.sort(descending=True, stable=True)
        ordered[ordered.cumsum(-1) - ordered >= top_p] = 0.0
        if top_k:
            ordered[top_k:] = 0.0
        probabilities = torch.zeros_like(probabilities).scatter_(0, order, ordered)
    cumulative = probabilities.cumsum(-1)
    return (cumulative <= uniform * cumulative[-1]).sum()
