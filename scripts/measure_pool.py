"""Measure the embedded pool and write the tables of docs/pool.md.

python scripts/measure_pool.py
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import yaml
from rich.progress import track

from routegym.pool import Arm, Failure, Pool, Request, Response, load_pool
from routegym.pool.codec import VOCABULARY, WRITTEN_TOKENS
from routegym.pool.levels import HELD_OUT_LEVELS, sample_operations
from routegym.tasks import LEVELS, evaluate, generate_tasks, next_operation, parse_value, substitute

DOCS = Path(__file__).resolve().parents[1] / "docs" / "pool.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def wilson(right: int, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    z = 1.959964
    share = right / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def questions(level: str, count: int, seed: int) -> list[str]:
    """Prompts of one level, held out of training where the level has held-out pairs."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, LEVELS.index(level)]))
    part = "held_out" if level in HELD_OUT_LEVELS else "all"
    a, op, b = sample_operations(rng, {level: 1.0}, count, part)
    return [f"{x}{VOCABULARY[o]}{y}" for x, o, y in zip(a, op, b, strict=True)]


def whole_tasks(pool: Pool, arm: Arm, texts: list[str], seed: int) -> float:
    """Share of tasks answered rightly when one arm answers every step; a malformed answer fails the task."""
    states: list[str | None] = list(texts)
    while True:
        open_steps = [
            (index, step) for index, text in enumerate(states) if text and (step := next_operation(text)) is not None
        ]
        if not open_steps:
            break
        answers = ask(pool, [Request(arm, step.prompt, seed) for _, step in open_steps])
        for (index, step), answer in zip(open_steps, answers, strict=True):
            value = parse_value(answer.text)
            states[index] = None if value is None else substitute(states[index] or "", step, value)
    return float(np.mean([state == str(evaluate(text)) for state, text in zip(states, texts, strict=True)]))


