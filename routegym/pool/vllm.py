"""Engine that runs one model with vLLM in this process."""

from __future__ import annotations

import gc
import json
import os
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Any

from routegym.errors import CallError, CallRefusedError, MissingExtraError, PoolError, ServerFailedError
from routegym.pool.backend import Call, Completion, Failure, OnCompletion, unsent
from routegym.pool.local import failed, one_line, prompt_counts, prompt_ids, sample_seed, worst_case

__all__ = ["VLLMEngine"]

#: Ranks of LoRA adapters that vLLM has room for.
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


class VLLMEngine:
    """Runs one model, with LoRA adapters if wanted, on `vllm.LLM` in this process; prefix caching is on.

    A call is reported as soon as the last of its samples is done, while the others go on. vLLM gets twice as many
    sequences as it computes at once (its ``max_num_seqs``), so that it never waits; the rest queues here.

    Every sample is a request of its own, seeded by a hash of the call's seed, its prompt and the sample's position,
    and its prompt is charged each time: as cached tokens where vLLM found it in its prefix cache, as prompt tokens
    where it computed it. Whether an answer depends on the rest of the batch is up to vLLM: its kernels are not
    batch-invariant by default, so tokens that are all but equally likely may turn out differently.
    vLLM does not tell reasoning from answer here: reasoning tokens are 0, all are completion tokens.

    Latency is the time from when vLLM began with the call until its last token, as vLLM measured it (without
    ``disable_log_stats``; otherwise the call's share of the wall-clock time). GPU-seconds are shared out: each moment
    of the engine counts for the calls that it holds then, so that they add up to wall-clock time x GPUs. On a CPU they
    are 0.

    `Call.adapter` names one of `adapters`; `Call.options` holds further fields of `vllm.SamplingParams` and
    ``chat_template_kwargs``. Calls of several threads run one after the other. There is no time limit on a call.

    Args:
        model: folder or name of the model, as vLLM takes it; loaded at first use, from safetensors only.
        adapters: folder of each LoRA adapter.
        options: further arguments of `vllm.LLM` (``max_model_len``, ``gpu_memory_utilization``, ...).
        gpu_count: GPUs over which the model is split (vLLM's ``tensor_parallel_size``).

    Raises:
        PoolError: a setting is impossible.
    """

    def __init__(
        self,
        model: str,
        *,
        adapters: Mapping[str, str] | None = None,
        options: Mapping[str, Any] | None = None,
        gpu_count: int = 1,
    ) -> None:
        if gpu_count < 1:
            raise PoolError(f"gpu_count = {gpu_count}; expected at least 1")
        self._model = model
        self._adapters = dict(adapters or {})
        self._settings: dict[str, Any] = {
            "enable_prefix_caching": True,
            "load_format": "safetensors",
            "disable_log_stats": False,
            "tensor_parallel_size": gpu_count,
        }
        if self._adapters:
            rank = max(_rank(name, Path(folder)) for name, folder in self._adapters.items())
            room = next((size for size in LORA_RANKS if size >= rank), rank)
            self._settings |= {"enable_lora": True, "max_loras": len(self._adapters), "max_lora_rank": room}
        self._settings |= options or {}
        self._llm: Any = None
        self._sent = 0
        self._lock = threading.Lock()

    @property
    def llm(self) -> Any:
        """The `vllm.LLM`, started at first use.

        Raises:
            MissingExtraError: vLLM is not installed.
            PoolError: vLLM cannot start with this model and these options.
        """
        if self._llm is None:
            # vLLM reports its use to its makers unless told not to.
            os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
            try:
                from vllm import LLM, SamplingParams
            except ImportError as error:
                raise MissingExtraError("vllm", "vllm") from error
            try:
                llm = LLM(model=self._model, **self._settings)
                # The first call compiles for seconds; no recorded latency shall hold that.
                warm_up = SamplingParams(max_tokens=2, temperature=1.0, seed=0, logprobs=0)
                llm.generate([{"prompt_token_ids": [1]}], warm_up, use_tqdm=False)
            except Exception as error:
                raise PoolError(
                    f"vLLM cannot start with model {self._model!r} ({one_line(error)}); see its log above, and check "
                    f"the folder, the options ({', '.join(sorted(self._settings))}) and free memory"
                ) from error
            _wake_when_dead(llm)
            self._llm = llm
        return self._llm

    def complete(self, calls: Sequence[Call], on_result: OnCompletion) -> None:
        """Make all calls; a vLLM that dies fails the calls of this batch and starts again with the next one.

        Raises:
            MissingExtraError: vLLM is not installed.
            PoolError: vLLM cannot start, a call names an adapter that is not here, or a chat is asked of a model
                without a chat template.
        """
        with self._lock:
            if not calls:
                return
            queue = deque(_Work(index, call) for index, call in enumerate(calls))
            try:
                self._run(queue, on_result)
            except KeyboardInterrupt:
                # Ctrl-C has reached vLLM's own process as well.
                self._stop()
                for work in queue:
                    if not work.ids:
                        on_result(work.index, unsent())
                raise

    def count_prompt_tokens(self, calls: Sequence[Call]) -> list[int]:
        """Prompt tokens of each call, cached ones included: every sample reads the prompt. 0 where it is refused."""
        with self._lock:
            return prompt_counts(calls, self._prompt_ids)

    def close(self) -> None:
        """Stop vLLM and free its memory."""
        with self._lock:
            self._stop()

    def _prompt_ids(self, call: Call) -> list[int]:
        llm = self.llm
        template = getattr(llm, "chat_template", None)
        return prompt_ids(llm.get_tokenizer(), call, llm.model_config.max_model_len, template)

    def _run(self, queue: deque[_Work], on_result: OnCompletion) -> None:
        """Feed vLLM and report what it finishes."""
        llm = self.llm
        engine, gpus = llm.llm_engine, _gpu_count(llm)
        room = 2 * engine.vllm_config.scheduler_config.max_num_seqs
        held: dict[str, _Work] = {}
        share, before = 0.0, time.perf_counter()  # seconds that a sequence held all the while would have been given
        try:
            while queue or held:
                refused: list[tuple[_Work, CallError]] = []
                finished: list[Any] = []
                broken: Exception | None = None
                try:
                    while queue and len(held) < room:
                        work = queue[0]
                        try:
                            names = self._add(work)
                        except CallError as error:
                            refused.append((work, error))
                        else:
                            held.update(dict.fromkeys(names, work))
                            work.share_s -= share * len(names)
                        queue.popleft()
                    if held:
                        finished = engine.step()
                except PoolError:
                    raise
                except Exception as error:
                    broken = error
                now = time.perf_counter()
                share += (now - before) / max(len(held), 1)
                before = now
                for work, reason in refused:
                    on_result(work.index, Failure(reason))
                for output in finished:
                    if output.finished and output.request_id in held:
                        work = held.pop(output.request_id)
                        work.share_s += share
                        work.outputs[output.request_id] = output
                        if len(work.outputs) == work.call.n:
                            on_result(work.index, work.result(gpus))
                if broken is not None:
                    self._fail(queue, held, broken, share, on_result)
        finally:
            if held:
                with suppress(Exception):
                    engine.abort_request(list(held))

    def _add(self, work: _Work) -> list[str]:
        """Hand all samples of a call to vLLM and return their request names.

        Raises:
            CallError: the call cannot be made; vLLM does not hold it then.
        """
        from vllm.v1.engine.exceptions import EngineDeadError

        call, llm = work.call, self.llm
        lora = self._lora(call)
        work.ids = self._prompt_ids(call)
        names: list[str] = []
        try:
            for sample in range(call.n):
                names.append(f"routegym-{self._sent}")
                self._sent += 1
                prompt = {"type": "token", "prompt_token_ids": work.ids}
                llm.llm_engine.add_request(names[-1], prompt, _sampling(call, sample), lora_request=lora)
        except EngineDeadError:
            raise
        except Exception as error:
            llm.llm_engine.abort_request(names)
            options = ", ".join(sorted(call.options)) or "none"
            raise CallRefusedError(
                f"arm {call.arm.name}: vLLM refuses the call ({one_line(error)}); "
                f"check temperature, stop strings and options ({options})"
            ) from error
        return names

    def _lora(self, call: Call) -> Any:
        """The call's adapter as vLLM takes it, or None."""
        if not call.adapter:
            return None
        from vllm.lora.request import LoRARequest

        if call.adapter not in self._adapters:
            known = ", ".join(sorted(self._adapters)) or "no adapters"
            raise PoolError(f"unknown adapter {call.adapter!r} (arm {call.arm.name}); this engine has {known}")
        number = 1 + list(self._adapters).index(call.adapter)
        return LoRARequest(call.adapter, number, self._adapters[call.adapter])

    def _fail(
        self, queue: deque[_Work], held: dict[str, _Work], error: Exception, share: float, on_result: OnCompletion
    ) -> None:
        """Report all that is left of a batch after vLLM broke, and forget that vLLM."""
        self._stop()
        reason = (
            f"vLLM failed with model {self._model!r} ({one_line(error)}); its log says why; "
            "the next batch starts it again"
        )
        sent = dict.fromkeys(held.values())
        for work in held.values():
            work.share_s += share
        unsent = list(queue)
        held.clear()
        queue.clear()
        for work in sent:
            charge = worst_case(work.call, len(work.ids))
            on_result(work.index, failed(work.call, ServerFailedError(reason), charge, work.share_s))
        for work in unsent:
            on_result(work.index, Failure(ServerFailedError(reason)))

    def _stop(self) -> None:
        llm, self._llm = self._llm, None
        if llm is not None:
            with suppress(Exception):
                llm.llm_engine.engine_core.shutdown()
            del llm
            gc.collect()


@dataclass(eq=False)
class _Work:
    """One call while vLLM has it."""

    index: int
    call: Call
    ids: list[int] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)
    """Finished requests by name, one for each sample."""
    share_s: float = 0.0
    """Its samples' share of the wall-clock time."""

    def result(self, gpus: int) -> Completion | Failure:
        """What came of the call, of which all samples are finished."""
        call = self.call
        done = [self.outputs[name] for name in sorted(self.outputs, key=_number)]
        answers = [output.outputs[0] for output in done]
        if any(answer.finish_reason in (None, "abort", "error") for answer in answers):
            error = ServerFailedError(f"arm {call.arm.name}: vLLM gave the call up; its log says why")
            return failed(call, error, worst_case(call, len(self.ids)), self.share_s)
        cached = sum(output.num_cached_tokens or 0 for output in done)
        return Completion(
            texts=tuple(answer.text for answer in answers),
            logprobs=tuple(
                min((answer.cumulative_logprob or 0.0) / max(len(answer.token_ids), 1), 0.0) for answer in answers
            ),
            finish_reasons=tuple(answer.finish_reason for answer in answers),
            tokens=(len(self.ids) * call.n - cached, cached, sum(len(answer.token_ids) for answer in answers), 0),
            latency_s=_latency(done) or self.share_s,
            gpu_s=self.share_s * gpus,
        )