def table(header: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "| " + " | ".join("---" for _ in header) + " |"
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


def shares_of(levels: dict[str, float]) -> str:
    """Percent of the training operations by level."""
    total = sum(levels.values())
    return ", ".join(f"{name} {100 * share / total:.0f}" for name, share in levels.items())


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def left_out(pool: Pool, folder: Path) -> Pool:
    """The written tier of every model that was trained on it and has no such arm in the pool."""
    content = yaml.safe_load(pool.path.read_text(encoding="utf-8"))
    tier = {"template": "{prompt}", "max_tokens": WRITTEN_TOKENS, "options": {"template": "written"}}
    content["models"] = {
        name: {**entry, "folder": str((pool.path.parent / entry["folder"]).resolve()), "tiers": {"written": tier}}
        for name, entry in content["models"].items()
        if entry["training"]["recipe"]["written"] > 0 and "written" not in entry["tiers"]
    }
    path = folder / "left_out.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
    return load_pool(path)


def ask(pool: Pool, requests: list[Request]) -> list[Response]:
    """Answers to all requests; a failure ends the measurement."""
    answers: list[Response] = []
    for result in pool.backend.generate(requests):
        if isinstance(result, Failure):
            raise result.error
        answers.append(result)
    return answers


def measure(
    pool: Pool, prompts: dict[str, list[str]], texts: list[str], seed: int
) -> tuple[list[list[str]], list[list[str]], list[list[str]]]:
    """Rows of the tables of shares, intervals and calls; one row per arm."""
    shares, intervals, calls = [], [], []
    prices = pool.prices.per_token(pool.arms)
    for arm, price in track(list(zip(pool.arms, prices, strict=True)), description="measuring"):
        share_row, interval_row, malformed = [arm.name], [arm.name], 0
        responses: list[Response] = []
        ask(pool, [Request(arm, "1+1", seed)])  # loads the model
        started = time.perf_counter()
        for asked in prompts.values():
            answers = ask(pool, [Request(arm, prompt, seed) for prompt in asked])
            responses += answers
            right = sum(
                answer.text == str(evaluate(f"({prompt})")) for answer, prompt in zip(answers, asked, strict=True)
            )
            malformed += sum(parse_value(answer.text) is None for answer in answers)
            low, high = wilson(right, len(asked))
            share_row.append(f"{right / len(asked):.3f}")
            interval_row.append(f"{low:.3f}-{high:.3f}")
        seconds = time.perf_counter() - started
        tokens = np.mean([answer.tokens for answer in responses], axis=0)
        shares.append([*share_row, f"{whole_tasks(pool, arm, texts, seed):.3f}"])
        intervals.append(interval_row)
        calls.append(
            [
                arm.name,
                f"{arm.parameters:,}",
                f"{price[0] * 1e6:.3f} / {price[2] * 1e6:.3f}",
                " / ".join(f"{value:.2f}" for value in tokens),
                f"{float(tokens @ price) * 1e6:.2f}",
                f"{np.mean([answer.flops for answer in responses]) / 1e6:.2f}",
                f"{malformed / len(responses):.4f}",
                f"{np.mean([answer.agreement for answer in responses]):.3f}",
                f"{len(responses) / seconds:,.0f}",
            ]
        )
    return shares, intervals, calls


def report(pool: Pool, count: int, tasks: int, seed: int) -> str:
    """All tables as Markdown."""
    prompts = {level: questions(level, count, seed) for level in LEVELS}
    texts = list(generate_tasks(tasks, seed=seed).prompts)
    shares, intervals, calls = measure(pool, prompts, texts, seed)
    with tempfile.TemporaryDirectory() as folder:
        dropped, _, dropped_calls = measure(left_out(pool, Path(folder)), prompts, texts, seed)
    training = []
    models: dict[str, Arm] = {}
    for arm in pool.arms:
        models.setdefault(arm.model, arm)
    for name, arm in models.items():
        facts: dict[str, Any] = pool.training(name)
        recipe = facts["recipe"]
        written = recipe.get("written_levels") or recipe["levels"]
        training.append(
            [
                name,
                f"{arm.parameters:,}",
                f"{recipe['layers']} x {recipe['width']}",
                f"{recipe['steps']:,} x {recipe['batch']}",
                shares_of(recipe["levels"]),
                f"{recipe['written']:.0%}" + (": " + shares_of(written) if recipe["written"] else ""),
                str(facts["seed"]),
                f"{facts['seconds']:.0f}",
                f"`{facts['command']}`",
            ]
        )
    lines = [
        f"Command: `python scripts/measure_pool.py --count {count} --tasks {tasks} --seed {seed}`; "
        f"one thread of {cpu_name()}, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"numpy {np.__version__}, Python {platform.python_version()}.",
        "",
        f"Share of right answers, {count:,} operations per level and arm. The last column is the share of "
        f"{tasks:,} generated tasks (3 to 6 operations, all splits) that end right when this arm answers "
        "every step.",
        "",
        *table(["arm", *LEVELS, "whole tasks"], shares),
        f"95 % Wilson intervals of these shares (n = {count:,} each).",
        "",
        *table(["arm", *LEVELS], intervals),
        "Tiers that were tried and left out of the pool, on the same operations and tasks; the last column is USD "
        "per million calls.",
        "",
        *table(
            ["arm", *LEVELS, "whole tasks", "USD"],
            [[*row, call[4]] for row, call in zip(dropped, dropped_calls, strict=True)],
        ),
        "What a call takes, on average over the operations above. The price is USD per million prompt / "
        f"completion tokens ({pool.prices.note}; {pool.prices.date}); "
        "tokens are prompt / cached / completion / reasoning.",
        "",
        *table(
            [
                "arm",
                "parameters",
                "price",
                "tokens per call",
                "USD per million calls",
                "MFLOP per call",
                "malformed",
                "agreement",
                "calls per second",
            ],
            calls,
        ),
        "How the models were trained (the same machine, one thread; wall seconds include the logged checks).",
        "",
        *table(
            [
                "model",
                "parameters",
                "layers x width",
                "steps x batch",
                "% of direct batches by level",
                "written batches, % by level",
                "seed",
                "s",
                "command",
            ],
            training,
        ),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, help="pool file (default: the embedded one)")
    parser.add_argument("--count", type=int, default=2000, help="operations per level and arm")
    parser.add_argument("--tasks", type=int, default=1000, help="whole tasks per arm")
    parser.add_argument("--seed", type=int, default=20261122)
    parser.add_argument("--print", action="store_true", help="print the tables and leave the docs alone")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    text = report(load_pool(arguments.pool), arguments.count, arguments.tasks, arguments.seed)
    if arguments.print:
        print(text)
        return
    before, _, rest = DOCS.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    DOCS.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    print(f"wrote {DOCS}")


if __name__ == "__main__":
    main()