def _sampling(call: Call, sample: int) -> Any:
    """Sampling parameters of one sample."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    options = {name: value for name, value in call.options.items() if name != "chat_template_kwargs"}
    return SamplingParams(
        n=1,
        temperature=call.temperature,
        max_tokens=call.max_tokens,
        seed=sample_seed(call, sample),
        stop=list(call.stop),
        logprobs=0,
        output_kind=RequestOutputKind.FINAL_ONLY,
        **options,
    )


def _latency(outputs: Sequence[Any]) -> float:
    """Seconds from the start of a call's first sample to the end of its last; 0 where vLLM did not measure them."""
    if any(output.metrics is None for output in outputs):
        return 0.0
    started = min(output.metrics.scheduled_ts for output in outputs)
    return float(max(output.metrics.last_token_ts for output in outputs) - started)


def _wake_when_dead(llm: Any) -> None:
    """End the wait for a process of vLLM that was killed.

    vLLM 0.32 notices a process that ends without a word (`kill -9`, out of memory), but its `step` goes on waiting
    for it; it is handed the error that it misses.
    """
    core = llm.llm_engine.engine_core
    outputs = getattr(core, "outputs_queue", None)
    processes = getattr(getattr(getattr(core, "resources", None), "engine_manager", None), "processes", None)
    if outputs is None or not processes:
        return
    sentinels = [process.sentinel for process in processes]

    def watch() -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        connection.wait(sentinels)
        outputs.put(EngineDeadError())

    threading.Thread(target=watch, name="routegym-vllm-watch", daemon=True).start()


def _gpu_count(llm: Any) -> int:
    """GPUs that vLLM holds; 0 on a CPU."""
    from vllm.platforms import current_platform

    return 0 if current_platform.is_cpu() else int(llm.get_world_size())


def _number(name: str) -> int:
    return int(name.rpartition("-")[2])


def _rank(name: str, folder: Path) -> int:
    """Rank of a LoRA adapter."""
    try:
        return int(json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["r"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PoolError(
            f"{folder}: adapter {name!r} cannot be read ({one_line(error)}); expected a folder with "
            "adapter_config.json that gives its rank r, as PEFT writes it"
        ) from error
